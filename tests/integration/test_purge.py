#!/usr/bin/env python3
"""What is purged is nowhere any more: not in answers, not on the disks, not in the runs of keys; everything else is, byte for byte."""

import glob
import json
import os
import random
import re
import shutil
import subprocess
import time

from recorder_world import BIN, MIB, RemoteError, World, extract, import_packets, main

TAPELOOP = os.path.join(BIN, "tapeloop")
COUNT = 12000
START_NS = 1_700_000_000 * 10**9
SECRET = 7  # the host's last byte


MARK = re.compile(rb"\x9cpurge\xe3\x7d(.{8})", re.DOTALL)


def mark(number):
    """What no other packet has, and is found quickly."""
    return b"\x9cpurge\xe3\x7d" + number.to_bytes(8, "big")


def one(number, host):
    payload = mark(number) + random.Random(~number).randbytes(number % 700) + mark(number)
    udp = bytes([0x10, host, 0, 53]) + (8 + len(payload)).to_bytes(2, "big") + bytes(2) + payload
    ip = bytes([0x45, 0]) + (20 + len(udp)).to_bytes(2, "big") + bytes([0, 1, 0, 0, 64, 17, 0, 0, 203, 0, 113, host, 198, 51, 100, 99])
    return bytes([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]) + ip + udp


def host_of(number):
    return SECRET if number % 9 == 4 or 3000 <= number < 6000 else 8 + number % 5


PACKETS = [(START_NS + n * 10**6, one(n, host_of(n))) for n in range(COUNT)]
FROM, TO = START_NS + 1000 * 10**6, START_NS + 11000 * 10**6  # of which packets


def is_purged(number):
    return host_of(number) == SECRET and 1000 <= number < 11000


GONE = [n for n in range(COUNT) if is_purged(n)]
KEPT = [PACKETS[n] for n in range(COUNT) if not is_purged(n)]


