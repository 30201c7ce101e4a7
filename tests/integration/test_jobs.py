#!/usr/bin/env python3
"""Extractions that run in the recorder's care into files, and ranges that are kept under names: what a client gets, and what
is left after crashes, full disks and rings that go away.
"""

import json
import os
import random
import signal
import sqlite3
import stat
import struct
import subprocess
import time

import recorder_world
from recorder_world import (BIN, MIB, ROOT, RemoteError, World, children, conversations, create_ring, extract, import_packets, make_namespace,
                            numbered, packet, pcap, read_pcap, read_pcapng, thread, wait_for)

START_NS = 1_700_000_000 * 10**9
ENDED = ("done", "failed", "cancelled")


class Jobs(World):
    def open(self, ring_bytes=64 * MIB, packets=1000, **more):
        self.recorder = self.start(**more)
        create_ring(self.recorder, "dmz", self.path("disk"), ring_bytes)
        self.packets = numbered(packets)
        if packets:
            import_packets(self.recorder, "dmz", self.packets)

    def open_gated(self, **more):
        """Reading processes wait, before they begin, until self.gate() lets them."""
        os.mkdir(self.path("libexec"))
        program = self.path("libexec", "tapeloop-extract")
        with open(program, "w", encoding="ascii") as file:
            file.write(f"#!/bin/sh\nwhile [ ! -e {self.path('gate')} ]; do sleep 0.02; done\n"
                       f"exec {os.path.join(BIN, 'tapeloop-extract')}\n")
        os.chmod(program, 0o755)
        for path in (self.directory, self.path("libexec")):
            os.chmod(path, 0o755)
        self.environment = {"TAPELOOP_LIBEXEC": self.path("libexec")}
        self.open(environment=self.environment, **more)

    def gate(self, is_open=True):
        if is_open:
            with open(self.path("gate"), "w", encoding="ascii"):
                pass
        else:
            os.unlink(self.path("gate"))

    def begin(self, **params):
        return self.recorder.call("job.start", ring="dmz", **params)["job"]

    def done(self, **params):
        """A job that has been waited for, and must be done."""
        job = self.begin(wait=True, **params)
        self.assertEqual(job["state"], "done", job)
        return job

    def show(self, job):
        return self.recorder.call("job.show", job=str(job))["job"]

    def list(self, **params):
        return self.recorder.call("job.list", **params)["jobs"]

    def wait_end(self, job):
        wait_for(lambda: self.show(job)["state"] in ENDED)
        return self.show(job)

    def wait_running(self, *jobs):
        wait_for(lambda: all(self.show(job)["state"] == "running" for job in jobs))

    def fetch(self, job):
        with self.recorder.client() as client:
            _, descriptor = client.fetch(job)
        with os.fdopen(descriptor, "rb") as file:
            return file.read()

    def files(self):
        folder = self.path("state", "jobs")
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []

    def events(self, kind):
        return [event for event in self.recorder.call("events", limit=10000)["events"] if event["kind"] == kind]


