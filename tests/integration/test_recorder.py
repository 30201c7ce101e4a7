#!/usr/bin/env python3
"""The recorder from outside: every method of the control protocol, what it refuses, and what it survives."""

import errno
import fcntl
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import time
import unittest

from recorder_world import (BIN, LINES, MIB, RECORDER, ROOT, WIRE, Client, RemoteError, World, create_ring, extract,
                            import_files, import_packets, main, make_namespace, numbered, packet, pcap, read_pcap,
                            thread, wait_for)


def digest(path):
    with open(path, "rb") as file:
        return hash(file.read())


class Rings(World):
    def test_life_of_a_ring(self):
        recorder = self.start()
        ring = create_ring(recorder, "dmz", self.path("disk"))
        self.assertEqual((ring["name"], ring["state"], ring["disks"], ring["packets"]), ("dmz", "idle", 1, 0))
        self.assertEqual(ring["slot_bytes"], MIB)
        import_packets(recorder, "dmz", numbered(1000))
        listed = recorder.call("ring.list")["rings"]
        self.assertEqual([one["packets"] for one in listed], [1000])
        self.assertEqual(listed[0]["oldest_ns"], str(1_700_000_000 * 10**9))
        shown = recorder.call("ring.show", ring="dmz")
        self.assertEqual([disk["path"] for disk in shown["disks"]], [self.path("disk")])
        self.assertEqual([one["name"] for one in shown["interfaces"]], ["test.pcap"])
        disks = recorder.call("disk.list")["disks"]
        self.assertEqual([(disk["ring"], disk["number"], disk["state"]) for disk in disks], [("dmz", 1, "active")])
        self.assertEqual(recorder.call("ring.delete", ring="dmz"), {})
        self.assertEqual(recorder.call("ring.list")["rings"], [])
        self.refused("not_found", recorder, "ring.show", ring="dmz")

        # Its disk still has everything.
        adopted = recorder.call("ring.adopt", disks=[self.path("disk")])
        self.assertEqual(adopted["ring"]["name"], "dmz")
        self.assertEqual(adopted["ring"]["packets"], 1000)
        self.assertEqual(extract(recorder, "dmz")[0], numbered(1000))
        self.check_clean(recorder, "dmz")
        recorder.call("ring.delete", ring="dmz", wipe=True)
        self.refused("foreign", recorder, "ring.adopt", disks=[self.path("disk")])

    def test_several_rings_of_several_disks(self):
        recorder = self.start()
        for name in ("one", "two"):
            recorder.call("ring.create", name=name, disks=[{"path": self.path(name + str(i)), "bytes": 16 * MIB}
                                                           for i in range(3)])
        import_packets(recorder, "one", numbered(20000))
        import_packets(recorder, "two", numbered(300, 50000))
        self.assertEqual(extract(recorder, "one")[0], numbered(20000))
        self.assertEqual(extract(recorder, "two")[0], numbered(300, 50000))
        for name in ("one", "two"):
            self.check_clean(recorder, name)
        disks = recorder.call("disk.list", ring="one")["disks"]
        self.assertEqual([disk["number"] for disk in disks], [1, 2, 3])
        self.assertTrue(all(disk["written_bytes"] > 0 for disk in disks), disks)

    def test_settings(self):
        recorder = self.start()
        create_ring(recorder, "dmz", self.path("disk"))
        import_packets(recorder, "dmz", numbered(10))
        answer = recorder.call("ring.set", ring="dmz", settings={"flush_window": "100ms", "buffer_bytes": "16M"})
        self.assertTrue(answer["in_force"])
        self.assertEqual(answer["settings"]["flush_window"], "100ms")
        self.assertEqual(recorder.call("status")["rings"][0]["buffers"]["total"], 64)
        for settings, word in (({"flush_window": "1ms"}, "50ms"), ({"buffer": "1G"}, "buffer_bytes"),
                               ({"buffer_bytes": 17}, "text"), ({}, "names"),
                               ({"flush_window": "200ms", "nonsense": "1"}, "nonsense")):
            with self.assertRaises(RemoteError) as caught:
                recorder.call("ring.set", ring="dmz", settings=settings)
            self.assertIn(word, caught.exception.message)
        self.assertEqual(recorder.call("ring.show", ring="dmz")["settings"]["flush_window"], "100ms")
        recorder.call("record.start", ring="dmz", backend="generator", generator={"packets_per_s": 100})
        answer = recorder.call("ring.set", ring="dmz", settings={"buffer_bytes": "32M"})
        self.assertFalse(answer["in_force"])
        self.assertIn("in use", answer["note"])
        recorder.call("record.stop", ring="dmz")
        recorder.stop()
        recorder = self.start()
        self.assertEqual(recorder.call("status")["rings"][0]["buffers"]["total"], 128)
        self.assertEqual(extract(recorder, "dmz", to_ns=str(1_700_000_001 * 10**9))[0], numbered(10))

    def test_what_cannot_be_created_leaves_nothing(self):
        recorder = self.start()
        taken = self.path("taken")
        create_ring(recorder, "taken", taken)
        import_packets(recorder, "taken", numbered(5))
        with open(self.path("data"), "wb") as file:
            file.write(b"somebody's thesis" * 1000)
        os.mkdir(self.path("directory"))
        good = {"path": self.path("good"), "bytes": 16 * MIB}

        def disk(name, size=16 * MIB):
            return [good, {"path": self.path(name), "bytes": size}]

        before = digest(self.path("data"))
        table = [
            ("invalid", dict(name="../evil", disks=[good])),
            ("invalid", dict(name="", disks=[good])),
            ("invalid", dict(name="x" * 64, disks=[good])),
            ("exists", dict(name="taken", disks=[good])),
            ("invalid", dict(name="new", disks="good")),
            ("invalid", dict(name="new", disks=[], copies=2)),
            ("invalid", dict(name="new", disks=[{"path": "relative", "bytes": MIB}])),
            ("invalid", dict(name="new", disks=[{"path": self.path("good")}])),
            ("invalid", dict(name="new", disks=[good, good])),
            ("invalid", dict(name="new", disks=[dict(good, size=3)])),
            ("invalid", dict(name="new", disks=[dict(good, bytes="16M")])),
            ("invalid", dict(name="new", disks=[dict(good, bytes=-1)])),
            ("invalid", dict(name="new", disks=[good], copies=2)),
            ("invalid", dict(name="new", disks=[good], copies=5)),
            ("invalid", dict(name="new", disks=[good], copies="1")),
            ("invalid", dict(name="new", disks=[good], slot_bytes=1000)),
            ("invalid", dict(name="new", disks=[good], slot_bytes=3 * MIB)),
            ("invalid", dict(name="new", disks=[good], force=1)),
            ("invalid", dict(name="new", disks=[good], coppies=1)),
            ("too_small", dict(name="new", disks=disk("small", MIB))),
            ("busy", dict(name="new", disks=disk("taken"))),
            ("foreign", dict(name="new", disks=disk("data"))),
            ("invalid", dict(name="new", disks=disk("directory"))),
            ("not_found", dict(name="new", disks=disk("no/such/directory"))),
            ("no_space", dict(name="new", disks=disk("huge", 1 << 60))),
        ]
        for code, params in table:
            with self.subTest(**params):
                with self.assertRaises(RemoteError) as caught:
                    recorder.call("ring.create", **params)
                if code != caught.exception.code and code == "no_space":
                    self.assertIn(caught.exception.code, ("no_space", "too_large", "invalid"))
                else:
                    self.assertEqual(caught.exception.code, code, caught.exception.message)
                self.assertNotIn("\n", caught.exception.message)
                self.assertEqual(sorted(os.listdir(self.directory)), ["data", "directory", "state", "taken"])
                self.assertEqual([ring["name"] for ring in recorder.call("ring.list")["rings"]], ["taken"])
        self.assertEqual(digest(self.path("data")), before)
        self.assertEqual(extract(recorder, "taken")[0], numbered(5))
        self.assertEqual(create_ring(recorder, "new", self.path("good"), 16 * MIB)["packets"], 0)

    @unittest.skipUnless(shutil.which("mkfs.ext4") or os.path.exists("/sbin/mkfs.ext4"), "no mkfs.ext4 here")
    def test_somebody_elses_file_system(self):
        recorder = self.start()
        path = self.path("image")
        with open(path, "wb") as file:
            file.truncate(32 * MIB)
        mkfs = shutil.which("mkfs.ext4") or "/sbin/mkfs.ext4"
        subprocess.run([mkfs, "-q", "-F", "-L", "thesis", path], check=True)
        before = digest(path)
        message = self.refused("foreign", recorder, "ring.create", name="x", disks=[{"path": path, "bytes": 32 * MIB}])
        self.assertIn("ext4", message)
        self.assertIn(path, message)
        self.assertEqual(digest(path), before)
        create_ring(recorder, "x", path, 32 * MIB, force=True)
        import_packets(recorder, "x", numbered(5))
        self.assertEqual(extract(recorder, "x")[0], numbered(5))

    @unittest.skipUnless(ROOT, "mounting a small file system takes root")
    def test_full_file_system(self):
        mount = self.path("mount")
        os.mkdir(mount)
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", mount], stderr=subprocess.PIPE)
        if mounted.returncode != 0:
            self.skipTest("cannot mount a tmpfs: " + mounted.stderr.decode())
        self.addCleanup(subprocess.run, ["umount", "-l", mount])
        recorder = self.start()
        disks = [{"path": os.path.join(mount, name), "bytes": 24 * MIB} for name in ("first", "second")]
        message = self.refused("no_space", recorder, "ring.create", name="x", disks=disks)
        self.assertIn("second", message)
        self.assertEqual(os.listdir(mount), [])
        self.assertEqual(recorder.call("ring.list")["rings"], [])
        recorder.call("ring.create", name="x", disks=disks[:1])
        with open(os.path.join(mount, "filler"), "wb") as file:  # the ring has its place already
            with self.assertRaises(OSError):
                while True:
                    file.write(bytes(MIB))
                    file.flush()
        import_packets(recorder, "x", numbered(50000))
        self.assertEqual(extract(recorder, "x")[0], numbered(50000))

    def test_adopting_what_is_not_there(self):
        recorder = self.start()
        for name in ("one", "two"):
            create_ring(recorder, name, self.path(name))
            recorder.call("ring.delete", ring=name)
        table = [
            ("invalid", dict(disks=[])), ("invalid", dict(disks="x")), ("invalid", dict(disks=[self.path("one")] * 2)),
            ("invalid", dict(disks=["one"])), ("invalid", dict(disks=[17])),
            ("not_found", dict(disks=[self.path("none")])),
            ("mismatch", dict(disks=[self.path("one"), self.path("two")])),
            ("invalid", dict(disks=[self.path("one")], name="a/b")),
        ]
        for code, params in table:
            with self.subTest(**params):
                self.refused(code, recorder, "ring.adopt", **params)
                self.assertEqual(recorder.call("ring.list")["rings"], [])
        self.assertEqual(recorder.call("ring.adopt", disks=[self.path("one")], name="other")["ring"]["name"], "other")
        self.refused("busy", recorder, "ring.adopt", disks=[self.path("one")], name="again")
        recorder.call("ring.adopt", disks=[self.path("two")])

    def test_on_another_machine(self):
        recorder = self.start()
        recorder.call("ring.create", name="dmz", disks=[{"path": self.path(n), "bytes": 16 * MIB} for n in "ab"])
        import_packets(recorder, "dmz", numbered(30000))
        recorder.stop()
        os.rename(self.path("a"), self.path("moved"))
        other = self.start("other")
        answer = other.call("ring.adopt", disks=[self.path("moved"), self.path("b")])
        self.assertEqual(answer["ring"]["packets"], 30000)
        self.assertEqual(extract(other, "dmz")[0], numbered(30000))
        self.check_clean(other, "dmz")

    def test_rebuild(self):
        recorder = self.start()
        create_ring(recorder, "dmz", self.path("disk"))
        import_packets(recorder, "dmz", numbered(30000))
        before = extract(recorder, "dmz", filter="ether[20] = 7")[0]
        self.assertGreater(len(before), 10)
        report = recorder.call("ring.rebuild", ring="dmz")["report"]
        self.assertEqual(report["slots_read"], 60)
        self.assertEqual(report["segments_damaged"], 0)
        self.assertEqual(extract(recorder, "dmz", filter="ether[20] = 7")[0], before)
        self.assertEqual(extract(recorder, "dmz")[0], numbered(30000))
        recorder.call("record.start", ring="dmz", backend="generator", generator={"packets_per_s": 100})
        self.refused("busy", recorder, "ring.rebuild", ring="dmz")
        self.refused("busy", recorder, "ring.delete", ring="dmz")
        recorder.call("record.stop", ring="dmz")
        self.refused("not_found", recorder, "ring.rebuild", ring="none")

    def test_overwriting_in_order(self):
        recorder = self.start()
        create_ring(recorder, "small", self.path("disk"), 16 * MIB)
        for lap in range(6):
            import_packets(recorder, "small", numbered(40000, lap * 40000))
        found, _ = extract(recorder, "small")
        self.assertGreater(len(found), 50000)
        self.assertEqual(found, numbered(len(found), 240000 - len(found)))
        self.check_clean(recorder, "small")
        status = recorder.call("status", ring="small")["rings"][0]
        self.assertEqual(status["account"]["stored"], 240000)
        self.check_account(status["account"])


