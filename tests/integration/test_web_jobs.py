#!/usr/bin/env python3
"""Jobs and kept ranges through the API: who may do what, and downloads that are taken up again where they broke off."""

import os
import re
import signal
import time

import recorder_world
from recorder_world import MIB, conversations, create_ring, extract, import_packets, numbered, pcap, wait_for
from web_world import User, WebWorld


class Jobs(WebWorld):
    def open(self, packets=1000):
        recorder = self.start()
        create_ring(recorder, "r", self.path("disk"), 64 * MIB)
        self.packets = numbered(packets)
        if packets:
            import_packets(recorder, "r", self.packets)
        self.recorder = recorder
        return self.admin(self.web())

    def done(self, user, **params):
        answer = user.ask("POST", "/api/v1/jobs", {"ring": "r", "format": "pcap", **params})
        self.assertEqual(answer.status, 201, answer.body)
        number = answer.json["number"]
        self.assertEqual(answer.headers["Location"], f"/api/v1/jobs/{number}")
        wait_for(lambda: user.ask("GET", f"/api/v1/jobs/{number}").json["state"] not in ("waiting", "running"))
        job = user.ask("GET", f"/api/v1/jobs/{number}").json
        self.assertEqual(job["state"], "done", job)
        return job

    def url(self, user, job):
        answer = user.ask("GET", f"/api/v1/jobs/{job}/packets")
        self.assertEqual(answer.status, 307, answer.body)
        return answer.headers["Location"]

    def get(self, user, url, **headers):
        """The answer of the server for downloads: nobody needs a cookie there."""
        port, path = re.fullmatch(r"https://127\.0\.0\.1:(\d+)(/.*)", url).groups()
        return User(user.web).ask("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()}, port=int(port))

    def test_a_job_from_start_to_end(self):
        admin = self.open()
        job = self.done(admin, filter="ip[0] < 128")
        self.assertEqual((job["user"], job["name"], job["complete"], job["share"]), ("admin", None, True, 1))
        answer = self.get(admin, self.url(admin, job["number"]))
        self.assertEqual((answer.status, len(answer.body)), (200, job["output_bytes"]))
        self.assertIn(f'filename="job-{job["number"]}.pcap"', answer.headers["Content-Disposition"])
        expected = extract(self.recorder, "r", filter="ip[0] < 128")[0]
        self.assertTrue(answer.body == pcap(expected))
        self.assertEqual([one["number"] for one in admin.ask("GET", "/api/v1/jobs?ring=r").json["jobs"]], [job["number"]])
        self.assertEqual(admin.ask("GET", "/api/v1/jobs?ring=s").json["jobs"], [])
        self.problem(admin.ask("POST", f"/api/v1/jobs/{job['number']}/cancel", {}), 409, "busy")
        self.assertEqual(admin.ask("DELETE", f"/api/v1/jobs/{job['number']}").status, 204)
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/packets"), ("POST", "/cancel")):
            self.problem(admin.ask(method, f"/api/v1/jobs/{job['number']}{path}", {} if method == "POST" else None), 404, "not_found")

    def test_stenographers_words_no_index_and_the_plan(self):
        admin = self.open(packets=0)
        packets = conversations(10000, 1000)
        import_packets(self.recorder, "r", packets)
        query = "port 1003 and before 2023-11-14T22:13:20.005Z"
        job = self.done(admin, filter=query, query="steno")
        self.assertEqual((job["packets"], job["query"], job["asked"]), (5, "steno", query))
        self.assertEqual(job["to_ns"], str(1_700_000_000_005 * 10**6))
        self.assertGreater(job["plan"]["index_bytes"], 0)
        whole = self.done(admin, filter="port 1003", no_index=True)
        self.assertEqual((whole["packets"], whole["no_index"], whole["plan"]["packets_judged"]), (10, True, len(packets)))
        for wrong in ({"query": "sql"}, {"query": 5}, {"no_index": "true"}, {"filter": "not tcp", "query": "steno"}, {"explain": True}):
            self.problem(admin.ask("POST", "/api/v1/jobs", {"ring": "r", **wrong}), 400, "invalid")
        self.assertTrue(all("plan" not in one for one in admin.ask("GET", "/api/v1/jobs").json["jobs"]))

    def test_purge_takes_two_steps(self):
        admin = self.open()
        self.recorder.call("record.start", ring="r", interfaces=[], backend="generator", attach=False, generator={"packets_per_s": 500, "seed": 7})
        self.done(admin, name="case", filter="ip[0] < 128")
        begin, end = self.packets[200][0], self.packets[700][0]
        body = {"from": f"{begin // 10**9}.{begin % 10**9:09}", "to": f"{end // 10**9}.{end % 10**9:09}"}
        path = "/api/v1/rings/r/purge"
        whole = {"from_ns": str(self.packets[0][0]), "to_ns": str(self.packets[-1][0] + 1)}
        look = admin.ask("POST", path, body)
        self.assertEqual((look.status, look.json["dry_run"], look.json["packets"]), (200, True, 500))
        self.assertEqual([one["name"] for one in look.json["kept"]], ["case"])
        self.problem(admin.ask("POST", path, {**body, "confirm": "s"}), 400, "invalid")
        self.problem(admin.ask("POST", path, {**body, "confirm": True}), 400, "invalid")
        self.problem(admin.ask("POST", path, {"from": body["from"], "confirm": "r"}), 400, "invalid")
        self.problem(admin.ask("POST", path.replace("/r/", "/q/"), {**body, "confirm": "q"}), 404, "not_found")
        self.assertEqual(extract(self.recorder, "r", **whole)[0], self.packets)
        done = admin.ask("POST", path, {**body, "confirm": "r"})
        self.assertEqual((done.status, done.json["dry_run"], done.json["live"], done.json["packets"]), (200, False, True, 500))
        self.assertEqual(extract(self.recorder, "r", **whole)[0], self.packets[:200] + self.packets[700:])
        rows = [row for row in self.recorder.call("audit.list", limit=100)["rows"] if row["action"] == "purge"]
        self.assertTrue(all("admin" in str(row) for row in rows), rows)

    def test_one_call_keeps_the_last_minute(self):
        admin = self.open()
        start_s = 1_700_000_000
        kept = self.done(admin, **{"from": str(start_s), "to": f"{start_s}.0005", "name": "incident-7", "expires": "+7d"})
        self.assertEqual(kept["packets"], 500)
        self.assertAlmostEqual(int(kept["expires_ns"]) / 1e9, time.time() + 7 * 86400, delta=600)
        answer = self.get(admin, self.url(admin, "incident-7"))
        self.assertTrue(answer.body == pcap(self.packets[:500]))
        self.assertIn('filename="incident-7.pcap"', answer.headers["Content-Disposition"])
        self.assertEqual(self.done(admin, **{"from": "-60s", "name": "last-minute", "filter": "host 192.0.2.7"})["packets"], 0)
        self.problem(admin.ask("POST", "/api/v1/jobs", {"ring": "r", "name": "incident-7"}), 409, "exists")
        for wrong in ({"name": "../x"}, {"name": "17"}, {"expires": "+7d"}, {"name": "x", "expires": "-7d"}, {"from": "tomorrow"},
                      {"filter": "nonsense"}, {"filter": "a" * 5000}, {"format": "doc"}, {"seconds_max": -1}, {"headers": 7},
                      {"whatever": 1}, {"name": 5}, {"wait": True}, {"bytes_max": "1M"}, {"from": "1700000001", "to": "1700000000"}):
            self.problem(admin.ask("POST", "/api/v1/jobs", {"ring": "r", **wrong}), 400)
        self.problem(admin.ask("POST", "/api/v1/jobs", {"ring": "none"}), 404)
        for hostile in ("..%2f..%2fetc", "%00", "a" * 400, "-1", "99999999999999999999", "1%2f..", "incident-7%20"):
            self.problem(admin.ask("GET", f"/api/v1/jobs/{hostile}"), 404)

    def test_parts(self):
        admin = self.open()
        job = self.done(admin)
        whole, size = pcap(self.packets), job["output_bytes"]
        url = self.url(admin, job["number"])
        first = self.get(admin, url)
        self.assertEqual(first.status, 200)
        self.assertEqual((first.headers["Accept-Ranges"], first.headers["Content-Length"]), ("bytes", str(size)))
        tag = first.headers["ETag"]
        self.assertEqual(tag, f'"{job["tag"]}"')
        for wanted, low, high in (("0-9", 0, 10), ("10-", 10, size), ("-7", size - 7, size), (f"5-{size + 100}", 5, size),
                                  (f"{size - 1}-{size - 1}", size - 1, size), (f"-{size + 5}", 0, size), ("0-0", 0, 1)):
            answer = self.get(admin, url, Range="bytes=" + wanted)
            self.assertEqual(answer.status, 206, wanted)
            self.assertEqual(answer.headers["Content-Range"], f"bytes {low}-{high - 1}/{size}")
            self.assertTrue(answer.body == whole[low:high], wanted)
        for wanted in (f"{size}-", f"{size + 1}-{size + 2}", "-0", "99999999999999999999-"):
            answer = self.get(admin, url, Range="bytes=" + wanted)
            self.problem(answer, 416)
            self.assertEqual(answer.headers["Content-Range"], f"bytes */{size}")
        # What is no single range of bytes is no range.
        for wanted in ("bytes=5-3", "bytes=", "bytes=-", "bytes=a-b", "bytes=0-1,5-6", "lines=0-9", "bytes 0-9", "bytes=0-9 "):
            answer = self.get(admin, url, Range=wanted)
            self.assertEqual(answer.status, 200, wanted)
            self.assertTrue(answer.body == whole)
        # A part counts only for the file that has been begun.
        self.assertEqual(self.get(admin, url, Range="bytes=0-9", If_Range=tag).status, 206)
        for other in ('"other"', "W/" + tag, "Mon, 01 Jan 2024 00:00:00 GMT"):
            self.assertEqual(self.get(admin, url, Range="bytes=0-9", If_Range=other).status, 200)
        again = self.done(admin)
        answer = self.get(admin, self.url(admin, again["number"]), Range="bytes=0-9", If_Range=tag)
        self.assertEqual((answer.status, answer.headers["ETag"] == tag), (200, False))

    def test_a_download_that_broke_off_is_taken_up_again(self):
        admin = self.open(200_000)
        job = self.done(admin)
        url = self.url(admin, job["number"])
        with admin.stream(url, buffer_bytes=8192) as stream:
            data = b""
            while len(data) < 100_000:
                data += stream.recv(4096)
        head, _, begun = data.partition(b"\r\n\r\n")
        self.assertIn(b" 200 ", head)
        tag = re.search(rb'ETag: ("\w+")', head).group(1).decode()
        answer = self.get(admin, url, Range=f"bytes={len(begun)}-", If_Range=tag)
        self.assertEqual(answer.status, 206)
        self.assertTrue(begun + answer.body == pcap(self.packets))
        # With the script's way, too: a token, one address, and the redirection each time.
        token = self.token(admin, "packets")
        answer = token.ask("GET", f"/api/v1/jobs/{job['number']}/packets", headers={"Range": "bytes=0-9"})
        self.assertEqual(answer.status, 307)
        self.assertEqual(self.get(token, answer.headers["Location"], Range="bytes=0-9").status, 206)

    def test_a_download_outlives_both_processes(self):
        """One that has lost its web process and its recorder goes on where it broke off."""
        admin = self.open(200_000)
        whole = pcap(self.packets)
        job = self.done(admin, name="long")
        got, tag = b"", None
        for step in range(3):
            with admin.stream(self.url(admin, "long"), buffer_bytes=8192) as stream:
                data = b""
                while len(data) < 50_000:
                    data += stream.recv(4096)
                if step == 1:
                    os.kill(admin.web.worker(), signal.SIGKILL)
            if step == 0:
                head, _, got = data.partition(b"\r\n\r\n")
                tag = re.search(rb'ETag: ("\w+")', head).group(1).decode()
            if step == 2:
                self.recorder.kill()
                self.recorder = self.start()

            def answers():
                try:
                    return admin.ask("GET", "/api/v1/jobs/long", check=False).status == 200
                except OSError:
                    return False

            wait_for(answers)
            part = self.get(admin, self.url(admin, "long"), Range=f"bytes={len(got)}-{len(got) + 99_999}", If_Range=tag)
            self.assertEqual(part.status, 206)
            got += part.body
        rest = self.get(admin, self.url(admin, "long"), Range=f"bytes={len(got)}-", If_Range=tag)
        self.assertTrue(got + rest.body == whole)
        self.assertEqual(job["output_bytes"], len(whole))

    def test_a_result_that_is_deleted(self):
        admin = self.open(200_000)
        job = self.done(admin)
        url = self.url(admin, job["number"])
        with admin.stream(url, buffer_bytes=8192) as stream:
            stream.recv(4096)
            self.assertEqual(admin.ask("DELETE", f"/api/v1/jobs/{job['number']}").status, 204)
        self.problem(self.get(admin, url), 404)
        self.problem(self.get(admin, url[:-4] + "AAAA"), 404)

    def test_who_may_do_what(self):
        admin = self.open()
        hers = self.done(self.token(admin, "packets"))["number"]
        for name, role in (("eve", "analyst"), ("vic", "viewer")):
            self.assertEqual(admin.ask("POST", "/api/v1/users", {"user": name, "role": role, "password": "first password"}).status, 201)
        eve, vic = User(admin.web), User(admin.web)
        for user, name in ((eve, "eve"), (vic, "vic")):
            self.assertEqual(user.log_in(name, "first password").status, 200)
            self.assertEqual(user.set_password("first password", "second password").status, 200)
        for method, path, body in (("GET", "", None), ("POST", "", {"ring": "r"}), ("GET", f"/{hers}", None), ("DELETE", f"/{hers}", None),
                                   ("POST", f"/{hers}/cancel", {}), ("GET", f"/{hers}/packets", None)):
            self.problem(vic.ask(method, "/api/v1/jobs" + path, body), 403, "permission")
        self.assertEqual(eve.ask("GET", f"/api/v1/jobs/{hers}/packets").status, 307)
        self.problem(eve.ask("DELETE", f"/api/v1/jobs/{hers}"), 403, "permission")
        own = self.done(eve)["number"]
        self.assertEqual(eve.ask("DELETE", f"/api/v1/jobs/{own}").status, 204)
        own = self.done(eve)["number"]
        self.assertEqual(admin.ask("DELETE", f"/api/v1/jobs/{own}").status, 204)
        fetched = self.get(eve, self.url(eve, hers))
        self.assertEqual(fetched.status, 200)
        rows = admin.ask("GET", "/api/v1/audit?limit=1000").json["rows"]
        self.assertTrue(any(row["action"] == "job.fetch" and row["actor"].startswith("eve from") for row in rows))
        self.assertTrue(any(row["action"] == "job.delete" and row["outcome"].startswith("permission") for row in rows))


if __name__ == "__main__":
    recorder_world.main()