class Results(Jobs):
    def test_a_result_is_what_extract_gives(self):
        self.open()
        for params in ({"format": "pcap"}, {"format": "pcapng"}, {"format": "pcap-us"}, {"format": "pcap", "headers": True},
                       {"format": "pcap", "from_ns": str(START_NS + 10_000), "to_ns": str(START_NS + 20_000)},
                       {"format": "pcap", "filter": "ip[0] < 128"}):
            job = self.begin(**params)
            self.assertIn(job["state"], ("waiting", "running", "done"))
            job = self.wait_end(job["number"])
            self.assertEqual((job["state"], job["complete"], job["share"], job["limit"], job["error"]),
                             ("done", True, 1, None, None), job)
            data = self.fetch(job["number"])
            self.assertEqual(len(data), job["output_bytes"])
            if params["format"] == "pcap":
                found, result = extract(self.recorder, "dmz", **{name: value for name, value in params.items() if name != "format"})
                self.assertEqual((read_pcap(data), job["packets"]), (found, result["packets"]))
        everything = self.done(format="pcap")
        self.assertTrue(self.fetch(everything["number"]) == pcap(self.packets))
        self.assertEqual(everything["oldest_ns"], str(START_NS))

    def test_stenographers_words_and_no_index(self):
        """The row says how it was asked for and what was made of it, its plan what was read for it; so does it after a restart."""
        self.open(packets=0)
        packets = conversations(20000, 2000)
        import_packets(self.recorder, "dmz", packets)
        wanted = [packet for packet in packets if packet[1][34:36] == struct.pack(">H", 1003)]
        query = "port 1003 and after 2023-11-14T22:13:20.005Z and before 2023-11-14T22:13:20.015Z"
        job = self.done(format="pcap", filter=query, query="steno")
        self.assertEqual(read_pcap(self.fetch(job["number"])), [p for p in wanted if 5_000_000 <= p[0] - START_NS < 15_000_000])
        self.assertEqual((job["query"], job["asked"], job["no_index"]), ("steno", query, False))
        self.assertEqual((job["from_ns"], job["to_ns"]), (str(START_NS + 5_000_000), str(START_NS + 15_000_000)))
        self.assertIn("1003", job["filter"])
        again = self.done(format="pcap", filter=job["filter"], from_ns=job["from_ns"], to_ns=job["to_ns"])
        self.assertEqual((again["query"], again["asked"], again["packets"]), ("pcap", None, job["packets"]))
        # A later bound of the request's own stays.
        later = str(START_NS + 10_000_000)
        self.assertEqual(self.done(filter=query, query="steno", from_ns=later)["from_ns"], later)

        by_index = self.done(format="pcap", filter="port 1003")
        without = self.done(format="pcap", filter="port 1003", no_index=True)
        self.assertEqual(self.fetch(by_index["number"]), self.fetch(without["number"]))
        self.assertEqual(read_pcap(self.fetch(without["number"])), wanted)
        _, plain = extract(self.recorder, "dmz", filter="port 1003")
        for name, value in by_index["plan"].items():
            if "run" not in name:  # they come when they do
                self.assertEqual(value, plain[name], name)
        self.assertEqual((by_index["plan"]["narrowing"], without["plan"]["narrowing"]), ("port 1003", ""))
        self.assertEqual((without["plan"]["segments_narrowed"], without["plan"]["packets_judged"]), (0, len(packets)))
        self.assertLess(by_index["plan"]["packets_judged"], len(packets))
        self.assertTrue(all("plan" not in row for row in self.list()))

        self.refused("invalid", self.recorder, "job.start", ring="dmz", filter="port 5", query="sql")
        self.assertIn("column 1", self.refused("invalid", self.recorder, "job.start", ring="dmz", filter="not tcp", query="steno"))
        self.assertIn("nothing of the range", self.refused("invalid", self.recorder, "job.start", ring="dmz", query="steno",
                                                           filter="before 1h ago", from_ns=str(time.time_ns())))
        kept = {row["number"]: self.show(row["number"]) for row in self.list()}
        self.recorder.stop()
        self.recorder = self.start()
        self.assertEqual({row["number"]: self.show(row["number"]) for row in self.list()}, kept)

    def test_jobs_of_an_earlier_version_are_shown(self):
        """Rows without what came later: the language, no_index and the plan."""
        self.open()
        number = self.done(format="pcap")["number"]
        self.recorder.stop()
        state = sqlite3.connect(self.path("state", "state.db"))
        self.addCleanup(state.close)  # not before: what is written stays in its log, for pages of the file have checksums of ours
        (text,) = state.execute("SELECT value FROM setting WHERE name = ?", (f".job.{number}",)).fetchone()
        row = {name: value for name, value in json.loads(text).items() if name not in ("query", "asked", "no_index", "plan")}
        self.assertEqual(len(row) + 4, len(json.loads(text)))
        state.execute("UPDATE setting SET value = ? WHERE name = ?", (json.dumps(row), f".job.{number}"))
        state.commit()
        self.recorder = self.start()
        job = self.show(number)
        self.assertEqual((job["state"], job["query"], job["asked"], job["no_index"], job["plan"]), ("done", "pcap", None, False, None))
        self.assertTrue(self.fetch(number) == pcap(self.packets))

    def test_a_descriptor_that_only_reads_and_outlives_the_file(self):
        self.open()
        job = self.done(format="pcap")
        folder = os.stat(self.path("state", "jobs"))
        self.assertEqual(stat.S_IMODE(folder.st_mode), 0o700)
        with self.recorder.client() as client:
            row, descriptor = client.fetch(job["number"])
        self.addCleanup(os.close, descriptor)
        self.assertEqual(row["tag"], job["tag"])
        with self.assertRaises(OSError):
            os.write(descriptor, b"x")
        self.recorder.call("job.delete", job=str(job["number"]))
        self.assertTrue(os.pread(descriptor, MIB, 0) == pcap(self.packets))
        self.assertEqual(self.files(), [])
        self.refused("not_found", self.recorder, "job.fetch", job=str(job["number"]))
        self.refused("not_found", self.recorder, "job.show", job=str(job["number"]))
        self.refused("not_found", self.recorder, "job.delete", job=str(job["number"]))
        self.assertGreater(self.done()["number"], job["number"])  # numbers are not given twice

    def test_limits(self):
        self.open()
        for limits, word in (({"packets_max": 10}, "packets"), ({"bytes_max": 5000}, "bytes"), ({"seconds_max": 3600}, None)):
            job = self.done(format="pcap", **limits)
            self.assertEqual((job["limit"], job["complete"]), (word, True), job)
            self.assertLessEqual(job["output_bytes"], limits.get("bytes_max", MIB))
            found = read_pcap(self.fetch(job["number"]))
            self.assertEqual(found, self.packets[:len(found)])
            self.assertEqual(len(found), limits.get("packets_max", job["packets"]))

    def test_what_cannot_be_is_refused_at_once(self):
        self.open()
        for code, params in (("invalid", {"filter": "this is no filter"}), ("invalid", {"format": "doc"}),
                             ("invalid", {"from_ns": "9000000000000000000"}), ("invalid", {"from_ns": "5", "to_ns": "5"}),
                             ("invalid", {"expires_ns": "9000000000000000000"}), ("invalid", {"name": "x", "expires_ns": "5"}),
                             ("invalid", {"seconds_max": 1 << 40}), ("invalid", {"wait": "yes"}), ("invalid", {"whatever": 1}),
                             ("not_found", {"ring": "none"})):
            self.refused(code, self.recorder, "job.start", **{"ring": "dmz", **params})
        for name in ("", "..", "../x", "a/b", "/etc/passwd", "-x", ".x", "17", "a b", "a\n", "ä", "x" * 64):
            self.refused("invalid", self.recorder, "job.start", ring="dmz", name=name)
        self.assertEqual((self.list(), self.files()), ([], []))
        for job in ("", "0", "1", "-1", "x", "../1", "1/../1", "99999999999999999999", "1 "):
            for method in ("job.show", "job.fetch", "job.cancel", "job.delete"):
                self.refused("not_found", self.recorder, method, job=job)

    def test_what_is_missing_is_recorded_with_it(self):
        """A damaged frame: its gap is in the row, in the file, and `complete` is false."""
        self.open(packets=100_000)
        self.recorder.stop()
        with open(self.path("disk"), "r+b") as disk:
            position = disk.read().find(packet(50_000))
            self.assertGreater(position, 0)
            disk.seek(position)
            disk.write(b"\xff" * 4)
        self.recorder = self.start()
        job = self.done(name="evidence")
        self.assertFalse(job["complete"])
        self.assertEqual((job["gaps_total"], [gap["reason"] for gap in job["gaps"]]), (1, ["damaged"]), job)
        _, comments = read_pcapng(self.fetch("evidence"))
        self.assertTrue(any("damaged on disk" in comment for comment in comments), comments)
        self.assertNotIn("gaps", self.list()[0])

    def test_who_did_it_is_written_down(self):
        self.open()
        with self.recorder.client() as client:
            client.send({"version": 1, "id": 1, "method": "job.start", "actor": {"user": "alice", "from": "192.0.2.9"},
                         "params": {"ring": "dmz", "name": "hers"}})
            client.number = 1
            self.assertEqual(client.answer()["job"]["user"], "alice")
        self.wait_end("hers")
        self.fetch("hers")
        self.refused("permission", self.recorder, "job.delete", job="hers", user="bob")
        self.recorder.call("job.delete", job="hers", user="alice")
        rows = self.recorder.call("audit.list", limit=100)["rows"]
        found = [(row["action"], row["outcome"].split(":")[0]) for row in rows if row["action"].startswith("job.")]
        self.assertEqual(found[0], ("job.start", "begun"))
        self.assertEqual(sorted(found), sorted([("job.start", "begun"), ("job.start", "done"), ("job.end", "done"),
                                                ("job.fetch", "begun"), ("job.fetch", "done"), ("job.delete", "begun"),
                                                ("job.delete", "permission"), ("job.delete", "begun"), ("job.delete", "done")]))
        end = next(row for row in rows if row["action"] == "job.end")
        self.assertIn("alice from 192.0.2.9", end["actor"])
        self.assertEqual((end["ring"], end["outcome"]), ("dmz", "done: 1000 packets"))