class Imports(World):
    def setUp(self):
        super().setUp()
        self.recorder = self.start()
        create_ring(self.recorder, "dmz", self.path("disk"))

    def test_several_files_one_of_them_damaged(self):
        whole = pcap(numbered(100))
        damaged = whole[:24 + 40 * 116 + 9]
        files = [("a.pcap", whole), ("b.pcap", damaged), ("c.txt", b"no capture at all, sorry"), ("d.pcap", b""),
                 ("e.pcap", pcap(numbered(50, 100)))]
        answer = import_files(self.recorder, "dmz", files)
        packets = [one["packets"] for one in answer["files"]]
        codes = [one["error"] and one["error"]["code"] for one in answer["files"]]
        self.assertEqual(packets, [100, 40, 0, 0, 50])
        self.assertEqual(codes[0], None)
        self.assertEqual(codes[4], None)
        self.assertTrue(all(codes[1:4]), codes)
        for one in answer["files"][1:4]:
            self.assertIn(one["name"], one["error"]["message"])
        self.assertEqual(answer["account"]["stored"], 190)
        self.check_account(answer["account"])
        self.assertTrue(answer["frontier_durable"])
        self.assertEqual(len(extract(self.recorder, "dmz")[0]), 190)

    def test_packets_too_long_for_a_slot_are_counted(self):
        long = [(1, bytes(2 * MIB))]
        answer = import_files(self.recorder, "dmz", [("dbus.pcap", pcap(long, 231, 4 * MIB)),
                                                     ("b.pcap", pcap(numbered(3)))])
        self.assertEqual(answer["account"]["refused"], 1)
        self.assertEqual(answer["account"]["stored"], 3)
        self.check_account(answer["account"])
        # A loss is an event, too: when it begins, and when it has ended; with the cause, and how much it was.
        def events(kind):
            return [one for one in self.recorder.call("events")["events"] if one["kind"] == kind]
        wait_for(lambda: events("drops-end"))
        begun, ended = events("drops-begin"), events("drops-end")
        self.assertEqual((len(begun), len(ended)), (1, 1))
        self.assertRegex(begun[0]["text"], "longer than a segment")
        self.assertRegex(ended[0]["text"], r"; 1 were: .*longer than a segment")
        self.assertLess(int(begun[0]["time_ns"]), int(ended[0]["time_ns"]))

    def test_from_a_pipe(self):
        reader, writer = os.pipe()
        data = pcap(numbered(5000))

        def feed():
            for at in range(0, len(data), 7777):
                os.write(writer, data[at:at + 7777])
            os.close(writer)

        fed = thread(feed)
        answer = self.recorder.call("import", [reader], ring="dmz", names=["-"])
        fed.join()
        os.close(reader)
        self.assertEqual(answer["files"][0]["packets"], 5000)
        self.assertEqual(extract(self.recorder, "dmz")[0], numbered(5000))

    def test_a_client_that_goes_cancels_its_import(self):
        for begun in (b"", pcap(numbered(400))):
            reader, writer = os.pipe()
            os.write(writer, begun)
            client = self.recorder.client()
            client.ask("import", [reader], ring="dmz", names=["-"])
            os.close(reader)
            if begun:
                wait_for(lambda: self.recorder.call("status")["rings"][0]["account"]["seen"] >= 400)
            client.close()
            wait_for(lambda: self.recorder.call("ring.list")["rings"][0]["state"] == "idle")
            os.close(writer)
        self.assertEqual(extract(self.recorder, "dmz")[0], numbered(400))
        self.recorder.call("ring.rebuild", ring="dmz")  # nobody uses the ring any more

    def test_refusals(self):
        with open(os.devnull, "rb") as nothing, open(self.directory + "/other", "wb") as write_only:
            for code, descriptors, params in (
                    ("invalid", [], dict(ring="dmz", names=["a"])),
                    ("invalid", [nothing], dict(ring="dmz", names=[])),
                    ("invalid", [nothing], dict(ring="dmz", names=["a", "b"])),
                    ("invalid", [nothing], dict(ring="dmz", names=[3])),
                    ("invalid", [nothing], dict(ring="dmz", names={"a": 1})),
                    ("invalid", [nothing], dict(names=["a"])),
                    ("not_found", [nothing], dict(ring="none", names=["a"]))):
                self.refused(code, self.recorder, "import", [one.fileno() for one in descriptors], **params)
            directory = os.open(self.directory, os.O_RDONLY)
            for fd in (nothing.fileno(), write_only.fileno(), directory):
                answer = self.recorder.call("import", [fd], ring="dmz", names=["odd"])
                self.assertTrue(answer["files"][0]["error"], answer)
            os.close(directory)

    def test_many_imports_at_once(self):
        def one(number):
            import_packets(self.recorder, "dmz", numbered(2000, number * 2000), f"{number}.pcap")

        threads = [thread(one, number) for number in range(8)]
        for each in threads:
            each.join()
        self.assertEqual(sorted(extract(self.recorder, "dmz")[0]), numbered(16000))
        status = self.recorder.call("status")["rings"][0]
        self.assertEqual(status["account"]["stored"], 16000)
        self.assertEqual(sorted(one["name"] for one in status["interfaces"]), sorted(f"{i}.pcap" for i in range(8)))


