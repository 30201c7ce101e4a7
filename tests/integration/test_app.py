#!/usr/bin/env python3
"""Filters that ask for what layer 7 found: app NAME. What classifies is the real process; without it (it is built where libndpi-dev is) this is skipped.

The captures of nDPI itself are recorded and searched where $TAPELOOP_CAPTURES or ../shared/captures beside the source tree has them in ndpi/; what
tapeloop-flows says of each flow of them, whose counts test_classify.py holds against nDPI's own, is what must be found.
"""
import collections
import glob
import os
import signal
import subprocess
import sys
import tempfile
import time

import recorder_world as world
from recorder_world import MIB, RemoteError, extract, import_files, import_packets
from test_classify import CAPTURES, CLIENT, DNS, FLOWS, HTTP, NOISE, PROGRAM, RESOLVER, TLS, VIDEO, dns_answer, dns_query, tcp, udp

TAPELOOP = os.path.join(world.BIN, "tapeloop")
START_NS = 1_700_000_000 * 10**9
ARP = bytes.fromhex("ffffffffffff0200000000010806000108000604000102000000000 10a010002000000000000 0a010035".replace(" ", "")) + bytes(18)
# A later piece of a datagram: it has no ports, so no flow that layer 7 could name.
PIECE = bytes(12) + b"\x08\x00" + bytes([0x45, 0, 0, 40, 0, 9, 0, 3, 64, 17, 0, 0, 10, 1, 0, 53, 10, 1, 0, 2]) + bytes(20)
MIX = DNS + [ARP] + HTTP + TLS + [PIECE] + VIDEO + NOISE


def timed(frames, start_ns=START_NS):
    return [(start_ns + i * 1_000_000, frame) for i, frame in enumerate(frames)]


class Base(world.World):
    def make(self, classify="on", state="state", name="dmz", **settings):
        recorder = self.start(state)
        world.create_ring(recorder, name, self.path(name + ".disk"), slot_bytes=MIB)
        recorder.call("ring.set", ring=name, settings={"classify": classify, **settings})
        return recorder

    def refused(self, code, recorder, method, *descriptors, **params):
        with self.assertRaises(RemoteError) as caught:
            recorder.call(method, *descriptors, **params)
        self.assertEqual(caught.exception.code, code)
        return caught.exception.message

    def find(self, recorder, text, complete=True, **params):
        packets, result = extract(recorder, params.pop("ring", "dmz"), filter=text, **params)
        self.assertEqual((result["complete"], result["undecided"] == 0), (complete, complete), (text, result))
        return [body for _, body in packets]