class Estimates(Jobs):
    def test_nothing_found_comes_with_what_is_known(self):
        self.open(packets=0)
        before = self.recorder.call("estimate", ring="dmz")
        self.assertEqual((before["packets"], before["seconds"], before["oldest_ns"], before["account"]["seen"]), (0, None, None, 0))
        self.recorder.call("rule.add", ring="dmz", rule="bpf \"tcp\" : discard")
        began = time.time_ns()
        self.recorder.call("record.start", ring="dmz", backend="generator", attach=True,
                           generator={"packets": 50_000, "packets_per_s": 1_000_000, "seed": 1})
        account = self.recorder.call("status")["rings"][0]["account"]
        self.assertGreater(account["discarded"], 1000)
        minute = {"from_ns": str(began - 60 * 10**9), "to_ns": str(began + 600 * 10**9)}
        wait_for(lambda: self.recorder.call("estimate", ring="dmz", **minute)["account"] == account)  # a second later
        earlier = self.recorder.call("estimate", ring="dmz", to_ns=str(began - 60 * 10**9), filter="udp")
        self.assertEqual((earlier["packets"], earlier["account"]["seen"]), (0, 0))
        self.assertGreater(int(earlier["oldest_ns"]), began - 10**9)
        self.done()
        found = self.recorder.call("estimate", ring="dmz", **minute)
        self.assertAlmostEqual(found["packets"], account["stored"], delta=2)
        self.assertGreater(found["seconds"], 0)