class Extractions(World):
    def setUp(self):
        super().setUp()
        self.recorder = self.start()
        create_ring(self.recorder, "dmz", self.path("disk"))

    def test_range_filter_and_limits(self):
        import_packets(self.recorder, "dmz", numbered(3000))
        start = 1_700_000_000 * 10**9
        found, result = extract(self.recorder, "dmz", from_ns=str(start + 1000 * 1000), to_ns=str(start + 2000 * 1000))
        self.assertEqual(found, numbered(1000, 1000))
        self.assertTrue(result["complete"])
        found, _ = extract(self.recorder, "dmz", filter="ether[20:2] = 77")
        self.assertEqual(found, numbered(1, 77))
        found, _ = extract(self.recorder, "dmz", packets_max=17)
        self.assertEqual(found, numbered(17))
        found, result = extract(self.recorder, "dmz", from_ns=str(start + 10**15))
        self.assertEqual((found, result["packets"]), ([], 0))

    def test_refusals(self):
        import_packets(self.recorder, "dmz", numbered(3))
        with open(os.devnull, "wb") as output:
            for code, params in (("invalid", dict(filter="tcp and and")), ("invalid", dict(format="pcapgn")),
                                 ("invalid", dict(from_ns="yesterday")), ("invalid", dict(from_ns="9" * 30)),
                                 ("invalid", dict(to_ns=1.5)), ("invalid", dict(folow=True)),
                                 ("invalid", dict(packets_max=-1)), ("too_large", dict(filter="ip or " * 10000 + "ip"))):
                with self.subTest(params=str(params)[:60]):
                    self.refused(code, self.recorder, "extract", [output.fileno()], ring="dmz", **params)
            self.refused("not_found", self.recorder, "extract", [output.fileno()], ring="none")
        self.refused("invalid", self.recorder, "extract", ring="dmz")

    def test_an_output_that_nobody_reads_any_more(self):
        import_packets(self.recorder, "dmz", numbered(50000))
        reader, writer = os.pipe()
        with self.recorder.client() as client:
            client.ask("extract", [writer], ring="dmz")
            os.close(writer)
            self.assertTrue(os.read(reader, 1000))
            os.close(reader)
            with self.assertRaises(RemoteError):
                client.answer()
        self.assertEqual(len(extract(self.recorder, "dmz")[0]), 50000)

    def test_a_client_that_goes_ends_its_extraction(self):
        import_packets(self.recorder, "dmz", numbered(50000))
        reader, writer = os.pipe()
        client = self.recorder.client()
        client.ask("extract", [writer], ring="dmz")
        os.close(writer)
        self.assertTrue(os.read(reader, 1000))
        client.close()
        while os.read(reader, 65536):  # ends: the process that held the other end is gone
            pass
        os.close(reader)
        wait_for(self.can_be_rebuilt)

    def can_be_rebuilt(self):
        try:
            self.recorder.call("ring.rebuild", ring="dmz")
            return True
        except RemoteError as error:
            self.assertEqual(error.code, "busy")
            return False

    def test_following(self):
        """Every packet of imports that come while somebody follows, each once, also from segments that were opened and sealed
        between two looks."""
        self.recorder.call("ring.set", ring="dmz", settings={"flush_window": "50ms"})
        import_packets(self.recorder, "dmz", numbered(10))
        reader, writer = os.pipe()
        data = bytearray()

        def read():
            while True:
                part = os.read(reader, 65536)
                if not part:
                    return
                data.extend(part)

        with self.recorder.client() as client:
            client.ask("extract", [writer], ring="dmz", follow=True, format="pcap")
            os.close(writer)
            collector = thread(read)
            wait_for(lambda: len(data) >= 24 + 10 * 116)
            total = 10
            for count in [1, 20000, 3, 30000] + [50] * 40:
                import_packets(self.recorder, "dmz", numbered(count, total))
                total += count
            self.recorder.call("record.start", ring="dmz", backend="generator",
                               generator={"packets": 2000, "packets_per_s": 2000})
            wait_for(lambda: not self.recorder.call("status")["rings"][0]["recordings"])
            client.ask("extract.finish", request_id=client.number)
            result = client.answer()
        collector.join()
        os.close(reader)
        found = read_pcap(bytes(data))
        self.assertEqual(result["packets"], total + 2000)
        self.assertEqual([one for one in found if len(one[1]) == 100 and one[0] < 1_750_000_000 * 10**9],
                         numbered(total))
        self.assertEqual(len(found), total + 2000)
        self.assertTrue(result["complete"], result)

    def test_following_ends_with_its_range(self):
        import_packets(self.recorder, "dmz", numbered(10))
        now = time.time_ns()
        found, result = extract(self.recorder, "dmz", follow=True, to_ns=str(now))
        self.assertEqual(found, numbered(10))
        self.assertTrue(result["complete"])

    def test_damage_is_found_and_named(self):
        import_packets(self.recorder, "dmz", numbered(30000))
        self.recorder.stop()
        marker = packet(12345)
        with open(self.path("disk"), "r+b") as disk:
            data = disk.read()
            at = data.index(marker)
            disk.seek(at + 50)
            disk.write(bytes([data[at + 50] ^ 4]))
        recorder = self.start()
        found = recorder.call("verify", ring="dmz")
        self.assertFalse(found["clean"])
        self.assertEqual(found["reasons"], [{"reason": "frames", "text": "1 copy of a frame is damaged"}])
        self.assertEqual(found["frames_bad"], 1)
        self.assertEqual(found["bad"][0]["disk"], self.path("disk"))
        self.assertEqual(found["bad"][0]["reason"], "checksum")
        packets, result = extract(recorder, "dmz")
        self.assertFalse(result["complete"])
        self.assertEqual(result["gaps"][0]["reason"], "damaged")
        good = numbered(30000)
        self.assertTrue(set(packets) < set(good))
        self.assertNotIn(good[12345], packets)
        self.assertEqual(result["gaps"][0]["packets"], len(good) - len(packets))
        self.assertIn("damaged", [event["kind"] for event in recorder.call("events")["events"]])


