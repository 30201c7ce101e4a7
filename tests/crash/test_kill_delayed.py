#!/usr/bin/env python3
"""
kill -9 of a recorder whose writes are on their way for two seconds more, and an immediate successor (promise P2).

    test_kill_delayed.py [--kills N] [--seed S]

The disk is a file of the faulty file system, small enough that the ring goes round and round. Each time: a capture is imported and acknowledged; then every
write is delayed, another import begins, and the recorder is killed with writes under way, which land all the same. A successor starts at once. It must
not use the disk before they have landed, come up without a hand, and what was acknowledged, before and by the successor, must be there
byte for byte: nothing may have landed on top of it.
"""
import os
import random
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
import faulty_world  # noqa: E402
import recorder_world as world  # noqa: E402

DISK_BYTES = 34 * world.MIB  # 32 slots of 1 MiB
DELAY_MS = 2000
KEPT = 6                     # acknowledged captures that the ring certainly still holds


def option(name, default):
    return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


KILLS, SEED = option("--kills", 5), option("--seed", int(time.time()))


class KillDelayed(world.World):
    def test_kill_with_writes_under_way(self):
        print(f"seed {SEED}, {KILLS} kills", file=sys.stderr)
        self.dice, self.first, self.kept = random.Random(SEED), 0, []
        with faulty_world.FaultyDisks(seed=SEED) as self.disks:
            recorder = self.start()
            world.create_ring(recorder, "r", self.disks.path("one"), size=DISK_BYTES, slot_bytes=world.MIB)
            recorder.call("ring.set", ring="r", settings={"flush_window": "50ms"})
            for kill in range(KILLS):
                with self.subTest(kill=kill):
                    self.import_one(recorder)
                    self.kill_in_flight(recorder)
                    recorder = self.start()
                    self.check_it_waits(recorder)
                    self.import_one(recorder)
                    self.check(recorder)
            recorder.stop()

    def packets(self):
        made = world.numbered(self.dice.randrange(50, 900), first=self.first, size=self.dice.randrange(22, 1100))
        self.first += len(made)
        return made

    def import_one(self, recorder):
        packets = self.packets()
        self.assertIsNone(world.import_packets(recorder, "r", packets)["files"][0]["error"])
        self.kept = (self.kept + [packets])[-KEPT:]

    def kill_in_flight(self, recorder):
        self.disks.fault("one", "delayed", op="write", count=0, ms=DELAY_MS)
        importing = world.thread(self.import_until_killed, recorder, self.packets())
        while self.disks.state("one")["delayed"] == 0:
            time.sleep(0.001)
        time.sleep(self.dice.random() * 0.8)
        self.assertGreater(self.disks.state("one")["delayed"], 0)
        recorder.kill()
        self.disks.clear("one")  # what is under way stays so; the successor's own writes are quick
        importing.join()

    @staticmethod
    def import_until_killed(recorder, packets):
        try:
            world.import_packets(recorder, "r", packets)
        except (OSError, EOFError):
            pass

    def check_it_waits(self, recorder):
        waited = 0
        while True:
            delayed = self.disks.state("one")["delayed"]
            ring = recorder.call("ring.list")["rings"][0]
            self.assertNotEqual(ring["state"], "failed", ring)
            if ring["state"] == "idle":
                break
            waited += delayed > 0
            time.sleep(0.005)
        self.assertEqual(self.disks.state("one")["delayed"], 0, "the ring is up, and its predecessor still writes")
        self.waits = getattr(self, "waits", 0) + (waited > 0)

    def check(self, recorder):
        found = set(world.extract(recorder, "r")[0])
        for packets in self.kept:
            missing = [p for p in packets if p not in found]
            self.assertEqual(missing, [], f"{len(missing)} of {len(packets)} acknowledged packets are gone")
        self.check_clean(recorder, "r")

    def tearDown(self):
        super().tearDown()
        print(f"{getattr(self, 'waits', 0)} of {KILLS} successors had to wait", file=sys.stderr)
        self.assertGreater(getattr(self, "waits", 0), 0, "no kill met a write under way")


if __name__ == "__main__":
    faulty_world.require()
    sys.argv = sys.argv[:1]
    world.main()