class Kept(Jobs):
    def test_what_is_kept_outlives_the_ring(self):
        self.open()
        job = self.done(name="incident-7", format="pcap", from_ns=str(START_NS), to_ns=str(START_NS + 500_000))
        self.assertEqual((job["name"], job["expires_ns"], job["packets"]), ("incident-7", None, 500))
        self.assertIn("incident-7", self.refused("exists", self.recorder, "job.start", ring="dmz", name="incident-7"))
        self.recorder.call("ring.delete", ring="dmz", wipe=True)
        self.assertEqual([one["name"] for one in self.list(ring="dmz")], ["incident-7"])
        self.assertEqual(self.recorder.stop(), 0)
        self.recorder = self.start()
        self.assertTrue(self.fetch("incident-7") == pcap(self.packets[:500]))
        self.recorder.call("job.delete", job="incident-7")
        self.assertEqual((self.list(), self.files()), ([], []))

    def test_results_go_when_their_time_is_over(self):
        self.open()
        self.assertTrue(self.recorder.call("ring.set", ring="dmz", settings={"job_keep": "1s"})["in_force"])
        self.done(name="for-good")
        self.done(name="for-a-while", expires_ns=str(time.time_ns() + 2 * 10**9))
        self.done()
        wait_for(lambda: [one["name"] for one in self.list()] == ["for-good"])
        self.assertEqual(len(self.files()), 1)
        wait_for(lambda: self.events("kept-expired"))
        self.assertIn("for-a-while", self.events("kept-expired")[0]["text"])
        self.done(name="for-a-while")  # the name is free again

    def test_each_has_a_quota_of_its_own(self):
        self.open(packets=30_000)  # 3 MiB, about 4 as a file
        self.recorder.call("ring.set", ring="dmz", settings={"job_bytes": "2M", "keep_bytes": "20M"})
        cut = self.done(format="pcap")
        self.assertEqual((cut["limit"], cut["complete"]), ("quota", False), cut)
        self.assertLessEqual(cut["output_bytes"], 2 * MIB)
        found = read_pcap(self.fetch(cut["number"]))
        self.assertEqual(found, self.packets[:len(found)])
        failed = self.begin(wait=True)
        self.assertEqual(failed["state"], "failed")
        self.assertIn("job_bytes", failed["error"])
        whole = self.done(name="whole", format="pcap")
        self.assertEqual((whole["limit"], whole["packets"]), (None, 30_000))
        self.recorder.call("job.delete", job=str(cut["number"]))
        self.assertEqual(self.done(format="pcap", packets_max=5000)["limit"], "packets")