class App(Base):
    def check_mix(self, recorder, **params):
        self.assertEqual(self.find(recorder, "app dns", **params), DNS)
        self.assertEqual(self.find(recorder, "app DNS and src host " + RESOLVER, **params), DNS[1:])
        self.assertEqual(self.find(recorder, "app http", **params), HTTP)
        self.assertEqual(self.find(recorder, "app tls", **params), TLS + VIDEO)  # one of both names is enough
        self.assertEqual(self.find(recorder, "app youtube", **params), VIDEO)
        self.assertEqual(self.find(recorder, "app TLS.YouTube", **params), VIDEO)
        self.assertEqual(self.find(recorder, "app tls and not app youtube", **params), TLS)
        self.assertEqual(self.find(recorder, "app unknown", **params), NOISE)
        self.assertEqual(self.find(recorder, "app ntp", **params), [])
        # What belongs to no flow is of no app.
        self.assertEqual(self.find(recorder, "not app unknown and not app tls and not app http", **params), DNS + [ARP, PIECE])
        self.assertEqual(self.find(recorder, "not (app dns or tcp or app unknown)", **params), [ARP, PIECE])
        self.assertEqual(self.find(recorder, "tcp or app dns", **params), DNS + HTTP + TLS + VIDEO)

    def test_a_mix(self):
        recorder = self.make()
        import_packets(recorder, "dmz", timed(MIX))
        self.check_mix(recorder)
        self.check_mix(recorder, no_index=True)
        # Also after a start, of a recorder that has not asked layer 7 for anything.
        self.assertEqual(recorder.stop(), 0)
        recorder = self.start()
        self.check_mix(recorder)
        packets, result = extract(recorder, "dmz", filter="app dns")
        self.assertIn("app dns", result["narrowing"])
        # Rules of layer 7 go on as they did, and what they keep is judged by what they leave of it.
        recorder.call("rule.add", ring="dmz", rule="app dns until known: full : headers l3+l4")
        import_packets(recorder, "dmz", timed(MIX, START_NS + 10**12))
        self.assertEqual(len(self.find(recorder, "app http", from_ns=str(START_NS + 10**12))), len(HTTP))

    def test_names(self):
        recorder = self.make()
        import_packets(recorder, "dmz", timed(MIX))
        names = recorder.call("apps")["apps"]
        self.assertIn("DNS", names)
        self.assertEqual(len(names), len({name.lower() for name in names}))
        for text in ("app dnss", "tcp and not (app dns or app dnss)", "app tls.dnss"):
            for method in ("extract", "estimate"):
                with open("/dev/null", "wb") as null:
                    said = self.refused("invalid", recorder, method, *([[null.fileno()]] if method == "extract" else []), ring="dmz", filter=text)
                self.assertRegex(said, r"column \d+: layer 7 knows no protocol (tls\.)?dnss: tapeloop apps lists")
        self.assertRegex(self.refused("invalid", recorder, "estimate", ring="dmz", filter="app"), "expected the name of a protocol")
        recorder.call("estimate", ring="dmz", filter="app dns")
        listed = subprocess.run([TAPELOOP, "--state", self.path("state"), "apps"], capture_output=True, text=True, check=True)
        self.assertEqual(listed.stdout.splitlines(), names)
        # All that can be said in a filter can be asked for.
        for name in names:
            self.find(recorder, f'app "{name}"')
        self.assertEqual(self.find(recorder, "app 'dns'"), DNS)

    def test_not_classified(self):
        """What was recorded while the setting was off, as by every version before, is not decided, and that is told."""
        recorder = self.make("off")
        import_packets(recorder, "dmz", timed(MIX))
        recorder.call("ring.set", ring="dmz", settings={"classify": "on"})  # at once, from the next import on
        later = START_NS + 10**12
        import_packets(recorder, "dmz", timed(MIX, later))
        packets, result = extract(recorder, "dmz", filter="app dns")
        self.assertEqual([body for _, body in packets], DNS)
        self.assertEqual(packets[0][0], later)
        self.assertEqual((result["complete"], result["undecided"], result["gaps_total"]), (False, len(MIX) - 2, 0))  # but for ARP and the piece
        # No more than what hangs on it.
        packets, result = extract(recorder, "dmz", filter="app dns and host " + RESOLVER)
        self.assertEqual((len(packets), result["undecided"]), (2, 2))
        self.assertEqual(self.find(recorder, "tcp or app http and not udp", to_ns=str(later)), HTTP + TLS + VIDEO)
        self.assertEqual(self.find(recorder, "app dns", from_ns=str(later)), DNS)
        job = recorder.call("job.start", ring="dmz", filter="app dns", name="kept", wait=True)["job"]
        self.assertEqual((job["packets"], job["undecided"], job["complete"]), (2, len(MIX) - 2, False))
        self.assertEqual(recorder.call("job.show", job="kept")["job"]["undecided"], len(MIX) - 2)
        file = self.path("found.pcapng")
        done = subprocess.run([TAPELOOP, "--state", self.path("state"), "extract", "dmz", "-w", file, "app", "dns"], capture_output=True, text=True,
                              check=False)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn(f"{len(MIX) - 2} packets not decided", done.stderr)
        self.assertIn("setting classify", done.stderr)
        with open(file, "rb") as opened:
            packets, comments = world.read_pcapng(opened.read())
        self.assertEqual(len(packets), 2)
        self.assertTrue([comment for comment in comments if comment.startswith(f"undecided: {len(MIX) - 2} packets")], comments)

    def test_without_an_index(self):
        """Verdicts lie in the key index, and are written down beside it: where there is neither, nothing is decided."""
        recorder = self.make(index="off")
        self.assertEqual(recorder.stop(), 0)
        recorder = self.start()
        import_packets(recorder, "dmz", timed(MIX))
        self.check_mix(recorder)
        self.assertEqual(recorder.stop(), 0)
        self.remove_pieces()
        recorder = self.start()
        packets, result = extract(recorder, "dmz", filter="app dns")
        self.assertEqual((packets, result["undecided"], result["complete"]), ([], len(MIX) - 2, False))

    def pieces(self):
        return sorted(glob.glob(os.path.join(self.path("state"), "verdicts", "*.verdicts")))

    def remove_pieces(self):
        self.assertTrue(self.pieces())
        for path in self.pieces():
            os.unlink(path)

    def test_damaged(self):
        """What is written down beside the segments is damaged anywhere: what is found is right, and what is not is counted."""
        recorder = self.make(index="off")
        self.assertEqual(recorder.stop(), 0)
        recorder = self.start()
        for i in range(3):
            import_packets(recorder, "dmz", timed(MIX, START_NS + i * 10**12))
        self.assertEqual(recorder.stop(), 0)
        [path] = self.pieces()
        with open(path, "rb") as file:
            whole = file.read()
        partly = 0
        for at in range(0, len(whole), max(1, len(whole) // 12)):
            with open(path, "wb") as file:
                file.write(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1:])
            recorder = self.start()
            packets, result = extract(recorder, "dmz", filter="app dns")
            self.assertEqual([body for _, body in packets if body not in DNS], [])
            self.assertEqual(result["complete"], result["undecided"] == 0)
            self.assertTrue(len(packets) == 3 * len(DNS) or result["undecided"] > 0, (at, result))
            partly += 0 < len(packets) < 3 * len(DNS)
            self.assertEqual(recorder.stop(), 0)
        self.assertGreater(partly, 0)

    def test_not_written(self):
        """What cannot be written down is counted; what is recorded with the segments decides all the same."""
        recorder = self.make()
        self.assertEqual(recorder.call("status")["rings"][0]["verdicts_lost"], 0)
        os.rmdir(self.path("state", "verdicts"))
        import_packets(recorder, "dmz", timed(MIX))
        self.check_mix(recorder)
        self.assertGreaterEqual(recorder.call("status")["rings"][0]["verdicts_lost"], 5)
        shown = subprocess.run([TAPELOOP, "--state", self.path("state"), "status", "dmz"], capture_output=True, text=True, check=True)
        self.assertRegex(shown.stdout, r"layer 7 +\d+ verdicts were not written down")

    def test_deleted_ring(self):
        """Nothing is left of a ring that is deleted."""
        recorder = self.make()
        import_packets(recorder, "dmz", timed(MIX))
        self.find(recorder, "app dns")
        self.assertEqual(len(self.pieces()), 1)
        recorder.call("ring.delete", ring="dmz", wipe=True)
        end = time.monotonic() + 30
        while self.pieces():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.2)

    def test_purge(self):
        recorder = self.make()
        import_packets(recorder, "dmz", timed(MIX))
        whole = {"ring": "dmz", "from_ns": str(START_NS), "to_ns": str(START_NS + 10**12), "filter": "app dns"}
        said = recorder.call("purge", dry_run=True, **whole)
        self.assertEqual((said["packets"], said["undecided"], said["complete"]), (2, 0, True))
        with open(self.path("dmz.disk"), "rb") as disk:
            self.assertIn(b"\x03DNS", disk.read())  # as the key index has names: its length before it
        self.assertEqual(recorder.call("purge", **whole)["packets"], 2)
        left = [frame for frame in MIX if frame not in DNS]
        self.assertEqual([body for _, body in extract(recorder, "dmz")[0]], left)
        # The segment was written anew, with what had been found of the packets that are left. What had been written down beside it is gone: it would
        # answer whoever asks for a conversation that was erased.
        self.assertEqual(self.pieces(), [])
        for _ in range(2):
            for text, found in (("app dns", []), ("app http", HTTP), ("app tls", TLS + VIDEO), ("app unknown", NOISE), ("not tcp and not app unknown", [ARP, PIECE])):
                self.assertEqual(self.find(recorder, text), found)
            self.assertEqual(recorder.stop(), 0)
            recorder = self.start()
        with open(self.path("dmz.disk"), "rb") as disk:
            self.assertNotIn(b"\x03DNS", disk.read())

    def test_after_a_crash(self):
        recorder = self.make()
        import_packets(recorder, "dmz", timed(MIX))
        client = recorder.client()
        reader, writer = os.pipe()
        client.ask("import", [reader], ring="dmz", names=["pipe"])
        os.close(reader)
        os.write(writer, world.pcap(timed(MIX, START_NS + 10**12)))
        while len(extract(recorder, "dmz", filter="app dns or app http or app tls or app unknown")[0]) < 2 * (len(MIX) - 2):
            time.sleep(0.05)
        recorder.kill()
        os.close(writer)
        client.close()
        self.recorders.remove(recorder)
        recorder = self.start()
        self.assertEqual(self.find(recorder, "app dns", to_ns=str(START_NS + 10**12)), DNS)
        # The second segment was sealed by the start, which knows of no verdict but those that were written down.
        for text, found in (("app dns", DNS), ("app http", HTTP), ("app youtube", VIDEO)):
            self.assertEqual(self.find(recorder, text, from_ns=str(START_NS + 10**12)), found)
        self.assertEqual(recorder.stop(), 0)
        self.remove_pieces()
        recorder = self.start()
        packets, result = extract(recorder, "dmz", filter="app dns", from_ns=str(START_NS + 10**12))
        self.assertEqual((packets, result["undecided"], result["complete"]), ([], len(MIX) - 2, False))


