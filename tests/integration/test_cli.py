#!/usr/bin/env python3
"""The tapeloop command with the recorder: what each command does, and what bad input gets and leaves alone."""

import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess
import time
import unittest

from cli_world import BIN, TAPELOOP, World, main, skip

ROOT = os.geteuid() == 0
TEST_BIN = os.environ.get("TAPELOOP_TEST_BIN", os.path.join(BIN, "..", "tests", "bin"))


def ethernet(number, size=80):
    """An IPv4 packet of UDP from 10.0.0.1 to 10.0.0.2, port 1000 + number % 10."""
    udp = struct.pack(">HHHH", 1000 + number % 10, 53, size - 34, 0)
    ip = struct.pack(">BBHHHBBH4B4B", 0x45, 0, size - 14, number & 0xffff, 0, 64, 17, 0, 10, 0, 0, 1, 10, 0, 0, 2)
    return (bytes(12) + b"\x08\x00" + ip + udp + struct.pack(">Q", number)).ljust(size, b"x")


def pcap(packets):
    """Packets (time in nanoseconds, bytes) as a pcap file of nanoseconds."""
    made = [struct.pack("<IHHiIII", 0xa1b23c4d, 2, 4, 0, 0, 262144, 1)]
    for time_ns, data in packets:
        made.append(struct.pack("<IIII", time_ns // 10**9, time_ns % 10**9, len(data), len(data)) + data)
    return b"".join(made)


def packets_of(data):
    """The packets of a pcap file of nanoseconds, and whether it is whole."""
    assert data[:4] == struct.pack("<I", 0xa1b23c4d), data[:24]
    offset, packets = 24, []
    while offset + 16 <= len(data):
        second, fraction, size, _ = struct.unpack_from("<IIII", data, offset)
        if offset + 16 + size > len(data):
            break
        packets.append((second * 10**9 + fraction, data[offset + 16:offset + 16 + size]))
        offset += 16 + size
    return packets, offset == len(data)


START_NS = 1700000000 * 10**9


class Recorder(World):
    def create(self, name="dmz", size="64M", *options):
        disk = self.path(name + ".disk")
        self.run_command("ring", "create", name, "--disk", f"{disk}:{size}", *options, status=0)
        return disk

    def packets(self, first, count):
        return [(START_NS + i * 10**6, ethernet(i)) for i in range(first, first + count)]

    def extract(self, *arguments, status=0):
        done = self.run_command("extract", "dmz", "--format", "pcap", *arguments, status=status)
        packets, whole = packets_of(done.stdout)
        self.assertTrue(whole)
        return packets

    def rings(self):
        return json.loads(self.run_command("ring", "list", "--json", status=0).out)["rings"]

    def daemon(self):
        """A recorder that stays."""
        process = subprocess.Popen([os.path.join(BIN, "tapeloopd"), "--state", self.state], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not os.path.exists(os.path.join(self.state, "control.sock")):
            self.assertIsNone(process.poll())
            time.sleep(0.01)
        return process


class Works(Recorder):
    def test_rings_from_beginning_to_end(self):
        state = self.path("new", "state")
        os.mkdir(self.path("new"))
        disk = self.path("a:b.disk")
        shown = self.run_command("ring", "create", "dmz", "--disk", disk + ":64M", "--segment-size", "1M", state=state,
                                 status=0)
        self.assertIn("ring dmz", shown.out)
        self.assertEqual(os.stat(disk).st_size, 64 << 20)
        self.assertEqual(os.stat(disk).st_blocks * 512 >= 64 << 20, True)
        self.assertRegex(self.run_command("ring", "list", state=state, status=0).out, r"dmz +idle +1 +1 ")
        self.assertIn(disk, self.run_command("disk", "list", state=state, status=0).out)
        self.run_command("ring", "set", "dmz", "flush_window=250ms", state=state, status=0)
        self.assertRegex(self.run_command("ring", "show", "dmz", state=state, status=0).out, r"flush_window +250ms")
        path = self.write("in.pcap", pcap(self.packets(0, 500)))
        self.run_command("import", "dmz", path, state=state, status=0)
        self.run_command("ring", "delete", "dmz", state=state, status=0)
        self.assertEqual(json.loads(self.run_command("ring", "list", "--json", state=state, status=0).out),
                         {"rings": []})
        # The disk alone, on another machine:
        self.run_command("ring", "adopt", "--disk", disk, "--name", "again", state=self.path("elsewhere"), status=0)
        done = self.run_command("extract", "again", "--format", "pcap", state=self.path("elsewhere"), status=0)
        self.assertEqual(packets_of(done.stdout), (self.packets(0, 500), True))
        self.run_command("ring", "delete", "again", "--wipe", state=self.path("elsewhere"), status=0)
        self.refused("ring", "adopt", "--disk", disk, state=self.path("third"), status=1, says="disk")

    def test_import_and_extract(self):
        self.create()
        one = self.write("one.pcap", pcap(self.packets(0, 1000)))
        two = self.write("two.pcap", pcap(self.packets(1000, 1000)))
        done = self.run_command("import", "dmz", one, two, status=0)
        self.assertIn("2000 packets of 2 files", done.err)
        everything = self.packets(0, 2000)
        self.assertEqual(self.extract(), everything)
        self.assertEqual(self.extract("--from", "1700000000.5", "--to", "2023-11-14T22:13:21Z"), everything[500:1000])
        self.assertEqual(self.extract("src", "port", "1003"), everything[3::10])
        self.assertEqual(self.extract("src port 1003", "and", "udp", "-c", "7"), everything[3:73:10])
        self.assertEqual(self.extract("tcp"), [])
        self.assertLessEqual(len(self.run_command("extract", "dmz", "--bytes-max", "10K", status=0).stdout), 10240)
        self.run_command("extract", "dmz", "-w", self.path("out.pcapng"), status=0)
        self.assertEqual(self.read("out.pcapng")[:4], b"\x0a\x0d\x0d\x0a")
        self.assertEqual(sorted(os.listdir(self.directory)), ["dmz.disk", "one.pcap", "out.pcapng", "state",
                                                              "two.pcap"])
        with open(one, "rb") as file:
            subprocess.run(self.command("import", "dmz", "-"), stdin=file, stderr=subprocess.PIPE, check=True)
        self.assertEqual(len(self.extract()), 3000)

    def test_looking_after_it(self):
        self.create()
        self.run_command("import", "dmz", self.write("in.pcap", pcap(self.packets(0, 1000))), status=0)
        before = self.extract()
        self.assertIn("clean", self.run_command("verify", "dmz", status=0).out)
        self.assertTrue(json.loads(self.run_command("verify", "dmz", "--repair", "--json", status=0).out)["clean"])
        for name in os.listdir(self.state):
            if name.startswith("catalog.db"):
                os.unlink(os.path.join(self.state, name))
        self.run_command("rebuild", "dmz", status=0)
        self.assertEqual(self.extract(), before)
        self.run_command("flush", "dmz", status=0)
        self.assertIn("ring-created", self.run_command("events", status=0).out)
        history = self.run_command("history", "dmz", "--json", status=0)
        self.assertEqual(sum(row["stored"] for row in json.loads(history.out)["rows"]), 1000)
        self.assertRegex(self.run_command("status", "dmz", status=0).out, r"packets +1000")
        self.assertRegex(self.run_command("interfaces", status=0).out, r"\nlo ")

    def test_interfaces_need_no_state_directory(self):
        nowhere = self.path("nowhere")
        temporary = self.path("temporary")
        os.mkdir(temporary)
        done = self.run_command("interfaces", state=nowhere, status=0, env=dict(os.environ, TMPDIR=temporary))
        self.assertRegex(done.out, r"\nlo ")
        self.assertEqual((os.path.exists(nowhere), os.listdir(temporary)), (False, []))

    def test_recording_and_reading_together(self):
        self.create(size="256M")
        process = self.start("record", "dmz", "--backend", "generator", "--json")
        packets = 0
        while packets == 0:  # each of these joins the recorder of the first command
            self.assertIsNone(process.poll())
            done = self.run_command("extract", "dmz", "-c", "100", "--json", "-w", self.path("out"))
            if done.returncode == 0:
                packets = json.loads(done.out)["packets"]
        status = json.loads(self.run_command("status", "--json", status=0).out)["rings"][0]
        seen = status["account"].pop("seen")
        self.assertGreater(seen, 0)
        self.assertEqual(seen, sum(status["account"].values()))
        follow = self.start("extract", "dmz", "--follow", "--from", "now", "-w", self.path("live"))
        while not os.path.exists(self.path("live")) or os.stat(self.path("live")).st_size < 4000000:  # behind the ring by then
            self.assertIsNone(follow.poll())
            time.sleep(0.01)
        follow.send_signal(signal.SIGINT)
        err = follow.communicate()[1].decode()
        self.assertIn(follow.returncode, (0, 3), err)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        self.assertEqual(process.returncode, 0, err)
        account = json.loads(out)["account"]
        self.assertEqual(account.pop("seen"), sum(account.values()))
        self.assertIn("clean", self.run_command("verify", "dmz", status=0).out)

    def test_a_recorder_that_stays(self):
        self.create()
        daemon = self.daemon()
        self.run_command("record", "dmz", "--backend", "generator", "--detach", status=0)
        self.assertEqual(self.rings()[0]["state"], "recording")
        self.assertIn("accounted for", self.run_command("record", "dmz", "--stop", status=0).out)
        self.assertEqual(self.rings()[0]["state"], "idle")
        self.refused("record", "dmz", "--stop", status=1, says="recorded")
        self.run_command("shutdown", status=0)
        self.assertEqual(daemon.wait(), 0)
        self.refused("shutdown", status=1, says="no recorder")
        self.assertEqual(self.rings()[0]["state"], "idle")

    def test_jobs_and_what_is_kept(self):
        """In the recorder of one command, which waits for them, and in one that stays."""
        self.create()
        packets = self.packets(0, 500)
        self.write("in.pcap", pcap(packets))
        self.run_command("import", "dmz", self.path("in.pcap"), status=0)
        estimate = self.run_command("estimate", "dmz", "--from", "1600000000", "udp", status=0).out
        self.assertRegex(estimate, r"^at most 500 packets, .* as captured, from 2020-")
        self.assertIn("nothing from before 2023-11-14T22:13:20", estimate)
        self.refused("estimate", "dmz", "udpp", status=2, says="syntax error")
        self.refused("job", "start", "dmz", status=1, says="--wait")
        kept = self.run_command("keep", "dmz", "--name", "incident-7", "--format", "pcap", "--expires", "+1d", "udp port 1003",
                                "--json", status=0)
        job = json.loads(kept.out)["job"]
        self.assertEqual((job["name"], job["state"], job["packets"], job["complete"]), ("incident-7", "done", 50, True))
        self.refused("keep", "dmz", "--name", "incident-7", status=1, says="incident-7")
        self.refused("keep", "dmz", "--name", "../x", status=2, says="name")
        self.refused("keep", "dmz", "--name", "x", "--expires", "-1d", status=2, says="over")
        self.refused("keep", "dmz", status=2, says="--name")
        self.refused("keep", "dmz", "--name", "y", "udpp", status=2, says="syntax error")
        self.assertIn("\nby index     proto 17 port 1003\n", self.run_command("job", "show", "incident-7", "--explain", status=0).out)
        self.refused("job", "start", "dmz", "--wait", "--query", "sql", "port 1003", status=2, says="pcap or steno")
        asked = self.run_command("job", "start", "dmz", "--query", "steno", "--no-index", "--wait", "port 1003", status=0).out
        self.assertRegex(asked, r"(?s)query +port 1003\n.*index +not used\n.*packets +50,")
        self.run_command("job", "delete", asked.split()[1].rstrip(":,"), status=0)
        got = self.run_command("job", "get", "incident-7", "-w", self.path("got.pcap"), status=0)
        self.assertEqual(got.stdout, b"")
        wanted = [packet for packet in packets if packet[1][34:36] == struct.pack(">H", 1003)]
        self.assertEqual(packets_of(self.read("got.pcap")), (wanted, True))
        self.assertEqual(self.run_command("job", "get", "incident-7", status=0).stdout, self.read("got.pcap"))
        self.refused("job", "get", "nothing", "-w", self.path("got.pcap"), status=1, says="no such job")
        self.assertEqual(packets_of(self.read("got.pcap")), (wanted, True))  # an old file stays

        daemon = self.daemon()
        started = self.run_command("job", "start", "dmz", "-c", "7", "--format", "pcap", status=0).out
        number = started.split()[1].rstrip(":,")
        while "done" not in self.run_command("job", "show", number, status=0).out:
            time.sleep(0.05)
        self.assertIn("of packets", self.run_command("job", "show", number, status=0).out)
        listed = self.run_command("job", "list", status=0).out.splitlines()
        self.assertEqual([line.split()[:4] for line in listed[1:]],
                         [["1", "incident-7", "dmz", "done"], [number, "-", "dmz", "done"]])
        self.assertEqual(packets_of(self.run_command("job", "get", number, status=0).stdout), (packets[:7], True))
        self.refused("job", "cancel", number, status=1, says="ended already")
        for job in (number, "incident-7"):
            self.run_command("job", "delete", job, status=0)
        self.assertIn("no job", self.run_command("job", "list", status=0).err)
        self.run_command("shutdown", status=0)
        self.assertEqual(daemon.wait(), 0)

    def test_commands_at_once_share_a_recorder(self):
        self.create()
        self.run_command("import", "dmz", self.write("in.pcap", pcap(self.packets(0, 1000))), status=0)
        running = [self.start("extract", "dmz", "--format", "pcap") for _ in range(6)]
        results = [process.communicate() for process in running]
        for process, (out, err) in zip(running, results):
            self.assertEqual(process.returncode, 0, err)
            self.assertEqual(packets_of(out), (self.packets(0, 1000), True))

    def test_a_recording_outlives_the_command_whose_recorder_it_found(self):
        self.create()
        first = self.start("extract", "dmz", "--follow", "-w", self.path("first"))
        while not os.path.exists(os.path.join(self.state, "control.sock")):
            self.assertIsNone(first.poll())
            time.sleep(0.01)
        recording = self.start("record", "dmz", "--backend", "generator", "--json")
        while self.rings()[0]["state"] != "recording":
            self.assertIsNone(recording.poll())
        first.send_signal(signal.SIGINT)
        err = first.communicate()[1]
        self.assertIn(first.returncode, (0, 3), err)
        self.assertIsNone(recording.poll())
        self.assertEqual(self.rings()[0]["state"], "recording")
        recording.send_signal(signal.SIGINT)
        out, err = recording.communicate()
        self.assertEqual(recording.returncode, 0, err)
        self.assertGreater(json.loads(out)["account"]["stored"], 0)
        self.assertEqual(self.rings()[0]["state"], "idle")

    @unittest.skipUnless(ROOT and shutil.which("unshare") and shutil.which("ip"), "network namespaces need root")
    def test_recording_an_interface(self):
        self.create()
        script = f"""
            ip link add demo0 type veth peer name demo1
            ip link set dev demo0 addrgenmode none up
            ip link set dev demo1 addrgenmode none up
            sleep 1
            "{os.path.join(TEST_BIN, 'tapeloop-traffic')}" demo1 2000 2 > "{self.path('sent')}" &
            "{self.tapeloop}" --state "{self.state}" record dmz -i demo0 --for 5s --json > "{self.path('account')}"
        """
        self.run_command("ring", "set", "dmz", "flush_window=100ms", status=0)
        done = subprocess.run(["unshare", "--net", "sh", "-ec", script], stderr=subprocess.PIPE, check=False)
        self.assertIn(done.returncode, (0, 3), done.stderr)
        account = json.loads(self.read("account"))["account"]
        self.assertEqual(account["seen"], sum(account.values()) - account["seen"])
        self.assertGreaterEqual(int(self.read("sent")), account["seen"])
        found = self.run_command("extract", "dmz", "--json", "-w", "/dev/null")
        self.assertEqual(json.loads(found.out)["packets"], account["stored"])


class BadInput(Recorder):
    def unchanged(self, *arguments, status, says, **options):
        """A refusal after which rings and files are what they were."""
        def picture():
            tree = {name: what for name, what in self.tree(self.directory).items()
                    if not name.startswith("state/") and name != "state"}
            return tree, self.rings()
        before = picture()
        self.refused(*arguments, status=status, says=says, **options)
        self.assertEqual(picture(), before)

    def test_disks(self):
        disk = self.create()
        text = self.write("text", b"somebody's text\n" * 100000)
        os.mkdir(self.path("directory"))
        os.mkfifo(self.path("fifo"))
        new = self.path("new.disk")
        table = [
            (self.path("no", "such", "directory") + ":64M", 1, "No such file"),
            (self.path("missing"), None, "missing"),
            (new + ":1M", 1, "small"),
            (new + ":4K", 1, "small"),
            (new + ":0", None, "new.disk"),
            (text, None, "text"),
            (text + ":64M", 1, "text"),
            (self.path("directory") + ":64M", None, "directory"),
            (self.path("fifo") + ":64M", None, "fifo"),
            ("/dev/null:64M", None, "/dev/null"),
            (disk + ":64M", 1, "dmz.disk"),
            ("x" * 5000 + ":64M", None, "too long"),
        ]
        for words, status, says in table:
            with self.subTest(disk=words[-60:]):
                done = self.run_command("ring", "create", "lab", "--disk", words)
                self.assertIn(done.returncode, (1, 2))
                self.unchanged("ring", "create", "lab", "--disk", words,
                               status=done.returncode if status is None else status, says=says)
        self.unchanged("ring", "create", "lab", "--disk", new + ":64M", "--disk", new + ":64M", status=2, says="twice")
        self.unchanged("ring", "create", "lab", "--disk", new + ":64M", "--copies", "2", status=2, says="copies")
        self.unchanged("ring", "create", "dmz", "--disk", new + ":64M", status=1, says="dmz")
        self.unchanged("ring", "create", "lab", "--disk", new + ":64M", "--disk", text + ":64M", status=1, says="text")
        self.assertEqual(self.read("text"), b"somebody's text\n" * 100000)

    def test_somebodys_file_system_needs_force(self):
        if not shutil.which("mke2fs"):
            self.skipTest("no mke2fs")
        image = self.path("image")
        subprocess.run(["mke2fs", "-q", "-t", "ext4", image, "64M"], check=True)
        before = self.read("image")
        self.unchanged("ring", "create", "dmz", "--disk", image + ":64M", status=1, says="ext4.*--force")
        self.unchanged("ring", "create", "dmz", "--disk", image, status=1, says="ext4.*--force")
        self.assertEqual(self.read("image"), before)
        self.run_command("ring", "create", "dmz", "--disk", image + ":64M", "--force", status=0)
        self.assertEqual(self.rings()[0]["name"], "dmz")

    def test_a_busy_disk(self):
        disk = self.create()
        self.run_command("ring", "delete", "dmz", status=0)
        with open(disk, "rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            self.unchanged("ring", "create", "dmz", "--disk", disk, "--force", status=1, says="dmz.disk")
            self.unchanged("ring", "adopt", "--disk", disk, status=1, says="dmz.disk")
        self.run_command("ring", "adopt", "--disk", disk, status=0)

    @unittest.skipUnless(ROOT and shutil.which("unshare"), "mounting needs root")
    def test_a_full_file_system(self):
        os.mkdir(self.path("mount"))
        script = 'mount -t tmpfs -o size=16M none "$1"; shift; "$@"; status=$?; ls "$0" | wc -l >&2; exit $status'
        mount = self.path("mount")
        done = subprocess.run(["unshare", "--mount", "sh", "-c", script, mount, mount,
                               *self.command("ring", "create", "dmz", "--disk", mount + "/disk:64M")],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              check=False)
        lines = done.stderr.splitlines()
        self.assertEqual((done.returncode, done.stdout, len(lines), lines[-1]), (1, "", 2, "0"), done.stderr)
        self.assertRegex(lines[0], r"^tapeloop: .*disk.*16.0 MiB left")
        self.assertEqual(self.rings(), [])

    def test_rings_that_are_not_there(self):
        self.create()
        file = self.write("in.pcap", pcap(self.packets(0, 1)))
        for words in (["ring", "show", "lab"], ["ring", "set", "lab", "flush_window=1s"], ["ring", "delete", "lab"],
                      ["disk", "list", "lab"], ["record", "lab", "-i", "lo"], ["import", "lab", file],
                      ["extract", "lab", "-w", self.path("out")], ["verify", "lab"], ["rebuild", "lab"],
                      ["status", "lab"], ["history", "lab"], ["flush", "lab"]):
            with self.subTest(words=words):
                self.unchanged(*words, status=1, says="lab")

    def test_interfaces(self):
        self.create()
        self.unchanged("record", "dmz", "-i", "nope0", status=1, says="nope0")
        self.unchanged("record", "dmz", "-i", "a/../b", status=1, says="a/../b")
        self.unchanged("record", "dmz", "-i", "x" * 300, status=2, says="xxx")
        self.unchanged("record", "dmz", "-i", "eth0\x1b[2J", status=1, says=r"eth0\\x1b")

    def test_filters(self):
        self.create()
        self.run_command("import", "dmz", self.write("in.pcap", pcap(self.packets(0, 10))), status=0)
        old = self.write("old", "old")
        for words in (["tcpp"], ["host", "300.1.1.1"], ["port", "99999"], ["and"], ["((("], ["host \x1b["],
                      ["not"] * 2000):
            with self.subTest(filter=words[:3]):
                self.unchanged("extract", "dmz", "-w", old, *words, status=2, says="filter")
                self.unchanged("extract", "dmz", "-w", self.path("new"), *words, status=2, says="filter")
        self.assertEqual(self.read("old"), b"old")

    def test_captures(self):
        self.create()
        text = self.write("text", "no capture at all\n" * 10)
        empty = self.write("empty", "")
        whole = pcap(self.packets(0, 10))
        cut = self.write("cut.pcap", whole[:-5])
        good = self.write("good.pcap", pcap(self.packets(10, 10)))
        done = self.run_command("import", "dmz", text, empty, cut, good, self.path("missing"), "/dev/null", status=1)
        messages = done.err.splitlines()
        for path, says in ((text, "offset 0"), (empty, ""), (cut, "packets before that stay"),
                           (self.path("missing"), "No such file"), ("/dev/null", "")):
            said = [line for line in messages if line.startswith(f"tapeloop: {path}: ")]
            self.assertEqual(len(said), 1, done.err)
            self.assertIn(says, said[0])
        self.assertNotIn("good.pcap", done.err)
        self.assertEqual(self.extract(), self.packets(0, 9) + self.packets(10, 10))

    @unittest.skipUnless(ROOT, "to be nobody, one must be root first")
    def test_no_privilege(self):
        def nobody():
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        os.chmod(self.directory, 0o755)
        self.create()
        self.refused("ring", "list", status=1, says="[Pp]ermission", preexec_fn=nobody)
        self.refused("record", "dmz", "-i", "lo", status=1, says="[Pp]ermission", preexec_fn=nobody)
        daemon = self.daemon()
        self.refused("ring", "list", status=1, says="[Pp]ermission", preexec_fn=nobody)
        self.run_command("shutdown", status=0)
        daemon.wait()
        self.refused("ring", "create", "lab", "--disk", self.path("lab.disk") + ":64M", status=1, says="[Pp]ermission",
                     state=self.path("theirs"), preexec_fn=nobody)
        self.assertEqual(sorted(os.listdir(self.directory)), ["dmz.disk", "state"])
        # With a state directory of their own they may import and extract, but not capture.
        home = self.path("home")
        os.mkdir(home)
        os.chown(home, 65534, 65534)
        own = os.path.join(home, "state")
        self.run_command("ring", "create", "lab", "--disk", os.path.join(home, "lab.disk") + ":64M", state=own, status=0,
                         preexec_fn=nobody)
        self.refused("record", "lab", "-i", "lo", state=own, status=1, says="permission|privilege|root",
                     preexec_fn=nobody)
        self.run_command("import", "lab", self.write("in.pcap", pcap(self.packets(0, 10))), state=own, status=0,
                         preexec_fn=nobody)
        self.run_command("extract", "lab", state=own, status=0, preexec_fn=nobody)


if __name__ == "__main__":
    for program in (TAPELOOP, os.path.join(BIN, "tapeloopd"), os.path.join(BIN, "tapeloop-extract")):
        if not os.access(program, os.X_OK):
            skip(f"no {os.path.basename(program)} in TAPELOOP_BIN ({BIN!r})")
    main()