class AtOnce(Jobs):
    def test_two_run_and_the_others_wait(self):
        self.open_gated()
        numbers = [self.begin(format="pcap")["number"] for _ in range(5)]
        self.wait_running(*numbers[:2])
        self.assertEqual([self.show(number)["state"] for number in numbers[2:]], ["waiting"] * 3)
        cancelled = self.recorder.call("job.cancel", job=str(numbers[3]))["job"]
        self.assertEqual(cancelled["state"], "cancelled")
        self.assertEqual(self.recorder.call("job.cancel", job=str(numbers[0]))["job"]["state"], "cancelled")
        self.wait_running(numbers[1], numbers[2])
        self.refused("busy", self.recorder, "job.cancel", job=str(numbers[0]))
        self.recorder.call("job.delete", job=str(numbers[1]))  # it is running
        self.recorder.call("job.delete", job=str(numbers[3]))
        self.gate()
        for number in (numbers[2], numbers[4]):
            self.assertEqual(self.wait_end(number)["state"], "done")
            self.assertTrue(self.fetch(number) == pcap(self.packets))
        self.assertEqual([one["number"] for one in self.list()], [numbers[0], numbers[2], numbers[4]])
        self.assertEqual(self.files(), [f"job-{number}.pcap" for number in (numbers[2], numbers[4])])

    def test_room_is_set_aside(self):
        """Two that might take the whole quota do not run at once, and the second gets what the first has left, before others
        that came later and need little."""
        self.open_gated(packets=30_000)
        self.recorder.call("ring.set", ring="dmz", settings={"job_bytes": "7M"})
        first, second = self.begin(format="pcap", packets_max=1000)["number"], self.begin(format="pcap")["number"]
        self.wait_running(first)
        # it begins, sees that there is no room, and waits again
        wait_for(lambda: self.show(second)["started_ns"] is not None and self.show(second)["state"] == "waiting")
        small, elsewhere = self.begin(bytes_max=5000)["number"], self.begin(name="elsewhere")["number"]
        self.wait_running(elsewhere)
        wait_for(lambda: len(self.files()) == 2)  # of those that run: it is made a moment after that is said
        self.assertEqual([self.show(second)["state"], self.show(small)["state"]], ["waiting", "waiting"])
        self.gate()
        self.assertEqual(self.wait_end(first)["limit"], "packets")
        job = self.wait_end(second)
        self.assertEqual((job["state"], job["packets"], job["limit"]), ("done", 30_000, None), job)
        self.assertGreater(int(self.wait_end(small)["started_ns"]), int(job["started_ns"]))

    def test_a_client_that_waits_may_go(self):
        self.open_gated()
        client = self.recorder.client()
        client.ask("job.start", ring="dmz", wait=True)
        wait_for(lambda: len(self.list()) == 1)
        number = self.list()[0]["number"]
        self.wait_running(number)
        client.close()
        self.gate()
        self.assertEqual(self.wait_end(number)["state"], "done")

    def test_a_ring_that_goes(self):
        self.open_gated()
        numbers = [self.begin()["number"] for _ in range(3)]
        self.wait_running(*numbers[:2])
        self.assertIn("in use", self.refused("busy", self.recorder, "ring.delete", ring="dmz"))
        for number in numbers[:2]:
            self.recorder.call("job.cancel", job=str(number))
        self.wait_running(numbers[2])
        self.recorder.call("job.cancel", job=str(numbers[2]))
        self.recorder.call("ring.delete", ring="dmz", wipe=True)
        self.gate()
        create_ring(self.recorder, "dmz", self.path("disk2"), 64 * MIB)
        self.assertEqual(self.begin(wait=True)["packets"], 0)


