#!/usr/bin/env python3
"""Rules of a ring: kept, changed while recording, and what they leave of packets."""

import json
import os
import random
import re
import struct
import subprocess
import tempfile
import time

from recorder_world import (BIN, LINES, MIB, RemoteError, World, create_ring, import_files, main, make_namespace, pcap,
                            thread)

TAPELOOP = os.path.join(BIN, "tapeloop")
ETHERNET = bytes.fromhex("020000000002020000000001")


def tcp(source, destination, payload, options=b"", vlan=None, ip_options=b"", host=1):
    """An Ethernet frame; lengths of headers depend on the options (multiples of 4)."""
    segment = struct.pack(">HHIIBBHHH", source, destination, 1, 1, (20 + len(options)) // 4 << 4, 16, 1000, 0, 0)
    segment += options + payload
    header = struct.pack(">BBHHHBBH4s4s", 0x45 + len(ip_options) // 4, 0, 20 + len(ip_options) + len(segment), 1, 0,
                         64, 6, 0, bytes([10, 0, 0, host]), bytes([10, 9, 9, 9])) + ip_options
    tag = b"" if vlan is None else struct.pack(">HH", 0x8100, vlan)
    return ETHERNET + tag + struct.pack(">H", 0x0800) + header + segment


def arp():
    return ETHERNET + struct.pack(">H", 0x0806) + bytes(46)


def capture(frames):
    return pcap([(1_700_000_000 * 10**9 + i * 1000, frame) for i, frame in enumerate(frames)])


def extracted(recorder, ring):
    """(original length, bytes) of each packet."""
    with tempfile.TemporaryFile() as output:
        recorder.call("extract", [output.fileno()], ring=ring, format="pcap")
        output.seek(0)
        data = output.read()
    found, at = [], 24
    while at < len(data):
        captured, original = struct.unpack_from("<II", data, at + 8)
        found.append((original, data[at + 16:at + 16 + captured]))
        at += 16 + captured
    return found


class Keeping(World):

    def ring(self, *rules, **settings):
        recorder = self.start()
        create_ring(recorder, "dmz", self.path("disk"))
        if settings:
            recorder.call("ring.set", ring="dmz", settings=settings)
        for rule in rules:
            recorder.call("rule.add", ring="dmz", rule=rule)
        return recorder

    def take(self, recorder, frames):
        """Imports; the account."""
        account = import_files(recorder, "dmz", [("x.pcap", capture(frames))])["account"]
        self.check_account(account)
        return account

    def counters(self, recorder):
        found = recorder.call("rule.list", ring="dmz")
        for rule in found["rules"] + [{"counters": found["unmatched"]}]:
            one = rule["counters"]
            self.assertEqual(one["bytes"], one["stored_bytes"] + one["cut_bytes"] + one["discarded_bytes"])
            self.assertEqual(one["packets"], one["stored_packets"] + one["discarded_packets"])
        return [found["unmatched"]] + [rule["counters"] for rule in found["rules"]]

    def test_lengths(self):
        """What is cut is cut where the headers end; the original length stays."""
        recorder = self.ring("tcp port 80 : headers l3", "tcp port 443 : headers l3+l4",
                             "tcp port 22 : headers l3+l4+16", "tcp port 25 : snap 60", "tcp port 53 : discard")
        table = [(80, 14 + 20), (443, 14 + 20 + 20), (22, 14 + 20 + 20 + 16), (25, 60), (53, None), (9, 10**6)]
        frames, wanted = [], []
        for port, end in table:
            for options in (b"", b"\1" * 4, b"\1" * 40):
                for vlan in (None, 7):
                    for ip_options in (b"", b"\1" * 8):
                        for payload in (0, 5, 16, 200):
                            frame = tcp(40000, port, bytes(payload), options, vlan, ip_options)
                            frames.append(frame)
                            if end is None:
                                continue
                            stop = end
                            if port in (80, 443, 22):
                                stop += 4 * (vlan is not None) + len(ip_options)
                            if port in (443, 22):
                                stop += len(options)
                            wanted.append((len(frame), frame[:stop]))
        frames.append(arp())
        wanted.append((60, arp()))
        account = self.take(recorder, frames)
        self.assertEqual(account["stored"], len(wanted))
        self.assertEqual(account["discarded"], len(frames) - len(wanted))
        self.assertEqual(extracted(recorder, "dmz"), wanted)
        counters = self.counters(recorder)
        self.assertEqual([one["packets"] for one in counters], [49, 48, 48, 48, 48, 48])
        self.assertEqual(counters[5]["discarded_packets"], 48)
        self.assertEqual(sum(one["stored_bytes"] for one in counters), sum(len(body) for _, body in wanted))
        self.assertEqual(recorder.call("status", ring="dmz")["rings"][0]["cut_packets"],
                         sum(original > len(body) for original, body in wanted))
        self.check_clean(recorder, "dmz")

    def test_the_first_that_matches(self):
        recorder = self.ring("all : discard")
        self.assertEqual(self.take(recorder, [arp()])["discarded"], 1)
        recorder.call("rule.add", ring="dmz", rule="not ip 0.0.0.0/0 : full", at=1)
        self.assertEqual(self.take(recorder, [arp(), tcp(1, 2, b"")])["stored"], 1)
        recorder.call("rule.move", ring="dmz", number=1, direction="down")
        self.assertEqual(self.take(recorder, [arp(), tcp(1, 2, b"")])["stored"], 0)
        self.assertEqual([one["packets"] for one in self.counters(recorder)], [0, 4, 1])  # counters moved along

    def test_sampling_and_flows(self):
        recorder = self.ring("tcp port 80 : sample 1/4", "tcp port 22 : flow 300")
        frames = [tcp(port, 80, b"x" * 10, host=2) for port in range(1000, 1400) for _ in range(3)]
        frames += [tcp(5000, 22, b"x" * 100) for _ in range(10)]
        account = self.take(recorder, frames)
        self.assertTrue(150 < account["sampled_out"] // 3 * 1 < 399, account)
        self.assertEqual(account["sampled_out"] % 3, 0)  # whole conversations
        self.assertEqual(account["discarded"], 8)
        kept = [body for _, body in extracted(recorder, "dmz")]
        again = self.take(recorder, frames[:1200])  # the same conversations
        self.assertEqual(again["sampled_out"], account["sampled_out"])
        self.assertEqual(len(kept), account["stored"])

    def test_a_restart_keeps_them(self):
        recorder = self.ring("vlan 7 : discard", "all : snap 60", "interface 'x y' : full")
        before = recorder.call("rule.list", ring="dmz")
        recorder.kill()
        recorder = self.start()
        after = recorder.call("rule.list", ring="dmz")
        self.assertEqual(after, before)
        account = self.take(recorder, [tcp(1, 2, bytes(100), vlan=7), tcp(1, 2, bytes(100))])
        self.assertEqual((account["discarded"], account["stored"]), (1, 1))
        self.assertEqual([len(body) for _, body in extracted(recorder, "dmz")], [60])
        recorder.call("rule.delete", ring="dmz", number=2)
        recorder.call("rule.add", ring="dmz", rule="all : snap 60")
        ids = [rule["id"] for rule in recorder.call("rule.list", ring="dmz")["rules"]]
        self.assertEqual(ids, [1, 3, 4])  # an id is never given again
        recorder.call("ring.delete", ring="dmz")
        recorder.call("ring.adopt", disks=[self.path("disk")])
        self.assertEqual(recorder.call("rule.list", ring="dmz")["rules"], [])  # they are no disk's

    def test_refusals(self):
        recorder = self.ring("vlan 7 : discard", "all : snap 60")
        before = recorder.call("rule.list", ring="dmz")
        def refused(code, says, method, **params):
            self.assertRegex(self.refused(code, recorder, method, ring="dmz", **params), says)
        refused("invalid", "column 6: expected a VLAN id", "rule.add", rule="vlan 5x : full")
        refused("invalid", "rule is missing", "rule.add")
        refused("invalid", "no member \"txt\"", "rule.add", rule={"txt": "all : full"})
        refused("invalid", "to say the same", "rule.add",
                rule={"text": "all : full", "conditions": [{"kind": "all"}], "action": {"kind": "discard"}})
        refused("invalid", "place 4", "rule.add", rule="all : full", at=4)
        refused("invalid", "bpf", "rule.add", rule="bpf 'such nonsense' : full")
        refused("not_found", "no rule 3: it has 2", "rule.set", number=3, rule="all : full")
        refused("invalid", "number is missing", "rule.delete")
        refused("invalid", "the first already", "rule.move", number=1, direction="up")
        refused("invalid", "the last already", "rule.move", number=2, direction="down")
        refused("invalid", "up or down", "rule.move", number=1, direction="sideways")
        refused("mismatch", "at revision 2, not 1", "rule.delete", number=1, revision=1)
        refused("invalid", "line 2, column 7", "rule.replace", rules="all : full\nall : fool")
        refused("invalid", "rule 2: column 7", "rule.replace", rules=["all : full", "all : fool"])
        refused("invalid", "parameter rules", "rule.replace", rules=7)
        self.refused("not_found", recorder, "rule.list", ring="lab")
        self.assertEqual(recorder.call("rule.list", ring="dmz"), before)
        recorder.call("rule.replace", ring="dmz", revision=2,
                      rules=["all : snap 60", {"conditions": [{"kind": "vlan", "value": "9"}],
                                               "action": {"kind": "discard"}}])
        rules = recorder.call("rule.list", ring="dmz")["rules"]
        self.assertEqual([(rule["id"], rule["text"]) for rule in rules],
                         [(2, "all : snap 60"), (3, "vlan 9 : discard")])

    def test_two_at_a_time(self):
        """Of changes to the same revision one is made."""
        recorder = self.ring()
        done = []
        def add():
            try:
                recorder.call("rule.add", ring="dmz", rule="all : full", revision=0)
                done.append("made")
            except RemoteError as error:
                done.append(error.code)
        threads = [thread(add) for _ in range(8)]
        for one in threads:
            one.join()
        self.assertEqual(sorted(done), ["made"] + ["mismatch"] * 7 if "made" < "mismatch" else None)
        self.assertEqual(len(recorder.call("rule.list", ring="dmz")["rules"]), 1)

    def test_changed_while_recording(self):
        """1,000 changes: nothing lost, every packet treated by one list, the account adds up at every instant."""
        recorder = self.ring("all : snap 64", "ip 0.0.0.0/0 : discard", "all : full")
        with recorder.client() as client:
            client.ask("record.start", ring="dmz", backend="generator", attach=True,
                       generator={"packets_per_s": 50000})
            chance = random.Random(4)
            with recorder.client() as other:
                for turn in range(1000):
                    found = other.call("rule.move", ring="dmz", number=chance.choice([1, 2]), direction="down")
                    self.assertTrue(found["in_force"])
                    if turn % 20 == 0:
                        ring = other.call("status", ring="dmz")["rings"][0]
                        self.check_account(ring["account"])
                        for interface in ring["interfaces"]:
                            self.check_account(interface["account"])
                other.call("record.stop", ring="dmz")
            result = client.answer()
        account = result["account"]
        self.check_account(account)
        self.assertGreater(account["seen"], 10000)
        self.assertGreater(account["discarded"], 0)
        self.assertGreater(result["cut_packets"], 0)
        for line in ("in_flight", "dropped_queue", "dropped_kernel", "lost_disk", "refused"):
            self.assertEqual(account[line], 0, line)
        counters = self.counters(recorder)
        self.assertEqual(sum(one["packets"] for one in counters), account["seen"])
        self.assertEqual(sum(one["stored_packets"] for one in counters), account["stored"])
        self.assertEqual(sum(one["discarded_packets"] for one in counters), account["discarded"])
        self.assertEqual(sum(one["stored_bytes"] for one in counters), result["stored_bytes"])

    def test_many_rules(self):
        """More rules than a segment names: nothing is lost, and segments are not sealed for it."""
        rules = [f"tcp port {1000 + i} : snap {60 + i % 40}" for i in range(1000)]
        recorder = self.ring()
        recorder.call("rule.replace", ring="dmz", rules=rules)
        frames = [tcp(60000, 1000 + i * 7 % 1000, bytes(100)) for i in range(5000)]
        self.assertEqual(self.take(recorder, frames)["stored"], 5000)
        self.assertEqual([body for _, body in extracted(recorder, "dmz")],
                         [frame[:60 + i * 7 % 1000 % 40] for i, frame in enumerate(frames)])
        self.assertLess(recorder.call("ring.show", ring="dmz")["used_bytes"], 3 * MIB)
        self.check_clean(recorder, "dmz")

    def test_duplicates(self):
        frame, other = tcp(1, 2, b"x" * 50), tcp(1, 2, b"y" * 50)
        tagged = tcp(1, 2, b"x" * 50, vlan=9)
        frames = [frame, frame, other, tagged, frame, other]
        recorder = self.ring()
        self.assertEqual(self.take(recorder, frames)["duplicates"], 0)  # off by default
        recorder.call("ring.set", ring="dmz", settings={"duplicates": "on"})
        account = self.take(recorder, frames)
        self.assertEqual((account["duplicates"], account["stored"]), (3, 3))
        recorder.call("record.start", ring="dmz", backend="generator", generator={"packets_per_s": 100})
        recorder.call("ring.set", ring="dmz", settings={"duplicate_ignore_vlan": "on"})
        self.assertEqual(self.take(recorder, frames)["duplicates"], 4)  # at once, also where the ring is in use
        recorder.call("record.stop", ring="dmz")
        self.assertRegex(self.refused("invalid", recorder, "ring.set", ring="dmz", settings={"duplicates": "maybe"}),
                         "duplicates: expected on or off")


class Layer7(World):
    """app: where tapeloop-classify was built, and where it is not there."""

    def flows(self, count, first=20000):
        """HTTP requests and what is no protocol, in turn, a flow each of a few packets."""
        frames = []
        for i in range(count):
            request = b"GET /%d HTTP/1.1\r\nHost: example.org\r\nUser-Agent: x\r\n\r\n" % i
            frames += [tcp(first + i, 80, b""), tcp(first + i, 80, request)]
        return frames

    def test_until_known_and_then(self):
        if not os.access(os.path.join(BIN, "tapeloop-classify"), os.X_OK):
            self.skipTest("tapeloop-classify was not built: there is no libndpi-dev")
        recorder = self.start()
        create_ring(recorder, "dmz", self.path("disk"))
        self.assertRegex(self.refused("invalid", recorder, "rule.add", ring="dmz", rule="app nonsense : full"),
                         "nonsense")
        recorder.call("rule.add", ring="dmz", rule="app http until known: snap 60 : discard")
        self.assertTrue(recorder.call("status")["recorder"]["layer7"]["running"])
        # Imports are faster than verdicts: the same flows are sent until these have come.
        flows = self.flows(50)
        reader, writer = os.pipe()
        with recorder.client() as client:
            client.ask("import", [reader], ring="dmz", names=["x"])
            os.close(reader)
            data, rounds = capture(flows), 1
            os.write(writer, data)
            deadline = time.monotonic() + 60
            while recorder.call("status")["recorder"]["layer7"]["verdicts"] < 50:
                self.assertLess(time.monotonic(), deadline, recorder.call("status")["recorder"])
                os.write(writer, data[24:])
                rounds += 1
                time.sleep(0.05)
            while recorder.call("status")["rings"][0]["account"]["seen"] < 100 * rounds:
                time.sleep(0.05)
            before = recorder.call("status")["rings"][0]["account"]["discarded"]
            os.write(writer, data[24:])
            os.close(writer)
            account = client.answer()["account"]
        self.check_account(account)
        self.assertEqual(account["seen"], 100 * rounds + 100)
        self.assertEqual(account["discarded"], before + 100)
        bodies = extracted(recorder, "dmz")
        self.assertEqual(len(bodies), account["stored"])
        self.assertTrue(all(len(body) <= 60 for _, body in bodies))

    def test_it_comes_with_a_change(self):
        """A list that asks for layer 7, taken while packets come; its process killed: nothing is dropped for it."""
        if not os.access(os.path.join(BIN, "tapeloop-classify"), os.X_OK):
            self.skipTest("tapeloop-classify was not built: there is no libndpi-dev")
        recorder = self.start()
        create_ring(recorder, "dmz", self.path("disk"))
        with recorder.client() as client:
            client.ask("record.start", ring="dmz", backend="generator", attach=True,
                       generator={"packets_per_s": 50000})
            with recorder.client() as other:
                found = other.call("rule.add", ring="dmz", rule="app http : snap 60")
                self.assertTrue(found["in_force"])
                for _ in range(5):
                    time.sleep(0.2)
                    for task in os.listdir(f"/proc/{recorder.process.pid}/task"):
                        with open(f"/proc/{recorder.process.pid}/task/{task}/children", encoding="ascii") as listed:
                            for child in listed.read().split():
                                os.kill(int(child), 9)
                time.sleep(0.2)
                self.assertGreater(other.call("status")["recorder"]["layer7"]["starts"], 1)
                other.call("record.stop", ring="dmz")
            account = client.answer()["account"]
        self.check_account(account)
        for line in ("dropped_queue", "dropped_kernel", "lost_disk", "refused"):
            self.assertEqual(account[line], 0, line)

    def test_asked_by_rule_test(self):
        """rule test waits for every verdict: a flow's packets up to its request come before it, the others after."""
        if not os.access(os.path.join(BIN, "tapeloop-classify"), os.X_OK):
            self.skipTest("tapeloop-classify was not built: there is no libndpi-dev")
        recorder = self.start()
        create_ring(recorder, "dmz", self.path("disk"))
        create_ring(recorder, "lab", self.path("lab"))
        more = [tcp(20000 + i, 80, bytes(200)) for _ in range(3) for i in range(50)]
        noise = [tcp(30000 + i, 9, bytes([i] * 40)) for i in range(20)]
        with open(self.path("x.pcap"), "wb") as file:
            file.write(capture(self.flows(50) + noise + more))
        import_files(recorder, "lab", [("x.pcap", open(self.path("x.pcap"), "rb").read())])
        rules = "app http until known: snap 60 : discard\nport 9 : headers l3+l4\n"
        answers = []
        for words in ([self.path("x.pcap")], [self.path("x.pcap")], ["--from", "2023-11-14T00:00:00Z"]):
            done = subprocess.run([TAPELOOP, "--state", self.path("state"), "--json", "rule", "test",
                                   "lab" if words[0] == "--from" else "dmz", *words, "--rules", "-"],
                                  input=rules, capture_output=True, text=True, check=False)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            answers.append(json.loads(done.stdout))
        self.assertEqual(answers[0], answers[1])
        self.assertEqual(answers[0], answers[2])
        self.assertEqual(answers[0]["packets"], 270)
        self.assertEqual(answers[0]["discarded_packets"], 150)
        # Until known, a rule's other conditions decide: it has none, so the noise is its business, too.
        self.assertEqual(answers[0]["until_known"], 120)
        self.assertEqual(answers[0]["rules"][0]["counters"]["packets"], 270)
        shown = subprocess.run([TAPELOOP, "--state", self.path("state"), "rule", "test", "dmz", self.path("x.pcap"),
                                "--rules", "-"], input=rules, capture_output=True, text=True, check=True).stdout
        self.assertRegex(shown, r'"until known" applied to 120 packets')

    def test_without_it(self):
        """No program, no app: refused with a sentence; a list that had it leaves every packet whole."""
        place = self.path("bin")
        os.mkdir(place)
        for program in ("tapeloopd", "tapeloop-extract", "tapeloop-judge"):
            os.symlink(os.path.join(BIN, program), os.path.join(place, program))
        os.environ["TAPELOOP_LIBEXEC"] = place
        self.addCleanup(os.environ.pop, "TAPELOOP_LIBEXEC")
        recorder = self.start()
        create_ring(recorder, "dmz", self.path("disk"))
        self.assertRegex(self.refused("unsupported", recorder, "rule.add", ring="dmz", rule="app http : full"),
                         "layer 7 is not there.*tapeloop-classify is missing")
        self.assertRegex(self.refused("unsupported", recorder, "rule.test", ring="dmz", rules="app http : full"),
                         "layer 7 is not there.*tapeloop-classify is missing")
        self.assertEqual(recorder.call("rule.list", ring="dmz")["rules"], [])


TWICE = """
import socket, sys, time
sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sender.bind(("v0", 0))
for number in range(int(sys.argv[1])):
    frame = bytes.fromhex("02000000000202000000000188b5") + number.to_bytes(8, "big") + bytes(50)
    sender.send(frame)
    sender.send(frame)
    time.sleep(0.002)
"""


class LiveAccount(World):
    """Promise P6 on a live interface."""

    def received(self, enter):
        """What the kernel itself says that the interface has received."""
        shown = subprocess.run(enter + ["ip", "-s", "-j", "link", "show", "v1"], stdout=subprocess.PIPE, check=True)
        return json.loads(shown.stdout)[0]["stats64"]["rx"]["packets"]

    def check(self, recorder):
        ring = recorder.call("status", ring="dmz")["rings"][0]
        self.check_account(ring["account"])
        for interface in ring["interfaces"]:
            self.check_account(interface["account"])
        total = {line: sum(one["account"][line] for one in ring["interfaces"]) for line in LINES}
        self.assertEqual(total, ring["account"])
        return ring

    def test_adds_up_at_every_instant(self):
        enter = make_namespace(self)
        recorder = self.start(prefix=enter)
        create_ring(recorder, "dmz", self.path("disk"))
        recorder.call("ring.set", ring="dmz", settings={"duplicates": "on", "duplicate_window": "10ms"})
        recorder.call("rule.replace", ring="dmz", rules="tcp port 80 : snap 64\ntcp port 443 : sample 1/2\n"
                                                        "port 1024-20000 : discard\n")
        before = self.received(enter)
        try:
            recorder.call("record.start", ring="dmz", interfaces=["v1"])
        except RemoteError as error:
            if error.code in ("permission", "unsupported"):
                self.skipTest(error.message)
            raise
        traffic = os.path.join(os.environ["TAPELOOP_TEST_BIN"], "tapeloop-traffic")
        senders = [subprocess.Popen(enter + [traffic, "v0", "20000", "4"], stdout=subprocess.DEVNULL),
                   subprocess.Popen(enter + ["python3", "-c", TWICE, "300"])]
        looks, seen = 0, 0
        with recorder.client() as client:
            recorder_client = type("One", (), {"call": client.call})
            while any(sender.poll() is None for sender in senders):
                account = self.check(recorder_client)["account"]
                self.assertGreaterEqual(account["seen"], seen)
                seen = account["seen"]
                looks += 1
        for sender in senders:
            self.assertEqual(sender.wait(), 0)
        self.assertGreater(looks, 50)
        while self.check(recorder)["account"]["seen"] < self.received(enter) - before:
            time.sleep(0.01)
        command = subprocess.run([TAPELOOP, "--state", self.path("state"), "status", "dmz"], stdout=subprocess.PIPE,
                                 check=True).stdout.decode()
        self.assertIn("every packet is accounted for", command)
        shown = {}
        for line in command[command.index("ACCOUNT"):].splitlines()[1:13]:
            found = re.match(r" +([a-z ]+?)  +([0-9]+)  ", line)
            shown[found[1]] = int(found[2])
        self.assertEqual(shown["sum"], shown["seen"])
        self.assertEqual(shown["seen"], sum(shown[line.replace("_", " ")] for line in LINES[1:]))
        ended = recorder.call("record.stop", ring="dmz")
        account = ended["account"]
        self.check_account(account)
        self.assertEqual(account["seen"], self.received(enter) - before)
        self.assertEqual(account["in_flight"], 0)
        self.assertGreaterEqual(account["duplicates"], 200)
        for line in ("stored", "discarded", "sampled_out"):
            self.assertGreater(account[line], 0, line)
        self.assertGreater(ended["cut_packets"], 0)
        # History tells the same, second by second.
        rows = recorder.call("history", ring="dmz")["rows"]
        for row in rows:
            self.assertEqual(row["seen"], sum(row[line] for line in LINES if line != "seen"))


class Command(World):
    """tapeloop rule."""

    def command(self, *words, status=0, stdin=b""):
        done = subprocess.run([TAPELOOP, "--state", self.path("state"), *words], input=stdin, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, check=False)
        self.assertEqual(done.returncode, status, done.stderr)
        return (done.stdout if status == 0 else done.stderr).decode()

    def test_all(self):
        recorder = self.start()
        create_ring(recorder, "dmz", self.path("disk"))
        self.assertEqual(self.command("rule", "add", "dmz", "tcp", "port", "80", ":", "headers", "l3+l4"),
                         "1  tcp port 80 : headers l3+l4\n")
        self.assertEqual(self.command("rule", "add", "dmz", "vlan 7 : discard", "--at", "1"), "1  vlan 7 : discard\n")
        self.assertEqual(self.command("rule", "set", "dmz", "2", "tcp port 443 : snap 60"),
                         "2  tcp port 443 : snap 60\n")
        self.assertEqual(self.command("rule", "move", "dmz", "2", "up"), "1  tcp port 443 : snap 60\n")
        import_files(recorder, "dmz", [("x.pcap", capture([tcp(1, 443, bytes(100)), tcp(1, 2, b"", vlan=7)] * 3))])
        rows = [line.split()[:2] for line in self.command("rule", "list", "dmz").splitlines()]
        self.assertEqual(rows, [["RULE", "PACKETS"], ["1", "3"], ["2", "3"], ["-", "0"]])
        text = self.command("rule", "list", "dmz", "--text")
        self.assertEqual(text, "tcp port 443 : snap 60\nvlan 7 : discard\n")
        self.command("rule", "delete", "dmz", "1")
        self.command("rule", "replace", "dmz", "-", stdin=b"# mine\n\n" + text.encode())
        listed = json.loads(self.command("rule", "list", "dmz", "--json"))
        self.assertEqual([rule["counters"]["packets"] for rule in listed["rules"]], [0, 3])  # one is new
        self.assertIn("standard input: line 2, column 7", self.command("rule", "replace", "dmz", "-", status=2,
                                                                       stdin=b"all : full\nall : fool\n"))
        self.assertIn("revision", self.command("rule", "delete", "dmz", "1", "--revision", "1", status=1))
        self.assertIn("no rule 9", self.command("rule", "delete", "dmz", "9", status=1))
        self.command("rule", "delete", "dmz", "1")
        self.command("rule", "delete", "dmz", "1")
        self.assertEqual(self.command("rule", "list", "dmz"), "")


    def test_trial(self):
        """rule test: what rules would keep of a file and of the past; the same figures as recording with them."""
        recorder = self.start()
        create_ring(recorder, "lab", self.path("lab"))
        create_ring(recorder, "dmz", self.path("disk"))
        rules = ("tcp port 443 : headers l3+l4\nudp port 9 : full\nvlan 7 : discard\n"
                 "tcp port 1000-1100 : sample 1/3\ntcp port 22 : flow 500\n")
        frames = [tcp(5000 + i, port, bytes(i * 7 % 300), vlan=vlan) for i in range(200)
                  for port in (443, 22, 80, 1000 + i % 100) for vlan in (None, 7)]
        with open(self.path("x.pcap"), "wb") as file:
            file.write(capture(frames))
        with open(self.path("rules"), "w", encoding="ascii") as file:
            file.write(rules)
        self.command("import", "lab", self.path("x.pcap"))
        empty = json.loads(self.command("rule", "test", "dmz", self.path("x.pcap"), "--json"))
        self.assertEqual((empty["packets"], empty["stored_packets"], empty["bytes_saved"]), (1600, 1600, 0))
        for words in (["dmz", self.path("x.pcap")], ["lab", "--from", "2023-11-14T00:00:00Z"]):
            tried = json.loads(self.command("rule", "test", *words, "--rules", self.path("rules"), "--json"))
            self.assertTrue(tried["complete"])
            self.command("rule", "replace", words[0], self.path("rules"))
            again = json.loads(self.command("rule", "test", *words, "--json"))
            self.assertEqual(again, tried)
            if words[0] == "dmz":
                self.command("import", "dmz", self.path("x.pcap"))
                listed = json.loads(self.command("rule", "list", "dmz", "--json"))
                self.assertEqual([rule["counters"] for rule in tried["rules"]],
                                 [rule["counters"] for rule in listed["rules"]])
                self.assertEqual(tried["unmatched"], listed["unmatched"])
                kept = extracted(recorder, "dmz")
                self.assertEqual(tried["stored_packets"], len(kept))
                self.assertEqual(tried["stored_bytes"], sum(len(body) for _, body in kept))
                self.assertEqual(tried["bytes_saved"], tried["bytes"] - tried["stored_bytes"])
        whole = self.command("rule", "test", "dmz", self.path("x.pcap"))
        self.assertRegex(whole, r"(?m)^all +1600 ")
        self.assertRegex(whole, r"of 1600 packets kept")
        cut = capture(frames)[:-10]
        self.assertIn("damage", self.command("rule", "test", "dmz", "-", stdin=cut, status=3))
        self.assertIn("neither", self.command("rule", "test", "dmz", "-", stdin=b"x" * 100, status=2))
        self.assertIn("test on what", self.command("rule", "test", "dmz", status=2))
        self.assertIn("exclude", self.command("rule", "test", "dmz", "x", "--from", "-1h", status=2))
        self.assertIn("column 7", self.command("rule", "test", "dmz", "x", "--rules", "-", stdin=b"all : fool", status=2))
        self.assertIn("no ring", self.command("rule", "test", "nix", self.path("x.pcap"), status=1))


if __name__ == "__main__":
    main()
