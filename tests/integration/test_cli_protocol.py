#!/usr/bin/env python3
"""The tapeloop command against a recorder that is made up: what it asks, what it shows, what it bears."""

import errno
import fcntl
import json
import os
import pty
import random
import re
import select
import shutil
import signal
import stat
import struct
import subprocess
import termios
import threading
import time
import unittest

from cli_world import BIN, HELLO, SOURCE, TAPELOOP, World, main, skip

RING = {"name": "dmz", "id": "00" * 16, "copies": 1, "slot_bytes": 4 << 20, "state": "idle", "error": None,
        "disks": 1, "total_bytes": 1 << 30, "used_bytes": 1 << 28, "oldest_ns": "1700000000000000000",
        "newest_ns": "1700000600500000000", "packets": 1234}
DISK = {"ring": "dmz", "number": 1, "id": "11" * 16, "path": "/data/dmz.disk", "bytes": 1 << 30, "slots": 256,
        "free_slots": 200, "state": "active", "read_errors": 0, "write_errors": 0, "written_bytes": 1 << 29,
        "in_flight_bytes": 0}
LINES = ["seen", "stored", "in_flight", "discarded", "duplicates", "sampled_out", "dropped_queue",
         "dropped_kernel", "lost_disk", "refused"]


def account(**packets):
    whole = dict.fromkeys(LINES, 0)
    whole.update(packets)
    return whole


COMMANDS = ["ring create", "ring list", "ring show", "ring set", "ring delete", "ring adopt", "disk list", "disk add",
            "disk remove", "disk resume", "disk replace", "disk locate", "rule list", "rule add", "rule test",
            "rule set", "rule move", "rule delete", "rule replace", "run", "record",
            "import", "estimate", "extract", "keep", "job start", "job list", "job show", "job get", "job cancel", "job delete", "purge", "verify", "rebuild", "status", "history", "events", "audit list", "audit verify", "flush", "interfaces",
            "shutdown", "version", "help"]