class Survives(Jobs):
    def test_a_killed_worker(self):
        self.open_gated()
        number = self.begin(format="pcap")["number"]
        self.wait_running(number)
        wait_for(lambda: children(self.recorder.process.pid))
        for child in children(self.recorder.process.pid):
            os.kill(child, signal.SIGSEGV)
        job = self.wait_end(number)
        self.assertEqual(job["state"], "failed")
        self.assertIn("signal", job["error"])
        self.assertEqual(self.files(), [])
        wait_for(lambda: len(self.events("job-failed")) == 1)
        self.gate()
        self.assertTrue(self.fetch(self.done(format="pcap")["number"]) == pcap(self.packets))

    def check_interrupted(self, numbers, whole):
        """After a restart: what was under way has failed and says so, its files are gone; what was done is there."""
        self.gate()
        self.recorder = self.start()
        for number in numbers:
            job = self.show(number)
            self.assertEqual((job["state"], job["packets"] or 0), ("failed", 0), job)
            self.assertIn("recorder", job["error"])
            self.refused("not_found", self.recorder, "job.fetch", job=str(number))
        self.assertTrue(self.fetch("whole") == pcap(self.packets))
        self.assertEqual(self.files(), [f"job-{whole}.pcap", "job-of-somebody-else.pcap"])
        self.assertTrue(self.recorder.call("audit.verify")["clean"])
        self.assertTrue(self.fetch(self.done(format="pcap")["number"]) == pcap(self.packets))

    def interrupted(self):
        self.open_gated()
        self.gate()
        whole = self.done(name="whole", format="pcap")["number"]
        self.gate(False)
        numbers = [self.begin()["number"] for _ in range(3)]
        self.wait_running(*numbers[:2])
        wait_for(lambda: len(self.files()) == 3)
        with open(self.path("state", "jobs", "job-of-somebody-else.pcap"), "w", encoding="ascii"):
            pass
        return numbers, whole

    def test_a_killed_recorder(self):
        numbers, whole = self.interrupted()
        self.recorder.kill()
        self.assertEqual(len(self.files()), 4)
        with open(self.path("state", "jobs", "job-999.pcapng"), "w", encoding="ascii"):
            pass
        self.check_interrupted(numbers, whole)
        wait_for(lambda: len(self.events("job-failed")) == 3)

    def check_whole(self):
        """Every job has ended, and there are the files of those that are done and no others. How many are."""
        jobs = self.list()
        for job in jobs:
            self.assertIn(job["state"], ENDED, job)
        done = [job["number"] for job in jobs if job["state"] == "done"]
        self.assertEqual(self.files(), sorted(f"job-{number}.pcap" for number in done))
        for number in done:
            self.assertTrue(self.fetch(number) == pcap(self.packets))
        return len(done)

    def test_a_recorder_that_is_killed_at_any_moment(self):
        self.open(packets=20_000)
        seed = random.randrange(1 << 30)
        print(f"seed {seed}", flush=True)
        chance = random.Random(seed)
        counts = []
        for _ in range(8):
            for _ in range(3):
                self.begin(format="pcap")
            if self.list()[0]["state"] in ENDED:
                self.recorder.call("job.delete", job=str(self.list()[0]["number"]))
            time.sleep(chance.random() * 0.12)
            self.recorder.kill()
            self.recorder = self.start()
            counts.append(self.check_whole())
        print(f"done after each kill: {counts}", flush=True)
        self.assertTrue(self.recorder.call("audit.verify")["clean"])

    def test_a_recorder_that_ends(self):
        numbers, whole = self.interrupted()
        self.assertEqual(self.recorder.stop(), 0)
        self.check_interrupted(numbers, whole)

    def test_a_file_that_was_cut_or_is_gone(self):
        self.open()
        cut, gone = self.done()["number"], self.done()["number"]
        os.truncate(self.path("state", "jobs", f"job-{cut}.pcapng"), 10)
        os.unlink(self.path("state", "jobs", f"job-{gone}.pcapng"))
        self.refused("corrupt", self.recorder, "job.fetch", job=str(cut))
        self.refused("not_found", self.recorder, "job.fetch", job=str(gone))
        for number in (cut, gone):
            self.recorder.call("job.delete", job=str(number))

    def small_disk(self, size):
        """The folder of results on a file system of its own; or the test is skipped."""
        if not ROOT:
            self.skipTest("mounting takes root")
        os.makedirs(self.path("small"))
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", self.path("small")], stderr=subprocess.PIPE,
                              check=False)
        if made.returncode != 0:
            self.skipTest("no tmpfs here: " + made.stderr.decode())
        self.addCleanup(subprocess.run, ["umount", "-l", self.path("small")], check=True)
        os.symlink(self.path("small"), self.path("state", "jobs"))

    def test_a_small_disk(self):
        """A disk that cannot take the result gets a part of it, and a twentieth of it stays free."""
        self.open(packets=30_000)
        self.small_disk("3m")
        job = self.done(format="pcap")
        self.assertEqual((job["limit"], job["complete"]), ("disk", False), job)
        found = read_pcap(self.fetch(job["number"]))
        self.assertEqual(found, self.packets[:len(found)])
        self.assertGreater(len(found), 10_000)
        self.assertIn("of the disk", self.begin(wait=True)["error"])

    def test_a_disk_that_fills_up_meanwhile(self):
        self.open_gated(packets=30_000)
        self.small_disk("8m")
        number = self.begin(format="pcap")["number"]
        self.wait_running(number)
        wait_for(lambda: os.listdir(self.path("small")))
        other = os.open(self.path("small", "other"), os.O_WRONLY | os.O_CREAT)
        try:
            while os.write(other, bytes(4096)):
                pass
        except OSError:
            os.close(other)
        self.gate()
        job = self.wait_end(number)
        self.assertEqual(job["state"], "failed")
        self.assertIn("No space left", job["error"])
        self.assertEqual(os.listdir(self.path("small")), ["other"])
        os.unlink(self.path("small", "other"))
        self.assertTrue(self.fetch(self.done(format="pcap")["number"]) == pcap(self.packets))

    def test_while_it_records(self):
        """The last minute of what is being recorded, kept: everything that came before the call is in it."""
        enter = make_namespace(self)
        self.open(packets=0, prefix=enter)
        self.recorder.call("record.start", ring="dmz", interfaces=["v1"])
        sent = int(subprocess.run([*enter, os.path.join(os.environ["TAPELOOP_TEST_BIN"], "tapeloop-traffic"), "v0", "20000", "1"],
                                  stdout=subprocess.PIPE, check=True).stdout)
        wait_for(lambda: self.recorder.call("status")["rings"][0]["account"]["seen"] >= sent)
        job = self.done(name="last-minute", from_ns=str(time.time_ns() - 60 * 10**9))
        self.assertEqual((job["packets"], job["complete"]), (sent, True), job)
        self.recorder.call("record.stop", ring="dmz")


