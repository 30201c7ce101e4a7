#!/usr/bin/env python3
"""Many extractions at once, clients that leave or stall, and readers that follow too slowly, while the ring records.

  test_extractions.py [--extractions N] [--seed N] [TEST...]
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time

import recorder_world
from recorder_world import (MIB, RECORDER, RemoteError, World, children, create_ring, ended, import_packets, make_namespace,
                            extract, numbered, packet, pcap, read_pcapng, sanitized, spares, thread, wait_for)

ARGUMENTS = None
TRAFFIC = os.path.join(os.environ.get("TAPELOOP_TEST_BIN", ""), "tapeloop-traffic")
READINGS_MAX = 128  # capture/reading.h
WORKER_MIB = 64     # MEMORY_MAX there: buffers of one extraction
PACKETS = 100_000   # of 100 bytes: what a pipe takes is a hundredth of it
BEFORE = str(1_750_000_000 * 10**9)  # the imported packets are older, what is recorded now is newer


def anonymous_bytes(pid):
    """Memory that is a process's own; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def opened(pid):
    found = set()
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.add(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
        except OSError:
            pass  # closed meanwhile
    return found


class Extraction:
    """One request for the imported packets, whose output lies in a pipe until somebody reads it."""

    def __init__(self, recorder, **params):
        self.reader, writer = os.pipe()
        self.client = recorder.client()
        self.data = bytearray()
        self.outcome = None
        self.client.ask("extract", [writer], ring="dmz", **{"format": "pcap", **params})
        os.close(writer)

    def read_some(self):
        self.data += os.read(self.reader, 4096)

    def read_all(self):
        while part := os.read(self.reader, 65536):
            self.data += part
        self.wait()

    def wait(self):
        try:
            self.outcome = self.client.answer()
        except RemoteError as error:
            self.outcome = error.code

    def close_output(self):
        os.close(self.reader)
        self.reader = -1

    def close(self):
        self.client.close()
        if self.reader >= 0:
            self.close_output()


class ManyAtOnce(World):
    def open(self, prefix=()):
        self.recorder = self.start(prefix=prefix)
        create_ring(self.recorder, "dmz", self.path("disk"), 512 * MIB)
        import_packets(self.recorder, "dmz", numbered(PACKETS))
        self.running = []
        self.addCleanup(lambda: [one.close() for one in self.running])

    def extract(self, **params):
        self.running.append(Extraction(self.recorder, **params))
        return self.running[-1]

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.recorder.process.pid}/fd"))

    def account(self):
        return self.recorder.call("status")["rings"][0]["account"]

    def test_half_of_them_cancelled_and_some_stalled(self):
        """Who reads gets everything; who leaves leaves nothing behind; who stalls costs a bounded piece of memory; and
        the recording loses nothing (promises P7, P10). It records an interface: the generator would wait instead of
        losing anything."""
        enter = make_namespace(self)
        self.open(enter)
        chance = random.Random(ARGUMENTS.seed)
        pid = self.recorder.process.pid
        others = len(children(pid))
        extract(self.recorder, "dmz", to_ns=BEFORE, packets_max=1)
        wait_for(lambda: len(spares(pid)) == 1)  # and stays
        self.recorder.call("record.start", ring="dmz", interfaces=["v1"])
        before = self.account()  # of the import
        descriptors = self.descriptors()
        traffic = subprocess.Popen([*enter, TRAFFIC, "v0", "10000", "0"], stdout=subprocess.PIPE)
        self.addCleanup(lambda: (traffic.terminate(), traffic.wait(), traffic.stdout.close()))
        wait_for(lambda: self.account()["seen"] > before["seen"], traffic)
        kinds = [("reads", "hangs up", "closes", "stalls")[i % 4] for i in range(ARGUMENTS.extractions)]
        chance.shuffle(kinds)
        parts = {kind: [] for kind in kinds}
        for kind in kinds:
            parts[kind].append(self.extract(to_ns=BEFORE))
        readers = [thread(one.read_all) for one in parts["reads"]]
        wait_for(lambda: len(children(pid)) - others >= len(parts["stalls"]))
        for one in parts["hangs up"] + parts["closes"]:
            if chance.random() < 0.5:
                one.read_some()
        for one in parts["hangs up"]:
            one.client.close()
        for one in parts["closes"]:
            one.close_output()
        for one in readers:
            one.join()
        whole = pcap(numbered(PACKETS))
        for one in parts["reads"]:
            self.assertTrue(one.outcome["complete"], one.outcome)
            self.assertTrue(one.data == whole)
        for one in parts["closes"]:
            one.wait()
            self.assertEqual(one.outcome, "closed")

        # Only those that stall are left, and they stay within their bounds.
        wait_for(lambda: len(children(pid)) - others == len(parts["stalls"]))
        used = [anonymous_bytes(child) for child in children(pid)]
        print(f"{len(parts['stalls'])} stalled: {max(used) / MIB:.1f} MiB at most, {sum(used) / MIB:.0f} MiB together",
              flush=True)
        if not sanitized(RECORDER):
            self.assertLess(max(used), (WORKER_MIB + 16) * MIB)
        for one in self.running:
            one.close()
        wait_for(lambda: len(children(pid)) == others and self.descriptors() <= descriptors)
        traffic.terminate()
        sent = int(traffic.communicate()[0])
        self.recorder.call("record.stop", ring="dmz")
        account = self.account()
        self.check_account(account)
        print(f"{sent} packets sent meanwhile", flush=True)
        self.assertEqual(account["stored"] - before["stored"], sent, account)
        for line in ("dropped_queue", "dropped_kernel", "lost_disk", "in_flight"):
            self.assertEqual(account[line], 0, account)
        self.check_clean(self.recorder, "dmz")

    def test_stalled_clients_shut_nobody_out(self):
        """However many extractions stall, the recorder can be asked, and told to end things."""
        self.open()
        for _ in range(READINGS_MAX):
            self.extract(to_ns=BEFORE)
        wait_for(lambda: len(children(self.recorder.process.pid)) >= READINGS_MAX)
        one_more = self.extract(to_ns=BEFORE)
        one_more.wait()
        self.assertEqual(one_more.outcome, "busy")
        self.assertEqual(os.read(one_more.reader, 1), b"")  # nothing came, and its output was closed
        self.refused("busy", self.recorder, "verify", ring="dmz")
        self.assertEqual(self.recorder.call("status")["rings"][0]["ring"]["name"], "dmz")
        self.running[0].client.close()

        def fits_again():
            again = self.extract(to_ns=BEFORE, packets_max=1)
            again.read_all()
            return again.outcome != "busy" and again.outcome["packets"] == 1

        wait_for(fits_again)


