#!/usr/bin/env python3
"""
Reading never makes a real recorder drop (promise P7), on disks of little bandwidth, one budget for reads and writes each.

    test_yielding_disks.py [--seconds N] [--seed S] [--buffers MIB]

An interface is recorded at 80 % of what three files of the faulty file system can take in two copies each. Meanwhile the copies of a fourth one, which has vanished, are made
anew, `verify --repair` runs without end, and extractions of everything do. Nothing may be dropped for want of buffers, and all of them must get on. Then the same with
the ring's setting `yielding` off: now much is dropped, or this test could not fail. What the kernel drops is told, and judged by nobody: it is the machine's.
"""
import os
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import faulty_world  # noqa: E402
import recorder_world as world  # noqa: E402

TRAFFIC = os.path.join(os.environ.get("TAPELOOP_TEST_BIN", ""), "tapeloop-traffic")
BANDWIDTH = 10_000_000  # of a disk, bytes/s
SHARE = 0.8
COPIES = 2
LEFT = [f"disk{i}" for i in range(3)]
LOST = "disk3"
DISK_BYTES = 1024 * world.MIB
SLOT_BYTES = 4 * world.MIB  # as such a disk gets unless told otherwise
PACKET_BYTES = (7 * 60 + 4 * 566 + 1514) / 12 + 16  # of the traffic, on the average, with its record
READERS = 6
READ_BYTES = 8 * world.MIB  # while it yields
SECONDS_MORE = 90  # at most, until that is done


def option(name, default):
    return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


SECONDS, SEED = option("--seconds", 5), option("--seed", 1)
BUFFER_BYTES = option("--buffers", 32) * world.MIB
BEFORE = 20000 + 1500 * SECONDS  # packets that are there to be read; a quarter of their copies is lost, and more than is healed in the time


class Endless:
    """A request that is made again and again until it is told to end."""

    def __init__(self, recorder, method, **params):
        self.recorder, self.method, self.params = recorder, method, params
        self.done, self.ending, self.error = 0, False, None
        self.client = recorder.client()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        output = os.open(os.devnull, os.O_WRONLY)
        try:
            while not self.ending:
                self.client.call(self.method, [output] if self.method == "extract" else [], **self.params)
                self.done += 1
        except (OSError, EOFError, AssertionError, world.RemoteError, IndexError, ValueError) as error:
            self.error = None if self.ending else error
        except Exception as error:  # the connection was closed in the midst of an answer
            self.error = None if self.ending else error
        finally:
            os.close(output)

    def end(self):
        self.ending = True
        try:
            self.client.socket.shutdown(2)
        except OSError:
            pass
        self.thread.join()
        self.client.close()


