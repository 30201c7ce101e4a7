#!/usr/bin/env python3
"""The interface in a browser: as a person uses it (walk.mjs), and when something is wrong (troubles.mjs). Screenshots stay in the build folder: tests/ui-screenshots."""

import json
import os
import shutil
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "integration"))
import recorder_world  # noqa: E402
from recorder_world import MIB, create_ring, extract, read_pcap, read_pcapng  # noqa: E402
from web_world import PASSWORD, SOURCE, User, WebWorld  # noqa: E402

TOOLS = os.environ.get("TAPELOOP_UI_TOOLS", os.path.join(SOURCE, "build", "web-ui"))
CHROMIUM = shutil.which("chromium")


class Interface(WebWorld):
    def walk(self, script, web, *arguments):
        """(what the script saw, where screenshots and downloads are)"""
        screenshots = os.path.join(os.environ.get("TAPELOOP_TEST_BIN", self.directory), "..", "ui-screenshots")
        os.makedirs(screenshots, exist_ok=True)
        walk = subprocess.run(
            ["node", os.path.join(SOURCE, "tests", "ui", script), f"https://127.0.0.1:{web.port}/", *arguments, screenshots],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False,
            env=dict(os.environ, TAPELOOP_UI_TOOLS=TOOLS, CHROMIUM=CHROMIUM))
        self.assertEqual(walk.returncode, 0, walk.stderr + web.said())
        seen = json.loads(walk.stdout)
        self.assertEqual(seen["errors"], [])
        self.assertEqual(set(seen["overflow"].values()), {0}, seen["overflow"])  # nothing sticks out of a narrow window
        return seen, screenshots

    def setUp(self):
        super().setUp()
        if not CHROMIUM or not shutil.which("node") or not os.path.isdir(os.path.join(TOOLS, "node_modules", "playwright-core")):
            self.skipTest("there is no chromium, no node, or no playwright-core (packaging/web)")

    def test_a_person_uses_it(self):
        recorder = self.start()
        web = self.web(fresh=True)
        seen, screenshots = self.walk("walk.mjs", web, web.one_time_password(), self.path("disk"))
        self.assertLess(seen["load"], 100_000)  # bytes over the wire for the page
        self.assertIn("live=", seen["live"])
        self.assertEqual(len(seen["overflow"]), 16)

        def ends(which):
            return int(seen[which]["from"]), int(seen[which]["to"])

        selected, panned, zoomed = map(ends, ("selected", "panned", "zoomed"))
        self.assertLess(selected[1] - selected[0], 60)  # a tenth of five minutes
        self.assertLess(panned[0], selected[0])
        self.assertLess(abs((panned[1] - panned[0]) - (selected[1] - selected[0])), 3)
        self.assertGreater(zoomed[1] - zoomed[0], (panned[1] - panned[0]) * 1.4)
        by_key = ends("by_key")
        self.assertEqual(by_key[1] - by_key[0], zoomed[1] - zoomed[0])
        self.assertLess(by_key[0], zoomed[0])
        self.assertRegex(seen["estimate"], r"about [1-9][\d,]* packets")
        self.assertRegex(seen["tested"], r"[1-9]\d* packets")
        self.assertEqual(seen["meant"], "outer (tcp)")
        self.assertRegex(seen["plans"]["3"], r"Asked for as\ntcp and after 10m ago\nFilter\nouter \(tcp\)\nThe index decides\n")
        self.assertRegex(seen["plans"]["4"], r"Filter\nudp\nThe index decides\nnothing: it was not to be used\n")
        self.assertRegex(seen["plans"]["4"], r"Packets looked at\n[1-9][\d,]*\nPackets that match\n[1-9]")
        self.assertNotIn("Users", seen["guest"]["pages"])
        self.assertEqual(seen["guest"]["buttons"], ["demo", "Packets", "Extract packet ring buffer"])
        # What the browser got is what is stored.
        with open(os.path.join(screenshots, "download.pcap"), "rb") as file:
            downloaded = read_pcap(file.read())
        expected, _ = extract(recorder, "demo", from_ns=str(selected[0] * 10**9), to_ns=str(selected[1] * 10**9), filter="tcp")
        self.assertGreater(len(downloaded), 100)
        self.assertEqual(downloaded, expected[:len(downloaded)])  # the newest came after the download
        self.assertTrue(seen["file"].startswith("demo_"), seen["file"])
        with open(os.path.join(screenshots, "followed.pcapng"), "rb") as file:
            followed = file.read()
        self.assertEqual(followed[:4], b"\n\r\r\n")
        self.assertGreater(len(followed), 1000)
        self.assertEqual(seen["kept"], "incident-7.pcapng")
        with open(os.path.join(screenshots, "kept.pcapng"), "rb") as file:
            self.assertGreater(len(read_pcapng(file.read())[0]), 1000)
        self.assertNotIn("now", seen["until_now"])  # only what goes on may begin there

    def test_something_is_wrong(self):
        recorder = self.start()
        disks = [{"path": self.path(f"disk{i}"), "bytes": 64 * MIB} for i in (1, 2, 3)]
        recorder.call("ring.create", name="demo", disks=disks)
        self.assertEqual(recorder.stop(), 0)
        other = self.start("other")
        create_ring(other, "other", self.path("foreign"))
        self.assertEqual(other.stop(), 0)
        os.rename(self.path("disk2"), self.path("away"))
        os.rename(self.path("foreign"), self.path("disk3"))
        recorder = self.start()
        recorder.call("record.start", ring="demo", interfaces=[], backend="generator", generator={"packets_per_s": 3000, "seed": 1}, attach=False)
        web = self.web()
        admin = self.admin(web)
        self.assertEqual(admin.ask("POST", "/api/v1/users", {"user": "viewer", "role": "viewer", "password": "first password"}).status, 201)
        viewer = User(web)
        viewer.log_in("viewer", "first password")
        self.assertEqual(viewer.set_password("first password", PASSWORD).status, 200)
        seen, _ = self.walk("troubles.mjs", web, PASSWORD)
        self.assertEqual((seen["lit"], seen["asked"]), ("true", [True, False]))
        self.assertRegex(seen["stalled"], r"for ([5-9]|\d\d+) s")
        shown = seen["viewer"]
        self.assertEqual([page.split("\n")[0] for page in shown["pages"]],
                         ["Ring buffer", "Cluster configuration", "Snapshot length filter", "Interfaces", "Events", "Settings"])
        # Ring switch, times, and nothing that changes anything or hands out packets.
        harmless = {"demo", "LIVE", "BACK IN TIME", "UTC", "local time", "See cluster configuration"}
        for page, buttons in shown["buttons"].items():
            self.assertLessEqual(set(buttons), harmless, page)


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    recorder_world.main()
