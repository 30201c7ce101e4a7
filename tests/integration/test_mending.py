#!/usr/bin/env python3
"""Damage on the disks of a ring with copies: readers get right packets, what is bad is mended, and verify says what it did."""

import json
import os
import random
import signal
import struct
import unittest

from cli_world import World, main

MIB = 1 << 20
SLOTS = 2 * MIB  # where the slots begin
START_NS = 1700000000 * 10**9


def pcap(packets):
    """Nanosecond pcap, Ethernet."""
    head = struct.pack("<IHHiIII", 0xa1b23c4d, 2, 4, 0, 0, 65535, 1)
    return head + b"".join(struct.pack("<IIII", t // 10**9, t % 10**9, len(b), len(b)) + b for t, b in packets)


def packets_of(content):
    found, at = [], 24
    while at + 16 <= len(content):
        s, ns, length, _ = struct.unpack_from("<IIII", content, at)
        found.append((s * 10**9 + ns, content[at + 16:at + 16 + length]))
        at += 16 + length
    return found


class Mending(World):
    DISKS = 3
    COPIES = 2

    def setUp(self):
        super().setUp()
        self.random = random.Random(20261122)
        self.disks = [self.path(f"disk{i}") for i in range(self.DISKS)]
        disks = [word for disk in self.disks for word in ("--disk", f"{disk}:64M")]
        self.run_command("ring", "create", "dmz", *disks, "--copies", str(self.COPIES), "--segment-size", "1M", status=0)
        self.packets = [(START_NS + i * 10**6, self.random.randbytes(1200)) for i in range(9000)]  # a dozen segments
        self.run_command("import", "dmz", self.write("in.pcap", pcap(self.packets)), status=0)

    def extract(self, status=0):
        done = self.run_command("extract", "dmz", "--format", "pcap", status=status)
        return packets_of(done.stdout)

    def verify(self, *options, status=0):
        return json.loads(self.run_command("verify", "dmz", "--json", *options, status=status).out)

    def mending(self):
        return json.loads(self.run_command("status", "dmz", "--json", status=0).out)["rings"][0]["mending"]

    def frames(self, disk):
        """Offsets of what looks like a data frame."""
        with open(disk, "rb") as file:
            content = file.read()
        return [at for at in range(SLOTS, len(content) - SLOTS, 4096)
                if content[at:at + 8] == b"tlframe\n" and content[at + 24] == 2]

    def damage(self, disk, count):
        """Flips a bit in some frames of one disk."""
        struck = self.random.sample(self.frames(disk), count)
        with open(disk, "r+b") as file:
            for at in struck:
                file.seek(at + self.random.randrange(3000))
                byte = file.read(1)[0] ^ 1 << self.random.randrange(8)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte]))
        return struck

    def test_verify_repairs(self):
        self.assertTrue(self.verify()["clean"])
        self.damage(self.disks[0], 9)
        self.assertEqual(self.extract(), self.packets)
        found = self.verify("--repair")  # by now the extraction's own may have been mended
        self.assertTrue(found["clean"])
        self.assertEqual(found["frames_bad"] > 0, found["mended"]["frames"] > 0)
        again = self.verify()
        self.assertEqual((again["clean"], again["frames_bad"]), (True, 0))
        self.assertEqual(self.extract(), self.packets)

    def test_what_verify_repair_says(self):
        self.damage(self.disks[1], 7)
        found = self.verify("--repair")
        self.assertEqual((found["frames_bad"], found["mended"]["frames"], found["mended"]["frames_left"]), (7, 7, 0))
        text = self.run_command("verify", "dmz", "--repair", status=0).out
        self.assertIn("clean", text)
        self.assertIn("mended: 0 frames", text)

    def test_nothing_good_is_left(self):
        for disk in self.disks:
            self.damage(disk, len(self.frames(disk)) * 9 // 10)
        found = self.verify("--repair", status=3)
        self.assertFalse(found["clean"])
        self.assertGreater(found["mended"]["frames_left"], 0)
        self.assertGreater(found["mended"]["frames"], 0)
        self.assertIn("not to be mended", self.run_command("verify", "dmz", "--repair", status=3).out)

    def test_a_disk_without_its_slots(self):
        """All that lay on one disk is gone: its superblocks are whole, its slots empty."""
        with open(self.disks[2], "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(SLOTS)
            file.write(bytes(size - 2 * SLOTS))
        self.assertEqual(self.extract(), self.packets)
        self.verify("--repair")
        self.run_command("rebuild", "dmz", status=0)
        found = self.verify("--repair")
        self.assertEqual((found["clean"], found["mended"]["segments_left"]), (True, 0))
        # Every segment has two copies again: either of the other disks may lose everything, too.
        with open(self.disks[0], "r+b") as file:
            file.seek(SLOTS)
            file.write(bytes(size - 2 * SLOTS))
        self.assertEqual(self.extract(), self.packets)

    def test_status_and_settings(self):
        mending = self.mending()
        self.assertEqual(mending["degraded_segments"], 0)
        self.assertFalse(mending["scrub"]["running"])
        self.assertIsNotNone(mending["scrub"]["next_ns"])
        self.assertIn("next scrub", self.run_command("status", "dmz", status=0).out)
        self.run_command("ring", "set", "dmz", "scrub_interval=0s", "heal_rate=8M", "heal_delay=5s", "scrub_rate=1M", status=0)
        self.assertIsNone(self.mending()["scrub"]["next_ns"])
        shown = json.loads(self.run_command("ring", "show", "dmz", "--json", status=0).out)
        self.assertIn('"heal_rate": "8M"', json.dumps(shown))
        self.run_command("ring", "set", "dmz", "scrub_rate=0", status=2)

    def test_waiting_for_recording_is_told(self):
        yielding = json.loads(self.run_command("status", "dmz", "--json", status=0).out)["rings"][0]["yielding"]
        self.assertEqual((yielding["readers"], yielding["readers_held_back_ms"]), (0, 0))
        self.assertLess(yielding["level_permille"], 1000)
        for setting in ("off", "on"):
            answer = self.run_command("ring", "set", "dmz", f"yielding={setting}", status=0)
            self.assertNotIn("in use", answer.out + answer.err)
            self.assertEqual(self.verify()["held_back_ms"], 0)  # nothing is recorded
        self.run_command("ring", "set", "dmz", "yielding=often", status=2)

    def test_settings_while_recording(self):
        process = self.start("record", "dmz", "--backend", "generator", "--json")
        while json.loads(self.run_command("status", "dmz", "--json", status=0).out)["rings"][0]["account"]["seen"] <= 9000:
            self.assertIsNone(process.poll())
        answer = self.run_command("ring", "set", "dmz", "scrub_interval=0s", "heal_rate=9M", status=0)
        self.assertNotIn("in use", answer.out + answer.err)
        self.assertIsNone(self.mending()["scrub"]["next_ns"])
        answer = self.run_command("ring", "set", "dmz", "scrub_interval=9s", "flush_window=2s", status=0)
        self.assertIn("in use", answer.out + answer.err)
        process.send_signal(signal.SIGINT)
        process.communicate()


if __name__ == "__main__":
    main()
