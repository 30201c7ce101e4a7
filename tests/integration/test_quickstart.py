#!/usr/bin/env python3
"""packaging/quickstart: a newcomer's first command, and the second one that it tells him to type."""

import os
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import time
import unittest
import urllib.request

from cli_world import BIN, SOURCE, TAPELOOP, World, main, skip
from free_ports import free_ports

QUICKSTART = os.path.join(SOURCE, "packaging", "quickstart")


def packets_of(path):
    """The packets of a pcapng file, counted block by block."""
    count = 0
    with open(path, "rb") as file:
        data = file.read()
    offset = 0
    while offset < len(data):
        kind, size = struct.unpack_from("<II", data, offset)
        assert size >= 12 and struct.unpack_from("<I", data, offset + size - 4)[0] == size
        count += kind == 6
        offset += size
    return count


def can_make_namespaces():
    made = subprocess.run(["unshare", "--net", "--mount", "ip", "link", "add", "demo0", "type", "veth", "peer", "name",
                           "demo1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return made.returncode == 0


class Quickstart(World):
    def environment(self):
        return dict(os.environ, TAPELOOP_BIN=BIN)

    def quickstart(self, *arguments, **options):
        return subprocess.Popen([QUICKSTART, "--state", self.state, *arguments], cwd=self.directory,
                                env=self.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, **options)

    def test_what_it_says_to_type_works_while_it_records(self):
        process = self.quickstart("--port", "0")
        command = None
        while command is None:
            line = process.stdout.readline()
            self.assertTrue(line, process.stderr.read() if not line else "")
            if " extract " in line:
                command = line.strip()
        self.assertIn("demo.pcapng", command)
        packets = 0
        while packets == 0:
            if process.poll() is not None:
                self.fail(process.communicate()[1])
            done = subprocess.run(["bash", "-c", command], cwd=self.directory, stderr=subprocess.PIPE, text=True,
                                  check=False)
            self.assertIn(done.returncode, (0, 1, 3), done.stderr)
            if done.returncode != 1:
                packets = packets_of(self.path("demo.pcapng"))
            else:  # the recording has not begun yet
                time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
        self.assertEqual(process.returncode, 0, err)
        self.assertRegex(out, r"seen +[1-9]")
        self.assertIn("every packet is accounted for", out)

        again = self.quickstart("--for", "1s", "--port", "0")
        out, err = again.communicate()
        self.assertEqual(again.returncode, 0, err)
        self.assertIn("goes on", out)
        self.assertIn("every packet is accounted for", out)
        links = subprocess.run(["ip", "link"], stdout=subprocess.PIPE, text=True, check=True).stdout
        self.assertIsNone(re.search(r"\bdemo[01]\b", links))

    @unittest.skipUnless(os.access(os.path.join(BIN, "tapeloop-web"), os.X_OK), "tapeloop-web is not part of this build")
    def test_the_web_interface_is_there_as_long_as_it_records(self):
        os.chmod(self.directory, 0o755)  # the web process is another user
        port = free_ports()
        process = self.quickstart("--port", str(port))
        said = ""
        while f"https://127.0.0.1:{port}/" not in said:
            line = process.stdout.readline()
            self.assertTrue(line, process.stderr.read() if not line else "")
            said += line
        self.assertIn("one-time password", said)
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        page = urllib.request.urlopen(f"https://127.0.0.1:{port}/", context=context).read()
        self.assertIn(b"tapeloop", page)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
        self.assertEqual(process.returncode, 0, err)
        self.assertIn("every packet is accounted for", out)
        with socket.socket() as gone:
            self.assertNotEqual(gone.connect_ex(("127.0.0.1", port)), 0)

    def test_without_root_it_says_so(self):
        nobody = self.quickstart(preexec_fn=lambda: (os.setgid(65534), os.setuid(65534)))
        out, err = nobody.communicate()
        self.assertEqual((nobody.returncode, out), (2, ""))
        self.assertIn("root", err)
        self.assertEqual(len(err.splitlines()), 1)

    def test_wrong_usage(self):
        for words in (["--for"], ["--bogus"], ["demo"], ["--port", "x"]):
            process = self.quickstart(*words)
            out, err = process.communicate()
            self.assertEqual((process.returncode, out, len(err.splitlines())), (2, "", 1))
        helped = self.quickstart("--help")
        self.assertIn("--for DURATION", helped.communicate()[0])


if __name__ == "__main__":
    if not os.access(TAPELOOP, os.X_OK):
        skip(f"no tapeloop in TAPELOOP_BIN ({BIN!r})")
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip") or not can_make_namespaces():
        skip("network namespaces need root, ip and unshare")
    main()
