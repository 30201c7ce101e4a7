#!/usr/bin/env python3
"""tapeloop run: recorder and web interface come up together, and end together."""

import os
import re
import signal
import socket
import ssl
import time
import urllib.request

from cli_world import BIN, World, main, skip
from free_ports import free_ports


class Run(World):
    def setUp(self):
        super().setUp()
        os.rmdir(self.state)  # it makes the directory itself
        os.chmod(self.directory, 0o755)  # the web process may be another user
        self.port = free_ports()
        self.processes = []

    def tearDown(self):
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.communicate()
        super().tearDown()

    def run_both(self, *options, port=None):
        process = self.start("run", "--port", str(self.port if port is None else port), *options)
        self.processes.append(process)
        return process

    def said_until(self, process, text):
        said = ""
        while text not in said:
            line = process.stdout.readline().decode()
            self.assertTrue(line, said + (process.stderr.read().decode() if not line else ""))
            said += line
        return said

    def end(self, process, status=0, signal_number=None):
        if signal_number:
            process.send_signal(signal_number)
        out, err = process.communicate()
        self.assertEqual(process.returncode, status, err)
        return (out + err).decode()

    def children(self, process):
        with open(f"/proc/{process.pid}/task/{process.pid}/children", encoding="ascii") as file:
            found = {}
            for pid in map(int, file.read().split()):
                with open(f"/proc/{pid}/comm", encoding="ascii") as name:
                    found[name.read().strip()] = pid
            return found

    def assert_gone(self, children):
        for name, pid in children.items():
            self.assertFalse(os.path.exists(f"/proc/{pid}"), name)
        with socket.socket() as gone:
            self.assertNotEqual(gone.connect_ex(("127.0.0.1", self.port)), 0)

    def page(self):
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return urllib.request.urlopen(f"https://127.0.0.1:{self.port}/", context=context).read()

    def test_from_nothing_and_again(self):
        process = self.run_both()
        said = self.said_until(process, f"https://127.0.0.1:{self.port}/")
        self.assertRegex(said, r"user admin has the one-time password [\w-]+")
        self.assertIn(b"tapeloop", self.page())
        self.run_command("ring", "create", "dmz", "--disk", self.path("dmz.disk") + ":64M", status=0)
        self.run_command("record", "dmz", "--backend", "generator", "--detach", status=0)
        self.refused("run", "--port", "0", status=1, says=r"a recorder \(process \d+\) runs on .* already")
        children = self.children(process)
        self.assertEqual(set(children), {"tapeloopd", "tapeloop-web"})
        self.end(process, signal_number=signal.SIGINT)
        self.assert_gone(children)

        process = self.run_both()
        said = self.said_until(process, f"https://127.0.0.1:{self.port}/")
        self.assertNotIn("one-time password", said)  # the user is there
        self.assertIn("dmz", self.run_command("ring", "list", status=0).out)
        self.run_command("shutdown", status=0)
        self.end(process)
        self.assert_gone(children)

    def test_when_one_of_them_does_not_come_up(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", self.port))
            taken.listen()
            said = self.end(self.run_both(), status=1)
        self.assertIn("tapeloop: tapeloop-web has ended with status 1", said)
        self.assertIn("tapeloopd has ended", said)
        self.refused("run", "--port", "0", state=self.write("file", ""), status=2, says="no directory")
        self.refused("run", "--port", "65535", status=2, says="--port")
        self.refused("run", "--web-namespace", self.path("none"), status=1, says="network namespace .*none")
        self.refused("run", "dmz", status=2, says="dmz")

    def test_when_the_recorder_dies(self):
        process = self.run_both()
        self.said_until(process, f"https://127.0.0.1:{self.port}/")
        children = self.children(process)
        os.kill(children["tapeloopd"], signal.SIGKILL)
        self.assertIn("tapeloopd was ended by signal 9", self.end(process, status=1))
        self.assert_gone(children)

    def test_when_it_dies_itself(self):
        process = self.run_both()
        self.said_until(process, f"https://127.0.0.1:{self.port}/")
        children = self.children(process)
        process.kill()
        process.wait()
        while any(os.path.exists(f"/proc/{pid}") and not self.is_zombie(pid) for pid in children.values()):
            time.sleep(0.02)
        process = self.run_both(port=0)
        while "The recorder runs on" not in process.stderr.readline().decode():
            self.assertIsNone(process.poll())
        self.end(process, signal_number=signal.SIGTERM)

    @staticmethod
    def is_zombie(pid):
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii") as file:
                return re.search(r"\) (\w)", file.read()).group(1) == "Z"
        except OSError:
            return True


if __name__ == "__main__":
    if not os.access(os.path.join(BIN, "tapeloop-web"), os.X_OK):
        skip("tapeloop-web is not part of this build (packaging/web)")
    main()
