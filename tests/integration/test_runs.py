#!/usr/bin/env python3
"""Runs of keys: made by themselves, used, dropped with what they are about; without them, and with damaged ones, the answers are the same."""

import os
import random
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import recorder_world as world  # noqa: E402
import test_find  # noqa: E402

FILTERS = ["host 203.0.113.9 and port 4445", "ether proto 0x88cc", "vlan 77", "port 4444", "host 192.0.2.200", "arp", "not tcp and not udp",
           "ip6 host 2001:db8::9", "host 203.0.113.9 or host 10.0.0.7"]
SEED = int(os.environ.get("SEED", "20"))


def few_flows(generator):
    """More than a slot's bytes / 512 flows, and a key index cannot tell some of them apart."""
    one, two = "10.0.0.%d" % generator.randrange(1, 30), "10.1.0.%d" % generator.randrange(1, 30)
    count, port = generator.choice((20, 200, 900)), 4000 + generator.randrange(2)
    if generator.random() < 0.5:
        return test_find.ethernet(0x800, test_find.ip4(one, two, 6, test_find.tcp(port, 443, 0x10, count)))
    return test_find.ethernet(0x800, test_find.ip4(two, one, 17, test_find.udp(53, port, count)))


test_find.ordinary = few_flows


class Runs(world.World):
    def setUp(self):
        super().setUp()
        test_find.write_capture(self.path("all.pcap"))
        with open(self.path("all.pcap"), "rb") as file:
            self.capture = file.read()

    def import_all(self, recorder):
        world.import_files(recorder, "r", [("all.pcap", self.capture)])

    def runs(self):
        return sorted(name for name in os.listdir(self.path("state", "runs")) if name.endswith(".run"))

    def wait_for_runs(self, count):
        world.wait_for(lambda: len(self.runs()) >= count)
        return self.runs()

    def ask(self, recorder, text, **more):
        with open(self.path("ours.pcap"), "w+b") as out:
            result = recorder.call("extract", [out.fileno()], ring="r", format="pcap-us", filter=text, **more)
        self.assertTrue(result["complete"])
        return test_find.records(self.path("ours.pcap")), result

    def answers(self, recorder, **more):
        return [self.ask(recorder, text, **more)[0] for text in FILTERS]

    def filled(self, times, size=64 * world.MIB):
        recorder = self.start()
        world.create_ring(recorder, "r", self.path("disk"), size=size)
        for i in range(times):
            self.import_all(recorder)
            self.wait_for_runs(i + 1)
        return recorder

    def test_they_say_what_need_not_be_read(self):
        recorder = self.filled(2)
        whole = self.answers(recorder, no_index=True)
        self.assertEqual(self.answers(recorder), whole)
        _, result = self.ask(recorder, "vlan 77")
        self.assertEqual(result["runs"], 2)
        self.assertEqual(result["runs_bad"], 0)
        # The needles lie in the second half of each import.
        self.assertGreater(result["segments_by_runs"], result["segments"] // 3)
        _, all_of_it = self.ask(recorder, "vlan 77", no_index=True)
        self.assertEqual((all_of_it["runs"], all_of_it["segments_by_runs"], all_of_it["segments_narrowed"]), (0, 0, 0))
        self.assertGreater(all_of_it["bytes_read"], 5 * result["bytes_read"])

    def test_without_some_and_without_all(self):
        recorder = self.filled(2)
        whole = self.answers(recorder, no_index=True)
        for name in self.runs()[::2]:
            os.unlink(self.path("state", "runs", name))
        self.assertEqual(self.answers(recorder), whole)
        for name in self.runs():
            os.unlink(self.path("state", "runs", name))
        self.assertEqual(self.answers(recorder), whole)
        self.import_all(recorder)  # something has changed: the ring is looked at
        self.wait_for_runs(1)
        self.assertEqual(self.answers(recorder), self.answers(recorder, no_index=True))

    def test_damaged_ones_cost_no_packet_and_are_made_again(self):
        generator = random.Random(SEED)
        recorder = self.filled(2)
        whole = self.answers(recorder, no_index=True)
        bad = 0
        for _ in range(25):
            for name in self.runs():
                path = self.path("state", "runs", name)
                with open(path, "r+b") as file:
                    size = os.fstat(file.fileno()).st_size
                    if generator.random() < 0.2:
                        file.truncate(generator.randrange(size))
                    for _ in range(generator.randrange(1, 40)):
                        file.seek(generator.randrange(generator.choice((400, size))))
                        file.write(generator.randbytes(generator.choice((1, 64))))
            i = generator.randrange(len(FILTERS))
            ours, result = self.ask(recorder, FILTERS[i])
            self.assertEqual(ours, whole[i], f"seed {SEED}")
            bad += result["runs_bad"]
        self.assertGreater(bad, 0)  # how many: those that were not made again first

        def is_well():
            _, result = self.ask(recorder, "vlan 77")
            return result["runs"] >= 1 and result["runs_bad"] == 0
        world.wait_for(is_well)
        self.assertEqual(self.answers(recorder), whole)

    def test_those_of_another_ring_and_of_another_time_say_nothing(self):
        recorder = self.filled(1)
        whole = self.answers(recorder, no_index=True)
        [name] = self.runs()
        with open(self.path("state", "runs", name), "rb") as file:
            content = file.read()
        # Of this ring by its name, of another one by what it says; a whole file of something else; an empty one.
        for i, forged in enumerate((content[:16] + bytes(16) + content[32:], os.urandom(8192), b"")):
            with open(self.path("state", "runs", name[:-8] + f"{0x300 + i:04x}.run"), "wb") as file:
                file.write(forged)
        self.assertEqual(self.answers(recorder), whole)

    def test_they_go_with_what_they_are_about(self):
        recorder = self.filled(1, size=40 * world.MIB)
        first = self.runs()[0]
        for _ in range(3):
            self.import_all(recorder)
        world.wait_for(lambda: first not in self.runs())
        self.assertEqual(self.answers(recorder), self.answers(recorder, no_index=True))
        recorder.call("ring.delete", ring="r")
        world.wait_for(lambda: not self.runs())

    def test_small_ones_become_one(self):
        recorder = self.filled(1, size=400 * world.MIB)
        for i in range(11):
            self.import_all(recorder)
            world.wait_for(lambda covered=27 * (i + 1) - 15: sum(int(name.rsplit("-", 1)[1][:4], 16) for name in self.runs()) >= covered)
        world.wait_for(lambda: len(self.runs()) <= 3)
        self.assertEqual(self.answers(recorder), self.answers(recorder, no_index=True))
        _, result = self.ask(recorder, "vlan 77")
        self.assertEqual(result["runs_bad"], 0)


if __name__ == "__main__":
    world.main()
