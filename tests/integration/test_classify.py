#!/usr/bin/env python3
"""Layer 7 with the real process: what it recognises, what it may do, and that it ends with its recorder.

tapeloop-flows takes a capture file through the recorder's decoder and classifier to tapeloop-classify. Without that
program (it is built where libndpi-dev is) this is skipped. The captures of nDPI itself are compared with nDPI's own
counts where $TAPELOOP_CAPTURES or ../shared/captures beside the source tree has them in ndpi/, with protocols.tsv.
"""
import collections
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

import recorder_world

SOURCE = os.environ.get("TAPELOOP_SOURCE", ".")
PROGRAM = os.path.join(os.environ.get("TAPELOOP_BIN", ""), "tapeloop-classify")
FLOWS = os.path.join(os.environ.get("TAPELOOP_TEST_BIN", ""), "tapeloop-flows")
CAPTURES = os.path.join(os.environ.get("TAPELOOP_CAPTURES") or os.path.join(SOURCE, "..", "shared", "captures"), "ndpi")

# Where we and nDPI's own program count differently: file -> protocol -> (theirs, ours). Why: capture/README.md.
DIFFERENT = {
    "BGP_Cisco_hdlc_slarp.pcap": {"BGP": (1, 0)},
    "ajp.pcap": {"Unknown": (2, 0)},
    "dnscrypt_skype_false_positive.pcapng": {"DNScrypt": (1, 0), "Unknown": (0, 1)},
}

CLIENT, SERVER, RESOLVER = "10.1.0.2", "93.184.216.34", "10.1.0.53"


def pcap(packets):
    out = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)
    for number, packet in enumerate(packets):
        out += struct.pack("<IIII", 1700000000, number, len(packet), len(packet)) + packet
    return out


def ip(source, target, protocol, payload):
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 0, 0x4000, 64, protocol, 0,
                         socket.inet_aton(source), socket.inet_aton(target))
    return bytes(12) + b"\x08\x00" + header + payload


def udp(source, sport, target, dport, payload):
    return ip(source, target, 17, struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload)


def tcp(source, sport, target, dport, flags, seq, ack, payload=b""):
    return ip(source, target, 6, struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 0x50, flags, 65535, 0, 0) + payload)


def connection(sport, dport, request, answer):
    """A handshake, one segment each way."""
    return [
        tcp(CLIENT, sport, SERVER, dport, 2, 100, 0), tcp(SERVER, dport, CLIENT, sport, 0x12, 900, 101),
        tcp(CLIENT, sport, SERVER, dport, 0x10, 101, 901), tcp(CLIENT, sport, SERVER, dport, 0x18, 101, 901, request),
        tcp(SERVER, dport, CLIENT, sport, 0x18, 901, 101 + len(request), answer),
    ]


def dns_query(name):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack("!HHHHHH", 0x1234, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 1, 1)


def dns_answer(name, address):
    query = dns_query(name)
    return query[:2] + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0) + query[12:] + struct.pack(
        "!HHHIH4s", 0xC00C, 1, 1, 60, 4, socket.inet_aton(address))


def client_hello(name):
    host = name.encode()
    sni = struct.pack("!HBH", len(host) + 3, 0, len(host)) + host
    versions = b"\x02\x03\x04"
    extensions = struct.pack("!HH", 0, len(sni)) + sni + struct.pack("!HH", 43, len(versions)) + versions
    body = (b"\x03\x03" + bytes(range(32)) + b"\0" + struct.pack("!HHH", 4, 0x1301, 0xC02F) + b"\x01\0" +
            struct.pack("!H", len(extensions)) + extensions)
    handshake = b"\x01" + struct.pack("!I", len(body))[1:] + body
    return b"\x16\x03\x01" + struct.pack("!H", len(handshake)) + handshake


def server_hello():
    body = b"\x03\x03" + bytes(32) + b"\0" + struct.pack("!H", 0xC02F) + b"\0" + b"\0\0"
    handshake = b"\x02" + struct.pack("!I", len(body))[1:] + body
    return b"\x16\x03\x03" + struct.pack("!H", len(handshake)) + handshake


DNS = [udp(CLIENT, 40000, RESOLVER, 53, dns_query("example.org")),
       udp(RESOLVER, 53, CLIENT, 40000, dns_answer("example.org", SERVER))]
HTTP = connection(40001, 8080, b"GET / HTTP/1.1\r\nHost: example.org\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n",
                  b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nok")
TLS = connection(40002, 8443, client_hello("example.org"), server_hello())
VIDEO = connection(40003, 8444, client_hello("www.youtube.com"), server_hello())
NOISE = [udp(CLIENT, 40004, SERVER, 40005, bytes([7, 200, 3, 99, i, 1, 250, 8])) for i in range(40)]


def children(pid):
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
            found += map(int, file.read().split())
    return found


def status_of(pid):
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)