class Spare(World):
    def test_the_next_one_is_ready(self):
        """After an extraction a process waits for the next, which is then done by it and by no other; one that has died meanwhile costs nothing
        but time, and none is left when the recorder ends."""
        recorder = self.start()
        pid = recorder.process.pid
        create_ring(recorder, "dmz", self.path("disk"), 64 * MIB)
        packets = numbered(PACKETS)
        import_packets(recorder, "dmz", packets)
        self.assertEqual(spares(pid), [])  # nobody has asked for anything
        for round_number in range(3):
            self.assertEqual(extract(recorder, "dmz")[0], packets)
            wait_for(lambda: len(spares(pid)) == 1)
            spare, = spares(pid)
            stalls = Extraction(recorder)
            self.addCleanup(stalls.close)
            wait_for(lambda: children(pid) == [spare])  # pylint: disable=cell-var-from-loop
            self.assertEqual(spares(pid), [])
            stalls.close()
            wait_for(lambda: len(spares(pid)) == 1)
            self.assertNotEqual(spares(pid), [spare])
            if round_number > 0:
                spare, = spares(pid)
                os.kill(spare, signal.SIGKILL)
                wait_for(lambda: ended(spare))  # pylint: disable=cell-var-from-loop
        self.assertEqual(extract(recorder, "dmz", packets_max=7)[0], packets[:7])
        wait_for(lambda: len(spares(pid)) == 1)
        spare, = spares(pid)
        # It is killed between being looked at and reading its job: a process that is stopped looks as one that waits.
        os.kill(spare, signal.SIGSTOP)
        asked = Extraction(recorder)
        self.addCleanup(asked.close)
        pipe = os.readlink(f"/proc/self/fd/{asked.reader}")
        wait_for(lambda: pipe in opened(pid))  # the recorder has the request,
        time.sleep(0.3)                        # and the process's socket the job
        self.assertEqual(children(pid), [])    # which was given to no other
        os.kill(spare, signal.SIGKILL)
        asked.read_all()
        self.assertTrue(asked.outcome["complete"], asked.outcome)
        self.assertEqual(asked.outcome["packets"], len(packets))
        wait_for(lambda: len(spares(pid)) == 1)
        spare, = spares(pid)
        self.assertEqual(recorder.stop(), 0)
        self.assertFalse(os.path.exists(f"/proc/{spare}"))


