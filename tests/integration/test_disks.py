#!/usr/bin/env python3
"""Disks that come and go: added, removed, resumed, replaced, lost and found again while a ring records.

    test_disks.py [--removed-bytes N]     how much is recorded while a disk is away (default 48 MiB; the soak takes 10 GB)
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
import unittest

import faulty_world
from recorder_world import BIN, MIB, RemoteError, World, create_ring, extract, import_packets, main, numbered, thread

ROOT = os.geteuid() == 0
TAPELOOP = os.path.join(BIN, "tapeloop")
REMOVED_BYTES = 48 * MIB


class Disks(World):
    def disk(self, name, size=64 * MIB):
        return {"path": self.path(name), "bytes": size}

    def make(self, name="dmz", disks=1, size=64 * MIB, **more):
        recorder = self.start()
        recorder.call("ring.create", name=name, disks=[self.disk(f"{name}{i}", size) for i in range(1, disks + 1)], **more)
        return recorder

    def disks(self, recorder, ring="dmz"):
        return {disk["number"]: disk for disk in recorder.call("disk.list", ring=ring)["disks"]}

    def states(self, recorder, ring="dmz"):
        return {number: disk["state"] for number, disk in self.disks(recorder, ring).items()}

    def until(self, condition):
        while not condition():
            time.sleep(0.05)

    def record(self, recorder, ring="dmz", rate=20000):
        """A recording that stands until record.stop."""
        recorder.call("record.start", ring=ring, interfaces=[], backend="generator", attach=False,
                      generator={"packets_per_s": rate, "seed": 7})

    def stop(self, recorder, ring="dmz"):
        account = recorder.call("record.stop", ring=ring)["account"]
        self.check_account(account)
        return account

    def stored(self, recorder, ring="dmz"):
        return recorder.call("status", ring=ring)["rings"][0]["account"]["stored"]

    def more(self, recorder, packets=5000, ring="dmz"):
        """Waits until that much more is recorded."""
        want = self.stored(recorder, ring) + packets
        self.until(lambda: self.stored(recorder, ring) >= want)

    def command(self, *words, status=0):
        done = subprocess.run([TAPELOOP, "--state", self.path("state"), *words], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done


class Empty(Disks):
    def test_a_ring_first_and_its_disks_later(self):
        recorder = self.start()
        ring = recorder.call("ring.create", name="dmz")["ring"]
        self.assertEqual((ring["state"], ring["disks"]), ("empty", 0))
        for method, params in (("record.start", {"interfaces": [], "backend": "generator"}), ("flush", {})):
            said = self.refused("not_found", recorder, method, ring="dmz", **params)
            self.assertIn("tapeloop disk add dmz", said)
        self.assertIn("2 disks", self.refused("invalid", recorder, "ring.create", name="two", copies=2))
        recorder.stop()
        recorder = self.start()  # it is still there, and still empty
        self.assertEqual(recorder.call("ring.show", ring="dmz")["state"], "empty")
        recorder.call("ring.set", ring="dmz", settings={"flush_window": "100ms"})
        self.assertIn("how large", self.refused("invalid", recorder, "disk.add", ring="dmz", disk={"path": self.path("one")}))
        self.assertEqual(os.listdir(self.directory), ["state"])
        added = recorder.call("disk.add", ring="dmz", disk=self.disk("one"))["disk"]
        self.assertEqual((added["number"], added["state"]), (1, "active"))
        import_packets(recorder, "dmz", numbered(100))
        self.assertEqual(extract(recorder, "dmz")[0], numbered(100))
        recorder.stop()
        recorder = self.start()
        self.assertEqual(extract(recorder, "dmz")[0], numbered(100))
        self.assertEqual(recorder.call("ring.show", ring="dmz")["settings"]["flush_window"], "100ms")

    def test_a_first_disk_that_cannot_be_had_leaves_the_ring_empty(self):
        recorder = self.start()
        recorder.call("ring.create", name="dmz")
        with open(self.path("thesis"), "wb") as file:
            file.write(b"somebody's thesis" * 100000)
        for code, disk in (("foreign", self.disk("thesis")), ("too_small", self.disk("small", MIB)),
                           ("not_found", self.disk("no/where"))):
            self.refused(code, recorder, "disk.add", ring="dmz", disk=disk)
            self.assertEqual(recorder.call("ring.show", ring="dmz")["state"], "empty")
            self.assertEqual(self.disks(recorder), {})
        self.assertEqual(sorted(os.listdir(self.directory)), ["state", "thesis"])
        recorder.call("disk.add", ring="dmz", disk=self.disk("good"))
        import_packets(recorder, "dmz", numbered(10))

    def test_how_many_rings_there_may_be(self):
        recorder = self.start()
        recorder.call("ring.set", settings={"max_rings": "2"})
        recorder.call("ring.create", name="one")
        recorder.call("ring.create", name="two")
        self.assertIn("max-rings=3", self.refused("too_large", recorder, "ring.create", name="three"))
        for value in ("0", "-1", "1025", "many", "3x", ""):
            self.refused("invalid", recorder, "ring.set", settings={"max_rings": value})
        recorder.stop()
        recorder = self.start()
        self.refused("too_large", recorder, "ring.create", name="three")
        self.command("ring", "set", "max-rings=3")
        self.command("ring", "create", "three")
        self.command("ring", "set", "max-rings=1")  # nobody goes
        self.assertEqual(len(recorder.call("ring.list")["rings"]), 3)


class While(Disks):
    """While a ring records."""

    def test_added_removed_and_resumed(self):
        recorder = self.make(size=256 * MIB)
        import_packets(recorder, "dmz", numbered(1000))
        self.record(recorder)
        self.more(recorder)
        self.assertIn("only one", self.refused("busy", recorder, "disk.remove", ring="dmz", disk="1"))
        recorder.call("disk.add", ring="dmz", disk=self.disk("second", 256 * MIB))
        self.assertEqual(self.states(recorder), {1: "active", 2: "active"})
        self.more(recorder, 20000)
        self.until(lambda: self.disks(recorder)[2]["used_bytes"] > 0)
        recorder.call("disk.remove", ring="dmz", disk=self.path("dmz1"))
        self.assertEqual(self.states(recorder), {1: "removed", 2: "active"})
        self.assertEqual(os.stat(self.path("dmz1")).st_size, 256 * MIB)
        # Nobody holds it, and its packets are not the ring's any more.
        with open(self.path("dmz1"), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        imported = {"from_ns": str(1_700_000_000 * 10**9), "to_ns": str(1_700_000_001 * 10**9)}
        self.assertEqual(extract(recorder, "dmz", **imported)[0], [])
        self.more(recorder)
        self.refused("exists", recorder, "disk.remove", ring="dmz", disk="1")
        recorder.call("disk.resume", ring="dmz", disk="1")
        self.assertEqual(self.states(recorder), {1: "active", 2: "active"})
        self.assertEqual(extract(recorder, "dmz", **imported)[0], numbered(1000))
        self.assertIn("active", self.refused("exists", recorder, "disk.resume", ring="dmz", disk="1"))
        self.more(recorder)
        account = self.stop(recorder)
        self.assertEqual(account["lost_disk"] + account["refused"], 0)
        self.check_clean(recorder, "dmz")
        before = extract(recorder, "dmz")[0]
        recorder.stop()
        recorder = self.start()
        self.assertEqual(extract(recorder, "dmz")[0], before)
        kinds = [event["kind"] for event in recorder.call("events", limit=1000)["events"]]
        for kind in ("disk-added", "disk-removed", "disk-resumed"):
            self.assertIn(kind, kinds)

    def away_while_much_is_recorded(self, disks, copies):
        recorder = self.make(disks=disks, copies=copies, size=REMOVED_BYTES + 128 * MIB)
        import_packets(recorder, "dmz", numbered(20000, size=1000))
        before = extract(recorder, "dmz")[0]
        used = {number: disk["used_bytes"] for number, disk in self.disks(recorder).items()}
        away = max(used, key=used.get)
        recorder.call("disk.remove", ring="dmz", disk=str(away))
        self.record(recorder, rate=0)
        def written():
            return sum(disk["written_bytes"] for disk in self.disks(recorder).values())
        start = written()
        self.until(lambda: written() - start >= copies * REMOVED_BYTES)
        self.stop(recorder)
        recorder.call("disk.resume", ring="dmz", disk=str(away))
        imported = {"from_ns": str(1_700_000_000 * 10**9), "to_ns": str(1_700_000_100 * 10**9)}
        self.assertEqual(extract(recorder, "dmz", **imported)[0], before)
        return recorder

    def test_a_disk_away_while_much_is_recorded(self):
        self.check_clean(self.away_while_much_is_recorded(2, 1), "dmz")

    def test_a_copy_away_while_much_is_recorded(self):
        """What it had is found again; what has only one copy, and that is what was on it when it went, is healed."""
        recorder = self.away_while_much_is_recorded(3, 2)
        recorder.call("ring.set", ring="dmz", settings={"heal_delay": "0s"})
        self.until(lambda: not recorder.call("status", ring="dmz")["rings"][0]["degraded"])
        self.check_clean(recorder, "dmz")

    def test_a_disk_that_hangs_while_it_is_taken_in(self):
        """It is given up with a sentence; until then, and no longer, whoever wants to change the ring waits."""
        if not os.access(faulty_world.PROGRAM, os.X_OK) or not os.access("/dev/fuse", os.R_OK | os.W_OK):
            self.skipTest("no FUSE, or it was not built: no disk that hangs")
        with faulty_world.FaultyDisks() as faulty:
            recorder = self.make(disks=2)
            slow = faulty.path("slow")
            recorder.call("disk.add", ring="dmz", disk={"path": slow, "bytes": 64 * MIB})
            self.record(recorder)
            self.more(recorder)
            recorder.call("disk.remove", ring="dmz", disk=slow)
            faulty.hang("slow")
            said = []
            resume = thread(lambda: said.append(self.refused("timeout", recorder, "disk.resume", ring="dmz", disk=slow)))
            recorder.call("disk.remove", ring="dmz", disk="2")
            recorder.call("disk.resume", ring="dmz", disk="2")
            self.more(recorder)
            resume.join()
            self.assertIn("does not answer", said[0])
            self.assertEqual(self.states(recorder), {1: "active", 2: "active", 3: "removed"})
            self.refused("busy", recorder, "disk.resume", ring="dmz", disk=slow)  # we hold its lock until it answers
            faulty.heal("slow")
            while True:
                try:
                    recorder.call("disk.resume", ring="dmz", disk=slow)
                    break
                except RemoteError as error:
                    self.assertEqual(error.code, "busy")
            self.more(recorder)
            self.stop(recorder)
            self.check_clean(recorder, "dmz")
            recorder.stop()

    def test_copies_are_set(self):
        recorder = self.make()
        self.record(recorder)
        for value in ("0", "5", "two", ""):
            self.refused("invalid", recorder, "ring.set", ring="dmz", settings={"copies": value})
        self.assertIn("2 disks", self.refused("invalid", recorder, "ring.set", ring="dmz", settings={"copies": "2"}))
        recorder.call("disk.add", ring="dmz", disk=self.disk("second"))
        result = recorder.call("ring.set", ring="dmz", settings={"copies": "2"})
        self.assertEqual((result["settings"]["copies"], result["in_force"]), ("2", True))
        self.assertEqual(recorder.call("ring.show", ring="dmz")["copies"], 2)
        self.more(recorder)
        self.stop(recorder)
        recorder.stop()
        recorder = self.start()
        self.assertEqual(recorder.call("ring.show", ring="dmz")["copies"], 2)

    def test_copies_survive_the_removal_of_a_disk(self):
        recorder = self.make(disks=3, copies=2)
        import_packets(recorder, "dmz", numbered(5000))
        for number in (1, 2, 3):
            recorder.call("disk.remove", ring="dmz", disk=str(number))
            self.assertEqual(extract(recorder, "dmz")[0], numbered(5000))
            recorder.call("disk.resume", ring="dmz", disk=str(number))
        self.assertEqual(extract(recorder, "dmz")[0], numbered(5000))
        self.check_clean(recorder, "dmz")

    def test_sizes_as_users_expect(self):
        recorder = self.make(disks=2, copies=2)
        recorder.call("ring.set", ring="dmz", settings={"heal_delay": "0s"})
        self.record(recorder)
        self.more(recorder, 30000)
        # Where a disk is silent for a tenth of a second, as under load, a segment gets one copy, and the other one when it is healed.
        self.until(lambda: not recorder.call("status", ring="dmz")["rings"][0]["degraded"])
        status = recorder.call("status", ring="dmz")["rings"][0]
        ring = status["ring"]
        self.assertEqual(ring["logical_total_bytes"] * 2, ring["total_bytes"])
        self.assertEqual(ring["total_bytes"], sum(disk["slots"] for disk in self.disks(recorder).values()) * ring["slot_bytes"])
        self.until(lambda: recorder.call("status", ring="dmz")["rings"][0]["forecast_s"] is not None)
        self.assertRegex(self.command("status", "dmz").stdout, r"size +60.0 MiB \(120 MiB raw\) on 2 disks, .*\n(.*\n)*.*will reach")
        self.stop(recorder)
        self.until(lambda: not recorder.call("status", ring="dmz")["rings"][0]["degraded"])
        oldest = recorder.call("ring.show", ring="dmz")["oldest_ns"]
        for disk in recorder.call("disk.list", ring="dmz", oldest=True)["disks"]:
            self.assertEqual(disk["oldest_ns"], oldest)
        recorder.call("disk.remove", ring="dmz", disk="2")
        status = recorder.call("status", ring="dmz")["rings"][0]
        self.assertTrue(status["degraded"])
        self.assertEqual((status["ring"]["disks"], status["ring"]["logical_total_bytes"]), (1, 30 * MIB))

    def test_replaced(self):
        recorder = self.make(disks=2, copies=2)
        import_packets(recorder, "dmz", numbered(3000))
        self.record(recorder)
        new = recorder.call("disk.replace", ring="dmz", disk="2", **{"with": self.disk("third")})["disk"]
        self.assertEqual((new["number"], new["path"]), (3, self.path("third")))
        self.assertEqual(self.states(recorder), {1: "active", 2: "removed", 3: "active"})
        self.more(recorder)
        self.stop(recorder)
        recorder.call("disk.remove", ring="dmz", disk="2", forget=True)
        self.assertEqual(self.states(recorder), {1: "active", 3: "active"})

    def test_two_rings_at_once(self):
        recorder = self.make("one")
        recorder.call("ring.create", name="two", disks=[self.disk("two1")])
        self.record(recorder, "one")
        self.record(recorder, "two")
        self.more(recorder, ring="one")
        self.more(recorder, ring="two")
        held = self.refused("busy", recorder, "disk.add", ring="one", disk=self.disk("two1"), force=True)
        self.assertIn("two1", held)
        self.stop(recorder, "one")
        self.more(recorder, ring="two")
        self.stop(recorder, "two")
        for ring in ("one", "two"):
            self.check_clean(recorder, ring)
            self.assertEqual([disk["ring"] for disk in recorder.call("disk.list", ring=ring)["disks"]], [ring])


class Refused(Disks):
    def test_what_is_not_ours_and_what_is_anothers(self):
        recorder = self.make(disks=2)
        import_packets(recorder, "dmz", numbered(100))
        other = self.start("elsewhere")
        create_ring(other, "theirs", self.path("theirs"))
        other.stop()
        with open(self.path("thesis"), "wb") as file:
            file.write(b"somebody's thesis" * 100000)
        for path, says in (("theirs", 'ring "theirs"'), ("thesis", "data")):
            said = self.refused("foreign", recorder, "disk.add", ring="dmz", disk=self.disk(path))
            self.assertIn(says, said)
            self.assertIn("--force", said)
        self.assertIn('another ring ("theirs")',
                      self.refused("mismatch", recorder, "disk.resume", ring="dmz", disk=self.path("theirs")))
        self.refused("foreign", recorder, "disk.resume", ring="dmz", disk=self.path("thesis"))
        self.refused("not_found", recorder, "disk.resume", ring="dmz", disk=self.path("nothing"))
        self.assertIn("already", self.refused("exists", recorder, "disk.add", ring="dmz", disk=self.disk("dmz1"), force=True))
        recorder.call("disk.remove", ring="dmz", disk="2")
        said = self.refused("foreign", recorder, "disk.add", ring="dmz", disk=self.disk("dmz2"))
        self.assertIn("disk resume dmz", said)
        self.refused("too_small", recorder, "disk.add", ring="dmz", disk=self.disk("small", MIB))
        for word in ("9", "zzzz", "", "abc", "/no/where"):
            self.refused("not_found", recorder, "disk.remove", ring="dmz", disk=word)
        self.assertEqual(self.states(recorder), {1: "active", 2: "removed"})
        self.assertFalse(os.path.exists(self.path("small")))
        with open(self.path("thesis"), "rb") as file:
            self.assertEqual(file.read(17), b"somebody's thesis")
        recorder.call("disk.add", ring="dmz", disk=self.disk("thesis"), force=True)
        self.assertEqual(self.states(recorder), {1: "active", 2: "removed", 3: "active"})

    def test_disks_by_identity_and_exit_codes(self):
        recorder = self.make(disks=2)
        disks = self.disks(recorder)
        self.command("disk", "remove", "dmz", disks[2]["id"][:12])
        shown = self.command("disk", "list").stdout
        there, away = shown.split("not there:")
        self.assertIn(self.path("dmz1"), there)
        self.assertIn(self.path("dmz2"), away)
        self.assertRegex(away, r"removed .*20\d\d-")  # when it was last seen
        self.command("disk", "resume", "dmz", "2")
        self.assertIn("lamp", self.command("disk", "locate", disks[1]["id"][:8], "on", status=1).stderr)
        self.command("disk", "remove", "dmz", status=2)
        self.command("disk", "add", "lab", self.path("x") + ":64M", status=1)
        answer = json.loads(self.command("--json", "disk", "add", "dmz", self.path("x") + ":64M").stdout)
        self.assertEqual((answer["disk"]["number"], answer["disk"]["state"]), (3, "active"))

    def test_a_disk_with_another_life_needs_force(self):
        recorder = self.make(disks=2)
        recorder.call("disk.remove", ring="dmz", disk="2")
        other = self.start("elsewhere")
        other.call("ring.adopt", disks=[self.path("dmz2")])
        for i in range(12):  # its superblock is written each time
            other.call("disk.add", ring="dmz", disk=self.disk(f"other{i}", 16 * MIB))
            other.call("disk.remove", ring="dmz", disk=self.path(f"other{i}"), forget=True)
        other.stop()
        said = self.refused("mismatch", recorder, "disk.resume", ring="dmz", disk="2")
        self.assertIn("another recorder", said)
        recorder.call("disk.resume", ring="dmz", disk="2", force=True)
        self.assertEqual(self.states(recorder), {1: "active", 2: "active"})


class Missing(Disks):
    def test_a_file_that_is_not_there_at_the_start_is_taken_in_when_it_returns(self):
        recorder = self.make(disks=2, copies=1)
        recorder.call("ring.set", ring="dmz", settings={"disk_retry": "200ms"})
        import_packets(recorder, "dmz", numbered(20000, size=1000))
        before = extract(recorder, "dmz")[0]
        recorder.stop()
        os.rename(self.path("dmz2"), self.path("hidden"))
        recorder = self.start()
        self.until(lambda: self.states(recorder) == {1: "active", 2: "missing"})
        missing = self.disks(recorder)[2]
        self.assertEqual((missing["path"], missing["bytes"]), (self.path("dmz2"), 64 * MIB))
        self.assertIsNotNone(missing["last_seen_ns"])
        self.record(recorder)
        self.more(recorder)
        os.rename(self.path("hidden"), self.path("dmz2"))
        self.until(lambda: self.states(recorder) == {1: "active", 2: "active"})
        imported = {"from_ns": str(1_700_000_000 * 10**9), "to_ns": str(1_700_000_100 * 10**9)}
        self.assertEqual(extract(recorder, "dmz", **imported)[0], before)
        self.stop(recorder)
        self.assertIn("disk-returned", [event["kind"] for event in recorder.call("events", limit=1000)["events"]])
        self.check_clean(recorder, "dmz")

    def test_something_else_in_its_place(self):
        recorder = self.make(disks=2)
        recorder.call("ring.set", ring="dmz", settings={"disk_retry": "200ms"})
        recorder.stop()
        os.rename(self.path("dmz2"), self.path("hidden"))
        other = self.start("elsewhere")
        create_ring(other, "theirs", self.path("dmz2"))
        other.stop()
        recorder = self.start()
        self.until(lambda: self.states(recorder) == {1: "active", 2: "foreign"})
        # By hand, where it is now:
        recorder.call("disk.resume", ring="dmz", disk=self.path("hidden"))
        self.assertEqual(self.states(recorder), {1: "active", 2: "active"})
        self.assertEqual(self.disks(recorder)[2]["path"], self.path("hidden"))

    def test_a_ring_that_is_down_comes_up_with_the_disk_that_is_resumed(self):
        recorder = self.make()
        import_packets(recorder, "dmz", numbered(100))
        recorder.stop()
        os.rename(self.path("dmz1"), self.path("hidden"))
        recorder = self.start()
        self.until(lambda: recorder.call("ring.show", ring="dmz")["state"] == "failed")
        recorder.call("disk.resume", ring="dmz", disk=self.path("hidden"))
        self.assertEqual(extract(recorder, "dmz")[0], numbered(100))


@unittest.skipUnless(ROOT and os.path.exists("/dev/loop-control") and shutil.which("losetup"), "loop devices need root")
class Loop(Disks):
    def attach(self, name, size=64 * MIB, make=True):
        if make:
            with open(self.path(name), "wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        done = subprocess.run(["losetup", "--find", "--show", self.path(name)], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            self.skipTest("no loop device can be had: " + done.stderr)
        device = done.stdout.strip()
        self.addCleanup(subprocess.run, ["losetup", "--detach", device], stderr=subprocess.DEVNULL, check=False)
        return device

    def test_whole_devices_and_one_that_moves(self):
        recorder = self.start()
        one, two, blocker = self.attach("image1"), self.attach("image2"), self.path("blocker")
        recorder.call("ring.create", name="dmz", disks=[{"path": one, "bytes": 0}])
        self.record(recorder)
        recorder.call("disk.add", ring="dmz", disk={"path": two, "bytes": 0})
        self.more(recorder, 20000)
        self.stop(recorder)
        before = extract(recorder, "dmz")[0]
        recorder.stop()
        # sdb becomes sdc: something else takes the name of the first device.
        subprocess.run(["losetup", "--detach", two], check=True)
        with open(blocker, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, 16 * MIB)
        subprocess.run(["losetup", two, blocker], check=True)
        moved = self.attach("image2", make=False)
        self.assertNotEqual(moved, two)
        recorder = self.start()
        self.until(lambda: recorder.call("ring.show", ring="dmz")["state"] == "idle")
        self.assertEqual(self.states(recorder), {1: "active", 2: "active"})
        self.assertEqual(self.disks(recorder)[2]["path"], moved)
        self.assertEqual(extract(recorder, "dmz")[0], before)
        self.check_clean(recorder, "dmz")

    def test_a_file_system_on_a_device_needs_force(self):
        if not shutil.which("mke2fs"):
            self.skipTest("no mke2fs")
        recorder = self.make()
        device = self.attach("image")
        subprocess.run(["mke2fs", "-q", device], check=True, stderr=subprocess.DEVNULL)
        said = self.refused("foreign", recorder, "disk.add", ring="dmz", disk={"path": device, "bytes": 0})
        self.assertIn("ext2", said)
        self.assertIn("dmz1 is a file", self.refused("unsupported", recorder, "disk.locate", disk=self.path("dmz1"), on=True))
        recorder.call("disk.add", ring="dmz", disk={"path": device, "bytes": 0}, force=True)
        self.assertEqual(self.states(recorder), {1: "active", 2: "active"})


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1] == "--removed-bytes":
        REMOVED_BYTES = int(sys.argv[2])
        del sys.argv[1:3]
    main()