class Words(World):
    """Command lines, before any recorder is asked."""

    def test_refusals(self):
        table = [
            ([], "no command"),
            (["extrct"], 'did you mean "extract"'),
            (["rng", "list"], 'did you mean "ring"'),
            (["ring"], "tapeloop ring --help"),
            (["ring", "crate", "x"], 'did you mean "ring create"'),
            (["create"], 'did you mean "ring create"'),
            (["xyzzy"], "tapeloop help"),
            (["xy\x1b[2Jzzy"], r"xy\\x1b\[2Jzzy"),
            (["status", "--wach"], "did you mean --watch"),
            (["status", "--jsno"], "did you mean --json"),
            (["status", "-Z"], "no option -Z"),
            (["status", "--watch=yes"], "takes no value"),
            (["status", "a", "b"], '"b" is one word too many'),
            (["status", "a/b"], "ring name"),
            (["extract"], "extract RING"),
            (["extract", "dmz", "--from"], "wants a value"),
            (["extract", "dmz", "--from", "-1h", "--from", "-2h"], "given twice"),
            (["extract", "dmz", "--from", "yesterday"], "--from: time .yesterday."),
            (["extract", "dmz", "--to", "2023-02-30T00:00:00Z"], "no such date"),
            (["extract", "dmz", "--from", "-1h", "--to", "-2h"], "not before"),
            (["extract", "dmz", "--format", "erf"], "pcapng, pcap or pcap-us"),
            (["extract", "dmz", "--packets-max", "many"], "--packets-max"),
            (["extract", "dmz", "--packets-max", "0"], "--packets-max"),
            (["extract", "dmz", "-c", "99999999999999999999"], "--packets-max"),
            (["extract", "dmz", "--bytes-max", "12Q"], "size"),
            (["extract", "..", "-w", "x"], "ring name"),
            (["ring", "create", "-", "--disk", "x:1G"], "ring name"),
            (["ring", "create", "a b", "--disk", "x:1G"], "ring name"),
            (["ring", "create", "x" * 64, "--disk", "x:1G"], "ring name"),
            (["ring", "create", "dmz", "--disk", "x:12Q"], "size .12Q."),
            (["ring", "create", "dmz", "--disk", "x:"], "size"),
            (["ring", "create", "dmz", "--disk", ":1G"], "PATH"),
            (["ring", "create", "dmz", "--disk", "x:9999999P"], "PiB"),
            (["ring", "create", "dmz", "--disk", "x:1G", "--copies", "5"], "from 1 to 4"),
            (["ring", "create", "dmz", "--disk", "x:1G", "--copies", "-1"], "from 1 to 4"),
            (["ring", "create", "dmz", "--disk", "x:1G", "--segment-size", "3M"], "power of two"),
            (["ring", "create", "dmz", "--disk", "x:1G", "--segment-size", "128M"], "power of two"),
            (["ring", "create", "dmz", "--disk", "x:1G", "--segment-size", "lots"], "--segment-size: size"),
            (["ring", "set", "dmz"], "which setting"),
            (["ring", "set", "flush_window=1s"], "max-rings"),
            (["ring", "set"], "KEY=VALUE"),
            (["disk", "add", "dmz"], "PATH"),
            (["disk", "add", "dmz", "x:12Q"], "size .12Q."),
            (["disk", "add", "a b", "x:1G"], "ring name"),
            (["disk", "remove", "dmz"], "DISK"),
            (["disk", "remove", "..", "1"], "ring name"),
            (["disk", "replace", "dmz", "1"], "PATH"),
            (["disk", "locate", "1"], "on.off"),
            (["disk", "locate", "1", "blue"], "on or off"),
            (["ring", "set", "dmz", "flush_window"], "KEY=VALUE"),
            (["ring", "set", "dmz", "flush=1s"], "flush_window"),
            (["ring", "set", "dmz", "flush_window=1ms"], "flush_window"),
            (["ring", "adopt"], "which disks"),
            (["record", "dmz"], "tapeloop interfaces"),
            (["record", "dmz", "-i", "eth0", "-i", "eth0"], "given twice"),
            (["record", "dmz", "-i", ""], "no such name"),
            (["record", "dmz", "-i", "eth0", "--backend", "dpdk"], "generator"),
            (["record", "dmz", "-i", "eth0", "--for", "5"], "--for: duration"),
            (["record", "dmz", "-i", "eth0", "--for", "0s"], "--for"),
            (["record", "dmz", "-i", "eth0", "--snapshot-length", "3"], "--snapshot-length"),
            (["record", "dmz", "-i", "eth0", "--buffer", "8G"], "4 GiB"),
            (["record", "dmz", "-i", "eth0", "--detach", "--for", "5s"], "exclude"),
            (["record", "dmz", "-i", "eth0", "--stop"], "--stop"),
            (["record", "dmz", "-i", "eth0", "--outgoing", "--no-outgoing"], "exclude"),
            (["import", "dmz"], "FILE"),
            (["import", "dmz", "-", "-"], "once only"),
            (["history", "dmz", "--from", "now", "--to", "-1h"], "not before"),
            (["events", "--limit", "0"], "--limit"),
            (["audit", "list", "--limit", "0"], "--limit"),
            (["audit", "verify", "--head", "x"], "--head"),
            (["audit", "verify", "--head", "0:ab"], "--head"),
            (["rule", "add", "dmz"], "TEXT"),
            (["rule", "add", "dmz", "vlan 5x : full"], "column 6: expected a VLAN id"),
            (["rule", "add", "dmz", "all", ":", "fool"], "column 7: expected an action"),
            (["rule", "add", "dmz", "all : full", "--at", "0"], "--at"),
            (["rule", "set", "dmz", "one", "all : full"], "number of a rule"),
            (["rule", "set", "dmz", "0", "all : full"], "number of a rule"),
            (["rule", "move", "dmz", "1", "sideways"], "up or down"),
            (["rule", "delete", "dmz", "5000"], "number of a rule"),
            (["help", "extrct"], 'did you mean "extract"'),
        ]
        before = self.tree(self.directory)
        for words, says in table:
            with self.subTest(words=words):
                self.refused(*words, status=2, says=says)
        self.assertEqual(self.tree(self.directory), before)

    def test_what_later_versions_will_have_is_refused_by_name(self):
        table = [
            (["analyze", "dmz"], "analyze"),
            (["ring", "create", "x", "--encrypt", "aes"], "encrypt"),
            (["ring", "create", "x", "--key-file", "k"], "encrypt"),
            (["--server", "https://other", "status"], "ssh"),
        ]
        overview = everything = self.run_command("help", status=0).out
        for name in COMMANDS:
            everything += self.run_command(*name.split(), "--help", status=0).out
        for words, says in table:
            with self.subTest(words=words):
                self.refused(*words, status=2, says=says)
                for word in words:
                    if word.startswith("--") and word != "--state":
                        self.assertNotIn(word, everything)
        for name in ["analyze"]:
            self.assertNotIn(f"\n  {name} ", overview)

    def test_every_command_has_help(self):
        overview = self.run_command("help", status=0).out
        self.assertEqual(overview, self.run_command("--help", status=0).out)
        for name in COMMANDS:
            with self.subTest(command=name):
                self.assertRegex(overview, rf"(?m)^  {name} ")
                text = self.run_command(*name.split(), "--help", status=0).out
                self.assertTrue(text.startswith(f"usage: tapeloop {name}"), text)
                self.assertRegex(text, r"(?m)^examples:\n  \S")
                self.assertIn("--state DIR", text)
                self.assertEqual(text, self.run_command("help", *name.split(), status=0).out)
                for line in text.splitlines():
                    self.assertNotIn("\t", line)
        self.assertIn("ring adopt", self.run_command("ring", "--help", status=0).out)
        self.assertNotIn("extract", self.run_command("help", "ring", status=0).out)

    def test_manual_and_completion_know_every_option(self):
        def file(*names):
            with open(os.path.join(SOURCE, "packaging", *names), encoding="ascii") as opened:
                return opened.read().replace("\\-", "-")
        manual = file("man", "tapeloop.1")
        completion = file("completions", "tapeloop.bash")
        listed = set()
        for name in COMMANDS:
            text = self.run_command(*name.split(), "--help", status=0).out
            options = re.findall(r"(?m)^  (?:-., |    )--([a-z-]+)", text)
            self.assertIn("json", options)
            for option in options:
                with self.subTest(command=name, option=option):
                    self.assertRegex(manual, rf"--{option}\b")
                    self.assertRegex(completion, rf"--{option}\b")
                listed.add(option)
            self.assertIn(name, manual)
        for option in re.findall(r"(?<![\w-])--([a-z][a-z-]+)", completion):
            self.assertIn(option, listed)

    def test_version(self):
        self.assertRegex(self.run_command("version", status=0).out, r"^tapeloop \d+\.\d+\.\d+\n$")
        self.assertEqual(self.run_command("--version", status=0).out, self.run_command("version", status=0).out)
        self.assertEqual(json.loads(self.run_command("version", "--json", status=0).out)["protocol"], 1)

    def test_errors_as_json(self):
        for words in (["--json", "extrct"], ["extract", "dmz", "--from", "x", "--json"]):
            done = self.run_command(*words, status=2)
            self.assertEqual(done.out, "")
            self.assertEqual(json.loads(done.err)["error"]["code"], "invalid")

    def test_options_in_every_place(self):
        fake = self.fake(status={"rings": []}, disk_list={"disks": []})
        for words in (["--json", "status"], ["status", "--json"], ["-q", "status", "--json"]):
            self.assertEqual(self.run_command(*words, status=0).out, '{"rings":[]}\n')
        self.assertEqual(len(fake.asked("status")), 3)

    def test_state_from_the_environment(self):
        self.fake(status={"rings": []})
        environment = dict(os.environ, TAPELOOP_STATE=self.state)
        done = subprocess.run([self.tapeloop, "status", "--json"], env=environment, stdout=subprocess.PIPE,
                              check=True)
        self.assertEqual(json.loads(done.stdout), {"rings": []})

    def test_full_standard_output_is_a_failure(self):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([self.tapeloop, "help"], stdout=full, stderr=subprocess.PIPE, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"No space left", done.stderr)

    def test_closed_standard_descriptors(self):
        done = subprocess.run(["sh", "-c", f'"{self.tapeloop}" version >&- 2>&- <&-'], check=False)
        self.assertIn(done.returncode, (0, 1))


