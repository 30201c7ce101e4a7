#!/usr/bin/env python3
"""The answer is tcpdump's: with index, without, and with every second run of keys gone.

    test_find_proof.py [--filters N] [--seed S] [--size BYTES] [--dir DIR]

200 filters, or N of them drawn by the seed (and then of some link types only): one for each primitive of pcap-filter(7), and random ones made of those with and, or, not. They are asked of a
ring with the generator's traffic and of rings with all captures of ../shared/captures (or $TAPELOOP_CAPTURES), as far as the folder is there, one for each link
type; the records of the answer have to be those of `tcpdump -r`, byte for byte. Where libpcap refuses a filter for a link type, nothing may come out.

Answers go through pipes and are compared by length and CRC, two filters at a time: of 4 GiB (the soak's --size) many are 4 GiB themselves. (A better digest would take longer than
the search.) Ring and captures take 2.7 times --size; where there is that much memory, and half of it more, they lie there, for a disk would be read from end to end some hundred times.

`geneve` is left out: behind it libpcap's programs read memory that they have not written, and tcpdump's own answer changes from run to run.
"""

import argparse
import concurrent.futures
import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import capture_oracle  # noqa: E402
import recorder_world as world  # noqa: E402

CAPTURES = os.environ.get("TAPELOOP_CAPTURES") or os.path.join(os.environ.get("TAPELOOP_SOURCE", "."), "..", "shared", "captures")
FILTERS = 200
REPEATS = 3  # of the captures in each of two imports: enough segments for a run
ASKED = argparse.Namespace(filters=12, seed=1, size=40 << 20, dir=None)
PCAP_HEAD = 24
GENERATED_SECONDS = 61  # what tapeloop-haystack makes is a minute, and some milliseconds: the parts' times must not overlap, or the order is not the file's
SEGMENTS = 1024  # at most so many, by choice of their size: four runs

WRITTEN = """
host 10.0.0.1|src host 10.0.0.5|dst host 10.0.0.5|host 192.168.1.1|src or dst host 10.0.0.2|src and dst host 10.0.0.2|ip host 10.0.0.3|ip6 host 2001:db8::1
arp host 192.168.1.1|host 224.0.0.251|net 10.0.0.0/8|net 10.0.0.0 mask 255.255.0.0|src net 192.168.0.0/16|dst net 172.16.0.0/12|ip6 net 2001:db8::/32|net 224
ip6 net fe80::/10|dst net 224.0.0.0/4|port 53|src port 53|dst port 53|tcp port 443|udp port 53|tcp src port 443|udp dst port 443|sctp port 2905
portrange 1-1023|tcp portrange 20-25|udp dst portrange 5000-6000|src portrange 40000-65535|proto 17|ip proto 6|ip proto \\tcp|ip6 proto 58|ip proto \\icmp
tcp|udp|icmp|icmp6|sctp|igmp|pim|ah|esp|vrrp|igrp|carp|ip|ip6|arp|rarp|ether proto 0x88cc|ether proto \\ip|ether proto \\ip6|ether proto \\arp|ether proto 0x8100
ether host 01:00:5e:00:00:fb|ether src 02:00:00:00:00:01|ether dst ff:ff:ff:ff:ff:ff|ether broadcast|ether multicast|ip multicast|ip6 multicast|ip broadcast
broadcast|multicast|vlan|vlan 100|vlan 1|vlan and ip|vlan and host 10.0.0.1|vlan and vlan|vlan and tcp port 443|not vlan|vlan or ip6|mpls|mpls 1024|mpls and ip
pppoed|pppoes|pppoes 7|pppoes and ip|ether[0] & 1 != 0|ip[8] < 10|tcp[tcpflags] & (tcp-syn|tcp-fin) != 0|tcp[tcpflags] == tcp-syn|udp[4:2] > 500|ip[6:2] & 0x1fff != 0
icmp[icmptype] == icmp-echo|icmp[icmptype] = icmp-echoreply|ip6[6] == 58|tcp[12] & 0xf0 > 0x50|ip[2:2] == len - 14|less 64|less 100|greater 1000|len > 1400|len == 60
len < 80 and tcp|iso|stp|ipx|netbeui|lat|moprc|mopdl|decnet host 10.15|aarp|atalk|llc|clnp|isis|esis|ip protochain 6|ip6 protochain 17|protochain 51
not ip|not tcp and not udp|not (tcp or udp or icmp)|not port 53|tcp and not port 443|host 10.0.0.1 and not port 443|not host 10.0.0.1|tcp or udp|(tcp or udp) and port 53
udp and (port 53 or port 123)|host 10.98.98.98|host 10.99.99.1 and host 10.99.99.2|tcp port 40001 and tcp port 8443|net 10.99.0.0/16 and not host 10.99.99.2
src host 10.98.98.98 and tcp dst port 443|host 10.98.98.98 or host 10.99.99.1|not not host 10.98.98.98|host 10.98.98.98 and less 61|host 10.98.98.98 and greater 61
ip and not (src net 10 and dst net 10)|(arp or rarp) and not broadcast|port 80 or port 8080 or port 3128|port domain|tcp port https|ip src 10.0.0.9 or ip dst 10.0.0.9
port 2152 or port 4789|udp port 3784|tcp[20:4] = 0x47455420|udp and udp[8:2] & 0x8000 == 0|ip[0] & 0xf != 5|ip[1] & 0xfc >> 2 == 46|1 = 1|0 = 1|tcp and tcp[13] & 7 != 0
host 127.0.0.1|src net 127|ip6 host ::1|link proto 0x800|ether[12:2] = 0x800|ether[12:2] < 1501|ip6 and not icmp6 and not multicast|esp or ah|udp portrange 67-68
""".replace("\n", "|")


