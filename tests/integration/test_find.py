#!/usr/bin/env python3
"""Filters are answered through the key index as tcpdump answers them from the file, and little is read for a needle."""

import json
import os
import random
import struct
import subprocess
import tempfile
import unittest

BIN = os.environ.get("TAPELOOP_BIN", os.path.join(os.path.dirname(__file__), "../../build/release/bin"))
TAPELOOP = os.path.join(BIN, "tapeloop")
PACKETS = 60000
SEED = 20

FILTERS = [
    "host 203.0.113.9", "src host 203.0.113.9", "not host 203.0.113.9 and port 4444", "net 203.0.113.0/24",
    "port 4444", "tcp port 4444 or udp port 4445", "portrange 4440-4450 and udp", "ip6 host 2001:db8::9",
    "ip6", "arp", "vlan 77", "vlan 77 and host 203.0.113.9", "vlan and port 4444", "ether host 02:00:00:00:00:99",
    "ether proto 0x88cc", "icmp", "tcp[tcpflags] & tcp-syn != 0 and port 4444", "less 64", "not tcp and not udp",
    "host 198.51.100.1 and not port 4444", "udp and host 10.0.0.7", "host 192.0.2.200",
    "(host 203.0.113.9 or host 10.0.0.7) and (tcp or udp) and not vlan",
]


def ip4(source, destination, protocol, payload):
    def number(text):
        return bytes(int(part) for part in text.split("."))
    return struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0) + number(source) + \
        number(destination) + payload


def udp(source, destination, count):
    return struct.pack(">HHHH", source, destination, 8 + count, 0) + bytes(count)


def tcp(source, destination, flags, count):
    return struct.pack(">HHIIBBHHH", source, destination, 1, 1, 0x50, flags, 1000, 0, 0) + bytes(count)


def ethernet(kind, payload, mac=1, tag=None):
    head = bytes([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, mac])
    return head + (struct.pack(">HH", 0x8100, tag) if tag else b"") + struct.pack(">H", kind) + payload


def ordinary(generator):
    one, two = "10.0.%d.%d" % (generator.randrange(4), generator.randrange(1, 250)), "10.1.0.%d" % generator.randrange(1, 250)
    count, port = generator.choice((20, 200, 900)), generator.randrange(1024, 4000)
    if generator.random() < 0.5:
        return ethernet(0x800, ip4(one, two, 6, tcp(port, 443, 0x10, count)))
    return ethernet(0x800, ip4(two, one, 17, udp(53, port, count)))


def needle(n):
    four = ip4("203.0.113.9", "198.51.100.1", 6, tcp(4444, 80, 2 if n % 2 else 0x10, 10))
    return [
        ethernet(0x800, four),
        ethernet(0x800, four, tag=77),
        ethernet(0x800, ip4("198.51.100.1", "203.0.113.9", 17, udp(4445, 9, 30)), mac=0x99),
        ethernet(0x86dd, struct.pack(">IHBB", 0x60000000, 18, 17, 64) + bytes.fromhex("20010db8" + "00" * 11 + "09") +
                 bytes.fromhex("20010db8" + "00" * 11 + "01") + udp(5, 4444, 10)),
        ethernet(0x806, struct.pack(">HHBBH", 1, 0x800, 6, 4, 1) + bytes(6) + bytes([203, 0, 113, 9]) + bytes(10)),
        ethernet(0x88cc, bytes(50)),
        ethernet(0x800, ip4("203.0.113.9", "10.0.0.7", 1, bytes([8, 0, 0, 0]) + bytes(20))),
    ][n % 7]