class YieldingDisks(world.World):
    def test_reading_drops_nothing(self):
        enter = world.make_namespace(self)
        if not os.access(TRAFFIC, os.X_OK):
            self.skipTest(f"there is no {TRAFFIC}")
        disks = faulty_world.FaultyDisks(seed=SEED)
        self.addCleanup(disks.close)
        recorder = self.open(disks, enter)
        for name in LEFT:
            disks.bandwidth(name, BANDWIDTH)
        disks.vanish(LOST)
        heeding = self.phase(recorder, disks, enter, "on")
        if heeding["dropped_queue"] > 0 and self.phase(recorder, disks, enter, "alone")["dropped_queue"] > 0:
            self.skipTest("this machine is too busy: recording drops although nobody reads")
        heedless = self.phase(recorder, disks, enter, "off")
        # The reading processes end before their disks do.
        world.wait_for(lambda: self.ring(recorder)["yielding"]["readers"] == 0)
        for name in LEFT:
            disks.bandwidth(name, 0)
        self.assertEqual(heeding["dropped_queue"], 0, "P7")
        self.assertEqual(heeding["lost_disk"], 0, "P4")
        self.assertGreaterEqual(heeding["read_bytes"], READ_BYTES)
        self.assertGreater(heeding["readers_held_back_ms"], 0)
        self.assertGreater(heeding["mended"], 0)
        self.assertGreater(heedless["dropped_queue"], 0, "a test that cannot fail: the load is too small")
        self.assertEqual(heedless["readers_held_back_ms"], 0)

    def open(self, disks, enter):
        recorder = self.start(prefix=enter)
        recorder.call("ring.create", name="r", copies=COPIES, slot_bytes=SLOT_BYTES,
                      disks=[{"path": disks.path(name), "bytes": DISK_BYTES} for name in (*LEFT, LOST)])
        recorder.call("ring.set", ring="r", settings={
            "buffer_bytes": str(BUFFER_BYTES), "flush_window": "500ms", "heal_delay": "0s", "heal_rate": "1G"})
        self.assertEqual(recorder.stop(), 0)
        recorder = self.start(prefix=enter)  # with its buffers as they were set
        world.wait_for(lambda: recorder.call("ring.list")["rings"][0]["state"] == "idle")
        world.import_packets(recorder, "r", world.numbered(BEFORE, size=1200))
        return recorder

    @staticmethod
    def ring(recorder):
        return recorder.call("status")["rings"][0]

    def figures(self, recorder, disks):
        ring = self.ring(recorder)
        states = [disks.state(name) for name in LEFT]
        return {**{line: ring["account"][line] for line in ("seen", "stored", "dropped_queue", "dropped_kernel", "lost_disk")},
                "read_bytes": sum(state["read_bytes"] for state in states),
                "written_bytes": sum(state["written_bytes"] for state in states),
                "readers_held_back_ms": ring["yielding"]["readers_held_back_ms"],
                "mending_held_back_ms": ring["yielding"]["mending_held_back_ms"],
                "mended": ring["mending"]["healed_bytes"] + ring["mending"]["scrub"]["bytes"]}

    @staticmethod
    def has_shown(yielding, before, now):
        """That readers and mender get on; or, heedless, that recording drops."""
        if yielding == "alone":
            return True
        if yielding == "off":
            return now["dropped_queue"] > before["dropped_queue"]
        return now["read_bytes"] >= before["read_bytes"] + READ_BYTES and now["mended"] > before["mended"]

    def phase(self, recorder, disks, enter, yielding):
        recorder.call("ring.set", ring="r", settings={"yielding": "off" if yielding == "off" else "on"})
        recorder.call("record.start", ring="r", interfaces=["v1"])
        before = self.figures(recorder, disks)
        rate = int(BANDWIDTH * len(LEFT) * SHARE / COPIES / PACKET_BYTES)
        traffic = subprocess.Popen([*enter, TRAFFIC, "v0", str(rate), "0", str(SEED)], stdout=subprocess.PIPE)
        try:
            world.wait_for(lambda: self.ring(recorder)["account"]["seen"] > before["seen"] + 2 * rate, traffic)
            alone = self.figures(recorder, disks)
            if alone["dropped_queue"] > before["dropped_queue"]:
                self.skipTest("this machine is too busy: recording drops although nobody reads")
            busy = []
            if yielding != "alone":
                busy = [Endless(recorder, "extract", ring="r") for _ in range(READERS)]
                busy.append(Endless(recorder, "verify", ring="r", repair=True))
            begin, fewest = time.monotonic(), BUFFER_BYTES
            while yielding != "off" and time.monotonic() < begin + SECONDS:
                fewest = min(fewest, self.ring(recorder)["buffers"]["free"] * 256 * 1024)
                time.sleep(0.1)
            world.wait_for(lambda: self.has_shown(yielding, alone, self.figures(recorder, disks)) or
                           time.monotonic() > begin + SECONDS_MORE)
            seconds = time.monotonic() - begin
            after = self.figures(recorder, disks)
            for one in busy:
                one.end()
            self.assertEqual([one.error for one in busy if one.error], [])
        finally:
            traffic.terminate()
            traffic.wait()
            traffic.stdout.close()
        recorder.call("record.stop", ring="r")
        found = {key: after[key] - alone[key] for key in alone}
        share = found["written_bytes"] / (seconds * BANDWIDTH * len(LEFT))
        print(f"yielding {yielding}, {seconds:.1f} s: {found}; written {share:.0%} of the bandwidth, fewest "
              f"buffers free {fewest / world.MIB:.0f} MiB", file=sys.stderr)
        return found


if __name__ == "__main__":
    faulty_world.require()
    sys.argv = sys.argv[:1]
    world.main()