def handmade():
    merged, held = [], ""
    for part in WRITTEN.split("|"):  # `tcp-syn|tcp-fin` is one
        held = held + "|" + part if held else part
        if held.count("(") == held.count(")"):
            if held.strip():
                merged.append(held.strip())
            held = ""
    return merged


def random_filter(generator, atoms, depth):
    if depth == 0 or generator.random() < 0.2:
        return generator.choice(atoms)
    if generator.random() < 0.2:
        return "not (%s)" % random_filter(generator, atoms, depth - 1)
    return "(%s) %s (%s)" % (random_filter(generator, atoms, depth - 1), generator.choice(("and", "or", "and not")),
                             random_filter(generator, atoms, depth - 1))


def all_filters(seed):
    atoms = handmade()
    generator = random.Random(seed)
    while len(atoms) < FILTERS:
        atoms.append(random_filter(generator, handmade(), generator.choice((1, 1, 2, 3))))
    return atoms


def write_pcap(path, link_type, packets, times, first):
    """One after the other, a millisecond apart, the first `first` milliseconds after a day long ago: answers are ordered by time."""
    with open(path, "wb") as file:
        file.write(struct.pack("<IHHiIII", 0xa1b2c3d4, 2, 4, 0, 0, 262144, link_type))
        for _ in range(times):
            for original, data in packets:
                file.write(struct.pack("<IIII", 1_000_000_000 + first // 1000, first % 1000 * 1000, len(data), original) + data)
                first += 1


def captures_by_link_type():
    """{link type: [(original length, bytes)]} of all captures; those that cannot be read to the end give what they have."""
    found = {}
    for folder, _, names in sorted(os.walk(CAPTURES)):
        for name in sorted(names):
            with open(os.path.join(folder, name), "rb") as file:
                packets, _ = capture_oracle.packets(file.read())
            for link_type, _, original, data in packets:
                if len(data) <= 262144 and original < 2**31:
                    found.setdefault(link_type, []).append((original, data))
    return found


def records_through(pipe):
    """(number, CRC) of the bytes of a capture's records, up to the end of a pipe, which is closed."""
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, world.MIB)
    crc, count = 0, 0
    with open(pipe, "rb", buffering=0) as file:
        while part := file.read(world.MIB):
            crc = zlib.crc32(memoryview(part)[max(0, PCAP_HEAD - count):], crc)
            count += len(part)
    return max(0, count - PCAP_HEAD), crc


def tcpdump(capture, text):
    """What it reads there, as records_through(); None where it refuses the filter."""
    with subprocess.Popen(["stdbuf", "-o1M", "tcpdump", "-Z", "root", "-r", capture, "-w", "-", text], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as process:  # by itself it writes 4 KiB at a time
        found = records_through(os.dup(process.stdout.fileno()))
    return found if process.returncode == 0 else None


def slot_bytes(size):
    """A power of two, so that there are many segments, and not too many of a large ring."""
    slot = world.MIB
    while size // slot > SEGMENTS:
        slot *= 2
    return slot


def room_in_memory(size):
    with open("/proc/meminfo", encoding="ascii") as file:
        available = next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable"))
    return os.access("/dev/shm", os.W_OK) and min(available, shutil.disk_usage("/dev/shm").free) > 1.5 * 2.7 * size


class Proof(world.World):
    def ask(self, name, text, way):
        """(what came, the result); a refusal is (what came, None)."""
        reader, writer = os.pipe()
        with self.recorder.client() as client:
            client.ask("extract", [writer], ring=name, format="pcap-us", filter=text, no_index=way == "no index")
            os.close(writer)
            ours = records_through(reader)
            try:
                return ours, client.answer()
            except world.RemoteError as error:
                self.assertEqual(error.code, "invalid", error.message)
                return ours, None

    def judge(self, name, text, way, whole):
        """Holds one answer against tcpdump's, which is asked the first time."""
        if text not in self.right:
            self.right[text] = tcpdump(whole, text)
        right = self.right[text]
        ours, result = self.ask(name, text, way)
        if right is None:
            self.assertEqual(ours[0], 0, text)
        elif result is None:
            self.fail(f"{name}, {way}: {text} is refused, and tcpdump takes it")
        if right is None or result is None:
            with self.lock:
                self.seen["refused"] += 1
            return
        if ours != right:
            self.fail(f"{name}, {way}, seed {ASKED.seed}: {text}: {ours[0]} bytes, tcpdump has {right[0]}")
        self.assertEqual(result["indexes_bad"] + result["runs_bad"], 0)
        with self.lock:
            self.seen["asked"] += 1
            self.seen["packets"] += result["packets"]
            if way == "index":
                self.seen["runs"] += result["runs"]
                self.seen["by_runs"] += result["segments_by_runs"]
                self.seen["blocks"] += result["blocks_wanted"]
                self.seen["blocks_read"] += result["blocks_read"]

    def compare(self, name, make_parts):
        """`make_parts`: (path, what writes a capture there), imported one after the other. Their records together are what tcpdump reads."""
        whole, size = self.path(name + ".pcap"), 0
        recorder = self.recorder
        for i, (part, make) in enumerate(make_parts):
            make(part)
            if i == 0:
                total = os.path.getsize(part) * len(make_parts)
                slot = slot_bytes(total)
                world.create_ring(recorder, name, self.path(name + ".disk"), slot_bytes=slot,
                                  size=max(16 * world.MIB, int(1.2 * total) + 16 * slot))
            with open(part, "rb") as file, open(whole, "ab") as out:
                recorder.call("import", [file.fileno()], ring=name, names=["part"])
                file.seek(0 if i == 0 else PCAP_HEAD)
                shutil.copyfileobj(file, out, world.MIB)
            size += os.path.getsize(part)
            os.unlink(part)
            self.wait_for_runs(name)
        filters = all_filters(ASKED.seed)
        filters = filters if ASKED.filters >= len(filters) else random.Random(ASKED.seed + len(name)).sample(filters, ASKED.filters)
        self.right, self.lock = {}, threading.Lock()
        self.seen = {"asked": 0, "refused": 0, "runs": 0, "by_runs": 0, "blocks": 0, "blocks_read": 0, "packets": 0}
        spent = {}
        for way in ("index", "no index", "half of the runs"):
            if way == "half of the runs":
                for run in self.runs(name)[::2]:
                    os.unlink(self.path("state", "runs", run))
            start = time.monotonic()
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                asked = [pool.submit(self.judge, name, text, way, whole) for text in filters]
                try:
                    for one in concurrent.futures.as_completed(asked):
                        one.result()
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
            spent[way] = round(time.monotonic() - start)
            if size > 1 << 30:
                print(f"{name}, {way}: {len(filters)} filters, {spent[way]} s", flush=True)
        print(f"{name}: {size} bytes, {len(filters)} filters: {self.seen}, seconds: {spent}", flush=True)
        recorder.call("ring.delete", ring=name)
        os.unlink(whole)
        return self.seen

    def runs(self, name):
        rings = {ring["name"]: ring["id"] for ring in self.recorder.call("ring.list")["rings"]}
        return sorted(run for run in os.listdir(self.path("state", "runs")) if run.startswith(rings[name]) and run.endswith(".run"))

    def wait_for_runs(self, name):
        """Until fewer segments than make a run are in none."""
        def covered():
            with open(os.devnull, "wb") as out:
                segments = self.recorder.call("extract", [out.fileno()], ring=name, filter="less 1")["segments"]
            return sum(int(run.rsplit("-", 1)[1][:4], 16) for run in self.runs(name)) > segments - 17
        world.wait_for(covered)

    def setUp(self):
        super().setUp()
        if not shutil.which("tcpdump"):
            self.skipTest("there is no tcpdump to compare with")
        self.recorder = self.start()

    def test_generated(self):
        def make(number):
            return lambda part: subprocess.run([os.path.join(os.environ["TAPELOOP_TEST_BIN"], "tapeloop-haystack"), part, str(ASKED.size // 2),
                                                str(number + 1), str(GENERATED_SECONDS * number)], check=True, stdout=subprocess.DEVNULL)
        seen = self.compare("generated", [(self.path(f"hay{i}.pcap"), make(i)) for i in range(2)])
        self.assertGreater(seen["runs"], 0)

    def test_captures(self):
        if not os.path.isdir(CAPTURES):
            self.skipTest(f"there are no captures in {CAPTURES}")
        found = captures_by_link_type()
        chosen = sorted(found)
        if ASKED.filters < FILTERS:  # Ethernet, and three others
            chosen = [1] + random.Random(ASKED.seed).sample([link_type for link_type in chosen if link_type != 1], min(3, len(chosen) - 1))

        def make(link_type, number):
            packets = found[link_type]
            return lambda part: write_pcap(part, link_type, packets, REPEATS, number * REPEATS * len(packets))
        for link_type in chosen:
            with self.subTest(link_type=link_type):
                self.compare(f"link{link_type}", [(self.path(f"link{link_type}.{i}"), make(link_type, i)) for i in range(2)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--filters", type=int, default=ASKED.filters)
    parser.add_argument("--seed", type=int, default=ASKED.seed)
    parser.add_argument("--size", type=int, default=ASKED.size)
    parser.add_argument("--dir", help="where rings and captures lie")
    ASKED, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    tempfile.tempdir = ASKED.dir or ("/dev/shm" if room_in_memory(ASKED.size) else None)
    os.environ.setdefault("TAPELOOP_TEST_BIN", os.path.join(world.BIN, "..", "tests", "bin"))
    world.main()
