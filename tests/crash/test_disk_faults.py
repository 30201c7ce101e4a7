#!/usr/bin/env python3
"""
A real recorder on disks that go bad (promises P1, P4, P10).

    test_disk_faults.py [--runs N] [--seed S] [DiskMemory]

Each run is a ring of 1 to 4 copies on 4 to 8 files of the faulty file system. While captures are imported, one less than there are copies go
bad at seeded random moments: they fail, hang, vanish, or answer late. Every import must be acknowledged all the same, and everything acknowledged
come back byte for byte: from the running recorder, from one that starts without the bad disks after a kill -9, and from one that has them all back.
The recorder's memory stays within its buffers and 64 MiB; DiskMemory, which runs instead when it is named, measures that with the buffers of 256 MiB
that a ring has unless it is told otherwise, all in use, beside a disk that hangs for ever. A failure names its seed; --seed S --runs 1 repeats it, but for the kernel's timing.
"""
import os
import random
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
import faulty_world  # noqa: E402
import recorder_world as world  # noqa: E402

DISK_BYTES = 56 * world.MIB
BUFFER_BYTES = 32 * world.MIB
MEMORY_BYTES_MORE = 64 * world.MIB
IMPORTS = 8
TROUBLES = ("fails", "hangs", "vanishes", "late")


def option(name, default):
    return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


RUNS, SEED = option("--runs", 3), option("--seed", int(time.time()))