def packets():
    generator = random.Random(SEED)
    for n in range(PACKETS):
        yield needle(n // 1500) if n % 1500 == 700 and n > PACKETS // 2 else ordinary(generator)


def write_capture(path):
    with open(path, "wb") as file:
        file.write(struct.pack("<IHHiIII", 0xa1b2c3d4, 2, 4, 0, 0, 262144, 1))
        for n, packet in enumerate(packets()):
            file.write(struct.pack("<IIII", 1700000000 + n // 1000, n % 1000 * 1000, len(packet), len(packet)) + packet)


def records(path):
    with open(path, "rb") as file:
        return file.read()[24:]


class Find(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="test_find.")
        cls.capture = os.path.join(cls.folder.name, "all.pcap")
        write_capture(cls.capture)
        cls.tapeloop("ring", "create", "r", "--disk", os.path.join(cls.folder.name, "disk") + ":64M")
        cls.tapeloop("import", "r", cls.capture)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    @classmethod
    def tapeloop(cls, *arguments):
        return subprocess.run([TAPELOOP, "--state", os.path.join(cls.folder.name, "state"), *arguments], check=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def extract(self, *arguments):
        """The records of the answer, and how many bytes were read for it."""
        path = os.path.join(self.folder.name, "ours.pcap")
        done = self.tapeloop("--json", "extract", "r", "--format", "pcap-us", "-w", path, *arguments)
        return records(path), json.loads((done.stdout or done.stderr).strip().splitlines()[-1])

    def test_answers_are_those_of_tcpdump(self):
        theirs = os.path.join(self.folder.name, "theirs.pcap")
        empty = 0
        for text in FILTERS:
            with self.subTest(filter=text):
                try:
                    subprocess.run(["tcpdump", "-Z", "root", "-r", self.capture, "-w", theirs, text], check=True,
                                   stderr=subprocess.DEVNULL)
                except FileNotFoundError:
                    self.skipTest("there is no tcpdump to compare with")
                ours, _ = self.extract(text)
                self.assertEqual(ours, records(theirs))
                empty += not ours
        self.assertLess(empty, len(FILTERS) // 3)

    def test_queries_of_stenographer(self):
        """What they mean, said in our own words; a tag hides nothing; times become the range."""
        four = "not arp and (host 203.0.113.9 or (vlan and host 203.0.113.9))"
        for query, filter_and_range in [
                ("host 203.0.113.9", [four]),
                ("host 203.0.113.9 and after 2023-11-14T22:14:00Z and before 2023-11-14T22:14:10Z",
                 [four, "--from", "1700000040", "--to", "1700000050"]),
                ("(net 203.0.113.0 mask 255.255.255.0 && tcp) and (before 2023-11-14T22:14:00Z or port 80)",
                 ["tcp and net 203.0.113.0/24 or (vlan and tcp and net 203.0.113.0/24)"]),
                ("icmp || ip proto 6 and after 2023-11-14T22:14:15Z",
                 ["icmp or tcp or (vlan and tcp)", "--from", "1700000055"])]:
            with self.subTest(query=query):
                ours, done = self.extract("--query", "steno", query)
                wanted, _ = self.extract(*filter_and_range[1:], filter_and_range[0])
                self.assertGreater(len(ours), 0)
                self.assertEqual(ours, wanted)
        _, everything = self.extract()
        _, done = self.extract("--query", "steno", "host 203.0.113.9 and port 4445")
        self.assertLess(done["bytes_read"] * 3, everything["bytes_read"])
        for query, says in [("not tcp", "column 1: expected host"), ("after 1h ago and before 2h ago", "no packet")]:
            with self.assertRaises(subprocess.CalledProcessError) as refused:
                self.extract("--query", "steno", query)
            self.assertIn(says, refused.exception.stderr)

    def test_little_is_read_for_a_needle(self):
        _, everything = self.extract()
        ours, needle_done = self.extract("host 203.0.113.9 and port 4445")
        self.assertGreater(len(ours), 0)
        self.assertLess(needle_done["bytes_read"] * 3, everything["bytes_read"])
        self.assertLess(needle_done["packets_judged"] * 3, everything["packets_judged"])

    def test_it_says_how_it_was_found(self):
        plan = self.tapeloop("extract", "r", "--explain", "host 203.0.113.9 and less 61 and vlan").stdout
        self.assertIn("host 203.0.113.9 and (packets) and vlan", plan)
        for step in ("catalog", "runs", "key indexes", "blocks", "packets"):
            self.assertIn("\n" + step, plan)
        self.assertIn("every packet", self.tapeloop("extract", "r", "--explain").stdout)
        ours, with_it = self.extract("--explain", "port 4445")
        whole, without = self.extract("--no-index", "port 4445")
        self.assertEqual(ours, whole)
        self.assertEqual(with_it["narrowing"], "port 4445")
        self.assertEqual((without["narrowing"], without["segments_narrowed"]), ("", 0))
        self.assertLessEqual(without["index_bytes"], 2 * 4096 * without["segments"])  # only where frames lie
        self.assertGreater(with_it["index_bytes"], 0)
        self.assertLessEqual(with_it["blocks_wanted"], with_it["blocks_read"])
        refused = subprocess.run([TAPELOOP, "--state", os.path.join(self.folder.name, "state"), "extract", "r", "--explain", "-w", "-"],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.assertEqual(refused.returncode, 2)
        self.assertIn("standard output", refused.stderr)

    def test_damaged_indexes_cost_time_and_no_packet(self):
        """Other bytes in the frames of the key indexes: whatever is still believed of them, the answers stay."""
        generator, disk = random.Random(SEED), os.path.join(self.folder.name, "disk")
        text = "host 203.0.113.9 and not vlan"
        wanted, whole = self.extract(text)
        self.assertGreater(len(wanted), 0)
        self.assertGreater(whole["segments_narrowed"], 5)
        self.assertEqual(whole["indexes_bad"], 0)
        with open(disk, "rb") as file:
            content = file.read()
        pages = [at for at in range(0, len(content), 4096) if content[at:at + 8] == b"tlframe\n" and content[at + 24] == 5]
        lengths = {at: struct.unpack_from("<I", content, at + 16)[0] for at in pages}
        bad = 0
        try:
            for _ in range(12):
                with open(disk, "r+b") as file:
                    for at in pages:
                        file.seek(at + generator.randrange(generator.choice((8192, lengths[at]))) % lengths[at])
                        file.write(generator.randbytes(generator.choice((1, 200))))
                ours, done = self.extract(text)
                self.assertEqual(ours, wanted)
                bad += done["indexes_bad"]
        finally:
            with open(disk, "r+b") as file:
                for at in pages:
                    file.seek(at)
                    file.write(content[at:at + lengths[at]])
        self.assertGreater(bad, 10)


if __name__ == "__main__":
    unittest.main()
