#!/usr/bin/env python3
"""Rings as interfaces of Wireshark: the extcap program by itself, and in tshark, which must get what extract gives."""

import os
import shutil
import signal
import struct
import subprocess
import time
import unittest

from cli_world import BIN, World, main, skip

EXTCAP = os.path.join(BIN, "tapeloop-extcap")
START_NS = 1700000000 * 10**9


def ethernet(number):
    udp = struct.pack(">HHHH", 1000 + number % 10, 53, 66, 0)
    ip = struct.pack(">BBHHHBBH4B4B", 0x45, 0, 86, number & 0xffff, 0, 64, 17, 0, 10, 0, 0, 1, 10, 0, 0, 2)
    return (bytes(12) + b"\x08\x00" + ip + udp + struct.pack(">Q", number)).ljust(100, b"x")


def pcap(count):
    made = [struct.pack("<IHHiIII", 0xa1b23c4d, 2, 4, 0, 0, 262144, 1)]
    for i in range(count):
        time_ns, data = START_NS + i * 10**7, ethernet(i)
        made.append(struct.pack("<IIII", time_ns // 10**9, time_ns % 10**9, len(data), len(data)) + data)
    return b"".join(made)


class Ring(World):
    """A ring with a thousand packets."""

    def setUp(self):
        super().setUp()
        self.run_command("ring", "create", "dmz", "--disk", self.path("dmz.disk") + ":64M", status=0)
        self.run_command("import", "dmz", self.write("in.pcap", pcap(1000)), status=0)
        self.environment = dict(os.environ, TAPELOOP_STATE=self.state, HOME=self.directory,
                                XDG_CONFIG_HOME=self.path("config"))

    def extract(self, *arguments):
        done = subprocess.run([self.tapeloop, "--state", self.state, "--quiet", "extract", "dmz", *arguments],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
        return done.stdout


class Extcap(Ring):
    def ask(self, *arguments, status=0):
        done = subprocess.run([EXTCAP, *arguments], env=self.environment, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, check=False)
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stdout

    def test_the_rings_are_interfaces(self):
        answer = self.ask("--extcap-interfaces", "--extcap-version=4.0")
        self.assertIn("interface {value=tapeloop-dmz}{display=tapeloop ring dmz}\n", answer)
        self.assertTrue(answer.startswith("extcap {version="))
        self.assertIn("dlt {number=147}", self.ask("--extcap-interface", "tapeloop-dmz", "--extcap-dlts"))
        options = self.ask("--extcap-interface", "tapeloop-dmz", "--extcap-config")
        for option in ("--from", "--to", "--follow", "--filter"):
            self.assertIn("{call=%s}" % option, options)

    def test_without_a_recorder_there_is_a_reason(self):
        self.environment["TAPELOOP_STATE"] = self.path("nowhere")
        done = subprocess.run([EXTCAP, "--extcap-interfaces"], env=self.environment, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, check=True)
        self.assertNotIn("interface {", done.stdout)
        self.assertIn("no rings", done.stderr)
        self.assertFalse(os.path.exists(self.path("nowhere")))

    def test_a_filter_is_checked(self):
        check = ("--extcap-interface", "tapeloop-dmz", "--extcap-capture-filter")
        self.assertEqual(self.ask(*check, "udp port 53"), "")
        self.assertNotEqual(self.ask(*check, "udp prot 53", status=2), "")

    def test_a_fifo_gets_what_extract_gives(self):
        fifo = self.path("fifo")
        os.mkfifo(fifo)
        program = subprocess.Popen([EXTCAP, "--capture", "--extcap-interface", "tapeloop-dmz", "--fifo", fifo, "--from",
                                    "1700000002", "--to", "1700000003", "--filter", "udp", "--extcap-capture-filter",
                                    "src port 1003 or src port 1004"], env=self.environment)
        with open(fifo, "rb") as file:
            got = file.read()
        self.assertEqual(program.wait(), 0)
        wanted = self.extract("--from", "1700000002", "--to", "1700000003", "(src port 1003 or src port 1004) and (udp)")
        self.assertEqual(got, wanted)
        self.assertGreater(len(got), 20 * 100)

    def follow(self):
        """A recorder, and a reader of all that comes. Both are alive, and the ring is quiet."""
        recorder = subprocess.Popen([os.path.join(BIN, "tapeloopd"), "--state", self.state], stderr=subprocess.DEVNULL)
        self.addCleanup(recorder.wait)
        self.addCleanup(recorder.terminate)
        while not os.path.exists(os.path.join(self.state, "control.sock")):
            time.sleep(0.01)
        fifo = self.path("fifo")
        os.mkfifo(fifo)
        program = subprocess.Popen([EXTCAP, "--capture", "--extcap-interface", "tapeloop-dmz", "--fifo", fifo, "--follow",
                                    "--from", "0"], env=self.environment)
        reader = open(fifo, "rb")  # pylint: disable=consider-using-with
        got = b""
        while len(got) < 1000 * 100:
            got += reader.read1(65536)
        return program, reader

    def test_following_ends_with_its_reader_on_a_quiet_ring(self):
        program, reader = self.follow()
        self.assertIsNone(program.poll())
        reader.close()
        self.assertEqual(program.wait(), 0)

    def test_following_ends_when_it_is_told_to(self):
        program, reader = self.follow()
        program.send_signal(signal.SIGTERM)
        while reader.read1(65536):
            pass
        program.wait()
        reader.close()


class Tshark(Ring):
    """The same ring in tshark, with the program in its extcap folder."""

    def setUp(self):
        if not shutil.which("tshark"):
            self.skipTest("tshark is not installed")
        super().setUp()
        for folder in (self.path("config", "wireshark", "extcap"), self.path(".local", "lib", "wireshark", "extcap")):
            os.makedirs(folder)
            os.symlink(EXTCAP, os.path.join(folder, "tapeloop-extcap"))

    def tshark(self, *arguments):
        return subprocess.run(["tshark", *arguments], env=self.environment, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, check=False)

    def test_tshark_lists_the_rings(self):
        done = self.tshark("-D")
        self.assertIn("tapeloop-dmz (tapeloop ring dmz)", done.stdout, done.stderr)

    def test_tshark_gets_what_extract_gives(self):
        done = self.tshark("-i", "tapeloop-dmz", "-o", "extcap.tapeloop_dmz.from:1700000002", "-o",
                           "extcap.tapeloop_dmz.to:1700000005", "-f", "src port 1007", "-w", self.path("got.pcapng"))
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(self.path("wanted.pcapng"), "wb") as file:
            file.write(self.extract("--from", "1700000002", "--to", "1700000005", "src port 1007"))
        shown = [self.tshark("-r", self.path(name), "-T", "fields", "-e", "frame.time_epoch", "-e", "frame.len", "-e",
                             "data.data").stdout for name in ("got.pcapng", "wanted.pcapng")]
        self.assertEqual(shown[0], shown[1])
        self.assertEqual(len(shown[0].splitlines()), 30)


if __name__ == "__main__":
    if not os.path.exists(EXTCAP):
        skip("tapeloop-extcap is not built")
    if os.geteuid() != 0:
        skip("needs root")
    main()