class Questions(World):
    """What is asked of the recorder, and how its answers look."""

    def params(self, fake, method):
        asked = fake.asked(method)
        self.assertEqual(len(asked), 1)
        self.assertEqual(asked[0]["version"], 1)
        return asked[0]["params"]

    def test_ring_create(self):
        fake = self.fake(ring_create={"ring": RING})
        done = self.run_command("ring", "create", "dmz", "--disk", "dmz.disk:1G", "--disk", "/dev/with:colon",
                                "--disk", "/dev/by-path/pci:10:0", "--copies", "2", "--segment-size", "4M",
                                "--force", status=0, cwd=self.directory)
        self.assertEqual(self.params(fake, "ring.create"), {
            "name": "dmz", "copies": 2, "slot_bytes": 4 << 20, "force": True,
            "disks": [{"path": self.path("dmz.disk"), "bytes": 1 << 30}, {"path": "/dev/with:colon", "bytes": 0},
                      {"path": "/dev/by-path/pci:10", "bytes": 0}]})
        self.assertIn("ring dmz: idle", done.out)
        self.assertIn("1.0 GiB on 1 disk", done.out)
        self.assertIn("2023-11-14T22:13:20.000000000Z", done.out)

    def test_a_file_whose_name_ends_like_a_bad_size(self):
        fake = self.fake(ring_create={"ring": RING})
        path = self.write("disk:1x", "")
        self.run_command("ring", "create", "dmz", "--disk", path, status=0)
        self.assertEqual(self.params(fake, "ring.create")["disks"], [{"path": path, "bytes": 0}])

    def test_rings(self):
        fake = self.fake(ring_list={"rings": [RING, dict(RING, name="lab", oldest_ns=None)]},
                         ring_show=dict(RING, disks=[DISK], settings={"flush_window": "1s"}, interfaces=[]),
                         ring_set={"settings": {"flush_window": "250ms"}}, ring_delete={},
                         ring_adopt={"ring": RING, "report": {"segments_found": 12}})
        listed = self.run_command("ring", "list", status=0).out.splitlines()
        self.assertEqual(listed[0].split()[:2], ["RING", "STATE"])
        self.assertEqual([line.split()[0] for line in listed], ["RING", "dmz", "lab"])
        shown = self.run_command("ring", "show", "dmz", status=0).out
        self.assertIn("/data/dmz.disk", shown)
        self.assertRegex(shown, r"flush_window +1s")
        self.assertEqual(self.params(fake, "ring.show"), {"ring": "dmz"})
        self.assertIn("250ms", self.run_command("ring", "set", "dmz", "flush_window=250ms", "buffer_bytes=64M",
                                                status=0).out)
        self.assertEqual(self.params(fake, "ring.set"),
                         {"ring": "dmz", "settings": {"flush_window": "250ms", "buffer_bytes": "64M"}})
        self.run_command("ring", "delete", "dmz", "--wipe", status=0)
        self.assertEqual(self.params(fake, "ring.delete"), {"ring": "dmz", "wipe": True})
        adopted = self.run_command("ring", "adopt", "--disk", "/a", "/b", "--name", "x", status=0).out
        self.assertEqual(self.params(fake, "ring.adopt"), {"disks": ["/a", "/b"], "name": "x"})
        self.assertRegex(adopted, r"segments_found +12")

    def test_disks_that_come_and_go(self):
        answer = {"disk": {"ring": "dmz", "number": 2, "id": "ab" * 16, "path": "/dev/sdc", "bytes": 1, "state": "active"},
                  "report": {}}
        fake = self.fake(disk_add=answer, disk_remove=answer, disk_resume=answer, disk_replace=answer, disk_locate={},
                         ring_set={"settings": {"max_rings": "8"}})
        done = self.run_command("disk", "add", "dmz", "second.disk:1G", "--force", status=0, cwd=self.directory)
        self.assertEqual(self.params(fake, "disk.add"), {
            "ring": "dmz", "disk": {"path": self.path("second.disk"), "bytes": 1 << 30}, "force": True})
        self.assertIn("Disk 2 of ring dmz (/dev/sdc) is added.", done.err)
        self.run_command("disk", "remove", "dmz", "2", status=0)
        self.assertEqual(self.params(fake, "disk.remove"), {"ring": "dmz", "disk": "2", "forget": False})
        self.run_command("disk", "resume", "dmz", "./second.disk", "--force", status=0, cwd=self.directory)
        self.assertEqual(self.params(fake, "disk.resume"),
                         {"ring": "dmz", "disk": self.path(".", "second.disk"), "force": True})
        done = self.run_command("disk", "replace", "dmz", "abab12", "/dev/sdd", "--json", status=0)
        self.assertEqual(self.params(fake, "disk.replace"), {
            "ring": "dmz", "disk": "abab12", "with": {"path": "/dev/sdd", "bytes": 0}, "force": False})
        self.assertEqual(json.loads(done.out), answer)
        self.run_command("disk", "locate", "/dev/sdc", "on", status=0)
        self.assertEqual(self.params(fake, "disk.locate"), {"disk": "/dev/sdc", "on": True})
        self.run_command("ring", "set", "max-rings=8", status=0)
        self.assertEqual(self.params(fake, "ring.set"), {"ring": None, "settings": {"max_rings": "8"}})

    def test_disks_that_are_away_are_listed_apart(self):
        away = dict(DISK, number=3, state="missing", path="/dev/sdx", last_seen_ns="1700000000000000000",
                    device="wwn:0x5000c500a1b2c3d4")
        self.fake(disk_list={"disks": [DISK, away, dict(away, number=4, state="removed", path="/dev/sdy")]})
        lines = self.run_command("disk", "list", status=0).out.splitlines()
        apart = lines.index("not there:")
        self.assertIn("/data/dmz.disk", "\n".join(lines[:apart]))
        self.assertNotIn("/dev/sdx", "\n".join(lines[:apart]))
        self.assertRegex("\n".join(lines[apart:]), r"missing .*2023-11-14T22:13:20.*wwn:0x5000c500a1b2c3d4 +/dev/sdx")
        self.assertIn("/dev/sdy", "\n".join(lines[apart:]))

    def test_no_rings(self):
        self.fake(ring_list={"rings": []})
        done = self.run_command("ring", "list", status=0)
        self.assertEqual(done.out, "")
        self.assertIn("ring create", done.err)
        self.assertEqual(self.run_command("ring", "list", "-q", status=0).err, "")

    def test_small_questions(self):
        fake = self.fake(disk_list={"disks": [DISK]}, flush={}, shutdown={}, ring_rebuild={"report": {"slots_read": 9}},
                         interfaces={"interfaces": [{"name": "eth0", "up": True, "link_type": 1, "mtu": 1500,
                                                     "speed_mbps": None}]},
                         events={"events": [{"number": 7, "time_ns": "1700000000000000000", "severity": "warning",
                                             "kind": "drops-begin", "ring": "dmz", "text": "drops"}]},
                         history={"rows": [dict(account(seen=5, stored=4, dropped_kernel=1), second=1700000000,
                                                interface="eth0", stored_bytes=400)]})
        self.assertIn("/data/dmz.disk", self.run_command("disk", "list", "dmz", status=0).out)
        self.assertEqual(self.params(fake, "disk.list"), {"ring": "dmz", "oldest": True})
        self.assertEqual(self.run_command("flush", "dmz", status=0).out, "")
        self.run_command("shutdown", status=0)
        self.assertRegex(self.run_command("rebuild", "dmz", status=0).out, r"slots_read +9")
        self.assertRegex(self.run_command("interfaces", status=0).out, r"eth0 +up +1 +1500 +-")
        self.assertIn("2023-11-14T22:13:20.000000000Z  warning  drops-begin, ring dmz: drops",
                      self.run_command("events", "--after", "6", "--limit", "3", status=0).out)
        self.assertEqual(self.params(fake, "events"), {"after": 6, "limit": 3})
        history = self.run_command("history", "dmz", "--from", "1700000000", "--to", "1700000001.5", "-i", "eth0",
                                   status=0).out
        self.assertRegex(history, r"2023-11-14T22:13:20Z  eth0 +5 +4 +1 +400\n$")
        self.assertEqual(self.params(fake, "history"),
                         {"ring": "dmz", "interface": "eth0", "from_s": 1700000000, "to_s": 1700000001})

    def test_status_adds_up(self):
        accounts = [account(seen=10, stored=7, in_flight=1, dropped_queue=2), account(seen=5, stored=5)]
        whole = account(seen=15, stored=12, in_flight=1, dropped_queue=2)
        self.fake(disk_list={"disks": [DISK, dict(DISK, ring="other", path="/data/other")]},
                  status={"recorder": {}, "rings": [{
                      "ring": dict(RING, state="recording"), "account": whole, "account_bytes": whole,
                      "interfaces": [{"name": f"eth{i}", "link_type": 1, "stream": i, "account": accounts[i]}
                                     for i in range(2)],
                      "in_flight_bytes": 4096, "buffers": {"total": 64, "free": 60}, "durable_copies": 1,
                      "degraded": False, "reach_back_s": 800.0, "bytes_per_s": 1048576, "errors": 0}]})
        shown = self.run_command("status", status=0).out
        self.assertIn("recorder: tapeloop 0.1.0, process 4711, up 1 min 17 s", shown)
        self.assertRegex(shown, r"reaches back +13 min 20 s")
        self.assertRegex(shown, r"buffers +60 of 64 free")
        self.assertNotIn("/data/other", shown)
        lines = [line.split() for line in shown.splitlines()]
        heading = next(line for line in lines if line[:1] == ["INTERFACE"])
        for name in ("eth0", "eth1", "all"):
            row = next(line for line in lines if line[:1] == [name])
            self.assertEqual(len(row), len(heading))
            self.assertEqual(int(row[1]), sum(map(int, row[3:])))

    def test_watch_ends_with_an_interrupt_or_without_a_reader(self):
        self.fake(status={"rings": []})
        process = self.start("status", "--watch", "--json")
        self.assertEqual(process.stdout.readline(), b'{"rings":[]}\n')
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        self.assertEqual((process.returncode, err), (0, b""))
        process = self.start("status", "--watch", "--json")
        process.stdout.readline()
        process.stdout.close()
        self.assertEqual(process.stderr.read(), b"")
        process.stderr.close()
        self.assertIn(process.wait(), (0, 1))

    def test_verify(self):
        bad = [{"segment": "ab", "disk": 1, "slot": i, "offset": 4096, "bytes": 16384, "reason": "checksum"}
               for i in range(30)]
        clean = {"frames_checked": 9, "frames_bad": 0, "segments": 3, "bad": [], "superblocks_bad": 0, "clean": True}
        mended = {"frames": 4, "frames_left": 26, "copies": 7, "segments_left": 1, "superblocks": 2, "superblocks_left": 0}
        answers = [clean, dict(clean, clean=False, frames_bad=30, bad=bad, reasons=[{"reason": "frames", "text": "30 copies of frames are damaged"}]),
                   dict(clean, clean=False, frames_bad=30, bad=bad, mended=mended),
                   dict(clean, frames_bad=30, mended=dict(mended, frames_left=0, segments_left=0))]
        fake = self.fake(verify=lambda connection, request: connection.result(request, answers.pop(0)))
        self.assertIn("ring dmz: clean; 3 segments, 9 frames checked", self.run_command("verify", "dmz", status=0).out)
        damaged = self.run_command("verify", "dmz", status=1).out
        self.assertIn("DAMAGED", damaged)
        self.assertIn("\n  30 copies of frames are damaged\n", damaged)
        self.assertIn("and 10 more", damaged)
        left = self.run_command("verify", "dmz", "--repair", status=3).out
        self.assertIn("mended: 4 frames, 2 superblocks, 7 missing copies made", left)
        self.assertIn("not to be mended: 26 frames, 0 superblocks; 1 segments have too few copies", left)
        mended = self.run_command("verify", "dmz", "--repair", status=0).out
        self.assertIn("mended: 4 frames", mended)
        self.assertNotIn("not to be mended", mended)
        self.assertEqual([request["params"]["repair"] for request in fake.asked("verify")], [False, False, True, True])

    def test_remote_errors(self):
        errors = [("not_found", "ring dmz: there is no such ring", 1), ("invalid", "copies: too many", 2),
                  ("busy", "disk /dev/sdb: in use", 1), ("permission", "permission denied", 1),
                  ("no such code", "\x1b[31mred\n", 1)]
        for code, text, status in errors:
            self.fakes and self.fakes.pop().close()
            if os.path.exists(os.path.join(self.state, "control.sock")):
                os.unlink(os.path.join(self.state, "control.sock"))
            self.fake(ring_show=lambda connection, request: connection.error(request, code, text))
            with self.subTest(code=code):
                self.refused("ring", "show", "dmz", status=status, says=re.escape(text) if text[0] != "\x1b" else
                             r"\\x1b\[31mred\\x0a")

    def test_json_passes_answers_on(self):
        odd = {"rings": [{"name": "\x1b[2J\u009b\u00fc", "extra": [1, 2.5, None, True]}]}
        self.fake(ring_list=odd)
        done = self.run_command("ring", "list", "--json", status=0)
        self.assertEqual(json.loads(done.out), odd)
        self.assertTrue(done.out.isascii())


