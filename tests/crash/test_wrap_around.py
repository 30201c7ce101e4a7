#!/usr/bin/env python3
"""
A small ring goes round and round while others read it and its recorder is killed (promises P2, P3).

    test_wrap_around.py [--laps N] [--seed S]

Packets say which one they are, and each has a time of its own, so that one of another lap cannot hide. Whatever a reader is handed must be in order, each
packet byte for byte what was imported under its number, and where numbers are missing in the middle, because the ring came along while it was read, the answer
must name the time that is lost.
"""
import os
import random
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
import recorder_world as world  # noqa: E402

SLOTS = 12
DISK_BYTES = (SLOTS + 2) * world.MIB
START_NS = 1_700_000_000 * 10**9
SIZE = 900
PAUSE_S = 1.5


def option(name, default):
    return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


LAPS, SEED = option("--laps", 3), option("--seed", int(time.time()))


def slow_extract(recorder, ring):
    """As world.extract(), into a pipe that nobody empties for a while: the ring comes along meanwhile."""
    reading, writing = os.pipe()
    data = []

    def empty():
        with os.fdopen(reading, "rb") as file:
            data.append(file.read(4096))
            time.sleep(PAUSE_S)
            data.append(file.read())

    emptier = world.thread(empty)
    try:
        with recorder.client() as client:
            client.ask("extract", [writing], ring=ring, format="pcap")
            os.close(writing)
            writing = -1
            result = client.answer()
    finally:
        if writing >= 0:
            os.close(writing)
        emptier.join()
    whole = b"".join(data)
    return (world.read_pcap(whole) if whole else []), result


class WrapAround(world.World):
    def test_wrap_around(self):
        print(f"seed {SEED}, {LAPS} laps", file=sys.stderr)
        self.dice, self.next, self.unsure = random.Random(SEED), 0, []
        self.reads = self.overtaken = self.killed = 0
        self.wrong = None
        recorder = self.start()
        world.create_ring(recorder, "r", self.path("disk"), size=DISK_BYTES, slot_bytes=world.MIB)
        for lap in range(LAPS):
            readers = [world.thread(self.read_on, recorder, extract) for extract in (world.extract, slow_extract)]
            self.go_round(recorder)
            if self.dice.random() < 0.5:
                killer = world.thread(recorder.kill)
                self.import_some(recorder)
                killer.join()
                self.killed += 1
            else:
                recorder.stop()
            for reader in readers:
                reader.join()
            self.assertIsNone(self.wrong, f"lap {lap}")
            recorder = self.start()
            while recorder.call("ring.list")["rings"][0]["state"] != "idle":
                time.sleep(0.01)
            self.check(*world.extract(recorder, "r"))
            self.check_clean(recorder, "r")
        print(f"{self.reads} reads, {self.overtaken} of them overtaken, {self.killed} kills", file=sys.stderr)
        self.assertGreater(self.reads, 0)

    def go_round(self, recorder):
        end = self.next + SLOTS * world.MIB // SIZE
        while self.next < end:
            self.import_some(recorder)

    def import_some(self, recorder):
        count = self.dice.randrange(100, 1000)
        packets = world.numbered(count, first=self.next, start_ns=START_NS, size=SIZE)
        self.next += count
        try:
            world.import_packets(recorder, "r", packets)
        except (OSError, EOFError):
            self.unsure.append((packets[0][0], packets[-1][0]))  # any beginning of it may be there

    def read_on(self, recorder, extract):
        while self.wrong is None:
            try:
                found, result = extract(recorder, "r")
            except (OSError, EOFError, world.RemoteError):
                return  # it was killed, or ends
            except AssertionError as error:
                self.wrong = error
                return
            try:
                self.check(found, result)
            except AssertionError as error:
                self.wrong = error
            self.reads += 1

    def check(self, found, result):
        before = None
        for time_ns, body in found:
            number, = struct.unpack_from(">Q", body, 14)
            assert time_ns == START_NS + number * 1000, f"packet {number} has the time of another one"
            assert body == world.packet(number, SIZE), f"packet {number} is not what was imported"
            assert before is None or number > before, f"packet {number} after {before}"
            if before is not None and number > before + 1:
                self.check_hole(START_NS + (before + 1) * 1000, START_NS + (number - 1) * 1000, result)
            before = number

    def check_hole(self, first_ns, last_ns, result):
        if any(first_ns >= first and last_ns <= last for first, last in self.unsure):
            return
        self.overtaken += 1
        assert not result["complete"], "packets are missing, and the answer calls itself complete"
        assert any(int(gap["from_ns"]) <= last_ns and int(gap["to_ns"]) >= first_ns for gap in result["gaps"]), \
            f"nobody says that {first_ns} to {last_ns} is lost: {result['gaps']}"


if __name__ == "__main__":
    sys.argv = sys.argv[:1]
    world.main()
