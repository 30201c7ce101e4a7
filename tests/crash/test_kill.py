#!/usr/bin/env python3
"""
kill -9 of a real recorder at seeded random moments (promise P2).

    test_kill.py [--kills N] [--seed S]

Two rings on real files: into one a client imports small captures, one after the other, and writes down each that was acknowledged; into the
other the generator records without end. At a random moment the recorder is killed and another one is started at once, on the same disks.
It must come up without a hand, verify must be clean, and every acknowledged capture that the ring cannot have overwritten must
come back byte for byte.
"""
import os
import random
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
import recorder_world as world  # noqa: E402

RING_BYTES = 96 * world.MIB  # 1 MiB slots: an import takes one, and what it had prepared is free again
KEPT = 60                    # imports that certainly fit the ring


def option(name, default):
    return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


KILLS, SEED = option("--kills", 12), option("--seed", int(time.time()))


class Kill(world.World):
    def test_kill(self):
        print(f"seed {SEED}, {KILLS} kills", file=sys.stderr)
        dice = random.Random(SEED)
        recorder = self.start()
        world.create_ring(recorder, "imports", self.path("imports.disk"), size=RING_BYTES, slot_bytes=world.MIB)
        world.create_ring(recorder, "live", self.path("live.disk"), size=RING_BYTES, slot_bytes=world.MIB)
        acknowledged, number, lost_in_flight = [], 0, 0
        for kill in range(KILLS):
            with self.subTest(kill=kill):
                recorder.call("record.start", ring="live", interfaces=[], backend="generator")
                # So many imports are acknowledged first, however slow the machine is.
                enough = len(acknowledged) + dice.randrange(4)
                killer = world.thread(self.kill_after, recorder, acknowledged, enough, dice.random() * 0.2)
                while True:
                    count = dice.randrange(1, 300)
                    packets = world.numbered(count, first=number, size=dice.randrange(22, 1200))
                    try:
                        result = world.import_packets(recorder, "imports", packets)
                    except (OSError, EOFError):
                        lost_in_flight += 1
                        number += count
                        break
                    self.assertIsNone(result["files"][0]["error"])
                    acknowledged.append(packets)
                    number += count
                killer.join()
                recorder = self.start()
                self.wait_until_up(recorder)
                self.check_clean(recorder, "imports")
                self.check_clean(recorder, "live")
                self.acknowledged_is_there(recorder, acknowledged)
        print(f"{len(acknowledged)} acknowledged imports, {lost_in_flight} killed in the middle", file=sys.stderr)
        self.assertGreater(len(acknowledged), KILLS // 2)
        # P5, at the end: the same answers without the catalog.
        before = world.extract(recorder, "imports")[0]
        recorder.stop()
        for name in os.listdir(self.path("state")):
            if name.startswith("catalog.db"):
                os.unlink(self.path("state", name))
        recorder = self.start()
        self.wait_until_up(recorder)
        self.assertEqual(world.extract(recorder, "imports")[0], before)
        self.check_clean(recorder, "live")

    def kill_after(self, recorder, acknowledged, enough, delay):
        while len(acknowledged) < enough:
            time.sleep(0.001)
        time.sleep(delay)
        recorder.kill()

    def wait_until_up(self, recorder):
        while True:
            states = {r["name"]: r for r in recorder.call("ring.list")["rings"]}
            self.assertEqual(set(states), {"imports", "live"})
            for ring in states.values():
                self.assertNotEqual(ring["state"], "failed", ring)
            if all(ring["state"] == "idle" for ring in states.values()):
                return
            time.sleep(0.01)

    def acknowledged_is_there(self, recorder, acknowledged):
        found = set(world.extract(recorder, "imports")[0])
        for packets in acknowledged[-KEPT:]:
            missing = [p for p in packets if p not in found]
            self.assertEqual(missing, [], f"{len(missing)} of {len(packets)} acknowledged packets are gone")


if __name__ == "__main__":
    sys.argv = sys.argv[:1]
    world.main()