class Records(World):
    PROGRESS = {"account": account(seen=10, stored=10), "interfaces": [], "bytes_per_s": 1000}

    def recording(self, final):
        """A recorder whose record.start ends with record.stop on the same connection."""
        begun = threading.Event()

        def start(connection, request):
            while not select.select([connection.socket], [], [], 0.05)[0]:
                connection.progress(request, self.PROGRESS)
                begun.set()
            stop = connection.receive()
            fake.requests.append(stop)
            if stop["id"] == request["id"]:
                connection.result(request, {"account": final})

        fake = self.fake(record_start=start)
        fake.begun = begun
        return fake

    def test_for_a_while(self):
        fake = self.recording(account(seen=12, stored=12))
        done = self.run_command("record", "dmz", "-i", "eth0", "-ieth1", "--for", "200ms", "-s", "128", "--buffer",
                                "1M", "-p", "--no-outgoing", "--backend", "packet", status=0)
        self.assertEqual(fake.asked("record.start")[0]["params"], {
            "ring": "dmz", "interfaces": ["eth0", "eth1"], "backend": "packet", "snapshot_bytes": 128,
            "buffer_bytes": 1 << 20, "promiscuous": False, "outgoing": False, "attach": True})
        self.assertEqual(fake.asked("record.stop")[0]["params"], {})
        self.assertRegex(done.out, r"seen +12 ")
        self.assertRegex(done.out, r"stored +12 ")
        self.assertRegex(done.out, r"sum +12  every packet is accounted for")

    def test_interrupt_stops_and_reports_drops(self):
        fake = self.recording(account(seen=12, stored=9, dropped_kernel=3))
        process = self.start("record", "dmz", "-i", "eth0")
        fake.begun.wait()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        self.assertEqual(process.returncode, 3, err)
        self.assertIn(b"3 packets were dropped", err)
        self.assertRegex(out.decode(), r"dropped kernel +3 ")

    def test_an_account_that_does_not_add_up_is_said_so(self):
        self.recording(account(seen=12, stored=9))
        self.assertIn("DIFFERS from what was seen by 3",
                      self.run_command("record", "dmz", "-i", "eth0", "--for", "50ms", status=0).out)

    def test_second_interrupt_gives_up(self):
        begun = threading.Event()
        asked = threading.Event()

        def start(connection, request):
            connection.progress(request, self.PROGRESS)
            begun.set()
            connection.receive()
            asked.set()
            connection.receive()  # never answered

        self.fake(record_start=start)
        process = self.start("record", "dmz", "-i", "eth0")
        begun.wait()
        process.send_signal(signal.SIGTERM)
        asked.wait()
        process.send_signal(signal.SIGTERM)
        process.communicate()
        self.assertEqual(process.returncode, 1)

    def test_refused_start(self):
        self.fake(record_start=lambda connection, request: connection.error(request, "not_found", "interface nope0"))
        self.refused("record", "dmz", "-i", "nope0", status=1, says="nope0")

    def test_detach_and_stop(self):
        fake = self.fake(record_start={}, record_stop={"account": account(seen=1, stored=1)})
        self.assertEqual(self.run_command("record", "dmz", "-i", "eth0", "--detach", status=0).out, "")
        self.assertFalse(fake.asked("record.start")[0]["params"]["attach"])
        self.assertIn("accounted for", self.run_command("record", "dmz", "--stop", status=0).out)

    def test_detach_needs_a_recorder_that_stays(self):
        self.fake(hello=dict(HELLO, session=True))
        self.refused("record", "dmz", "-i", "eth0", "--detach", status=2, says="tapeloopd")
        empty = self.path("empty")
        os.mkdir(empty)
        self.refused("record", "dmz", "-i", "eth0", "--detach", status=1, says="tapeloopd", state=empty)
        self.assertEqual(os.listdir(empty), [])

    def test_json(self):
        self.recording(account(seen=2, stored=2))
        done = self.run_command("--json", "record", "dmz", "-i", "eth0", "--for", "50ms", status=0)
        self.assertEqual(json.loads(done.out)["account"]["seen"], 2)
        self.assertEqual(done.err, "")