class Open(Base):
    """Segments that are still being filled, and verdicts that come late."""

    def begin(self, recorder):
        client = recorder.client()
        reader, writer = os.pipe()
        client.ask("import", [reader], ring="dmz", names=["pipe"])
        os.close(reader)
        self.addCleanup(client.close)
        return client, writer

    def test_a_segment_being_filled(self):
        recorder = self.make()
        client, writer = self.begin(recorder)
        os.write(writer, world.pcap(timed(DNS + HTTP)))
        self.wait_for(lambda: len(extract(recorder, "dmz", filter="app dns or app http")[0]) == 7)
        self.assertEqual(self.find(recorder, "app dns"), DNS)
        # A flow of which there is not enough yet: undecided, until there is.
        syn = tcp(CLIENT, 40009, "10.1.0.9", 8081, 2, 100, 0)
        os.write(writer, world.pcap(timed([syn], START_NS + 10**9))[24:])
        self.wait_for(lambda: extract(recorder, "dmz")[1]["packets"] == 8)
        packets, result = extract(recorder, "dmz", filter="app http")
        self.assertEqual(([body for _, body in packets], result["undecided"], result["complete"]), (HTTP, 1, False))
        rest = [tcp("10.1.0.9", 8081, CLIENT, 40009, 0x12, 900, 101), tcp(CLIENT, 40009, "10.1.0.9", 8081, 0x10, 101, 901),
                tcp(CLIENT, 40009, "10.1.0.9", 8081, 0x18, 101, 901, b"GET / HTTP/1.1\r\nHost: example.org\r\nUser-Agent: x\r\n\r\n"),
                tcp("10.1.0.9", 8081, CLIENT, 40009, 0x18, 901, 150, b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nok")]
        os.write(writer, world.pcap(timed(rest, START_NS + 2 * 10**9))[24:])
        os.close(writer)
        client.answer()
        self.assertEqual(self.find(recorder, "app http"), HTTP + [syn] + rest)  # the first packet, too

    def wait_for(self, what, seconds=20):
        end = time.monotonic() + seconds
        while not what():
            self.assertLess(time.monotonic(), end, "it does not come")
            time.sleep(0.05)

    def late(self, later_ns):
        """A flow that layer 7 names when an earlier segment with a packet of it had been sealed. Returns its packets, and the recorder."""
        recorder = self.make()
        client, writer = self.begin(recorder)
        bare = [udp(CLIENT, 50000, RESOLVER, 53, b"")]  # says nothing about itself
        filling = [udp("10.2.0.1", 40000 + i % 20, "10.2.0.2", 9, bytes(1400)) for i in range(1200)]  # more than a slot of a MiB
        speaking = [udp(CLIENT, 50000, RESOLVER, 53, dns_query("example.org")), udp(RESOLVER, 53, CLIENT, 50000, dns_answer("example.org", CLIENT))]
        data = world.pcap(timed(bare + filling))
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(data)
            pipe.flush()
            self.wait_for(lambda: extract(recorder, "dmz")[1]["packets"] == 1201)
            time.sleep(0.5)  # the first segment is sealed
            pipe.write(world.pcap(timed(speaking, START_NS + later_ns))[24:])
        client.answer()
        self.assertEqual(len(extract(recorder, "dmz", filter=self.FLOW)[0]), 3)
        return recorder, bare, speaking

    FLOW = f"host {CLIENT} and udp port 50000"

    def test_late(self):
        """It reaches back into segments that had been sealed: also after a start, and after a crash."""
        recorder, bare, speaking = self.late(10**10)
        for _ in range(2):
            self.assertEqual(self.find(recorder, f"app dns and {self.FLOW}"), bare + speaking)
            self.assertEqual(self.find(recorder, f"not app dns and {self.FLOW}"), [])
            self.assertEqual(self.find(recorder, "app dns", no_index=True), bare + speaking)
            self.assertEqual(self.find(recorder, "app dns", to_ns=str(START_NS + 10**9)), bare)
            recorder.kill()
            self.recorders.remove(recorder)
            recorder = self.start()

    def test_too_late(self):
        """It had been silent for so long that it is another conversation: what is found of this is not said of that."""
        recorder, _, speaking = self.late(10**12)
        packets, result = extract(recorder, "dmz", filter=f"app dns and {self.FLOW}")
        found = [body for _, body in packets]
        self.assertEqual(found[-2:], speaking)
        self.assertEqual((len(found) + result["undecided"], result["complete"]), (3, result["undecided"] == 0))

    def test_follow(self):
        recorder = self.make()
        client, writer = self.begin(recorder)
        with tempfile.NamedTemporaryFile() as output, recorder.client() as follower:
            follower.ask("extract", [output.fileno()], ring="dmz", filter="app dns or app youtube", format="pcap", follow=True)

            def found():
                with open(output.name, "rb") as file:
                    data = file.read()
                return [body for _, body in world.read_pcap(data)] if len(data) > 24 else []

            sent, end = [], time.monotonic() + 20
            os.write(writer, world.pcap(timed(HTTP)))
            while not found():  # what is read before its flow is judged is undecided: it comes again
                self.assertLess(time.monotonic(), end, "it does not come")
                os.write(writer, world.pcap(timed(DNS + VIDEO, START_NS + (1 + len(sent)) * 10**9))[24:])
                sent += DNS + VIDEO
                time.sleep(0.5)
            os.close(writer)
            client.answer()
            follower.send({"version": 1, "id": follower.number, "method": "extract.finish", "params": {}})
            result = follower.answer()
            self.assertEqual([body for body in found() if body not in DNS + VIDEO], [])
            self.assertLessEqual(len(sent) - len(found()), result["undecided"])
            self.assertEqual(result["complete"], result["undecided"] == 0)

    def test_the_process_dies(self):
        """Recording goes on, and what was found before stays."""
        recorder = self.make()
        import_packets(recorder, "dmz", timed(DNS))
        for child in world.all_children(recorder.process.pid):
            if world.process_name(child).startswith("tapeloop-classi"):
                os.kill(child, signal.SIGKILL)
        import_packets(recorder, "dmz", timed(HTTP, START_NS + 10**12))
        self.assertEqual(self.find(recorder, "app dns", to_ns=str(START_NS + 10**12)), DNS)
        packets, result = extract(recorder, "dmz", filter="app http", from_ns=str(START_NS + 10**12))
        self.assertEqual(len(packets) + result["undecided"], len(HTTP))


class Captures(Base):
    def flows(self, path):
        done = subprocess.run([FLOWS, PROGRAM, path, "--each"], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, path)
        return [line.split("\t") for line in done.stdout.splitlines()]

    def test_captures_of_ndpi(self):
        if not os.path.exists(os.path.join(CAPTURES, "protocols.tsv")):
            self.skipTest(f"there are no captures in {CAPTURES}")
        recorder = self.start()
        different = {}
        files = sorted(name for name in os.listdir(CAPTURES) if name.endswith((".pcap", ".pcapng")))
        for number, name in enumerate(files):
            path, ring = os.path.join(CAPTURES, name), f"r{number}"
            wanted = collections.Counter()
            for _, packets, *names in self.flows(path):
                names = [each for each in names if each != "Unknown"] or ["Unknown"]
                self.assertNotIn("not judged", names)
                for each in set(names):
                    wanted[each] += int(packets)
            world.create_ring(recorder, ring, self.path("disk"), size=32 * MIB, slot_bytes=4 * MIB)
            recorder.call("ring.set", ring=ring, settings={"classify": "on"})
            with open(path, "rb") as file:
                import_files(recorder, ring, [(name, file.read())])
            for each, packets in wanted.items():
                found, result = extract(recorder, ring, filter=f"app {each}")
                self.assertTrue(result["complete"], (name, each, result))
                if len(found) != packets:
                    different.setdefault(name, {})[each] = (packets, len(found))
            recorder.call("ring.delete", ring=ring, wipe=True)
            os.unlink(self.path("disk"))
        self.assertEqual(different, DIFFERENT)


DIFFERENT = {}

if __name__ == "__main__":
    sys.dont_write_bytecode = True
    if not os.access(PROGRAM, os.X_OK):
        print(f"skipped: {PROGRAM} is not there: built without libndpi-dev")
        sys.exit(world.SKIPPED)
    world.main()