class Classify(unittest.TestCase):
    def flows(self, path, *options):
        done = subprocess.run([FLOWS, PROGRAM, path, *options], capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""), path)
        return [line.split("\t") for line in done.stdout.splitlines()]

    def found(self, packets):
        with tempfile.NamedTemporaryFile(suffix=".pcap") as file:
            file.write(pcap(packets))
            file.flush()
            return {name: int(flows) for name, flows in self.flows(file.name)}

    def test_own(self):
        self.assertEqual(self.found(DNS), {"DNS": 1})
        self.assertEqual(self.found(HTTP), {"HTTP": 1})
        self.assertEqual(self.found(TLS), {"TLS": 1})
        self.assertEqual(self.found(VIDEO), {"YouTube": 1})
        self.assertEqual(self.found(NOISE), {"Unknown": 1})
        self.assertEqual(self.found(DNS + HTTP + TLS + VIDEO + NOISE),
                         {"DNS": 1, "HTTP": 1, "TLS": 1, "YouTube": 1, "Unknown": 1})

    def test_both_protocols(self):
        with tempfile.NamedTemporaryFile(suffix=".pcap") as file:
            file.write(pcap(VIDEO))
            file.flush()
            self.assertEqual(self.flows(file.name, "--each"), [["1", "5", "TLS", "YouTube"]])

    def test_captures_of_ndpi(self):
        table = os.path.join(CAPTURES, "protocols.tsv")
        if not os.path.exists(table):
            self.skipTest(f"there are no captures in {CAPTURES}")
        theirs = collections.defaultdict(dict)
        with open(table, encoding="ascii") as file:
            for line in file.read().splitlines()[1:]:
                name, protocol, _, _, flows = line.split("\t")
                theirs[name][protocol] = int(flows)
        self.assertGreater(len(theirs), 50)
        different = {}
        for name in sorted(theirs):
            ours = {protocol: int(flows) for protocol, flows in self.flows(os.path.join(CAPTURES, name))}
            different[name] = {p: (theirs[name].get(p, 0), ours.get(p, 0)) for p in {*theirs[name], *ours}
                               if theirs[name].get(p) != ours.get(p)}
        self.assertEqual({name: each for name, each in different.items() if each}, DIFFERENT)


class Confined(unittest.TestCase):
    """The process of a tapeloop-flows that waits for the rest of a pipe."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        path = os.path.join(self.folder.name, "pipe")
        os.mkfifo(path)
        self.parent = subprocess.Popen([FLOWS, PROGRAM, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(self.end)
        self.pipe = open(path, "wb", buffering=0)
        self.addCleanup(self.pipe.close)
        self.pipe.write(pcap(DNS))
        while not children(self.parent.pid):
            time.sleep(0.01)
        self.child, = children(self.parent.pid)
        while status_of(self.child).get("Seccomp") != "2":
            time.sleep(0.01)

    def end(self):
        self.parent.kill()
        self.parent.communicate()

    def test_what_it_may(self):
        status = status_of(self.child)
        self.assertEqual(status["NoNewPrivs"], "1")
        self.assertEqual([status[kind] for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb")], ["0" * 16] * 4)
        if os.geteuid() == 0:
            self.assertEqual(status["Uid"].split(), ["65534"] * 4)
            self.assertEqual(status["Gid"].split(), ["65534"] * 4)
            self.assertEqual(status["Groups"].split(), [])
            self.assertEqual(sorted(os.listdir(f"/proc/{self.child}/fd")), ["0", "1", "2"])
            for fd in "012":
                self.assertEqual(os.readlink(f"/proc/{self.child}/fd/{fd}"), "/dev/null")
        with open(f"/proc/{self.child}/limits", encoding="ascii") as file:
            limits = file.read()
        self.assertIn("Max address space         ", limits)
        space = next(line.split()[3] for line in limits.splitlines() if line.startswith("Max address space"))
        if not recorder_world.sanitized(f"/proc/{self.child}/exe"):  # a sanitizer's shadow is larger than any limit
            self.assertNotEqual(space, "unlimited")

    def test_ends_with_its_recorder(self):
        self.parent.send_signal(signal.SIGKILL)
        self.parent.communicate()
        while os.path.exists(f"/proc/{self.child}") and status_of(self.child)["State"][0] not in "ZX":
            time.sleep(0.01)

    def test_killed(self):
        os.kill(self.child, signal.SIGKILL)
        other = []
        while not other or status_of(other[0]).get("Seccomp") != "2":
            time.sleep(0.01)
            other = [pid for pid in children(self.parent.pid) if pid != self.child]
        self.pipe.write(pcap(DNS)[24:])
        self.pipe.close()
        out, err = self.parent.communicate()
        self.assertIn(b"died of signal 9", err)
        self.assertEqual(out, b"DNS\t1\n")  # judged by the first one, or lent to the second
        self.assertEqual(self.parent.returncode, 3)  # as tapeloop-flows says of a process that was not the first one

    def test_not_by_hand(self):
        done = subprocess.run([PROGRAM], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn(b"started by tapeloopd", done.stderr)


if __name__ == "__main__":
    if not os.access(PROGRAM, os.X_OK):
        print(f"skipped: {PROGRAM} is not there: built without libndpi-dev")
        sys.exit(77)
    if not os.path.exists(os.path.join(CAPTURES, "protocols.tsv")):
        print(f"skipped in part: no captures of nDPI in {CAPTURES}")
    unittest.main()