class Purge(World):
    def make(self, disks=2, copies=2, size=48 * MIB):
        recorder = self.start()
        recorder.call("ring.create", name="dmz", copies=copies, slot_bytes=MIB,
                      disks=[{"path": self.path(f"disk{i}"), "bytes": size} for i in range(disks)])
        import_packets(recorder, "dmz", PACKETS)
        return recorder

    def purge(self, recorder, **more):
        return recorder.call("purge", ring="dmz", from_ns=str(FROM), to_ns=str(TO), filter=f"host 203.0.113.{SECRET}", **more)

    def on_disks(self, numbers, disks=2):
        """How many of the packets have one of their marks, which they begin and end with, somewhere on the disks."""
        found = set()
        for i in range(disks):
            with open(self.path(f"disk{i}"), "rb") as file:
                found |= {int.from_bytes(number, "big") for number in MARK.findall(file.read())}
        return len(found & set(numbers))

    def answers(self, recorder, **params):
        return extract(recorder, "dmz", **params)

    def check_purged(self, recorder):
        packets, result = self.answers(recorder)
        self.assertEqual(packets, KEPT)
        self.assertTrue(result["complete"], result["gaps"])
        ring, = recorder.call("ring.list")["rings"]
        self.assertEqual((ring["packets"], ring["purged"], result["purged"]), (len(KEPT), len(GONE), len(GONE)))
        estimate = recorder.call("estimate", ring="dmz")
        self.assertEqual((estimate["packets"], estimate["purged"]), (len(KEPT), len(GONE)))
        # Of a range that begins and ends within segments as of one that does not, and whatever was asked for. (None of these begins or ends
        # between a purged packet and the one before it, whose time it has.)
        for first, last in ((0, COUNT), (0, 1000), (2000, 2300), (2500, 6500), (10990, COUNT)):
            purged = len([n for n in GONE if first <= n < last])
            for filter_text in ("", f"host 203.0.113.{SECRET}", "host 192.0.2.1"):
                for no_index in (False, True):
                    _, result = self.answers(recorder, from_ns=str(START_NS + first * 10**6), to_ns=str(START_NS + last * 10**6), filter=filter_text,
                                             no_index=no_index)
                    self.assertEqual(result["purged"], purged, (first, last, filter_text, no_index))
        for no_index in (False, True):
            packets, _ = self.answers(recorder, filter=f"host 203.0.113.{SECRET}", no_index=no_index)
            self.assertEqual(packets, [packet for packet in KEPT if packet[1][29] == SECRET])
        self.check_clean(recorder, "dmz")

    def test_nothing_is_left(self):
        recorder = self.make()
        self.assertEqual(self.on_disks(GONE), len(GONE))
        before = self.answers(recorder)[0]
        self.assertEqual(before, PACKETS)
        dry = self.purge(recorder, dry_run=True)
        self.assertTrue(dry["dry_run"])
        self.assertEqual(dry["packets"], len(GONE))
        self.assertEqual(dry["bytes"], sum(len(PACKETS[n][1]) for n in GONE))
        self.assertEqual(self.answers(recorder)[0], PACKETS)
        done = self.purge(recorder)
        self.assertEqual((done["packets"], done["bytes"], done["segments"]), (dry["packets"], dry["bytes"], dry["segments"]))
        self.assertTrue(done["complete"])
        self.assertEqual(done["copies_dropped"], 0)
        self.assertEqual(self.on_disks(GONE), 0)
        self.check_purged(recorder)
        self.assertEqual(self.purge(recorder)["packets"], 0)
        rows = [row for row in recorder.call("audit.list", limit=100)["rows"] if row["action"] == "purge"]
        self.assertEqual(len(rows), 6)  # each begins, and ends
        self.assertTrue(rows[3]["outcome"].startswith(f"done: {len(GONE)} packets"), rows[3])
        self.assertIn(f"host 203.0.113.{SECRET}", rows[3]["detail"])
        recorder.stop()
        recorder = self.start()
        self.check_purged(recorder)
        recorder.call("ring.rebuild", ring="dmz")
        self.check_purged(recorder)
        import_packets(recorder, "dmz", [(START_NS + COUNT * 10**6, one(COUNT, 9))])
        self.assertEqual(len(self.answers(recorder)[0]), len(KEPT) + 1)

    def test_runs_of_keys_do_not_name_it(self):
        recorder = self.make(disks=1, copies=1)
        secret = bytes([203, 0, 113, SECRET])

        def runs():
            contents = []
            for path in glob.glob(os.path.join(self.path("state"), "runs", "*.run")):
                with open(path, "rb") as file:
                    contents.append(file.read())
            return contents

        import_packets(recorder, "dmz", [(START_NS + (COUNT + n) * 10**6, one(COUNT + n, 9)) for n in range(32000)])
        until = time.monotonic() + 60
        while not any(secret in run for run in runs()) and time.monotonic() < until:
            time.sleep(0.1)
        self.assertTrue(any(secret in run for run in runs()))
        recorder.call("purge", ring="dmz", from_ns=str(START_NS), to_ns=str(START_NS + 10**13), filter=f"host 203.0.113.{SECRET}")
        self.assertFalse(any(secret in run for run in runs()))
        with open(self.path("disk0"), "rb") as file:
            self.assertNotIn(secret, file.read())

    def test_refusals(self):
        recorder = self.make(disks=1, copies=1)
        for wrong in ({"from_ns": None, "to_ns": str(TO)}, {"from_ns": str(FROM), "to_ns": None}, {"from_ns": str(TO), "to_ns": str(FROM)}):
            with self.assertRaises(RemoteError) as caught:
                recorder.call("purge", ring="dmz", **{name: value for name, value in wrong.items() if value})
            self.assertEqual(caught.exception.code, "invalid")
        with self.assertRaises(RemoteError) as caught:
            recorder.call("purge", ring="dmz", from_ns=str(FROM), to_ns=str(TO), filter="host host")
        self.assertEqual(caught.exception.code, "invalid")
        recorder.call("record.start", ring="dmz", interfaces=[], backend="generator", attach=False, generator={"packets_per_s": 100, "seed": 7})
        with self.assertRaises(RemoteError) as caught:
            self.purge(recorder)
        self.assertEqual(caught.exception.code, "busy")
        recorder.call("record.stop", ring="dmz")
        self.assertEqual(self.on_disks(GONE, 1), len(GONE))

    def test_a_disk_that_was_away_brings_nothing_back(self):
        recorder = self.make()
        recorder.call("disk.remove", ring="dmz", disk=self.path("disk1"))
        with self.assertRaises(RemoteError) as caught:
            self.purge(recorder)
        self.assertEqual(caught.exception.code, "busy")
        self.assertIn("give", str(caught.exception))
        done = self.purge(recorder, give_up_away=True)
        self.assertEqual(done["packets"], len(GONE))
        with self.assertRaises(RemoteError) as caught:
            recorder.call("disk.resume", ring="dmz", disk=self.path("disk1"))
        self.assertIn("purged", str(caught.exception))
        self.assertEqual(self.answers(recorder)[0], KEPT)
        shutil.copyfile(self.path("disk1"), self.path("old"))
        # Formatting alone leaves in its slots what was there.
        disk = {"path": self.path("disk1"), "bytes": 48 * MIB}
        with self.assertRaises(RemoteError) as caught:
            recorder.call("disk.add", ring="dmz", disk=disk, force=True)
        self.assertIn("purged", str(caught.exception))
        self.assertEqual(self.answers(recorder)[0], KEPT)
        recorder.stop()
        recorder = self.start()
        with self.assertRaises(RemoteError):
            recorder.call("disk.resume", ring="dmz", disk=self.path("disk1"))
        self.assertEqual(self.answers(recorder)[0], KEPT)
        recorder.stop()
        # What knows nothing of it: another state directory takes the ring from both disks.
        recorder = self.start("other")
        recorder.call("ring.adopt", name="dmz", disks=[self.path("disk0"), self.path("old")])
        self.assertEqual(self.answers(recorder)[0], KEPT)
        os.unlink(self.path("disk1"))
        recorder.call("disk.add", ring="dmz", disk=disk)
        recorder.call("verify", ring="dmz", repair=True)
        self.assertEqual(self.answers(recorder)[0], KEPT)
        self.assertEqual(self.on_disks(GONE), 0)

    def test_killed_in_the_midst(self):
        """Old or new, never neither; and the same command goes on."""
        recorder = self.make()
        chance, kept = random.Random(1), set(KEPT)
        for _ in range(6):
            client = recorder.client()
            client.ask("purge", ring="dmz", from_ns=str(FROM), to_ns=str(TO), filter=f"host 203.0.113.{SECRET}")
            time.sleep(chance.uniform(0.02, 0.5))
            recorder.kill()
            client.close()
            recorder = self.start()
            found = self.answers(recorder)[0]
            self.assertEqual([packet for packet in found if packet in kept], KEPT)
            there = set(found)
            self.assertEqual(found, [packet for packet in PACKETS if packet in there])
        self.purge(recorder)
        self.assertEqual(self.on_disks(GONE), 0)
        self.check_purged(recorder)

    def test_command(self):
        recorder = self.make(disks=1, copies=1)
        words = [TAPELOOP, "--state", self.path("state"), "purge", "dmz", "--from", f"{FROM / 1e9:.3f}", "--to", f"{TO / 1e9:.3f}"]

        def run(*more, status=0):
            done = subprocess.run([*words, *more], stdin=subprocess.DEVNULL, capture_output=True, text=True)
            self.assertEqual(done.returncode, status, done.stderr)
            return done

        said = run("--dry-run", f"host 203.0.113.{SECRET}").stdout
        self.assertIn(f"{len(GONE)} packets match", said)
        self.assertIn("--yes", run(f"host 203.0.113.{SECRET}", status=2).stderr)
        self.assertEqual(self.answers(recorder)[0], PACKETS)
        done = json.loads(subprocess.run([words[0], "--json", *words[1:], "--yes", f"host 203.0.113.{SECRET}"], check=True,
                                         capture_output=True, text=True).stdout)
        self.assertEqual(done["packets"], len(GONE))
        self.assertEqual(self.on_disks(GONE, 1), 0)
        self.assertIn("0 packets are erased", run("--yes", f"host 203.0.113.{SECRET}").stdout)


if __name__ == "__main__":
    main()