class AnyOrder(Jobs):
    OPERATIONS = 40  # of each client
    CLIENTS = 6

    def client(self, seed, wrong):
        """Does what comes to mind, with jobs of its own and of others. What comes out of a job is a beginning of what is stored."""
        chance = random.Random(seed)
        whole = pcap(self.packets)
        try:
            for _ in range(self.OPERATIONS):
                jobs = self.list()
                job = str(chance.choice(jobs)["number"]) if jobs else "1"
                what = chance.choice(("start", "start", "wait", "keep", "cancel", "delete", "fetch", "fetch", "show", "kill"))
                try:
                    if what in ("start", "wait"):
                        self.begin(format="pcap", wait=what == "wait", packets_max=chance.choice((0, 1, 700)))
                    elif what == "keep":
                        self.begin(format="pcap", name=chance.choice("abc"))
                    elif what == "fetch":
                        data = self.fetch(job)
                        if data != whole[:len(data)]:
                            wrong.append(f"job {job}: {len(data)} bytes that are not stored")
                    elif what == "kill":
                        for child in children(self.recorder.process.pid)[:1]:
                            os.kill(child, signal.SIGKILL)
                    else:
                        self.recorder.call("job." + what, job=job)
                except RemoteError as error:
                    if error.code not in ("not_found", "busy", "exists", "closed"):
                        wrong.append(f"{what}: {error}")
                except ProcessLookupError:
                    pass  # it has ended by itself
        except Exception as error:  # pylint: disable=broad-except
            wrong.append(f"seed {seed}: {error!r}")

    def test_many_clients_in_any_order(self):
        """Whatever they do to the same jobs at the same time, and whatever worker dies: each job ends in a state that holds, and nothing
        is left of those that are deleted."""
        self.open()
        pid = self.recorder.process.pid
        self.recorder.call("job.delete", job=str(self.done()["number"]))  # what is made once is made
        before = len(os.listdir(f"/proc/{pid}/fd"))
        seed = random.randrange(1 << 30)
        print(f"seed {seed}", flush=True)
        wrong = []
        clients = [thread(self.client, seed + i, wrong) for i in range(self.CLIENTS)]
        for one in clients:
            one.join()
        self.assertEqual(wrong, [])
        for job in self.list():
            job = self.wait_end(job["number"])
            has_file = os.path.exists(self.path("state", "jobs", f"job-{job['number']}.pcap"))
            self.assertEqual(has_file, job["state"] == "done", job)
            self.assertEqual(job["error"] is None, job["state"] == "done", job)
        self.assertEqual(self.recorder.stop(), 0)
        self.recorder = self.start()
        pid = self.recorder.process.pid
        for job in self.list():
            self.assertIn(job["state"], ENDED)
            self.recorder.call("job.delete", job=str(job["number"]))
        self.assertEqual((self.list(), self.files()), ([], []))
        self.assertEqual(children(pid), [])
        wait_for(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= before)
        self.assertTrue(self.recorder.call("audit.verify")["clean"])


if __name__ == "__main__":
    recorder_world.main()