class Imports(World):
    def importer(self, bad=()):
        """Answers import; records what each descriptor holds."""
        contents = []

        def take(connection, request):
            files = []
            for name, number in zip(request["params"]["names"], connection.descriptors):
                content = os.read(number, 100)
                contents.append((name, content))
                connection.progress(request, {"file": len(files), "files": len(request["params"]["names"]),
                                              "packets": 1, "bytes_done": 1, "bytes_total": 2})
                error = {"code": "corrupt", "message": f"{name}: offset 24: broken"} if name in bad else None
                files.append({"name": name, "packets": 2, "bytes": len(content), "error": error})
            total = 2 * len(files)
            connection.result(request, {"files": files, "account": account(seen=total, stored=total),
                                        "frontier_durable": True})

        fake = self.fake(**{"import": take})
        fake.contents = contents
        return fake

    def test_many_files_in_order(self):
        fake = self.importer()
        names = []
        for i in range(1001):
            names.append(self.write(f"file{i}", f"content {i}"))
        done = self.run_command("import", "dmz", *names, status=0)
        self.assertEqual(fake.contents, [(f"file{i}", f"content {i}".encode()) for i in range(1001)])
        self.assertTrue(all(len(request["params"]["names"]) <= 16 for request in fake.asked("import")))
        self.assertIn("2002 packets of 1001 files", done.err)
        self.assertEqual(done.out, "")

    def test_what_cannot_be_opened_or_read_is_named(self):
        fake = self.importer(bad=["broken"])
        good = [self.write("a", "A"), self.write("broken", "B"), self.write("c", "C")]
        done = self.run_command("import", "dmz", good[0], self.path("missing"), good[1], self.directory, good[2],
                                status=1)
        self.assertEqual([name for name, _ in fake.contents], ["a", "broken", "c"])
        messages = [line for line in done.err.splitlines() if line.startswith("tapeloop: ")]
        self.assertEqual(messages, [
            f"tapeloop: {self.path('missing')}: No such file or directory",
            f"tapeloop: {good[1]}: offset 24: broken (the 2 packets before that stay)",
            f"tapeloop: {self.directory}: a directory, not a capture file"])
        self.assertIn("3 of 5 files failed", done.err)

    def test_json(self):
        self.importer(bad=["b"])
        done = self.run_command("import", "dmz", self.write("a", "A"), self.write("b", "B"), self.path("missing"),
                                "--json", status=1)
        answer = json.loads(done.out)
        self.assertEqual([file["error"] and file["error"]["code"] for file in answer["files"]],
                         [None, "corrupt", "not_found"])
        self.assertEqual(answer["account"]["stored"], 4)
        self.assertEqual(done.err, "")

    def test_standard_input(self):
        fake = self.importer()
        done = subprocess.run(self.command("import", "dmz", "-"), input=b"from a pipe", stderr=subprocess.PIPE,
                              check=True)
        self.assertEqual(fake.contents, [("-", b"from a pipe")])
        self.assertNotIn(b"tapeloop:", done.stderr)

    def test_a_name_that_is_not_utf8(self):
        self.importer()
        path = os.fsencode(self.directory) + b"/\xff\x1b"
        with open(path, "wb") as file:
            file.write(b"x")
        done = subprocess.run(self.command("import", "dmz") + [path], stderr=subprocess.PIPE, check=True)
        self.assertNotIn(b"\x1b", done.stderr)

    def test_a_recorder_that_forgets_files(self):
        self.fake(**{"import": {"files": []}})
        self.assertIn("does not say", self.run_command("import", "dmz", self.write("a", ""), status=1).err)