def peak_bytes(recorder):
    """The most memory that the recorder has had; None where a sanitizer's shadow is part of it."""
    if world.sanitized(f"/proc/{recorder.process.pid}/exe"):
        return None
    with open(f"/proc/{recorder.process.pid}/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


class DiskFaults(world.World):
    def test_campaign(self):
        print(f"seed {SEED}, {RUNS} runs", file=sys.stderr)
        for seed in range(SEED, SEED + RUNS):
            with self.subTest(seed=seed), faulty_world.FaultyDisks(seed=seed) as disks:
                self.campaign(random.Random(seed), disks, f"state-{seed}")

    def campaign(self, dice, disks, state):
        copies = dice.randrange(1, 5)
        names = [f"disk{i}" for i in range(dice.randrange(4, 9))]
        bad = {name: (dice.choice(TROUBLES), dice.randrange(IMPORTS)) for name in dice.sample(names, copies - 1)}
        print(f"{copies} copies on {len(names)} disks; {bad}", file=sys.stderr)
        recorder = self.start(state)
        try:
            self.create(recorder, [disks.path(name) for name in names], copies)
            recorder = self.restart(recorder, state)  # with its buffers as they were set
            kept = self.import_among_troubles(dice, recorder, disks, bad)
            self.check(recorder, kept)
            peak = peak_bytes(recorder)
            if peak is not None:
                self.assertLessEqual(peak, BUFFER_BYTES + MEMORY_BYTES_MORE, "P10")
        finally:
            for name in bad:  # a process that has requests under way does not end
                disks.vanish(name)
                disks.release(name)
            recorder.kill() if dice.random() < 0.5 else recorder.stop()
        recorder = self.start(state)
        self.wait_until_up(recorder)
        self.check(recorder, kept)
        recorder.stop()
        for name in bad:
            disks.heal(name)
        recorder = self.start(state)
        self.wait_until_up(recorder)
        self.check(recorder, kept)
        self.assertEqual(recorder.stop(), 0)

    def restart(self, recorder, state):
        self.assertEqual(recorder.stop(), 0)
        recorder = self.start(state)
        self.wait_until_up(recorder)
        return recorder

    def create(self, recorder, paths, copies):
        recorder.call("ring.create", name="r", copies=copies, slot_bytes=world.MIB,
                      disks=[{"path": path, "bytes": DISK_BYTES} for path in paths])
        recorder.call("ring.set", ring="r", settings={"buffer_bytes": str(BUFFER_BYTES), "flush_window": "200ms",
                                                      "disk_wait": "2s"})

    def import_among_troubles(self, dice, recorder, disks, bad):
        kept = []
        for number in range(IMPORTS):
            starting = [(name, trouble, dice.random() * 0.2) for name, (trouble, when) in bad.items() if when == number]
            threads = [world.thread(self.begin, disks, *trouble) for trouble in starting]
            packets = world.numbered(dice.randrange(100, 1500), first=len(kept), size=dice.randrange(22, 1200))
            result = world.import_packets(recorder, "r", packets)
            self.assertIsNone(result["files"][0]["error"], "P4")
            self.assertEqual(result["account"]["stored"], len(packets), "P4")
            kept += packets
            for thread in threads:
                thread.join()
        return kept

    @staticmethod
    def begin(disks, name, trouble, delay):
        time.sleep(delay)
        if trouble == "fails":
            disks.fault(name, "eio", count=0, one_in=2)
        elif trouble == "hangs":
            disks.hang(name)
        elif trouble == "vanishes":
            disks.vanish(name)
        else:
            disks.fault(name, "delayed", count=0, ms=400)

    def wait_until_up(self, recorder):
        while True:
            ring = recorder.call("ring.list")["rings"][0]
            self.assertNotEqual(ring["state"], "failed", ring)
            if ring["state"] == "idle":
                return
            time.sleep(0.01)

    def check(self, recorder, kept):
        found, result = world.extract(recorder, "r")
        self.assertEqual(len(found), len(kept), result)
        self.assertEqual(found, kept, "P1")


class DiskMemory(world.World):
    """A disk hangs for ever while the others are slow, so that all buffers are in use."""
    BUFFERS = 256 * world.MIB
    DISKS = [f"disk{i}" for i in range(4)]
    BANDWIDTH = 60_000_000
    PACKETS = 120_000  # of 1,000 bytes, in each of the imports
    IMPORTS = 8

    def test_beside_a_disk_that_hangs(self):
        disks = faulty_world.FaultyDisks(seed=SEED)
        self.addCleanup(disks.close)
        recorder = self.start()
        recorder.call("ring.create", name="r", copies=2,
                      disks=[{"path": disks.path(name), "bytes": 640 * world.MIB} for name in self.DISKS])
        recorder.call("ring.set", ring="r", settings={"buffer_bytes": str(self.BUFFERS)})
        self.assertEqual(recorder.stop(), 0)
        recorder = self.start()
        world.wait_for(lambda: recorder.call("ring.list")["rings"][0]["state"] == "idle")
        for name in self.DISKS:
            disks.bandwidth(name, self.BANDWIDTH)
        content = world.pcap(world.numbered(self.PACKETS, size=1000))
        # At once: streams of their own, so that more comes than the disks take.
        imports = [world.thread(self.import_one, recorder, content) for _ in range(self.IMPORTS)]
        fewest, held = self.BUFFERS, 0
        world.wait_for(lambda: self.free(recorder) < self.BUFFERS // 2)
        disks.hang(self.DISKS[0])
        try:
            while any(one.is_alive() for one in imports):
                fewest = min(fewest, self.free(recorder))
                held = max(held, self.in_flight(recorder, disks.path(self.DISKS[0])))
                time.sleep(0.05)
            account = recorder.call("status")["rings"][0]["account"]
            peak = peak_bytes(recorder)
        finally:  # a process that has requests under way does not end
            disks.vanish(self.DISKS[0])
            disks.release(self.DISKS[0])
        print(f"buffers of {self.BUFFERS // world.MIB} MiB, fewest free {fewest / world.MIB:.1f} MiB; the disk that hangs held "
              f"{held / world.MIB:.1f} MiB at most; the recorder's peak "
              + ("is not measured with a sanitizer" if peak is None else f"{peak / world.MIB:.1f} MiB"), file=sys.stderr)
        self.assertEqual(account["stored"], self.IMPORTS * self.PACKETS, "P4")
        # More than half, where the machine is quick; all of them where it is not. They are resident either way.
        self.assertLess(fewest, self.BUFFERS // 2, "the buffers were never in use: nothing was measured")
        self.assertGreater(held, 0)
        self.assertLessEqual(held, self.BUFFERS // 2 + world.MIB, "P4: its share")
        if peak is not None:
            self.assertLessEqual(peak, self.BUFFERS + MEMORY_BYTES_MORE, "P10")

    def import_one(self, recorder, content):
        result = world.import_files(recorder, "r", [("all.pcap", content)])
        self.assertIsNone(result["files"][0]["error"], "P4")

    @staticmethod
    def free(recorder):
        return recorder.call("status")["rings"][0]["buffers"]["free"] * 256 * 1024

    @staticmethod
    def in_flight(recorder, path):
        return next(disk["in_flight_bytes"] for disk in recorder.call("disk.list")["disks"] if disk["path"] == path)


if __name__ == "__main__":
    faulty_world.require()
    sys.argv = sys.argv[:1] + [sys.argv[-1] if sys.argv[-1] == "DiskMemory" else "DiskFaults"]
    world.main()
