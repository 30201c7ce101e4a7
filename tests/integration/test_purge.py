#!/usr/bin/env python3
"""What is purged is nowhere any more: not in answers, not on the disks, not in the runs of keys; everything else is, byte for byte."""

import glob
import json
import os
import random
import re
import shutil
import subprocess
import threading
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

    # ---- while it is recorded into

    NET = "net 203.0.113.0/24 and port 53"

    def record(self, recorder, packets_per_s=4000):
        recorder.call("record.start", ring="dmz", interfaces=[], backend="generator", attach=False,
                      generator={"packets_per_s": packets_per_s, "seed": 7})

    def interfaces(self, recorder):
        """Packets stored, and dropped for whatever reason."""
        lines = [row["account"] for row in recorder.call("status")["rings"][0]["interfaces"]]
        return sum(one["stored"] for one in lines), sum(one[line] for one in lines for line in ("dropped_queue", "dropped_kernel", "lost_disk"))

    def since_start(self, recorder, kind):
        events = recorder.call("events")["events"]
        started = max(event["number"] for event in events if event["kind"] == "started")
        return [event for event in events if event["kind"] == kind and event["number"] > started]

    def test_while_it_is_recorded_and_read(self):
        recorder = self.make(size=160 * MIB)
        self.record(recorder)
        for name, from_ns, to_ns in (("case-7", FROM - 10**9, FROM + 10**6), ("before", FROM - 10**9, FROM), ("after", TO, TO + 10**9)):
            recorder.call("job.start", ring="dmz", name=name, from_ns=str(from_ns), to_ns=str(to_ns))
        kept, every, answers, wrong, over = set(KEPT), set(PACKETS), [], [], threading.Event()

        def read():
            while not over.is_set():
                packets, result = self.answers(recorder, filter=self.NET)
                answers.append(len(packets))
                found = set(packets)
                # Never anything but what was stored, in order; and all that was not to go, or it is said that something is missing.
                if packets != [packet for packet in PACKETS if packet in found] or not found <= every:
                    wrong.append("other packets than were stored")
                if result["complete"] and not kept <= found:
                    wrong.append("something is missing, and nobody says so")

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        before = self.interfaces(recorder)
        done = self.purge(recorder)
        after = self.interfaces(recorder)
        over.set()
        for reader in readers:
            reader.join()
        self.assertEqual(wrong, [])
        self.assertGreater(len(answers), 2)
        self.assertTrue(done["live"])
        self.assertEqual([(one["name"], one["job"] > 0) for one in done["kept"]], [("case-7", True)])
        self.assertEqual((done["packets"], done["pages_lost"], done["complete"]), (len(GONE), 0, True))
        self.assertGreater(done["slots_in_use"], 0)
        self.assertGreater(after[0], before[0])
        self.assertEqual(after[1], 0)
        self.assertEqual(self.on_disks(GONE), 0)
        self.assertEqual(self.answers(recorder, filter=self.NET)[0], KEPT)
        self.assertEqual(self.purge(recorder)["packets"], 0)
        recorder.call("record.stop", ring="dmz")
        self.check_clean(recorder, "dmz")
        recorder.stop()
        recorder = self.start()
        self.assertEqual(self.answers(recorder, filter=self.NET)[0], KEPT)
        self.assertEqual(self.on_disks(GONE), 0)
        self.check_clean(recorder, "dmz")

    def test_what_is_just_being_recorded(self):
        """The segment that is being filled is sealed early, and written anew like the others."""
        recorder = self.make(disks=1, copies=1, size=96 * MIB)
        self.record(recorder, 5000)
        time.sleep(1)
        now = time.time_ns()
        recorder.call("flush", ring="dmz")
        params = {"from_ns": str(now - 600 * 10**6), "to_ns": str(now - 200 * 10**6)}
        whole, _ = self.answers(recorder, from_ns=str(now - 900 * 10**6), to_ns=str(now))
        inside = [packet for packet in whole if int(params["from_ns"]) <= packet[0] < int(params["to_ns"])]
        self.assertTrue(50 < len(inside) < len(whole) - 50)
        done = recorder.call("purge", ring="dmz", filter="", **params)
        self.assertEqual((done["live"], done["packets"]), (True, len(inside)))
        again, _ = self.answers(recorder, from_ns=str(now - 900 * 10**6), to_ns=str(now))
        self.assertEqual(again, [packet for packet in whole if packet not in set(inside)])
        self.assertEqual(self.answers(recorder)[1]["purged"], len(inside))
        with open(self.path("disk0"), "rb") as file:
            disk = file.read()
        for _, packet in inside[::20]:
            self.assertNotIn(packet, disk)
        recorder.call("record.stop", ring="dmz")
        self.check_clean(recorder, "dmz")

    def test_cancelled_and_killed_while_it_is_recorded(self):
        recorder = self.make(size=320 * MIB)
        recorder.call("ring.set", ring="dmz", settings={"purge_rate": "4M"})
        chance, kept = random.Random(2), set(KEPT)
        for kill in (False, True, True, True):
            self.record(recorder, 1000)
            client = recorder.client()
            client.ask("purge", ring="dmz", from_ns=str(FROM), to_ns=str(TO), filter=f"host 203.0.113.{SECRET}")
            until = time.monotonic() + 30
            while not recorder.call("status")["rings"][0]["purging"]:
                self.assertLess(time.monotonic(), until)
                time.sleep(0.02)
            with self.assertRaises(RemoteError) as caught:
                self.purge(recorder)
            self.assertEqual(caught.exception.code, "busy")
            time.sleep(chance.uniform(0.2, 1.2))
            purging = recorder.call("status")["rings"][0]["purging"]
            self.assertTrue(0 <= purging["segments_done"] <= purging["segments_total"])
            said = subprocess.run([TAPELOOP, "--state", self.path("state"), "status"], check=True, capture_output=True, text=True).stdout
            self.assertIn("purging", said)
            if kill:
                recorder.kill()
                client.close()
                recorder = self.start()
                self.answers(recorder, filter="host 192.0.2.1")  # which waits until the ring is up
                event, = self.since_start(recorder, "purge-interrupted")
                self.assertIn(f"host 203.0.113.{SECRET}", event["text"])
            else:
                client.close()
                until = time.monotonic() + 60
                while recorder.call("status")["rings"][0]["purging"]:
                    self.assertLess(time.monotonic(), until)
                    time.sleep(0.1)
                recorder.call("record.stop", ring="dmz")
            found = self.answers(recorder, filter=self.NET)[0]
            self.assertEqual([packet for packet in found if packet in kept], KEPT)
            there = set(found)
            self.assertEqual(found, [packet for packet in PACKETS if packet in there])
        recorder.call("ring.set", ring="dmz", settings={"purge_rate": "0"})
        self.record(recorder, 1000)
        self.assertTrue(self.purge(recorder)["live"])
        recorder.call("record.stop", ring="dmz")
        self.assertEqual(self.answers(recorder, filter=self.NET)[0], KEPT)
        # What was left in slots that the recorder used is cleared when it does not any more.
        self.assertFalse(self.purge(recorder)["live"])
        self.assertEqual(self.on_disks(GONE), 0)
        recorder.stop()
        recorder = self.start()
        self.answers(recorder, filter="host 192.0.2.1")
        self.assertEqual(self.since_start(recorder, "purge-interrupted"), [])

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