class Extracts(World):
    RESULT = {"packets": 3, "output_bytes": 8, "bytes_read": 100, "packets_judged": 9, "segments": 1, "gaps": [],
              "gaps_total": 0, "complete": True}

    def extractor(self, content=b"packets!", before=None, **result):
        def extract(connection, request):
            number = connection.descriptors[0]
            if before:
                before(connection, request)
            os.write(number, content)
            connection.progress(request, {"segments_done": 1, "segments_total": 1, "packets": 3,
                                          "output_bytes": 8, "at_ns": "1700000000000000000"})
            connection.result(request, dict(self.RESULT, **result))
        return self.fake(extract=extract)

    def test_to_a_pipe_with_everything_asked(self):
        fake = self.extractor()
        done = self.run_command("extract", "dmz", "--from", "1700000000.5", "--to", "2023-11-14T22:14:00Z",
                                "--format", "pcap", "-c5", "--bytes-max", "1M", "tcp", "and", "port 80", status=0)
        self.assertEqual(done.stdout, b"packets!")
        self.assertEqual(fake.asked("extract")[0]["params"], {
            "ring": "dmz", "from_ns": "1700000000500000000", "to_ns": "1700000040000000000", "format": "pcap",
            "filter": "tcp and port 80", "follow": False, "packets_max": 5, "bytes_max": 1 << 20})
        self.assertRegex(done.err, r"^3 packets, 8 B, from 2023-11-14T22:13:20.500000000Z to ")

    def test_relative_times_have_one_now(self):
        fake = self.extractor()
        self.run_command("extract", "dmz", "--from", "-90s", "--to=now", "--", "ip[0]", "-", "1", ">", "2", status=0)
        params = fake.asked("extract")[0]["params"]
        self.assertEqual(int(params["to_ns"]) - int(params["from_ns"]), 90 * 10**9)
        self.assertLess(abs(int(params["to_ns"]) / 1e9 - time.time()), 600)
        self.assertEqual(params["filter"], "ip[0] - 1 > 2")

    def test_to_a_file(self):
        self.extractor()
        done = self.run_command("extract", "dmz", "-w", self.path("out"), status=0)
        self.assertEqual(self.read("out"), b"packets!")
        self.assertEqual(done.stdout, b"")
        self.assertEqual(stat.S_IMODE(os.stat(self.path("out")).st_mode) & 0o077, 0)
        self.assertEqual(sorted(os.listdir(self.directory)), ["out", "state"])

    def test_a_refusal_leaves_files_alone(self):
        self.fake(extract=lambda connection, request: connection.error(request, "invalid", "filter: syntax error"))
        self.write("old", "old")
        for name in ("old", "new"):
            self.refused("extract", "dmz", "-w", self.path(name), "tcpp", status=2, says="syntax error")
        self.assertEqual(self.read("old"), b"old")
        self.assertEqual(sorted(os.listdir(self.directory)), ["old", "state"])

    def test_what_was_written_before_a_failure_stays(self):
        def extract(connection, request):
            os.write(connection.descriptors[0], b"begun")
            connection.error(request, "io", "disk 1: input/output error")
        self.fake(extract=extract)
        self.write("old", "old")
        self.refused("extract", "dmz", "-w", self.path("old"), status=1, says="disk 1")
        self.assertEqual(self.read("old"), b"begun")
        self.assertEqual(sorted(os.listdir(self.directory)), ["old", "state"])

    def test_a_growing_file_is_there_under_its_name(self):
        seen = threading.Event()
        self.extractor(before=lambda connection, request: (os.write(connection.descriptors[0], b"first "),
                                                           seen.wait()))
        process = self.start("extract", "dmz", "-w", self.path("out"))
        while not os.path.exists(self.path("out")):
            self.assertIsNone(process.poll())
            time.sleep(0.01)
        self.assertEqual(self.read("out"), b"first ")
        seen.set()
        process.communicate()
        self.assertEqual((process.returncode, self.read("out")), (0, b"first packets!"))

    def test_links_devices_and_what_cannot_be_written(self):
        self.extractor()
        self.write("real", "old")
        os.symlink("real", self.path("link"))
        self.run_command("extract", "dmz", "-w", self.path("link"), status=0)
        self.assertEqual(self.read("real"), b"packets!")
        self.assertTrue(os.path.islink(self.path("link")))
        self.run_command("extract", "dmz", "-w", "/dev/null", status=0)
        self.assertTrue(stat.S_ISCHR(os.stat("/dev/null").st_mode))
        self.refused("extract", "dmz", "-w", self.path("no", "such"), status=1, says="No such file")
        self.refused("extract", "dmz", "-w", self.directory, status=2, says="directory")

    def test_gaps(self):
        gaps = [{"from_ns": "1700000000000000000", "to_ns": "1700000001000000000", "packets": 5,
                 "reason": "dropped", "link_type": 0, "interface": "eth0\x1b"}] * 30
        self.extractor(gaps=gaps, gaps_total=1000, complete=False)
        done = self.run_command("extract", "dmz", status=3)
        self.assertEqual(done.stdout, b"packets!")
        self.assertEqual(done.err.count("gap: 5 packets from 2023"), 20)
        self.assertIn(", interface eth0\\x1b: dropped while recording", done.err)
        self.assertIn("and 980 more gaps", done.err)
        self.assertIn("missing", done.err)

    def test_json_goes_where_the_packets_do_not(self):
        self.extractor()
        done = self.run_command("extract", "dmz", "--json", status=0)
        self.assertEqual((done.stdout, json.loads(done.err)), (b"packets!", self.RESULT))
        done = self.run_command("extract", "dmz", "--json", "-w", self.path("out"), status=0)
        self.assertEqual((json.loads(done.out), done.err), (self.RESULT, ""))

    def test_interrupt_ends_a_follow_well(self):
        begun = threading.Event()

        def extract(connection, request):
            os.write(connection.descriptors[0], b"whole")
            connection.progress(request, {"packets": 3})
            begun.set()
            second = connection.receive()
            fake.requests.append(second)
            connection.result(request, self.RESULT)

        fake = self.fake(extract=extract)
        process = self.start("extract", "dmz", "-w", self.path("out"), "--follow")
        begun.wait()
        process.send_signal(signal.SIGINT)
        err = process.communicate()[1].decode()
        self.assertEqual(process.returncode, 0, err)
        self.assertEqual(fake.asked("extract.finish")[0]["id"], fake.asked("extract")[0]["id"])
        self.assertEqual(self.read("out"), b"whole")

    def test_interrupt_leaves_a_whole_capture(self):
        def pcapng_block(kind, body):
            size = len(body) + 12
            return struct.pack("<II", kind, size) + body + struct.pack("<I", size)

        pcapng = pcapng_block(0x0a0d0d0a, struct.pack("<IHHq", 0x1a2b3c4d, 1, 0, -1))
        pcapng += pcapng_block(1, struct.pack("<HHI", 1, 0, 0))
        pcap = struct.pack("<IHHiIII", 0xa1b23c4d, 2, 4, 0, 0, 262144, 1)
        for i in range(40000):
            pcapng += pcapng_block(6, struct.pack("<IIIII", 0, 0, i, 60, 60) + bytes(60))
            pcap += struct.pack("<IIII", i, 0, 60, 60) + bytes(60)
        for name, whole, part in (("pcapng", pcapng, pcapng_block(6, bytes(100))[:-1]),
                                  ("pcap", pcap, struct.pack("<IIII", 1, 0, 60, 60) + bytes(59)),
                                  ("nothing behind", pcap, b""), ("no capture", b"whole", b"part" * 100)):
            begun = threading.Event()
            gone = threading.Event()

            def extract(connection, request, whole=whole, part=part, begun=begun, gone=gone):
                os.write(connection.descriptors[0], whole)
                begun.set()
                self.assertIsNone(connection.receive())
                time.sleep(0.2)  # somebody still writes while the recorder lets go
                os.write(connection.descriptors[0], part)
                gone.set()
                raise BrokenPipeError

            socket_path = os.path.join(self.state, "control.sock")
            if os.path.exists(socket_path):
                self.fakes.pop().close()
                os.unlink(socket_path)
            self.fake(extract=extract)
            with self.subTest(name):
                process = self.start("extract", "dmz", "-w", self.path("out"))
                begun.wait()
                process.send_signal(signal.SIGINT)
                err = process.communicate()[1].decode()
                self.assertEqual(process.returncode, 1, err)
                self.assertTrue(gone.is_set())
                if name == "no capture":
                    self.assertEqual(self.read("out"), whole + part)
                else:
                    self.assertIn("stopped: 40000 packets are written", err)
                    self.assertEqual(self.read("out"), whole)

    def test_a_reader_that_goes_away(self):
        held = threading.Event()

        def extract(connection, request):
            os.write(connection.descriptors[0], b"first\n")
            connection.close_descriptors()
            connection.receive()  # a quiet link: nothing more comes, until the client hangs up
            held.set()

        self.fake(extract=extract)
        process = self.start("extract", "dmz", "--follow")
        self.assertEqual(process.stdout.readline(), b"first\n")
        process.stdout.close()
        self.assertEqual(process.stderr.read(), b"")
        process.stderr.close()
        self.assertEqual(process.wait(), 0)
        held.wait()

    def test_a_terminal_gets_no_packets(self):
        fake = self.extractor()
        master, slave = pty.openpty()
        for words in (["extract", "dmz"], ["extract", "dmz", "-w", "-"], ["extract", "dmz", "-w", os.ttyname(slave)]):
            done = subprocess.run(self.command(*words), stdout=slave, stderr=subprocess.PIPE, check=False)
            self.assertEqual(done.returncode, 2)
            self.assertIn(b"-w FILE", done.stderr)
        self.assertEqual(fake.asked("extract"), [])
        os.close(master)
        os.close(slave)

    def test_progress_on_a_terminal_is_erased(self):
        def extract(connection, request):
            for i in range(4):
                connection.progress(request, {"segments_done": i, "segments_total": 8, "packets": 10 * i,
                                              "output_bytes": 4096 * i, "at_ns": "1700000000000000000"})
                time.sleep(0.25)
            connection.result(request, self.RESULT)

        self.fake(extract=extract)
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
        process = self.start("extract", "dmz", "-w", self.path("out"), stderr=slave)
        os.close(slave)
        shown = b""
        while True:
            try:
                part = os.read(master, 4096)
            except OSError as error:
                self.assertEqual(error.errno, errno.EIO)
                break
            if not part:
                break
            shown += part
        self.assertEqual(process.wait(), 0)
        process.stdout.close()
        os.close(master)
        lines = re.split(rb"\r\x1b\[K", shown)
        self.assertGreater(len(lines), 3)
        self.assertTrue(any(b"packets" in line for line in lines[1:-1]))
        self.assertTrue(all(len(line) < 40 for line in lines[1:-1]), lines)
        self.assertTrue(lines[-1].startswith(b"3 packets"), lines)