class TooSlow(World):
    def test_a_follower_is_told_what_it_lost(self):
        """Who follows and does not read is overtaken by the ring: what it gets is in order, nothing twice, and what it did
        not get is named with its time."""
        recorder = self.start()
        create_ring(recorder, "dmz", self.path("disk"), 24 * MIB, slot_bytes=MIB)
        import_packets(recorder, "dmz", numbered(1000))
        follower = Extraction(recorder, follow=True, format="pcapng")
        self.addCleanup(follower.close)
        follower.read_some()  # it has begun
        total = 1000
        for _ in range(20):   # the ring turns at least twice
            import_packets(recorder, "dmz", numbered(30_000, total))
            total += 30_000
        reading = thread(follower.read_all)
        wait_for(lambda: len(follower.data) > 1 << 17)
        follower.client.ask("extract.finish", request_id=follower.client.number)
        reading.join()
        result = follower.outcome
        found, comments = read_pcapng(bytes(follower.data))
        numbers = [(time_ns - 1_700_000_000 * 10**9) // 1000 for time_ns, _ in found]
        self.assertEqual(numbers, sorted(set(numbers)))  # in order, nothing twice
        self.assertTrue(all(body == packet(number) for number, (_, body) in zip(numbers, found)))
        self.assertFalse(result["complete"], result)
        lost = sorted(set(range(total)) - set(numbers))
        self.assertGreater(len(lost), 0)
        covered = [(int(gap["from_ns"]), int(gap["to_ns"])) for gap in result["gaps"]]
        print(f"{len(found)} of {total} packets, gaps: {result['gaps']}", flush=True)
        for number in (lost[0], lost[len(lost) // 2], lost[-1]):
            at_ns = 1_700_000_000 * 10**9 + number * 1000
            self.assertTrue(any(low <= at_ns <= high for low, high in covered), (number, covered))
        for gap in result["gaps"]:  # whoever has found it, the file itself says it
            words = f"between {gap['from_text']} and {gap['to_text']}"
            self.assertTrue(any(words in comment for comment in comments), (words, comments))


class Limits(World):
    def test_one_that_ends_at_a_limit_says_so(self):
        recorder = self.start()
        create_ring(recorder, "dmz", self.path("disk"), 64 * MIB)
        packets = numbered(1000)
        import_packets(recorder, "dmz", packets)
        for limits, word in (({}, None), ({"packets_max": 1000}, "packets"), ({"packets_max": 1001}, None),
                             ({"packets_max": 10}, "packets"), ({"bytes_max": 5000}, "bytes"),
                             ({"seconds_max": 3600}, None)):
            found, result = extract(recorder, "dmz", **limits)
            self.assertEqual((result["limit"], result["complete"]), (word, True), result)
            self.assertEqual(found, packets[:len(found)])
            self.assertLessEqual(result["output_bytes"], limits.get("bytes_max", MIB))
        self.refused("invalid", recorder, "extract", [2], ring="dmz", seconds_max=1 << 40)
        found, result = extract(recorder, "dmz", follow=True, seconds_max=1)  # nothing else ends it
        self.assertEqual((result["limit"], result["complete"]), ("seconds", True), result)
        self.assertEqual(found, packets)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--extractions", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    ARGUMENTS, rest = parser.parse_known_args()
    print(f"seed {ARGUMENTS.seed}", flush=True)
    sys.argv[1:] = rest
    recorder_world.main()
