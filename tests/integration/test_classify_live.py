#!/usr/bin/env python3
"""Live capture with a rule that asks layer 7, while tapeloop-classify is killed every 100 ms.

    test_classify_live.py [--soak]     --soak: 200,000 packets/s for 30 s (ctest -L soak), else a tenth of it

Not one packet is dropped for it. A machine that drops without any kill is too slow to say, and skips.
"""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import recorder_world as world  # noqa: E402

RATE, SECONDS = (200000, 30) if "--soak" in sys.argv else (20000, 4)
TRAFFIC = os.path.join(os.environ.get("TAPELOOP_TEST_BIN", ""), "tapeloop-traffic")


def classifiers(pid):
    """The recorder's children that are tapeloop-classify."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                children = file.read().split()
            for child in children:
                with open(f"/proc/{child}/comm", encoding="ascii") as file:
                    if file.read().startswith("tapeloop-classi"):
                        found.append(int(child))
        except OSError:
            pass  # it has ended meanwhile
    return found


class Killed(world.World):
    def setUp(self):
        super().setUp()
        self.enter = world.make_namespace(self)
        # In memory: this is not about disks.
        self.disk = tempfile.NamedTemporaryFile(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.addCleanup(self.disk.close)

    def record(self, state, kill):
        """One recording; the account, what layer 7 says of itself, and how often it was killed."""
        recorder = self.start(state, prefix=self.enter)
        pid = recorder.process.pid
        world.create_ring(recorder, "live", self.disk.name + "." + state, size=256 * world.MIB)
        self.addCleanup(os.unlink, self.disk.name + "." + state)
        for rule in ("app TLS until known: snap 64 : snap 60", "not app DNS until known: snap 64 : snap 64"):
            recorder.call("rule.add", ring="live", rule=rule)
        recorder.call("record.start", ring="live", interfaces=["v0"])
        time.sleep(0.5)
        over = threading.Event()
        kills = [0]

        def killer():
            while not over.wait(0.1):
                for child in classifiers(pid):
                    os.kill(child, signal.SIGKILL)
                    kills[0] += 1

        killing = world.thread(killer) if kill else None
        sent = subprocess.run([*self.enter, TRAFFIC, "v1", str(RATE), str(SECONDS)], check=True, capture_output=True)
        over.set()
        if killing:
            killing.join()
        layer7 = recorder.call("status")["recorder"]["layer7"]
        account = recorder.call("record.stop", ring="live")["account"]
        self.check_account(account)
        self.assertGreaterEqual(account["seen"], int(sent.stdout.split()[0]))
        self.assertEqual(recorder.stop(), 0)
        print(f"{RATE} packets/s for {SECONDS} s, {kills[0]} kills: {account}, {layer7}", flush=True)
        return account, layer7, kills[0]

    def test_killed_every_100_ms(self):
        calm, layer7, _ = self.record("calm", kill=False)
        self.assertGreater(layer7["lent"], 0)
        if calm["dropped_kernel"] + calm["dropped_queue"] > 0:
            self.skipTest(f"this machine drops packets by itself at {RATE} packets/s: {calm}")
        account, layer7, kills = self.record("killed", kill=True)
        self.assertGreater(kills, 2)
        self.assertGreaterEqual(layer7["starts"], kills)
        self.assertEqual(layer7["hangs"], 0)
        self.assertEqual((account["dropped_kernel"], account["dropped_queue"], account["lost_disk"]), (0, 0, 0))
        self.assertEqual(account["stored"], account["seen"])


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    sys.argv = [argument for argument in sys.argv if argument != "--soak"]
    if not os.access(os.path.join(world.BIN, "tapeloop-classify"), os.X_OK):
        print("skipped: there is no tapeloop-classify: built without libndpi-dev")
        sys.exit(world.SKIPPED)
    if not shutil.which("ip"):
        print("skipped: there is no ip")
        sys.exit(world.SKIPPED)
    world.main()