class Sessions(World):
    """Starting a recorder for the time of a command: a made-up tapeloopd beside a copy of tapeloop."""

    RECORDER = """#!/usr/bin/env python3
import os, socket, sys
sys.path.insert(0, {tests!r})
from cli_world import FakeRecorder
state = sys.argv[sys.argv.index("--state") + 1]
life = socket.socket(fileno=int(sys.argv[sys.argv.index("--session") + 1]))
open({log!r}, "a").write("started " + state + " " + str(os.getpgrp() != os.getppid()) + "\\n")
{body}
"""
    SERVE = """
fake = FakeRecorder(state, {"ring.list": lambda c, r: c.result(r, {"rings": []}),
                            "ring.show": lambda c, r: os._exit(7)})
life.sendall(b"ready\\n")
life.recv(1)
os.unlink(os.path.join(state, "control.sock"))
open(LOG, "a").write("ended\\n")
"""

    def setUp(self):
        super().setUp()
        os.mkdir(self.path("bin"))
        self.tapeloop = self.path("bin", "tapeloop")
        shutil.copy(TAPELOOP, self.tapeloop)

    def recorder(self, body):
        log = self.path("log")
        tests = os.path.dirname(os.path.abspath(__file__))
        body = self.RECORDER.format(tests=tests, log=log, body=f"LOG = {log!r}\n{body}")
        self.write("bin/tapeloopd", body, 0o755)

    def log(self):
        return self.read("log").decode() if os.path.exists(self.path("log")) else ""

    def test_started_asked_and_waited_for(self):
        self.recorder(self.SERVE)
        for _ in range(3):
            self.run_command("ring", "list", status=0)
        self.assertEqual(self.log(), f"started {self.state} True\nended\n" * 3)

    def test_relative_state_directory(self):
        self.recorder(self.SERVE)
        self.run_command("ring", "list", status=0, state="state", cwd=self.directory)
        self.assertIn(f"started {self.state} ", self.log())

    def test_no_recorder_program(self):
        done = self.run_command("ring", "list", status=1, env={"PATH": "/nonexistent"})
        self.assertIn("cannot start the recorder", done.err)

    def test_its_refusal_is_ours(self):
        self.recorder('life.sendall(b"permission: /state: permission denied\\n"); sys.exit(1)')
        self.refused("ring", "list", status=1, says="^tapeloop: /state: permission denied$")
        self.recorder('life.sendall(b"something without a code\\n"); sys.exit(1)')
        self.refused("ring", "list", status=1, says="something without a code")
        self.recorder("sys.exit(1)")
        self.refused("ring", "list", status=1, says="before it was ready")

    def test_its_death_in_the_middle_is_named(self):
        self.recorder(self.SERVE)
        self.refused("ring", "show", "dmz", status=1, says="ended with status 7")

    def test_a_bad_end_after_a_good_answer_is_a_failure(self):
        self.recorder(self.SERVE + "sys.exit(3)")
        self.assertIn("status 3", self.run_command("ring", "list", status=1).err)

    def test_its_warnings_are_shown_and_its_news_are_not(self):
        self.recorder("""
sys.stderr.write("tapeloopd: started\\ntapeloopd: warning: ring dmz: drops\\x1b\\ntapeloopd: error: disk 1\\n")
sys.stderr.write("something below it\\n" + "x" * 3000)
sys.stderr.flush()
""" + self.SERVE)
        shown = self.run_command("ring", "list", status=0).err
        self.assertIn("tapeloop: warning: ring dmz: drops\\x1b\n", shown)
        self.assertIn("tapeloop: error: disk 1\n", shown)
        self.assertIn("tapeloop: something below it\n", shown)
        self.assertEqual(shown.count("x" * 500), 5)
        self.assertNotIn("started", shown)
        self.assertIn("tapeloop: started\n", self.run_command("ring", "list", "--verbose", status=0).err)
        self.assertNotIn("warning", self.run_command("ring", "list", "--quiet", status=0).err)

    def test_rings_that_are_coming_up_are_waited_for(self):
        self.recorder("""
count = []
def answer(connection, request):
    count.append(1)
    state = "starting" if len(count) < 4 else "idle"
    connection.result(request, {"rings": [{"name": "dmz", "state": state}]})
fake = FakeRecorder(state, {"ring.list": answer})
life.sendall(b"ready\\n")
life.recv(1)
""")
        self.assertRegex(self.run_command("ring", "list", status=0).out, r"dmz +idle")

    def test_one_that_is_just_ending_is_waited_for(self):
        tries = self.path("tries")
        self.recorder(f"""
count = len(os.listdir({tries!r})) if os.path.isdir({tries!r}) else 0
os.makedirs({tries!r} + "/" + str(count))
if count < 3:
    life.sendall(b"busy: another recorder has it\\n")
    sys.exit(1)
""" + self.SERVE)
        self.run_command("ring", "list", status=0)
        self.assertEqual(len(os.listdir(tries)), 4)

    def test_interrupt_while_it_starts(self):
        self.recorder("life.recv(1)")
        process = self.start("ring", "list")
        while not self.log():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        err = process.communicate()[1]
        self.assertEqual(process.returncode, 1)
        self.assertIn(b"interrupted", err)

    def test_nothing_is_made_where_there_is_nothing(self):
        self.recorder(self.SERVE)
        nowhere = self.path("nowhere")
        for words in (["ring", "list"], ["ring", "show", "dmz"], ["status"], ["disk", "list"], ["events"],
                      ["history", "dmz"], ["extract", "dmz", "-w", "/dev/null"], ["purge", "dmz", "--from", "-2h", "--to", "-1h", "--yes"], ["import", "dmz", "/dev/null"],
                      ["record", "dmz", "-i", "lo"], ["verify", "dmz"], ["rebuild", "dmz"], ["flush", "dmz"],
                      ["ring", "delete", "dmz"], ["ring", "set", "dmz", "flush_window=1s"], ["shutdown"]):
            with self.subTest(words=words):
                self.refused(*words, status=1, says="no state directory", state=nowhere)
        self.assertFalse(os.path.exists(nowhere))
        self.assertEqual(self.log(), "")
        file = self.write("file", "")
        self.refused("status", status=2, says="no directory", state=file)

    def test_shutdown_starts_nobody(self):
        self.recorder(self.SERVE)
        self.refused("shutdown", status=1, says="no recorder is running")
        self.assertEqual(self.log(), "")