class Restarts(World):
    def test_one_recorder_a_directory(self):
        first = self.start()
        second = subprocess.run([RECORDER, "--state", self.path("state")], stderr=subprocess.PIPE)
        self.assertEqual(second.returncode, 1)
        self.assertIn(str(first.process.pid), second.stderr.decode())
        self.assertEqual(first.call("hello")["pid"], first.process.pid)

    def test_killed_and_started_again(self):
        """Everything that was acknowledged is there, and no hand is needed (promise P2)."""
        seed = random.randrange(1 << 32)
        print(f"seed {seed}", flush=True)
        chance = random.Random(seed)
        recorder = self.start()
        create_ring(recorder, "dmz", self.path("disk"), 256 * MIB)
        acknowledged = []
        for round_number in range(6):
            for _ in range(chance.randrange(1, 4)):
                count = chance.choice([1, 10, 20000])
                first = len(acknowledged)
                import_packets(recorder, "dmz", numbered(count, first))
                acknowledged += numbered(count, first)
            recorder.call("record.start", ring="dmz", backend="generator",
                          generator={"packets_per_s": 20000, "seed": round_number})
            time.sleep(chance.random())
            recorder.kill()
            recorder = self.start()
            end = str(1_750_000_000 * 10**9)
            self.assertEqual(extract(recorder, "dmz", to_ns=end)[0], acknowledged)
            found = self.check_clean(recorder, "dmz")
            self.assertGreater(found["frames_checked"], 0)

    def test_stale_socket_and_leftovers(self):
        recorder = self.start()
        create_ring(recorder, "dmz", self.path("disk"))
        recorder.kill()
        self.assertTrue(os.path.exists(self.path("state", "control.sock")))
        with self.assertRaises(ConnectionRefusedError):
            Client(self.path("state"))
        with open(self.path("state", "control.sock.new"), "w") as file:
            file.write("left by a start that was killed")
        recorder = self.start()
        self.assertEqual(len(recorder.call("ring.list")["rings"]), 1)
        mode = os.stat(self.path("state", "control.sock")).st_mode & 0o777
        self.assertEqual(mode, 0o660)
        recorder.stop()
        self.assertFalse(os.path.exists(self.path("state", "control.sock")))

    def test_catalog_lost_or_damaged(self):
        recorder = self.start()
        create_ring(recorder, "dmz", self.path("disk"))
        import_packets(recorder, "dmz", numbered(30000))
        for damage in ("delete", "garbage", "flip"):
            with self.subTest(damage):
                recorder.stop()
                catalog = self.path("state", "catalog.db")
                if damage == "flip":
                    with open(catalog, "r+b") as file:
                        file.seek(4096 + 2000)
                        file.write(b"\xff" * 64)
                else:
                    for name in os.listdir(self.path("state")):
                        if name.startswith("catalog.db"):
                            os.unlink(self.path("state", name))
                if damage == "garbage":
                    with open(catalog, "wb") as file:
                        file.write(os.urandom(100000))
                recorder = self.start()
                wait_for(lambda: recorder.call("ring.list")["rings"][0]["state"] == "idle")
                found, result = extract(recorder, "dmz")
                if damage == "flip" and found != numbered(30000):
                    # It was found out while it was asked; the recorder says so, and a rebuild makes it good.
                    recorder.call("ring.rebuild", ring="dmz")
                    found, result = extract(recorder, "dmz")
                self.assertEqual(found, numbered(30000))
                self.assertTrue(result["complete"])
                self.assertEqual(recorder.call("ring.list")["rings"][0]["packets"], 30000)

    def test_a_catalog_that_goes_bad_is_no_short_answer(self):
        """Damage that only a question finds: the question fails, the catalog is begun anew, and until the ring has been read whole every answer says that
        it may be short. It said that it was complete."""
        recorder = self.start()
        packets = numbered(30000)
        create_ring(recorder, "dmz", self.path("disk"), slot_bytes=1 << 20)
        create_ring(recorder, "other", self.path("disk2"))
        import_packets(recorder, "dmz", packets)
        recorder.stop()
        recorder = self.start()  # all is in the file now, and not in its WAL
        wait_for(lambda: all(ring["state"] == "idle" for ring in recorder.call("ring.list")["rings"]))
        catalog = self.path("state", "catalog.db")
        with open(catalog, "r+b") as file:
            for at in range(1000, os.path.getsize(catalog), 4096):
                file.seek(at)
                file.write(b"\xee" * 64)
        import_packets(recorder, "other", numbered(10))  # what SQLite remembers of the file is not up to date any more
        said = []
        for _ in range(4):
            try:
                found, result = extract(recorder, "dmz")
            except RemoteError as error:
                said.append(error.code)
                continue
            said.append("complete" if result["complete"] else "lacks")
            self.assertEqual(result["complete"], result["catalog_whole"])
            if found != packets:
                self.assertFalse(result["complete"], result)
        recorder.call("ring.rebuild", ring="dmz")
        found, result = extract(recorder, "dmz")
        self.assertEqual((found, result["complete"], result["catalog_whole"]), (packets, True, True))
        self.assertIn("lacks", said)  # or else nothing was tried here
        # The other ring's segments are lost as well, whatever was made good of this one.
        found, result = extract(recorder, "other")
        self.assertEqual((result["complete"], result["catalog_whole"]), (False, False))
        estimate = recorder.call("estimate", ring="other")
        self.assertEqual((estimate["complete"], estimate["catalog_whole"]), (False, False))
        shown = self.say(3, "estimate", "other")
        self.assertIn("there may be more: tapeloop rebuild", shown)
        self.assertNotIn("at most", shown)
        verified = recorder.call("verify", ring="other")
        self.assertEqual((verified["clean"], [reason["reason"] for reason in verified["reasons"]]), (False, ["catalog"]))
        shown = self.say(1, "verify", "other")
        self.assertRegex(shown, r"ring other: NOT CLEAN.*\n  the catalog has lost something.*: tapeloop rebuild other finds")
        estimate = recorder.call("estimate", ring="dmz")
        self.assertEqual((estimate["packets"], estimate["complete"], estimate["catalog_whole"]), (len(packets), True, True))
        self.refused("corrupt", recorder, "purge", ring="other", filter="ip", from_ns="0", to_ns=str(2**62))
        recorder.call("ring.rebuild", ring="other")
        found, result = extract(recorder, "other")
        self.assertEqual((found, result["complete"]), (numbered(10), True))
        estimate = recorder.call("estimate", ring="other")
        self.assertEqual((estimate["packets"], estimate["complete"]), (10, True))
        self.assertEqual((recorder.call("verify", ring="other")["clean"], recorder.call("verify", ring="other")["reasons"]), (True, []))
        print(said, flush=True)

    def say(self, status, *words):
        """What the command says, which ends with this status."""
        done = subprocess.run([os.path.join(BIN, "tapeloop"), "--state", self.path("state"), *words], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stdout

    def test_a_disk_that_is_busy_for_a_while(self):
        recorder = self.start()
        for name in ("dmz", "other"):
            create_ring(recorder, name, self.path(name))
            import_packets(recorder, name, numbered(10))
        recorder.stop()
        holder = open(self.path("dmz"), "r+b")
        fcntl.flock(holder, fcntl.LOCK_EX)
        recorder = self.start()
        states = {ring["name"]: ring["state"] for ring in recorder.call("ring.list")["rings"]}
        self.assertEqual(states["dmz"], "starting")
        self.assertEqual(extract(recorder, "other")[0], numbered(10))  # nobody else waits
        releaser = thread(lambda: (time.sleep(0.3), holder.close()))
        self.assertEqual(extract(recorder, "dmz")[0], numbered(10))    # who asks for it does
        releaser.join()

    def test_a_disk_that_stays_busy(self):
        recorder = self.start()
        for name in ("dmz", "other"):
            create_ring(recorder, name, self.path(name))
        recorder.call("ring.set", ring="dmz", settings={"disk_wait": "200ms"})
        recorder.stop()
        with open(self.path("dmz"), "r+b") as holder:
            fcntl.flock(holder, fcntl.LOCK_EX)
            recorder = self.start()
            message = self.refused("busy", recorder, "flush", ring="dmz")
            self.assertIn(self.path("dmz"), message)
            listed = {ring["name"]: ring for ring in recorder.call("ring.list")["rings"]}
            self.assertEqual(listed["dmz"]["state"], "failed")
            self.assertEqual(listed["dmz"]["error"], message)
            self.assertEqual(listed["other"]["state"], "idle")
            self.assertIn("disk-left-out", [event["kind"] for event in recorder.call("events")["events"]])
            self.refused("busy", recorder, "ring.rebuild", ring="dmz")
            recorder.call("ring.delete", ring="dmz")  # a ring without disks can be forgotten
            recorder.stop()
        recorder = self.start()
        recorder.call("ring.adopt", disks=[self.path("dmz")])

    def test_one_disk_of_two_is_missing(self):
        recorder = self.start()
        recorder.call("ring.create", name="dmz", disks=[{"path": self.path(n), "bytes": 16 * MIB} for n in "ab"])
        import_packets(recorder, "dmz", numbered(50000))
        recorder.stop()
        os.rename(self.path("b"), self.path("elsewhere"))
        recorder = self.start()
        import_packets(recorder, "dmz", numbered(10, 50000))
        status = recorder.call("status", ring="dmz")["rings"][0]
        self.assertTrue(status["degraded"])
        states = [disk["state"] for disk in recorder.call("disk.list")["disks"]]
        self.assertEqual(states, ["active", "missing"])
        found, result = extract(recorder, "dmz")
        self.assertFalse(result["complete"])
        self.assertTrue(set(numbered(10, 50000)) <= set(found) < set(numbered(50010)))
        recorder.stop()
        os.rename(self.path("elsewhere"), self.path("b"))
        recorder = self.start()
        self.assertEqual(extract(recorder, "dmz")[0], numbered(50010))
        self.check_clean(recorder, "dmz")

    def test_another_disk_under_the_old_name(self):
        recorder = self.start()
        for name in ("dmz", "other"):
            create_ring(recorder, name, self.path(name))
        import_packets(recorder, "other", numbered(10))
        recorder.stop()
        os.rename(self.path("dmz"), self.path("kept"))
        os.rename(self.path("other"), self.path("dmz"))
        before = digest(self.path("dmz"))
        recorder = self.start()
        self.refused("mismatch", recorder, "flush", ring="dmz")
        self.refused("not_found", recorder, "flush", ring="other")
        recorder.stop()
        self.assertEqual(digest(self.path("dmz")), before)

    def test_state_that_is_not_ours(self):
        for name, content in (("state.db", b"somebody's notes\n" * 1000),):
            os.mkdir(self.path("odd"))
            with open(self.path("odd", name), "wb") as file:
                file.write(content)
            ended = subprocess.run([RECORDER, "--state", self.path("odd")], stderr=subprocess.PIPE)
            self.assertEqual(ended.returncode, 1)
            self.assertIn("state.db", ended.stderr.decode())
            with open(self.path("odd", name), "rb") as file:
                self.assertEqual(file.read(), content)

    def test_words_of_the_command(self):
        for arguments, status in ((["--version"], 0), (["--help"], 0), (["--settings"], 0), (["--nonsense"], 2),
                                  (["more"], 2), (["--session", "x"], 2), (["--session", "77"], 2),
                                  (["--state", self.path("no/such/parent")], 1)):
            ended = subprocess.run([RECORDER] + arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self.assertEqual(ended.returncode, status, arguments)
            self.assertTrue(ended.stdout if status == 0 else ended.stderr, arguments)


class Sessions(World):
    def begin(self, state):
        ours, theirs = socket.socketpair()
        process = subprocess.Popen([RECORDER, "--state", self.path(state), "--session", str(theirs.fileno())],
                                   pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL)
        theirs.close()
        return ours, process

    def test_ends_with_its_command(self):
        session, process = self.begin("state")
        self.assertEqual(session.recv(100), b"ready\n")
        with Client(self.path("state")) as client:
            self.assertTrue(client.call("hello")["session"])
            client.call("ring.create", name="dmz", disks=[{"path": self.path("disk"), "bytes": 64 * MIB}])
            client.call("record.start", ring="dmz", backend="generator", generator={"packets_per_s": 10000})
        time.sleep(0.2)
        session.close()
        self.assertEqual(process.wait(), 0)
        recorder = self.start()
        self.assertGreater(recorder.call("ring.list")["rings"][0]["packets"], 0)
        self.assertEqual(recorder.call("events")["events"][-1]["kind"], "started")
        report = [event for event in recorder.call("events")["events"] if event["kind"] == "recovered"]
        self.assertEqual(report, [])  # it was sealed in good order

    def test_says_why_it_cannot(self):
        self.start()
        session, process = self.begin("state")
        said = b""
        while not said.endswith(b"\n"):
            said += session.recv(1000)
        self.assertTrue(said.startswith(b"busy: "), said)
        self.assertEqual(process.wait(), 1)
        session.close()


class Recordings(World):
    def setUp(self):
        super().setUp()
        self.recorder = self.start()
        create_ring(self.recorder, "dmz", self.path("disk"), 128 * MIB)

    def test_attached(self):
        with self.recorder.client() as client:
            client.ask("record.start", ring="dmz", backend="generator", attach=True,
                       generator={"packets_per_s": 10000})
            for _ in range(3):
                progress = client.receive()["progress"]
                self.check_account(progress["account"])
            client.ask("record.stop", request_id=client.number, ring="dmz")
            result = client.answer()
        self.check_account(result["account"])
        self.assertEqual(result["account"]["in_flight"], 0)
        self.assertEqual(len(extract(self.recorder, "dmz")[0]), result["account"]["stored"])

    def test_stopped_by_somebody_else(self):
        with self.recorder.client() as client:
            client.ask("record.start", ring="dmz", backend="generator", attach=True,
                       generator={"packets_per_s": 10000})
            client.receive()
            stopped = self.recorder.call("record.stop", ring="dmz")
            self.assertEqual(client.answer()["account"], stopped["account"])

    def test_closing_the_connection_ends_it(self):
        with self.recorder.client() as client:
            client.ask("record.start", ring="dmz", backend="generator", attach=True, generator={"packets_per_s": 1000})
            client.receive()
        wait_for(lambda: not self.recorder.call("status")["rings"][0]["recordings"])
        self.refused("not_found", self.recorder, "record.stop", ring="dmz")

    def test_ends_by_itself(self):
        with self.recorder.client() as client:
            result = client.call("record.start", ring="dmz", backend="generator", attach=True,
                                 generator={"packets": 5000})
        self.assertEqual(result["account"]["stored"], 5000)

    def test_refusals(self):
        for code, params in (("invalid", dict(ring="dmz")), ("invalid", dict(ring="dmz", backend="dag")),
                             ("not_found", dict(ring="none", backend="generator")),
                             ("invalid", dict(ring="dmz", interfaces="lo")),
                             ("invalid", dict(ring="dmz", interfaces=["x"] * 65)),
                             ("invalid", dict(ring="dmz", backend="generator", generator={"rate": 1})),
                             ("not_found", dict(ring="none", interfaces=["lo"]))):
            self.refused(code, self.recorder, "record.start", **params)
        if ROOT:
            for backend in ("packet", "pcap"):
                message = self.refused("not_found", self.recorder, "record.start", ring="dmz", backend=backend,
                                       interfaces=["nosuch0"])
                self.assertIn("nosuch0", message)
        self.assertEqual(self.recorder.call("ring.list")["rings"][0]["state"], "idle")

    def test_account_under_load(self):
        """Promise P6 at every status read, while recordings and imports come and go; and in the history afterwards."""
        stop = []

        def load(number):
            turn = 0
            while not stop:
                import_packets(self.recorder, "dmz", numbered(500, number * 10**6 + turn * 500), f"in{number}.pcap")
                turn += 1

        threads = [thread(load, number) for number in range(2)]
        last = 0
        with self.recorder.client() as client:
            for turn in range(4):
                client.call("record.start", ring="dmz", backend="generator")
                end = time.monotonic() + 0.5
                while time.monotonic() < end:
                    status = client.call("status")["rings"][0]
                    self.check_account(status["account"])
                    for one in status["interfaces"]:
                        self.check_account(one["account"])
                    self.assertGreaterEqual(status["account"]["seen"], last)  # nothing is forgotten
                    last = status["account"]["seen"]
                client.call("record.stop", ring="dmz")
        stop.append(True)
        for each in threads:
            each.join()
        account = self.recorder.call("status")["rings"][0]["account"]
        self.check_account(account)
        self.assertEqual(account["in_flight"], 0)

        def sums():
            rows = self.recorder.call("history", ring="dmz")["rows"]
            for row in rows:
                self.check_account(row)
            return {line: sum(row[line] for row in rows) for line in LINES}

        wait_for(lambda: sums()["seen"] >= account["seen"])
        self.assertEqual(sums(), account)
        seconds = [row["second"] for row in self.recorder.call("history", ring="dmz")["rows"]]
        self.assertEqual(seconds, sorted(seconds))
        self.assertEqual(self.recorder.call("history", ring="dmz", to_s=str(seconds[0]))["rows"], [])

    def test_extraction_while_recording(self):
        self.recorder.call("ring.set", ring="dmz", settings={"flush_window": "100ms"})
        self.recorder.call("record.start", ring="dmz", backend="generator", generator={"packets_per_s": 20000})
        counts = []
        for _ in range(5):
            seen = self.recorder.call("status")["rings"][0]["account"]["seen"]
            found, result = extract(self.recorder, "dmz")
            self.assertTrue(result["complete"], result)
            dropped = self.recorder.call("status")["rings"][0]["account"]["dropped_queue"]  # on a very slow machine
            self.assertGreaterEqual(len(found), seen - dropped)  # what had been seen before it was asked for is there
            self.assertEqual([one[0] for one in found], sorted(one[0] for one in found))
            counts.append(len(found))
        self.assertEqual(counts, sorted(counts))
        self.recorder.call("flush", ring="dmz")
        self.recorder.call("record.stop", ring="dmz")
        self.check_clean(self.recorder, "dmz")

    def test_shutdown(self):
        self.recorder.call("record.start", ring="dmz", backend="generator", generator={"packets_per_s": 10000})
        attached = self.recorder.client()
        attached.ask("record.start", ring="dmz", backend="generator", attach=True, generator={"packets_per_s": 100})
        attached.receive()
        self.recorder.call("shutdown")
        self.assertEqual(self.recorder.process.wait(), 0)
        self.check_account(attached.answer()["account"])  # it was told how it ended
        attached.close()
        recorder = self.start()
        self.check_clean(recorder, "dmz")
        self.assertNotIn("recovered", [event["kind"] for event in recorder.call("events")["events"]])


SENDER = """
import socket, struct, sys
interface, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sender.bind((interface, 0))
for number in range(first, first + count):
    head = bytes.fromhex("02000000000202000000000188b5")
    sender.send((head + struct.pack(">Q", number) + bytes(78))[:100])
"""


class Live(World):
    """Real interfaces; both ends of the wire are in a namespace that only this test knows."""

    def send(self, enter, interface, first, count):
        subprocess.run(enter + ["python3", "-c", SENDER, interface, str(first), str(count)], check=True)

    def numbers(self, packets):
        return [struct.unpack_from(">Q", body, 14)[0] for _, body in packets if body[12:14] == b"\x88\xb5"]

    def check_backend(self, backend):
        enter = make_namespace(self)
        recorder = self.start(prefix=enter)
        create_ring(recorder, "dmz", self.path("disk"), 128 * MIB)
        recorder.call("ring.set", ring="dmz", settings={"flush_window": "100ms"})
        try:
            recorder.call("record.start", ring="dmz", interfaces=["v1"], backend=backend)
        except RemoteError as error:
            if error.code in ("permission", "unsupported"):
                self.skipTest(error.message)
            raise
        self.refused("busy", recorder, "record.start", ring="dmz", interfaces=["v1"], backend=backend)
        self.send(enter, "v0", 0, 2000)
        wait_for(lambda: recorder.call("status")["rings"][0]["account"]["seen"] >= 2000)
        # What has been seen is found, without waiting for a flush window.
        self.assertEqual(self.numbers(extract(recorder, "dmz", filter="ether proto 0x88b5")[0]), list(range(2000)))
        status = recorder.call("status")["rings"][0]
        self.check_account(status["account"])
        self.assertEqual([one["name"] for one in status["interfaces"]], ["v1"])
        self.assertEqual(status["recordings"][0]["interfaces"], ["v1"])

        # A follower sees what comes.
        reader, writer = os.pipe()
        with recorder.client() as client:
            client.ask("extract", [writer], ring="dmz", follow=True, format="pcap", filter="ether proto 0x88b5")
            os.close(writer)
            data = bytearray()

            def read():
                while True:
                    part = os.read(reader, 65536)
                    if not part:
                        return
                    data.extend(part)

            collector = thread(read)
            self.send(enter, "v0", 2000, 1000)
            wait_for(lambda: len(data) >= 24 + 3000 * 116)
            client.ask("extract.finish", request_id=client.number)
            self.assertEqual(client.answer()["packets"], 3000)
            collector.join()
            os.close(reader)
        self.assertEqual(self.numbers(read_pcap(bytes(data))), list(range(3000)))

        ended = recorder.call("record.stop", ring="dmz")
        self.check_account(ended["account"])
        self.assertEqual(ended["account"]["in_flight"], 0)
        self.assertEqual(self.numbers(extract(recorder, "dmz")[0]), list(range(3000)))
        self.check_clean(recorder, "dmz")
        names = {one["name"]: one for one in recorder.call("interfaces")["interfaces"]}
        self.assertTrue(names["v1"]["up"])
        self.assertEqual(names["v1"]["link_type"], 1)

    def test_packet_sockets(self):
        self.check_backend("auto")

    def test_libpcap(self):
        self.check_backend("pcap")

    def seen(self, recorder, count, line="seen"):
        wait_for(lambda: recorder.call("status")["rings"][0]["account"][line] >= count)

    def test_an_interface_that_goes(self):
        """What was recorded stays; a recording that stands goes on when the interface is back."""
        enter = make_namespace(self)
        recorder = self.start(prefix=enter)
        create_ring(recorder, "dmz", self.path("disk"))
        self.refused("not_found", recorder, "record.start", ring="dmz", interfaces=["lo", "v1", "v9"])
        self.assertEqual(recorder.call("status")["rings"][0]["recordings"], [])  # all or none
        recorder.call("record.start", ring="dmz", interfaces=["lo", "v1"])

        def recorded():
            return sorted(name for one in recorder.call("status")["rings"][0]["recordings"]
                          for name in one["interfaces"])

        self.assertEqual(recorded(), ["lo", "v1"])
        self.send(enter, "v0", 0, 100)
        self.seen(recorder, 100)
        subprocess.run(enter + "ip link del v0".split(), check=True)
        wait_for(lambda: recorded() == ["lo"])
        self.assertEqual(self.numbers(extract(recorder, "dmz")[0]), list(range(100)))
        self.check_account(recorder.call("status")["rings"][0]["account"])
        for command in WIRE:
            subprocess.run(enter + command.split(), check=True)
        wait_for(lambda: recorded() == ["lo", "v1"])
        self.send(enter, "v0", 100, 100)
        self.seen(recorder, 200)
        self.assertEqual(recorder.call("record.stop", ring="dmz")["recordings"], 2)
        self.assertEqual(self.numbers(extract(recorder, "dmz")[0]), list(range(200)))
        self.assertIn("recording-failed", [event["kind"] for event in recorder.call("events")["events"]])

    def test_a_recording_stands_across_a_crash(self):
        enter = make_namespace(self)
        recorder = self.start(prefix=enter)
        create_ring(recorder, "dmz", self.path("disk"))
        recorder.call("record.start", ring="dmz", interfaces=["v1"], snapshot_bytes=80)
        self.send(enter, "v0", 0, 100)
        self.seen(recorder, 100, "stored")
        recorder.kill()
        recorder = self.start(prefix=enter)
        wait_for(lambda: recorder.call("status")["rings"][0]["recordings"])
        self.send(enter, "v0", 100, 100)
        self.seen(recorder, 100)
        found = extract(recorder, "dmz")[0]
        self.assertEqual(self.numbers(found), list(range(200)))
        self.assertEqual({len(body) for _, body in found if body[12:14] == b"\x88\xb5"}, {80})
        recorder.call("record.stop", ring="dmz")
        recorder.stop()
        recorder = self.start(prefix=enter)
        time.sleep(1.5)
        self.assertEqual(recorder.call("status")["rings"][0]["recordings"], [])  # stopped is stopped


class Hostile(World):
    def setUp(self):
        super().setUp()
        self.recorder = self.start()

    def alive(self):
        self.assertEqual(self.recorder.call("hello")["version"], 1)

    def test_messages_that_are_none(self):
        chance = random.Random(7)
        for data in (b"\0\0\0\0", b"\xff\xff\xff\xff", struct.pack("<I", 1 << 20) + b"{", b"GET / HTTP/1.1\r\n\r\n",
                     struct.pack("<I", 2) + b"[]", struct.pack("<I", 4) + b"null", struct.pack("<I", 3) + b"{}}",
                     struct.pack("<I", 11) + b'{"a":"\xff\xfe"}', struct.pack("<I", 40) + b'{"a":' * 8,
                     struct.pack("<I", 100000) + b'{"a":' + b"[" * 99990 + b"}" * 5,
                     struct.pack("<I", 20) + b'{"id":1,"id":2,"x":0}',
                     struct.pack("<I", 16) + b'{"id":"\\u0000__"}', bytes(chance.randrange(256) for _ in range(5000))):
            with self.recorder.client() as client:
                try:
                    client.raw(data)
                    client.socket.shutdown(socket.SHUT_WR)
                    while client.socket.recv(4096):
                        pass
                except OSError as error:
                    self.assertIn(error.errno, (errno.EPIPE, errno.ECONNRESET))
            self.alive()

    def test_requests_that_are_none(self):
        for message in ({}, {"id": 1}, {"version": 1, "method": "hello"}, {"version": 1, "id": "1", "method": "hello"},
                        {"version": 2, "id": 1, "method": "hello"}, {"version": 1, "id": 1, "method": 7},
                        {"version": 1, "id": 1, "method": "hello", "params": []}):
            with self.recorder.client() as client:
                client.send(message)
                self.assertIn("error", client.receive())
        self.refused("unsupported", self.recorder, "no.such.method")
        self.refused("invalid", self.recorder, "hello", verbose=True)
        self.refused("invalid", self.recorder, "events", limit=0)
        self.refused("invalid", self.recorder, "events", limit=10**9)
        self.refused("not_found", self.recorder, "status", ring="x\x1b[2J\u2028")
        self.refused("invalid", self.recorder, "status", ring=["a"])

    def test_half_messages(self):
        held = []
        for data in (b"", b"\x10", b"\x10\0\0\0", b"\x10\0\0\0{\"version"):
            client = self.recorder.client()
            client.raw(data)
            held.append(client)
        self.alive()
        for client in held:
            client.close()
        self.alive()

    def test_a_flood_of_descriptors(self):
        with open(os.devnull) as nothing:
            before = len(os.listdir(f"/proc/{self.recorder.process.pid}/fd"))
            for count in (16, 17, 100, 250):
                for _ in range(20):
                    with self.recorder.client() as client:
                        try:
                            client.ask("hello", [nothing.fileno()] * count)
                            client.receive()
                        except (OSError, EOFError):
                            pass
        self.alive()
        wait_for(lambda: len(os.listdir(f"/proc/{self.recorder.process.pid}/fd")) <= before)

    def test_two_hundred_connections(self):
        clients = [self.recorder.client() for _ in range(200)]
        answers = []
        for client in clients:
            try:
                answers.append(client.call("hello")["version"])
            except RemoteError as error:
                answers.append(error.code)
            except OSError:
                answers.append("closed")
        self.assertEqual(answers.count(1), 160)
        self.assertEqual(answers.count("busy") + answers.count("closed"), 40)
        self.assertGreater(answers.count("busy"), 0)
        for client in clients:
            client.close()

        def free_again():
            try:
                return self.recorder.call("hello")["version"] == 1
            except (RemoteError, OSError):
                return False

        wait_for(free_again)

    def test_speaking_out_of_turn(self):
        create_ring(self.recorder, "dmz", self.path("disk"))
        with self.recorder.client() as client:
            client.ask("record.start", ring="dmz", backend="generator", attach=True, generator={"packets_per_s": 100})
            client.receive()
            client.ask("status")  # one request at a time
            with self.assertRaises((EOFError, AssertionError)):
                while True:
                    client.receive()["progress"]
        wait_for(lambda: self.recorder.call("ring.list")["rings"][0]["state"] == "idle")

    @unittest.skipUnless(ROOT, "becoming somebody else takes root")
    def test_strangers(self):
        os.chmod(self.directory, 0o755)
        os.chmod(self.path("state"), 0o755)
        os.chmod(self.path("state", "control.sock"), 0o666)  # even then
        stranger = ("import os,sys,socket\nos.setgroups([]); os.setresgid(65534,65534,65534); "
                    "os.setresuid(65534,65534,65534)\n"
                    "s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
                    "s.sendall(b'\\x2f\\0\\0\\0' + b'{\"version\":1,\"id\":1,\"method\":\"hello\",\"params\":{}}')\n"
                    "sys.exit(3 if s.recv(100) else 0)")
        ended = subprocess.run(["python3", "-c", stranger, self.path("state", "control.sock")], stderr=subprocess.PIPE)
        self.assertIn(ended.returncode, (0, 1), ended.stderr)  # closed without a word, or reset
        if ended.returncode == 1:
            self.assertRegex(ended.stderr.decode(), "reset|Broken pipe")
        self.alive()


if __name__ == "__main__":
    main()
