#!/usr/bin/env python3
"""kill -9 of tapeloop-web's processes, in the middle of downloads, while 300,000 packets a second are recorded.

    test_web_kill.py [--kills N] [--rate PACKETS] [unittest's arguments]

Nothing may be lost by it. How long nobody was served is printed.
"""

import os
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "integration"))
import recorder_world  # noqa: E402
from recorder_world import MIB, create_ring  # noqa: E402
from web_world import WebWorld, ended  # noqa: E402

def option(name, default):
    if name not in sys.argv:
        return default
    at = sys.argv.index(name)
    value = int(sys.argv[at + 1])
    del sys.argv[at:at + 2]
    return value


KILLS, RATE = option("--kills", 4), option("--rate", 300000)
LOSSES = ("dropped_queue", "dropped_kernel", "lost_disk", "refused")


class Killed(WebWorld):
    def setUp(self):
        super().setUp()
        # In memory where that is possible: it is not the disk that is tested.
        self.disk = os.path.join("/dev/shm", os.path.basename(self.directory)) if os.access("/dev/shm", os.W_OK) else self.path("disk")
        self.addCleanup(lambda: os.path.exists(self.disk) and os.unlink(self.disk))
        self.recorder = self.start()
        create_ring(self.recorder, "r", self.disk, size=512 * MIB)
        self.recorder.call("record.start", ring="r", interfaces=[], backend="generator", attach=False,
                           generator={"packets_per_s": RATE, "seed": 1})

    def account(self):
        return self.recorder.call("status", ring="r")["rings"][0]["account"]

    def download(self, admin):
        """A download of what comes and what has been, in the middle."""
        answer = admin.ask("POST", "/api/v1/extractions", {"ring": "r", "follow": True})
        self.assertEqual(answer.status, 201, answer.body)
        stream = admin.stream(answer.json["url"])
        self.assertTrue(stream.recv(100).startswith(b"HTTP/1.1 200 "))
        count = 0
        while count < MIB:
            count += len(stream.recv(1 << 16))
        return stream

    def broken_off(self, stream):
        """What was sent before the kill, and no last chunk behind it."""
        end = b""
        try:
            while part := stream.recv(1 << 16):
                end = (end + part)[-64:]
        except OSError:
            pass
        stream.close()
        self.assertNotIn(b"\r\n0\r\nTapeloop-Complete", end)

    def served_again(self, admin):
        """Seconds until somebody is served."""
        began = time.monotonic()
        while True:
            try:
                self.assertEqual(admin.ask("GET", "/api/v1/overview").status, 200)
                return time.monotonic() - began
            except OSError:
                time.sleep(0.02)

    def check(self, before):
        account = self.recorder.call("record.stop", ring="r")["account"]
        self.check_account(account)
        self.assertEqual({line: account[line] for line in LOSSES}, dict.fromkeys(LOSSES, 0))
        self.assertGreater(account["stored"], before["stored"])
        print(f"{account['stored']} packets recorded, none lost")

    def test_the_web_process(self):
        web = self.web()
        admin = self.admin(web)
        before, began = self.account(), time.monotonic()
        times = []
        for _ in range(KILLS):
            stream = self.download(admin)
            worker = web.worker()
            os.kill(worker, signal.SIGKILL)
            times.append(self.served_again(admin))
            self.assertNotEqual(web.worker(), worker)
            self.broken_off(stream)
        rate = (self.account()["seen"] - before["seen"]) / (time.monotonic() - began)
        print(f"served again after {', '.join(f'{t * 1000:.0f}' for t in times)} ms, at {rate:.0f} packets a second")
        self.check(before)

    def test_the_doorkeeper(self):
        before = self.account()
        times, gone = [], 0
        for _ in range(KILLS):
            web = self.web()
            admin = self.admin(web)
            stream = self.download(admin)
            worker = web.worker()
            web.process.kill()
            web.process.wait()
            self.broken_off(stream)  # the web process goes with it
            killed = time.monotonic()
            recorder_world.wait_for(lambda: ended(worker))
            began = time.monotonic()
            gone = max(gone, began - killed)
            again = self.web()  # as its supervisor does
            admin.web = again
            self.served_again(admin)
            times.append(time.monotonic() - began)
            self.assertEqual(again.stop(), 0)
        print(f"the web process was gone after {gone * 1000:.0f} ms at most; started anew, others were served after "
              f"{', '.join(f'{t * 1000:.0f}' for t in times)} ms")
        self.check(before)


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    recorder_world.main()