class Hostile(World):
    """Whatever comes through the socket, the command ends with a status of its own."""

    COMMANDS = [["ring", "list"], ["ring", "show", "dmz"], ["status"], ["disk", "list"], ["interfaces"],
                ["events"], ["audit", "list"], ["audit", "verify"], ["history", "dmz"], ["verify", "dmz"], ["rebuild", "dmz"], ["flush", "dmz"],
                ["ring", "create", "dmz", "--disk", "/x:1G"], ["ring", "adopt", "/x"],
                ["extract", "dmz", "-w", "/dev/null"], ["import", "dmz", "/dev/null"],
                ["record", "dmz", "-i", "eth0", "--for", "1ms"], ["record", "dmz", "--stop"],
                ["ring", "set", "dmz", "flush_window=1s"], ["shutdown"]]

    def serve(self, answer):
        socket_path = os.path.join(self.state, "control.sock")
        if os.path.exists(socket_path):
            self.fakes.pop().close()
            os.unlink(socket_path)
        methods = ["ring.list", "ring.show", "status", "disk.list", "interfaces", "events", "history", "verify",
                   "audit.list", "audit.verify", "ring.rebuild", "flush", "ring.create", "ring.adopt", "extract", "purge", "import", "record.start",
                   "record.stop", "ring.set", "shutdown"]
        self.fake(**{method.replace(".", "_"): answer for method in methods})

    def check(self, answer):
        self.serve(answer)
        for words in self.COMMANDS:
            with self.subTest(words=words):
                done = self.run_command(*words)
                self.assertIn(done.returncode, (0, 1, 2, 3), done.err)

    def test_broken_framing(self):
        for raw in (b"", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff{", b"\x02\x00\x00\x00[]", b"\x10\x00\x00\x00{}",
                    b"\x06\x00\x00\x00{\"a\"}}"):
            def answer(connection, request, raw=raw):
                connection.raw(raw)
                connection.hang_up()
            self.serve(answer)
            with self.subTest(raw=raw):
                for words in (["ring", "list"], ["extract", "dmz", "-w", "/dev/null"]):
                    self.assertEqual(self.run_command(*words).returncode, 1)

    def test_answers_to_something_else(self):
        for message in ({"id": 999, "result": {}}, {"result": {}}, {"id": "1", "result": {}}, {}, {"id": 2},
                        {"id": 2, "result": {}, "error": {}}, {"id": 2, "result": []}, {"id": 2, "error": {}},
                        {"id": 2, "error": {"code": 5, "message": []}}, {"id": 2, "result": 5}):
            self.serve(lambda connection, request, message=message: connection.send(message))
            with self.subTest(message=message):
                for words in (["ring", "list"], ["extract", "dmz", "-w", "/dev/null"]):
                    self.refused(*words, status=1, says="recorder")

    def test_random_answers(self):
        seed = int(os.environ.get("TAPELOOP_SEED", "20231114"))
        print("seed", seed)
        chance = random.Random(seed)
        names = ["rings", "ring", "disks", "interfaces", "events", "rows", "files", "gaps", "bad", "account",
                 "settings", "report", "name", "state", "error", "oldest_ns", "newest_ns", "time_ns", "packets",
                 "buffers", "free", "total", "errors", "reach_back_s", "bytes_per_s", "text", "reason", "second",
                 "interface", "link_type", "clean", "complete", "code", "message"] + LINES

        def value(depth):
            kind = chance.randrange(12 if depth < 5 else 8)
            if kind < 8:
                return chance.choice([None, True, False, 0, -1, 1, 2**63 - 1, -2**63, 1e308, -1e308, 0.5, "",
                                      "-9223372036854775808", "9223372036854775807", "99999999999999999999",
                                      "1700000000000000000", "\x1b[2J\x07", "\u009b31m", "a\nb", "%s%n", "x" * 5000,
                                      "dmz", "\x00".join("ab")])
            if kind < 10:
                return [value(depth + 1) for _ in range(chance.randrange(4))]
            return {chance.choice(names): value(depth + 1) for _ in range(chance.randrange(12))}

        def whole():
            made = {chance.choice(names): value(1) for _ in range(25)}
            for name in ("rings", "disks", "interfaces", "events", "rows", "files", "gaps", "bad"):
                if chance.random() < 0.6:
                    made[name] = [{chance.choice(names): value(2) for _ in range(15)}
                                  for _ in range(chance.randrange(30))]
            return made

        def answer(connection, request):
            for _ in range(chance.randrange(3)):
                connection.progress(request, value(0))
            if chance.random() < 0.9:
                connection.result(request, whole())
            else:
                connection.error(request, value(9), value(9))

        for _ in range(12):
            self.check(answer)

    def test_a_socket_that_nobody_serves(self):
        fake = self.fake()
        fake.close()
        self.fakes.clear()
        self.refused("shutdown", status=1, says="no recorder is running")


if __name__ == "__main__":
    if not os.access(TAPELOOP, os.X_OK):
        skip(f"no tapeloop in TAPELOOP_BIN ({BIN!r})")
    main()
