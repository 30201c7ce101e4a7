#!/usr/bin/env python3
"""
Real captures that nobody here wrote, through import and extract, and back: every packet byte for byte; and filters against tcpdump.

    test_captures.py [--all]     --all: every filter on every capture (ctest -L soak), else some of them on each

The folder is $TAPELOOP_CAPTURES or ../shared/captures beside the source tree; without it the test is skipped.
"""
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import capture_oracle  # noqa: E402
import recorder_world as world  # noqa: E402

FOLDER = os.environ.get("TAPELOOP_CAPTURES") or os.path.join(
    os.environ.get("TAPELOOP_SOURCE", "."), "..", "shared", "captures")
FILTERS = [
    "tcp", "udp", "icmp", "icmp6", "arp", "ip", "ip6", "port 53", "port 80", "tcp port 443", "udp port 123",
    "portrange 1000-5000", "src port 53", "dst port 80", "host 10.0.0.1", "net 192.168.0.0/16", "src net 10.0.0.0/8",
    "dst host 224.0.0.5", "greater 100", "less 64", "len > 500", "not tcp", "tcp and not port 80", "tcp or udp",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0", "tcp[13] = 2", "ip[6:2] & 0x1fff != 0", "ip proto 89", "ip6 proto 58",
    "vlan", "vlan and ip", "mpls", "pppoes", "ether broadcast", "ether multicast", "ip broadcast", "ip multicast",
    "ether host 00:00:00:00:00:00", "ether proto 0x88cc", "ether[0] & 1 = 0", "ip and (tcp or udp) and not host 127.0.0.1",
    "ip[8] < 5", "udp[4:2] > 100", "proto ospf", "sctp", "esp or ah", "stp", "isis", "inbound", "link[0] = 0",
]
ALL = "--all" in sys.argv
LAST_SIGNED_NS = (2**31 - 1) * 10**9  # what tcpdump writes for later ones depends on the sign that libpcap sees


def captures():
    found = []
    for folder, _, names in sorted(os.walk(FOLDER)):
        found += [os.path.join(folder, name) for name in sorted(names) if name.endswith((".pcap", ".pcapng"))]
    return found


def tcpdump(path, expression):
    """The packets that tcpdump -r PATH FILTER writes, or None where it cannot compile the filter for the link type."""
    with tempfile.NamedTemporaryFile() as out:
        done = subprocess.run(["tcpdump", "--time-stamp-precision=nano", "-r", path, "-w", out.name, *expression.split()],
                              stdin=subprocess.DEVNULL, capture_output=True, check=False)
        with open(out.name, "rb") as f:
            data = f.read()
    if done.returncode != 0 and not data:
        # Nothing matched before it met damage; or the filter is not for this link type.
        compiled = subprocess.run(["tcpdump", "-d", "-r", path, *expression.split()], stdin=subprocess.DEVNULL,
                                  capture_output=True, check=False)
        rejects_all = b"rejects all packets" in compiled.stderr  # a valid filter that can match nothing here
        return None if compiled.returncode != 0 and not rejects_all else []
    return [packet[1:] for packet in capture_oracle.packets(data)[0]]


class Captures(world.World):
    def setUp(self):
        super().setUp()
        self.recorder = self.start()

    def ring_of(self, number, path):
        name = f"c{number}"
        world.create_ring(self.recorder, name, self.path(name), size=max(16, os.path.getsize(path) // world.MIB * 2 + 8) * world.MIB)
        with open(path, "rb") as f:
            result = self.recorder.call("import", [f.fileno()], ring=name, names=[os.path.basename(path)])
        return name, result["files"][0]

    def drop(self, name):
        self.recorder.call("ring.delete", ring=name)
        os.unlink(self.path(name))

    def extracted(self, ring, expression=""):
        with tempfile.TemporaryFile() as output:
            try:
                result = self.recorder.call("extract", [output.fileno()], ring=ring, format="pcapng", filter=expression)
            except world.RemoteError as error:
                return None, error
            output.seek(0)
            return capture_oracle.packets(output.read())[0], result

    def test_captures(self):
        self.packets = self.damaged = self.compared = self.matched = self.not_compiled = 0
        for number, path in enumerate(captures()):
            with open(path, "rb") as f:
                expected, wrong = capture_oracle.packets(f.read())
            name, imported = self.ring_of(number, path)
            with self.subTest(os.path.relpath(path, FOLDER)):
                self.comes_back(name, path, imported, expected, wrong)
            # tcpdump reads no file with several link types, and an empty one has nothing to compare
            if len({p[0] for p in expected}) == 1:
                chosen = FILTERS if ALL else [FILTERS[(number * 7 + i * 11) % len(FILTERS)] for i in range(5)]
                for expression in chosen:
                    with self.subTest(f"{os.path.relpath(path, FOLDER)}: {expression}"):
                        self.filtered(name, path, expression)
            self.drop(name)
        print(f"{len(captures())} captures, {self.packets} packets, {self.damaged} captures damaged; {self.compared} answers "
              f"to filters compared, {self.matched} packets in them, {self.not_compiled} filters not for the link type",
              file=sys.stderr)
        self.assertGreater(self.matched, 1000)

    def comes_back(self, name, path, imported, expected, wrong):
        """What import gives and extract hands out is what the file holds; damage is named."""
        got, result = self.extracted(name)
        self.assertEqual(len(got), len(expected))
        self.assertEqual([p[0] for p in got], [p[0] for p in expected], "link types")
        self.assertEqual([p[2] for p in got], [p[2] for p in expected], "original lengths")
        self.assertEqual([p[3] for p in got], [p[3] for p in expected], "bytes")
        self.assertEqual([p[1] for p in got], [p[1] for p in expected], "times")
        self.assertEqual(imported["packets"], len(expected))
        if wrong:
            self.assertIsNotNone(imported["error"], wrong)
            self.assertIn(os.path.basename(path), imported["error"]["message"])
            self.damaged += 1
        else:
            self.assertIsNone(imported["error"])
            self.assertTrue(result["complete"], result)
        self.packets += len(expected)

    def filtered(self, name, path, expression):
        expected = tcpdump(path, expression)
        got, result = self.extracted(name, expression)
        self.compared += 1
        if expected is None:
            # not for this link type: nothing matches and the result says so; or no filter at all
            self.not_compiled += 1
            if got is not None:
                self.assertEqual(got, [])
                self.assertFalse(result["complete"], result)
            return
        if any(p[0] > LAST_SIGNED_NS for p in expected):
            expected = [(p[0] % (2**32 * 10**9), *p[1:]) for p in expected]
        self.assertIsNotNone(got, result)
        self.assertEqual([p[1:] for p in got], expected)
        self.matched += len(expected)


if __name__ == "__main__":
    if not captures():
        print(f"skipped: there are no captures in {FOLDER}")
        sys.exit(world.SKIPPED)
    if subprocess.run(["sh", "-c", "command -v tcpdump"], capture_output=True, check=False).returncode != 0:
        print("skipped: tcpdump is not installed")
        sys.exit(world.SKIPPED)
    sys.argv = [a for a in sys.argv if a != "--all"]
    world.main()
