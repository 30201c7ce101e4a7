#!/usr/bin/env python3
"""tapeloop-web: who gets in, what the API answers, and what packets come out; who may do what: test_web_roles.py, and what hostile clients can do:
test_web_hostile.py."""

import gzip
import json
import os
import re
import signal
import socket
import ssl
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse

import recorder_world
from recorder_world import (MIB, all_children, children, conversations, create_ring, extract, import_packets, numbered, pcap, process_name,
                            read_pcap, wait_for)
from web_world import DOCUMENT, PASSWORD, WEB, User, WebWorld, ended, jsonschema, tls


class Description(unittest.TestCase):
    """schema/openapi.yaml and the program say the same."""

    def test_every_route_is_described_with_its_right(self):
        printed = subprocess.run([WEB, "--routes"], stdout=subprocess.PIPE, check=True, text=True).stdout
        routes = {(line.split()[0], line.split()[1]): line.split()[2] for line in printed.splitlines()}
        described = {key: operation["x-access"] for key, operation in DOCUMENT.operations.items()}
        self.assertEqual(routes, described)

    def test_it_is_an_openapi_document(self):
        """What a lint of OpenAPI 3.1 asks for, as far as the document uses it; and each schema is one."""
        operation_keys = {"summary", "description", "x-access", "security", "parameters", "requestBody", "responses"}
        self.assertLessEqual(set(DOCUMENT.root), {"openapi", "info", "servers", "security", "paths", "components"})
        for path, item in DOCUMENT.root["paths"].items():
            self.assertRegex(path, r"^/[^?#]*[^/?#]$")
            self.assertLessEqual(set(item), {"parameters", "get", "post", "put", "patch", "delete"}, path)
        seen = set()
        for (method, path), operation in DOCUMENT.operations.items():
            self.assertLessEqual(set(operation), operation_keys, (method, path))
            self.assertTrue(operation.get("summary"), (method, path))
            self.assertFalse(operation["summary"].endswith("."), (method, path))
            shape = (method, re.sub(r"\{\w+\}", "{}", path))
            self.assertNotIn(shape, seen, "two paths that are one")
            seen.add(shape)
            parameters = [DOCUMENT.resolve(p) for p in operation.get("parameters", []) + DOCUMENT.root["paths"][path].get("parameters", [])]
            self.assertEqual(len(parameters), len({(p["name"], p["in"]) for p in parameters}), (method, path))
            for parameter in parameters:
                self.assertLessEqual(set(parameter), {"name", "in", "required", "schema", "description"}, path)
                self.assertIn(parameter["in"], ("path", "query", "header"))
                self.assertEqual(parameter["in"] == "path", parameter.get("required", False), (path, parameter))
                jsonschema.Draft202012Validator.check_schema(parameter["schema"])
            self.assertFalse("requestBody" in operation and method in ("GET", "DELETE"), (method, path))
            for body in [operation.get("requestBody", {}), *operation["responses"].values()]:
                body = DOCUMENT.resolve(body)
                self.assertLessEqual(set(body), {"description", "required", "content", "headers"}, (method, path))
                for media in body.get("content", {}).values():
                    jsonschema.Draft202012Validator.check_schema(media["schema"])
            for status, response in operation["responses"].items():
                self.assertRegex(status, r"^([1-5]\d\d|default)$")
                self.assertTrue(DOCUMENT.resolve(response).get("description"), (method, path, status))
        used = set(re.findall(r"#/components/(\w+/\w+)", json.dumps(DOCUMENT.root)))
        defined = {f"{kind}/{name}" for kind, things in DOCUMENT.root["components"].items() if kind != "securitySchemes" for name in things}
        self.assertEqual(used, defined)  # nothing leads nowhere, and nothing is left over
        for schema in DOCUMENT.root["components"]["schemas"].values():
            jsonschema.Draft202012Validator.check_schema(schema)

    def test_references_lead_somewhere_and_parameters_are_declared(self):
        def walk(thing):
            if isinstance(thing, dict):
                if "$ref" in thing:
                    DOCUMENT.resolve(thing)
                for value in thing.values():
                    walk(value)
            elif isinstance(thing, list):
                for value in thing:
                    walk(value)

        walk(DOCUMENT.root)
        self.assertTrue(DOCUMENT.root["openapi"].startswith("3.1"))
        for (method, path), operation in DOCUMENT.operations.items():
            declared = operation.get("parameters", []) + DOCUMENT.root["paths"][path].get("parameters", [])
            names = {p["name"] for p in map(DOCUMENT.resolve, declared) if p["in"] == "path"}
            self.assertEqual(names, set(re.findall(r"\{(\w+)\}", path)), (method, path))
            self.assertIn("default", operation["responses"], (method, path))


class Users(WebWorld):
    def test_the_first_password_is_good_for_setting_another_one_only(self):
        self.start()
        web = self.web(fresh=True)
        user = User(web)
        one_time = web.one_time_password()
        self.problem(user.log_in("admin", "wrong " + one_time), 401, "unauthorized")
        answer = user.log_in("admin", one_time)
        self.assertEqual(answer.status, 200)
        self.assertTrue(answer.json["must_change_password"])
        for flag in ("Secure", "HttpOnly", "SameSite=Strict", "Path=/", "__Host-"):
            self.assertIn(flag, answer.headers["Set-Cookie"])
        self.problem(user.ask("GET", "/api/v1/rings"), 403, "password-change")
        self.problem(user.set_password(one_time, "short"), 400, "invalid")
        self.problem(user.set_password("not " + one_time, PASSWORD), 403, "permission")
        other = User(web)
        self.assertEqual(other.log_in("admin", one_time).status, 200)
        self.assertEqual(user.set_password(one_time, PASSWORD).status, 200)
        self.assertEqual(user.ask("GET", "/api/v1/rings").status, 200)
        self.problem(other.ask("GET", "/api/v1/session"), 401)  # sessions of the old password are over
        self.problem(User(web).log_in("admin", one_time), 401)
        # Users and sessions are still there after a restart; a password is not printed again.
        self.assertEqual(web.stop(), 0)
        again = self.web()
        self.assertNotIn("one-time", again.said())
        user.web = again
        self.assertEqual(user.ask("GET", "/api/v1/session").json["user"], "admin")
        self.assertEqual(user.ask("DELETE", "/api/v1/session").status, 204)
        self.problem(user.ask("GET", "/api/v1/session"), 401)

    def test_a_lost_password_is_replaced_on_the_machine(self):
        self.start()
        self.assertEqual(self.web().stop(), 0)
        run = subprocess.run([WEB, "--state", self.path("state"), "--new-password", "admin"], stdout=subprocess.PIPE,
                             check=True, text=True)
        password, = re.findall(r"one-time password ([\w-]+):", run.stdout)
        self.assertEqual(User(self.web()).log_in("admin", password).status, 200)
        refused = subprocess.run([WEB, "--state", self.path("state"), "--new-password", "nobody"],
                                 stderr=subprocess.PIPE, check=False, text=True)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("nobody", refused.stderr)

    def test_roles_of_users_bound_them_and_their_tokens(self):
        self.start()
        web = self.web()
        admin = self.admin(web)
        answer = admin.ask("POST", "/api/v1/users", {"user": "eve", "role": "analyst", "password": "first password"})
        self.assertEqual(answer.status, 201, answer.body)
        self.problem(admin.ask("POST", "/api/v1/users", {"user": "eve", "role": "viewer", "password": "x" * 12}), 409, "exists")
        self.problem(admin.ask("POST", "/api/v1/users", {"user": "../eve", "role": "viewer", "password": "x" * 12}), 400)
        self.problem(admin.ask("POST", "/api/v1/users", {"user": "bob", "role": "root", "password": "x" * 12}), 400)
        eve = User(web)
        eve.log_in("eve", "first password")
        eve.set_password("first password", PASSWORD)
        self.problem(eve.ask("GET", "/api/v1/users"), 403, "permission")
        self.problem(eve.ask("POST", "/api/v1/tokens", {"name": "t", "scopes": ["control"]}), 403)
        token = self.token(eve, "read", "packets")
        self.assertEqual(token.ask("GET", "/api/v1/extractions").status, 200)
        # With the role goes what the token may do.
        self.assertEqual(admin.ask("PATCH", "/api/v1/users/eve", {"role": "viewer"}).status, 200)
        self.problem(token.ask("GET", "/api/v1/extractions"), 403)
        self.problem(eve.ask("GET", "/api/v1/extractions"), 403)
        self.assertEqual(token.ask("GET", "/api/v1/rings").status, 200)
        self.assertEqual(admin.ask("DELETE", "/api/v1/users/eve").status, 204)
        self.problem(token.ask("GET", "/api/v1/rings"), 401)
        self.problem(eve.ask("GET", "/api/v1/rings"), 401)
        # Somebody must be left who can make users.
        self.problem(admin.ask("DELETE", "/api/v1/users/admin"), 409, "busy")
        self.problem(admin.ask("PATCH", "/api/v1/users/admin", {"role": "viewer"}), 409, "busy")

    def test_tokens_end(self):
        self.start()
        admin = self.admin(self.web())
        token = self.token(admin, "read", days=1)
        kept, = admin.ask("GET", "/api/v1/tokens").json["tokens"]
        self.assertEqual(kept["scopes"], ["read"])
        self.assertEqual(kept["expires_s"] - kept["created_s"], 86400)
        self.assertEqual(token.ask("GET", "/api/v1/rings").status, 200)
        self.assertEqual(admin.ask("DELETE", f"/api/v1/tokens/{kept['token']}").status, 204)
        self.problem(token.ask("GET", "/api/v1/rings"), 401)
        self.problem(admin.ask("DELETE", f"/api/v1/tokens/{kept['token']}"), 404)

    def test_guessing_is_slowed_down(self):
        self.start()
        web = self.web()
        admin = self.admin(web)
        answers = []
        while answers[-1:] in ([], [401]) and len(answers) < 15:  # the waits double: no machine is slower than all of them
            answers.append(User(web).log_in("admin", "guess").status)
        self.assertGreater(len(answers), 5)
        self.assertEqual(answers, [401] * (len(answers) - 1) + [429])
        answer = User(web).log_in("admin", PASSWORD)
        if answer.status == 429:  # the right one has to wait, too
            self.assertGreater(int(answer.headers["Retry-After"]), 0)
        self.assertEqual(admin.ask("GET", "/api/v1/session").status, 200)  # who is in stays in
        while (answer := User(web).log_in("admin", PASSWORD)).status == 429:
            time.sleep(0.2)
        self.assertEqual(answer.status, 200)

    def test_guesses_at_once_are_no_more_guesses(self):
        """What is being looked at counts as wrong until it turns out right: else as many could be tried as can wait for their turn."""
        self.start()
        web = self.web()
        self.admin(web)
        statuses, together = [], threading.Barrier(16)

        def guess(number):
            together.wait()
            statuses.append(User(web).log_in("admin", f"guess {number}").status)

        threads = [recorder_world.thread(guess, number) for number in range(16)]
        for thread in threads:
            thread.join()
        self.assertEqual(set(statuses), {401, 429}, statuses)
        self.assertLess(statuses.count(401), 8, statuses)  # eight can wait; the fifth wrong one costs a second

    def test_who_finds_a_session_open_cannot_guess_its_password(self):
        self.start()
        web = self.web()
        admin = self.admin(web)
        answers = []
        while answers[-1:] in ([], [403]) and len(answers) < 15:
            answers.append(admin.ask("POST", "/api/v1/session/password", {"old_password": f"guess {len(answers)}", "password": "another one"}).status)
        self.assertEqual(answers, [403] * (len(answers) - 1) + [429])
        self.assertGreater(len(answers), 5)
        refused = [row for row in admin.ask("GET", "/api/v1/audit").json["rows"] if row["action"] == "web.password" and row["outcome"] == "refused"]
        self.assertEqual(len(refused), len(answers) - 1)


class Browsers(WebWorld):
    """What other sites could make a browser do."""

    def test_changes_need_the_token_of_the_session_and_our_own_origin(self):
        self.start()
        web = self.web()
        admin = self.admin(web)
        body = {"name": "t", "scopes": ["read"]}
        self.problem(admin.ask("POST", "/api/v1/tokens", body, {"X-CSRF-Token": None}), 403, "csrf")
        self.problem(admin.ask("POST", "/api/v1/tokens", body, {"X-CSRF-Token": "0" * 64}), 403, "csrf")
        self.problem(admin.ask("POST", "/api/v1/tokens", body, {"Origin": "https://evil.example"}), 403, "origin")
        self.problem(admin.ask("POST", "/api/v1/tokens", body, {"Origin": "null"}), 403, "origin")
        self.problem(admin.ask("POST", "/api/v1/tokens", body, {"Sec-Fetch-Site": "cross-site"}), 403, "origin")
        self.problem(admin.ask("POST", "/api/v1/tokens", json.dumps(body), {"Content-Type": "text/plain"}), 415)
        good = admin.ask("POST", "/api/v1/tokens", body, {"Origin": f"https://127.0.0.1:{web.port}"})
        self.assertEqual(good.status, 201, good.body)
        self.assertEqual(len(admin.ask("GET", "/api/v1/tokens").json["tokens"]), 1)

    def test_only_our_own_names_are_answered(self):
        self.start()
        web = self.web("--host", "recorder.example")
        user = User(web)
        for host in ("evil.example", "127.0.0.1.evil.example", "[::1", "", "recorder.example.evil"):
            self.problem(user.ask("GET", "/api/v1/session", headers={"Host": host}), 421, "host")
        for host in ("localhost", f"127.0.0.1:{web.port}", "[::1]:8443", "Recorder.Example", socket.gethostname()):
            self.problem(user.ask("GET", "/api/v1/session", headers={"Host": host}), 401)

    def test_old_tls_is_refused(self):
        self.start()
        web = self.web()
        with self.assertRaises((ssl.SSLError, ConnectionError)):
            old = tls(minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)
            old.set_ciphers("ALL:@SECLEVEL=0")
            with socket.create_connection(("127.0.0.1", web.port)) as stream:
                old.wrap_socket(stream)
        with socket.create_connection(("127.0.0.1", web.port)) as stream:
            with tls(maximum_version=ssl.TLSVersion.TLSv1_2).wrap_socket(stream) as secure:
                self.assertEqual(secure.version(), "TLSv1.2")

    def test_the_operators_certificate_is_used(self):
        certificate, key = self.path("cert.pem"), self.path("key.pem")
        made = subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out",
                               certificate, "-subj", "/CN=recorder.example", "-days", "2"], stderr=subprocess.DEVNULL,
                              check=False)
        if made.returncode != 0:
            self.skipTest("there is no openssl to make a certificate with")
        os.chmod(key, 0o600)  # root's: read before the web process becomes somebody else
        self.start()
        web = self.web("--certificate", certificate, "--key", key)
        with socket.create_connection(("127.0.0.1", web.port)) as stream:
            with tls().wrap_socket(stream) as secure:
                shown = ssl.DER_cert_to_PEM_cert(secure.getpeercert(binary_form=True))
        with open(certificate, encoding="ascii") as file:
            self.assertEqual(shown.strip(), file.read().strip())
        wrong = subprocess.run([WEB, "--state", self.path("state"), "--certificate", certificate], stderr=subprocess.PIPE,
                               check=False, text=True)
        self.assertEqual(wrong.returncode, 1)
        self.assertIn("key", wrong.stderr)


class Files(WebWorld):
    def test_the_page_and_its_parts(self):
        user = User(self.web())
        on_the_wire = 0
        for path, kind in (("/", "text/html"), ("/app.js", "text/javascript"), ("/app.css", "text/css"), ("/icon.svg", "image/svg+xml")):
            plain = user.ask("GET", path, check=False)
            packed = user.ask("GET", path, headers={"Accept-Encoding": "br, gzip"}, check=False)
            self.assertEqual((plain.status, packed.status), (200, 200))
            self.assertTrue(plain.type.startswith(kind), plain.type)
            self.assertEqual(gzip.decompress(packed.body), plain.body)
            self.assertEqual(packed.headers["Content-Encoding"], "gzip")
            self.assertIn("default-src 'none'", plain.headers["Content-Security-Policy"])
            self.assertNotIn("unsafe", plain.headers["Content-Security-Policy"])
            on_the_wire += len(packed.body)
            self.assertEqual(user.ask("HEAD", path, check=False).status, 200)
            self.assertEqual(user.ask("POST", path, {}, check=False).status, 405)
        self.assertLess(on_the_wire, 100_000)
        # Nothing comes from anywhere else.
        page = user.ask("GET", "/", check=False).body.decode()
        self.assertNotRegex(page, r"https?://")
        for path in ("/index.html", "/app.js/", "/../app.js", "/etc/passwd", "/.git/config"):
            self.assertIn(user.ask("GET", path, check=False).status, (200, 404) if ".." in path else (404,), path)


class Rings(WebWorld):
    def test_a_ring_from_its_making_to_its_end(self):
        recorder = self.start()
        admin = self.admin(self.web())
        self.assertEqual(admin.ask("GET", "/api/v1/rings").json["rings"], [])
        for path in ("%72%2e", "a%00b", "a%2fb"):  # parts of paths are decoded, and hold neither zeros nor slashes
            self.problem(admin.ask("GET", "/api/v1/rings/" + path), 404)
        disk = {"path": self.path("disk"), "bytes": 64 * MIB}
        answer = admin.ask("POST", "/api/v1/rings", {"name": "r", "disks": [disk]})
        self.assertEqual(answer.status, 201, answer.body)
        self.problem(admin.ask("POST", "/api/v1/rings", {"name": "r", "disks": [dict(disk, path=disk["path"] + "2")]}), 409)
        self.problem(admin.ask("POST", "/api/v1/rings", {"name": "q", "disk": []}), 400, "invalid")
        self.assertEqual([r["name"] for r in admin.ask("GET", "/api/v1/rings").json["rings"]], ["r"])
        shown = admin.ask("GET", "/api/v1/rings/r").json
        self.assertEqual(shown["disks"][0]["path"], disk["path"])
        changed = admin.ask("PATCH", "/api/v1/rings/r/settings", {"settings": {"flush_window": "100ms"}})
        self.assertEqual(changed.status, 200, changed.body)
        self.assertEqual(admin.ask("GET", "/api/v1/rings/r").json["settings"]["flush_window"], "100ms")
        self.problem(admin.ask("PATCH", "/api/v1/rings/r/settings", {"settings": {"flush_window": "soon"}}), 400)
        self.assertEqual(len(admin.ask("GET", "/api/v1/disks?ring=r").json["disks"]), 1)
        self.assertEqual(len(admin.ask("GET", "/api/v1/disks").json["disks"]), 1)
        self.problem(admin.ask("GET", "/api/v1/disks?rong=r"), 400)
        self.problem(admin.ask("GET", "/api/v1/rings/other"), 404)
        self.assertEqual(admin.ask("GET", "/api/v1/interfaces").status, 200)
        self.assertEqual(admin.ask("DELETE", "/api/v1/rings/r?wipe=true").status, 204)
        self.assertEqual(recorder.call("ring.list")["rings"], [])

    def test_a_capture_from_start_to_stop(self):
        recorder = self.start()
        admin = self.admin(self.web())
        create_ring(recorder, "r", self.path("disk"))
        began = int(time.time())
        started = admin.ask("POST", "/api/v1/captures", {"ring": "r", "interfaces": [], "backend": "generator",
                                                         "generator": {"packets_per_s": 2000, "seed": 1}})
        self.assertEqual(started.status, 204, started.body)
        captures = admin.ask("GET", "/api/v1/captures").json["captures"]
        self.assertEqual([(c["ring"], c["backend"]) for c in captures], [("r", "generator")])
        while True:  # until it shows in status and history
            status = admin.ask("GET", "/api/v1/rings/r/status").json
            self.check_account(status["account"])
            columns = admin.ask("GET", f"/api/v1/rings/r/history?from={began - 5}&step=1").json
            if status["account"]["stored"] > 2000 and sum(filter(None, columns["packets"]["stored"])) > 2000:
                break
            time.sleep(0.1)
        overview = admin.ask("GET", "/api/v1/overview").json
        self.assertEqual(overview["rings"][0]["ring"]["state"], "recording")
        stopped = admin.ask("DELETE", "/api/v1/captures/r")
        self.assertEqual(stopped.status, 200, stopped.body)
        account = stopped.json["account"]
        self.check_account(account)
        self.assertEqual(admin.ask("GET", "/api/v1/captures").json["captures"], [])
        self.problem(admin.ask("DELETE", "/api/v1/captures/r"), 404)
        # The steps add up to what was counted, whatever their length; of what nobody knows nothing is said.
        bytes_seen = set()
        for step in (1, 7, 60):
            while True:
                columns = admin.ask("GET", f"/api/v1/rings/r/history?from={began - 100}&step={step}").json
                total = {line: sum(filter(None, values)) for line, values in columns["packets"].items()}
                if total["seen"] >= account["seen"]:
                    break
                time.sleep(0.1)
            self.assertEqual(total, account, step)
            self.assertEqual(columns["from_s"] % step, 0)
            self.assertIsNone(columns["packets"]["seen"][0])
            bytes_seen.add(sum(filter(None, columns["bytes"]["seen"])))
            self.assertEqual(sum(filter(None, columns["cut_packets"])), 0)
        self.assertEqual(len(bytes_seen), 1)
        self.assertGreater(bytes_seen.pop(), account["seen"] * 40)
        self.problem(admin.ask("GET", "/api/v1/rings/r/history?from=-1000d&step=1"), 400)
        self.problem(admin.ask("GET", "/api/v1/rings/r/history?from=now&to=-1h"), 400)
        since = admin.ask("GET", f"/api/v1/rings/r/history?since={began}&step=1").json
        self.assertEqual(since["from_s"], began)
        self.assertEqual(sum(filter(None, since["packets"]["seen"])), account["seen"])
        self.problem(admin.ask("GET", f"/api/v1/rings/r/history?since={began}&to=now"), 400)
        estimate = admin.ask("POST", "/api/v1/rings/r/estimate", {"filter": "udp"}).json
        self.assertEqual(estimate["packets"], account["stored"])
        self.assertGreater(estimate["bytes"], account["stored"] * 40)
        past = admin.ask("POST", "/api/v1/rings/r/estimate", {"to": str(began - 100)}).json
        self.assertEqual((past["packets"], past["segments"]), (0, 0))
        self.problem(admin.ask("POST", "/api/v1/rings/r/estimate", {"filter": "udp porrt 53"}), 400)
        self.problem(admin.ask("POST", "/api/v1/rings/r/estimate", {"from": "now", "to": "-1h"}), 400)
        events = admin.ask("GET", "/api/v1/events?limit=5").json["events"]
        self.assertGreater(len(events), 0)
        after = events[-1]["number"]
        self.assertTrue(all(e["number"] > after for e in admin.ask("GET", f"/api/v1/events?after={after}").json["events"]))

    def test_rules_are_changed_by_people_who_do_not_know_of_each_other(self):
        recorder = self.start()
        admin = self.admin(self.web())
        create_ring(recorder, "r", self.path("disk"))
        rules = "/api/v1/rings/r/rules"
        shown = admin.ask("GET", rules)
        self.assertEqual((shown.json["rules"], shown.json["error"]), ([], None))
        added = admin.ask("POST", rules, {"rule": "tcp port 443 : headers l3+l4"}, {"If-Match": shown.headers["ETag"]})
        self.assertEqual(added.status, 201, added.body)
        self.assertEqual((added.json["number"], added.json["in_force"]), (1, True))
        # Who has looked before cannot change what he has not seen; who looks again can.
        self.problem(admin.ask("POST", rules, {"rule": "all : discard"}, {"If-Match": shown.headers["ETag"]}), 412, "mismatch")
        for wrong in ('"x"', "1", '"1', '""', 'W/"1"'):
            self.problem(admin.ask("POST", rules, {"rule": "all : discard"}, {"If-Match": wrong}), 412, "mismatch")
        first = {"conditions": [{"kind": "ip", "value": "10.0.0.0/8"}], "action": {"kind": "discard"}}
        self.assertEqual(admin.ask("POST", rules, {"rule": first, "at": 1}, {"If-Match": "*"}).status, 201)
        shown = admin.ask("GET", rules)
        self.assertEqual([r["text"] for r in shown.json["rules"]], ["ip 10.0.0.0/8 : discard", "tcp port 443 : headers l3+l4"])
        # Counters move on and the tag with them, but not what a change may be made to.
        import_packets(recorder, "r", numbered(100))
        later = admin.ask("GET", rules, headers={"If-None-Match": shown.headers["ETag"]})
        self.assertEqual((later.status, later.json["unmatched"]["packets"]), (200, 100))
        moved = admin.ask("POST", rules + "/2/move", {"direction": "up"}, {"If-Match": shown.headers["ETag"]})
        self.assertEqual((moved.status, moved.json["number"]), (200, 1), moved.body)
        self.assertEqual(admin.ask("PUT", rules + "/1", {"rule": "udp port 53 : full"}).json["text"], "udp port 53 : full")
        self.assertEqual(admin.ask("DELETE", rules + "/2").status, 200)
        self.assertEqual([r["text"] for r in admin.ask("GET", rules).json["rules"]], ["udp port 53 : full"])
        self.assertEqual(admin.ask("PUT", rules, {"rules": "all : snap 64\n"}).status, 200)
        self.assertEqual([r["text"] for r in recorder.call("rule.list", ring="r")["rules"]], ["all : snap 64"])
        self.assertEqual(admin.ask("PUT", rules, {"rules": []}).status, 200)
        # What rules would have made of the past.
        self.assertEqual(admin.ask("POST", rules + "/test", {}).json["stored_packets"], 100)
        tried = admin.ask("POST", rules + "/test", {"rules": "all : snap 64\n", "from": "1700000000.00001"})
        self.assertEqual((tried.status, tried.json["complete"]), (200, True), tried.body)
        self.assertEqual((tried.json["packets"], tried.json["cut_packets"], tried.json["stored_bytes"]), (90, 90, 90 * 64))
        self.assertEqual(admin.ask("GET", rules).json["rules"], [])
        self.assertIn("column", self.problem(admin.ask("POST", rules + "/test", {"rules": "all : nothing"}), 400, "invalid"))
        self.problem(admin.ask("POST", rules + "/test", {"from": "now", "to": "-1h"}), 400, "invalid")
        for path in ("/1", "/1/move", "/0", "/x", "/-1", "/99999999999999999999"):
            body = {"direction": "up"} if path.endswith("move") else {"rule": "all : full"}
            self.problem(admin.ask("POST" if path.endswith("move") else "PUT", rules + path, body), 404, "not_found")
        self.assertIn("column", self.problem(admin.ask("POST", rules, {"rule": "all : nothing"}), 400, "invalid"))
        self.problem(admin.ask("POST", rules, {"rules": "all : full"}), 400, "invalid")
        self.problem(admin.ask("POST", "/api/v1/rings/other/rules", {"rule": "all : full"}), 404)

    def test_a_test_of_rules_ends_with_its_client(self):
        """It went on, for as long as the ring gave packets, when nobody waited for its answer any more."""
        recorder = self.start()
        admin = self.admin(self.web())
        pid = recorder.process.pid
        create_ring(recorder, "r", self.path("disk"), 128 * MIB)
        import_packets(recorder, "r", numbered(200_000))

        def judges():
            return [child for child in all_children(pid) if process_name(child) == "tapeloop-judge"]

        def begin():
            """A test whose judge stands still, so that it does not end by itself; None: it was faster."""
            stream = admin.stream(f"https://127.0.0.1:{admin.web.port}/api/v1/rings/r/rules/test", body=b"{}")
            wait_for(judges)
            try:
                os.kill(judges()[0], signal.SIGSTOP)
            except (IndexError, ProcessLookupError):
                return None
            return stream

        while not (stream := begin()):
            pass
        time.sleep(1.5)  # it is no haste of the server's either
        self.assertEqual(len(judges()), 1)
        began = time.monotonic()
        stream.close()
        wait_for(lambda: not judges() and not children(pid))
        self.assertLess(time.monotonic() - began, 10)  # the question's own time was 60 s
        self.assertEqual(admin.ask("POST", "/api/v1/rings/r/rules/test", {}).json["packets"], 200_000)

    def test_a_disk_from_its_coming_to_its_going(self):
        recorder = self.start()
        admin = self.admin(self.web())
        made = admin.ask("POST", "/api/v1/rings", {"name": "r"})
        self.assertEqual((made.status, made.json["state"]), (201, "empty"), made.body)
        disks = "/api/v1/rings/r/disks"
        for name in ("one", "two"):
            added = admin.ask("POST", disks, {"disk": {"path": self.path(name), "bytes": 64 * MIB}})
            self.assertEqual(added.status, 201, added.body)
            self.assertEqual(added.json["disk"]["state"], "active")
        listed = admin.ask("GET", "/api/v1/disks?ring=r&oldest=true").json["disks"]
        self.assertEqual({os.path.basename(d["path"]) for d in listed}, {"one", "two"})
        for disk in listed:
            self.assertIn("enclosure", disk)
        import_packets(recorder, "r", numbered(1000))
        one, two = listed
        self.problem(admin.ask("POST", f"{disks}/{one['number']}/locate", {"on": True}), 501, "unsupported")
        removed = admin.ask("DELETE", f"{disks}/{one['number']}")
        self.assertEqual((removed.status, removed.json["disk"]["state"]), (200, "removed"), removed.body)
        self.problem(admin.ask("DELETE", f"{disks}/{one['number']}"), 409, "exists")
        resumed = admin.ask("POST", f"{disks}/{one['id'][:8]}/resume", {})
        self.assertEqual((resumed.status, resumed.json["disk"]["state"]), (200, "active"), resumed.body)
        self.assertEqual(len(extract(recorder, "r")[0]), 1000)
        # A path of its own for a disk that is not where it was.
        self.assertEqual(admin.ask("DELETE", f"{disks}/{one['number']}?forget=true").status, 200)
        self.problem(admin.ask("POST", f"{disks}/{one['number']}/resume", {}), 404)
        os.rename(one["path"], self.path("moved"))
        again = admin.ask("POST", f"{disks}/resume", {"disk": self.path("moved")})
        self.assertEqual((again.status, again.json["disk"]["id"]), (200, one["id"]), again.body)
        replaced = admin.ask("POST", f"{disks}/{two['number']}/replace", {"with": {"path": self.path("three"), "bytes": 64 * MIB}})
        self.assertEqual(replaced.status, 201, replaced.body)
        states = {os.path.basename(d["path"]): d["state"] for d in admin.ask("GET", "/api/v1/disks").json["disks"]}
        self.assertEqual(states, {"moved": "active", "two": "removed", "three": "active"})
        for wrong in ({}, {"disk": "x"}, {"disk": {"path": "relative"}}, {"disk": {"path": self.path("three")}, "more": 1}):
            self.assertIn(admin.ask("POST", disks, wrong).status, (400, 409), wrong)
        self.problem(admin.ask("POST", f"{disks}/resume", {"disk": 7}), 400, "invalid")

    def test_settings_are_changed_by_people_who_do_not_know_of_each_other(self):
        recorder = self.start()
        admin = self.admin(self.web())
        create_ring(recorder, "r", self.path("disk"))
        path = "/api/v1/rings/r/settings"
        shown = admin.ask("GET", path)
        self.assertEqual((shown.json["settings"]["copies"], shown.json["settings"]["flush_window"]), ("1", "1s"))
        tag = {"If-Match": shown.headers["ETag"]}
        changed = admin.ask("PATCH", path, {"settings": {"flush_window": "100ms"}}, tag)
        self.assertEqual((changed.status, changed.json["in_force"]), (200, True), changed.body)
        self.problem(admin.ask("PATCH", path, {"settings": {"flush_window": "200ms"}}, tag), 412, "mismatch")
        self.problem(admin.ask("PATCH", path, {"settings": {"copies": "2"}}, tag), 412, "mismatch")
        now = admin.ask("GET", path)
        self.assertEqual(now.json["settings"]["flush_window"], "100ms")
        # The recorder itself compares: what it is told to expect is all of it.
        self.refused("mismatch", recorder, "ring.set", ring="r", settings={"flush_window": "1s"}, expected=shown.json["settings"])
        recorder.call("ring.set", ring="r", settings={"flush_window": "1s"}, expected=now.json["settings"])
        described = admin.ask("GET", "/api/v1/settings").json
        self.assertEqual({s["name"] for s in described["of_rings"]} | {"copies"}, set(shown.json["settings"]))
        self.assertEqual((described["settings"], described["rings"]), ({"max_rings": described["settings"]["max_rings"]}, 1))
        self.assertEqual(admin.ask("PATCH", "/api/v1/settings", {"settings": {"max_rings": "1"}}).status, 200)
        self.assertEqual(admin.ask("GET", "/api/v1/settings").json["settings"], {"max_rings": "1"})
        self.assertEqual(admin.ask("POST", "/api/v1/rings", {"name": "q"}).status, 400)
        self.problem(admin.ask("PATCH", "/api/v1/settings", {"settings": {"max_rings": "0"}}), 400, "invalid")

    def test_answers_have_tags(self):
        self.start()
        admin = self.admin(self.web())
        tag = admin.ask("GET", "/api/v1/rings").headers["ETag"]
        self.assertEqual(admin.ask("GET", "/api/v1/rings", headers={"If-None-Match": tag}, check=False).status, 304)
        self.assertEqual(admin.ask("GET", "/api/v1/rings", headers={"If-None-Match": '"x"'}).status, 200)

    def test_without_a_recorder_it_says_so_and_goes_on(self):
        web = self.web()
        admin = self.admin(web)
        answer = admin.ask("GET", "/api/v1/overview")
        self.problem(answer, 503, "closed")
        self.assertIn("Retry-After", answer.headers)
        recorder = self.start()
        self.assertEqual(admin.ask("GET", "/api/v1/overview").status, 200)
        recorder.kill()
        self.problem(admin.ask("GET", "/api/v1/overview"), 503, "closed")
        self.start()
        self.assertEqual(admin.ask("GET", "/api/v1/overview").status, 200)


def open_metrics(text):
    """The samples of an OpenMetrics text, {(name, labels): value}, after what the specification asks of one was checked."""
    assert text.endswith("# EOF\n") and text.count("# EOF") == 1
    samples, families, family = {}, {}, None
    for line in text.splitlines()[:-1]:
        if line.startswith("# "):
            word, name, rest = line[2:].split(" ", 2)
            assert word in ("TYPE", "UNIT", "HELP"), line
            assert re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", name), line
            if word == "TYPE":
                assert name not in families, "a family is in one piece: " + line
                assert rest in ("counter", "gauge", "info", "stateset"), line
                families[name], family = rest, name
            assert name == family, line
            assert word != "UNIT" or name.endswith("_" + rest), line
            continue
        sample = re.fullmatch(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (-?[0-9.e+-]+)', line)
        assert sample, line
        suffix = {"counter": "_total", "info": "_info"}.get(families[family], "")
        assert sample[1] == family + suffix, line
        labels = tuple(sorted(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', sample[2] or "")))
        assert len(labels) == len(dict(labels)), line
        assert families[family] != "counter" or float(sample[3]) >= 0, line
        assert (sample[1], labels) not in samples, line
        samples[sample[1], labels] = float(sample[3])
    return samples


class Monitoring(WebWorld):
    def test_open_metrics(self):
        recorder = self.start()
        token = self.token(self.admin(self.web()), "read")
        open_metrics(token.ask("GET", "/metrics").body.decode())  # without a ring, too
        create_ring(recorder, "r", self.path('di"s\\k'))
        create_ring(recorder, "q", self.path("other"))
        import_packets(recorder, "r", numbered(1000))
        recorder.call("rule.add", ring="r", rule="all : discard")
        import_packets(recorder, "r", numbered(500))
        answer = token.ask("GET", "/metrics")
        self.assertEqual(answer.type, "application/openmetrics-text; version=1.0.0; charset=utf-8")
        samples = open_metrics(answer.body.decode())
        packets = {}
        for (name, labels), value in samples.items():
            if name == "tapeloop_packets_total":
                packets[dict(labels)["outcome"]] = packets.get(dict(labels)["outcome"], 0) + value
        status = recorder.call("status", ring="r")["rings"][0]
        self.assertEqual({line: packets.get(line, 0) for line in ("stored", "discarded", "dropped_kernel")},
                         {line: status["account"][line] for line in ("stored", "discarded", "dropped_kernel")})
        self.assertEqual(samples["tapeloop_ring_packets", (("ring", "r"),)], 1000)
        self.assertEqual(samples["tapeloop_ring_state", (("ring", "q"), ("tapeloop_ring_state", "idle"))], 1)
        paths = {dict(labels)["path"] for (name, labels) in samples if name == "tapeloop_disk_active"}
        self.assertEqual(len(paths), 2)
        self.assertTrue(any('di\\"s\\\\k' in path for path in paths), paths)

    def test_the_paths_of_an_older_product(self):
        namespace = recorder_world.make_namespace(self)
        recorder = self.start(prefix=namespace)
        admin = self.admin(self.web())
        capture = "/packet_capture/capture/"
        self.assertIn("no ring", self.problem(admin.ask("POST", capture + "start", {"interface": "v1"}), 400, "invalid"))
        create_ring(recorder, "r", self.path("disk"))
        self.assertEqual(admin.ask("GET", capture + "status").json["status"], "stopped")
        self.problem(admin.ask("POST", capture + "stop", {}), 404)
        wanted = {"interface": "v1", "backend": "packet", "buffer_size_mb": 8, "timestamp_source": "kernel",
                  "filter_expr": "ether[14:4] = 0 and ether[20:2] < 100", "snaplen": 64}
        started = admin.ask("POST", capture + "start", wanted)
        self.assertEqual((started.status, started.json["status"], started.json["ring"]), (200, "running", "r"), started.body)
        shown = admin.ask("GET", capture + "status").json
        self.assertEqual((shown["status"], shown["captures"][0]["interfaces"]), ("running", ["v1"]))
        send = ("import socket,struct,sys\ns = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\ns.bind(('v0', 0))\n"
                "for i in range(300): s.send(bytes.fromhex('0200000000020200000000010800') + struct.pack('>Q', i) + bytes(100))\n")
        subprocess.run([*namespace, sys.executable, "-c", send], check=True)
        while admin.ask("GET", capture + "metrics").json["packets_captured"] < 300:
            time.sleep(0.05)
        health = admin.ask("GET", "/api/health/capture").json
        self.assertGreaterEqual(health["packets_processed"], 300)
        self.assertGreater(health["min_processing_time_ms"], 0)
        self.assertLessEqual(health["min_processing_time_ms"], health["avg_processing_time_ms"])
        self.assertLessEqual(health["avg_processing_time_ms"], health["max_processing_time_ms"])
        stopped = subprocess.run(["curl", "-sk", "-X", "POST", "-b", admin.cookie, "-H", "X-CSRF-Token: " + admin.csrf,
                                  f"https://127.0.0.1:{admin.web.port}{capture}stop"], stdout=subprocess.PIPE, check=True)
        final = json.loads(stopped.stdout)  # as scripts do: without a body
        self.assertEqual(final["status"], "stopped", final)
        self.assertGreaterEqual(final["final_metrics"]["packets_captured"], 300)
        self.assertEqual((final["final_metrics"]["packets_dropped"], final["final_metrics"]["drop_rate"]), (0, 0))
        kept = [body for _, body in extract(recorder, "r", filter="ether[0:4] = 0x02000000")[0]]
        self.assertEqual(len(kept), 100)
        self.assertEqual({len(body) for body in kept}, {64})
        text = "interface v1 and not bpf"
        self.assertEqual([r["text"].startswith(text) for r in recorder.call("rule.list", ring="r")["rules"]], [True])
        # The next start says what its filter is: another, or none.
        self.assertEqual(admin.ask("POST", capture + "start", dict(wanted, filter_expr="udp")).status, 200)
        self.assertEqual([r["text"].startswith(text) and "udp" in r["text"] for r in recorder.call("rule.list", ring="r")["rules"]], [True])
        admin.ask("POST", capture + "stop", {"ring": "r"})
        self.assertEqual(admin.ask("POST", capture + "start", {"interface": "v1"}).status, 200)
        self.assertEqual(recorder.call("rule.list", ring="r")["rules"], [])
        admin.ask("POST", capture + "stop", {})
        for wrong in ({}, {"interface": 1}, dict(wanted, snaplen=-1), dict(wanted, buffer_size_mb="8"), dict(wanted, filter_expr="no such"),
                      dict(wanted, backend="magic"), dict(wanted, more=1)):
            self.problem(admin.ask("POST", capture + "start", wrong), 400)
        self.problem(admin.ask("POST", capture + "start", dict(wanted, timestamp_source="adapter")), 501, "unsupported")
        create_ring(recorder, "q", self.path("other"))
        self.assertIn("which", self.problem(admin.ask("POST", capture + "start", {"interface": "v1"}), 400))
        self.assertEqual(admin.ask("GET", capture + "metrics?ring=q").json["packets_captured"], 0)


class Audit(WebWorld):
    def test_who_did_what_is_written_down_and_cannot_be_changed(self):
        recorder = self.start()
        web = self.web(fresh=True)
        admin = User(web)
        one_time = web.one_time_password()
        self.assertEqual(admin.log_in("admin", one_time).status, 200)
        self.assertEqual(admin.set_password(one_time, PASSWORD).status, 200)
        User(web).log_in("admin", "guess")
        create_ring(recorder, "r", self.path("disk"))
        import_packets(recorder, "r", numbered(10))
        admin.ask("POST", "/api/v1/rings/r/rules", {"rule": "all : full"})
        admin.ask("POST", "/api/v1/rings/r/rules", {"rule": "all : fool"})
        admin.download(admin.ask("POST", "/api/v1/extractions", {"ring": "r", "filter": "ip"}).json["url"])
        admin.ask("GET", "/api/v1/overview")
        rows = admin.ask("GET", "/api/v1/audit").json["rows"]
        web_uid = os.geteuid()
        by_web = f"admin from 127.0.0.1, by uid {web_uid}"
        self.assertEqual([(r["action"], r["actor"], r["ring"], r["outcome"].split(":")[0]) for r in rows],
                         [("web.log-in", by_web, "", "done"), ("web.password", by_web, "", "begun"), ("web.password", by_web, "", "done"),
                          ("web.log-in", f"somebody from 127.0.0.1, by uid {web_uid}", "", "refused"),
                          *((*change, outcome) for change in (("ring.create", f"uid {web_uid}", "r"), ("import", f"uid {web_uid}", "r"),
                                                              ("rule.add", by_web, "r")) for outcome in ("begun", "done")),
                          ("rule.add", by_web, "r", "begun"), ("rule.add", by_web, "r", "invalid"),
                          ("extract", by_web, "r", "begun"), ("extract", by_web, "r", "done")])
        self.assertEqual(json.loads(rows[12]["detail"])["filter"], "ip")
        self.assertEqual(rows[13]["outcome"], "done: 10 packets")
        self.assertNotIn(PASSWORD, json.dumps(rows))
        self.assertEqual([r["number"] for r in admin.ask("GET", "/api/v1/audit?after=7&limit=1").json["rows"]], [8])
        verdict = admin.ask("GET", "/api/v1/audit/verify").json
        self.assertEqual((verdict["rows"], verdict["clean"], verdict["head"]), (14, True, rows[-1]["hash"]))
        command = [os.path.join(recorder_world.BIN, "tapeloop"), "--state", self.path("state"), "audit"]
        listed = subprocess.run(command + ["list", "--after", "8"], stdout=subprocess.PIPE, check=True, text=True).stdout
        self.assertIn(by_web + ": extract, ring r ", listed)
        head = f"{rows[4]['number']}:{rows[4]['hash']}"
        good = subprocess.run(command + ["verify", "--head", head], stdout=subprocess.PIPE, check=True, text=True)
        self.assertIn(f"14 rows fit; head 14:{rows[-1]['hash']}", good.stdout)
        wrong = subprocess.run(command + ["verify", "--head", head[:-1] + ("0" if head[-1] != "0" else "1")], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, check=False, text=True)
        self.assertEqual((wrong.returncode, "made anew" in wrong.stderr), (1, True))
        # Somebody with the file in his hands changes a row.
        recorder.stop()
        with sqlite3.connect(self.path("state", "state.db")) as database:
            database.execute("UPDATE audit SET actor = 'eve' WHERE number = 6")
        self.start()
        self.assertEqual(admin.ask("GET", "/api/v1/audit/verify").json["bad"], 6)
        bad = subprocess.run(command + ["verify"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, text=True)
        self.assertEqual((bad.returncode, "row 6" in bad.stderr), (1, True))

    def test_what_begins_is_written_down_before_it_is_done(self):
        """A recorder that dies in a change leaves its beginning in the log: as here, where the end cannot be written."""
        recorder = self.start()
        create_ring(recorder, "r", self.path("disk"))
        admin = self.admin(self.web())
        with sqlite3.connect(self.path("state", "state.db")) as database:
            database.execute("CREATE TRIGGER ends BEFORE INSERT ON audit WHEN NEW.outcome <> 'begun' BEGIN SELECT RAISE(ABORT, 'full'); END")
        self.assertEqual(admin.ask("POST", "/api/v1/rings/r/rules", {"rule": "all : full"}).status, 201)
        self.assertEqual(admin.ask("POST", "/api/v1/tokens", {"name": "t", "scopes": ["read"]}).status, 201)
        rows = admin.ask("GET", "/api/v1/audit").json["rows"]
        self.assertEqual([(r["action"], r["outcome"]) for r in rows[-2:]], [("rule.add", "begun"), ("web.token-create", "begun")])
        self.assertTrue(admin.ask("GET", "/api/v1/audit/verify").json["clean"])

    def test_nothing_is_handed_out_unwritten(self):
        recorder = self.start()
        create_ring(recorder, "r", self.path("disk"))
        import_packets(recorder, "r", numbered(10))
        with sqlite3.connect(self.path("state", "state.db")) as database:
            database.execute("CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'full'); END")
        with tempfile.TemporaryFile() as output:
            with self.assertRaises(recorder_world.RemoteError) as refused:
                recorder.call("extract", [output.fileno()], ring="r")
            self.assertIn("audit log", refused.exception.message)
            self.assertEqual(os.fstat(output.fileno()).st_size, 0)
        recorder.call("ring.set", ring="r", settings={"flush_window": "100ms"})  # what must go on goes on, and says so
        while "could not be written into the audit log" not in recorder.said():  # an event, and those take their time
            time.sleep(0.02)


class Packets(WebWorld):
    def ring(self, count=20000):
        recorder = self.start()
        create_ring(recorder, "r", self.path("disk"))
        import_packets(recorder, "r", numbered(count))
        return recorder

    def test_what_is_downloaded_is_what_is_stored(self):
        recorder = self.ring()
        web = self.web()
        admin = self.admin(web)
        for wanted, params in (({}, {}), ({"filter": "ether[14:4] = 0 and ether[20:2] < 100"},) * 2,
                               ({"from": "1700000000.005", "to": "1700000000.006"},
                                {"from_ns": str(1700000000005 * 10**6), "to_ns": str(1700000000006 * 10**6)})):
            expected, result = extract(recorder, "r", **params)
            answer = admin.ask("POST", "/api/v1/extractions", {"ring": "r", "format": "pcap", **wanted})
            self.assertEqual(answer.status, 201, answer.body)
            status, data, trailer = admin.download(answer.json["url"])
            self.assertEqual(status, 200)
            self.assertEqual(read_pcap(data), expected)
            self.assertEqual(trailer, f"Tapeloop-Complete: {'true' if result['complete'] else 'false'}")
            # A ticket is good once.
            self.assertEqual(admin.download(answer.json["url"])[0], 404)
            listed = admin.ask("GET", "/api/v1/extractions").json["extractions"][0]
            self.assertEqual((listed["state"], listed["packets"], listed["output_bytes"], listed["complete"]),
                             ("done", len(expected), len(data), True))

    def test_a_script_needs_one_request_and_a_token(self):
        recorder = self.ring()
        web = self.web()
        token = self.token(self.admin(web), "packets")
        answer = token.ask("GET", "/api/v1/rings/r/packets?format=pcap&filter=ether%20proto%200x800")
        self.assertEqual(answer.status, 307)
        self.assertEqual(read_pcap(token.download(answer.headers["Location"])[1]), extract(recorder, "r")[0])
        # What is too long is refused, never left out: without its filter it would be everything.
        for wrong in ("filter=" + "a" * 4200, "filter=" + "a" * 9000, "filter=tcp%00", "from=" + "1" * 80, "filter=tcp&filter=udp"):
            self.problem(token.ask("GET", "/api/v1/rings/r/packets?" + wrong), 400)
        # On the Unix socket as well, where there are no sessions, and nobody without a token.
        local = User(web, token=token.token, local=True)
        answer = local.ask("GET", "/api/v1/rings/r/packets?format=pcap")
        self.assertEqual(answer.status, 307)
        answer = local.ask("GET", answer.headers["Location"], check=False)
        self.assertEqual(read_pcap(answer.body), extract(recorder, "r")[0])
        self.problem(User(web, local=True).log_in("admin", PASSWORD), 403)
        self.problem(User(web, local=True).ask("GET", "/api/v1/rings"), 401)

    def test_how_it_was_found_and_in_whose_words(self):
        """`explain` answers what was read for the packets, instead of them; `query` is the language; `no_index` reads everything."""
        recorder = self.start()
        create_ring(recorder, "r", self.path("disk"))
        packets = conversations(10000, 1000)
        import_packets(recorder, "r", packets)
        wanted = [packet for packet in packets if packet[1][34:36] == struct.pack(">H", 1003)]
        admin = self.admin(self.web("--viewer-headers"))

        def explained(user, **params):
            """What a browser's way and a script's way answer: the same, but for what depends on the moment."""
            answer = user.ask("POST", "/api/v1/extractions", {"ring": "r", "explain": True, **params})
            self.assertEqual((answer.status, answer.json["explain"]), (201, True), answer.body)
            script = user.ask("GET", "/api/v1/rings/r/packets?explain=true&" + urllib.parse.urlencode(
                {name: value if isinstance(value, str) else str(value).lower() for name, value in params.items()}))
            self.assertEqual(script.status, 307, script.body)
            found = []
            for url in (answer.json["url"], script.headers["Location"]):
                port, path = re.fullmatch(r"https://127\.0\.0\.1:(\d+)(/.*)", url).groups()
                plan = User(user.web).ask("GET", path, port=int(port))  # held against the description
                self.assertEqual((plan.status, plan.type), (200, "application/json"), plan.body)
                found.append({name: value for name, value in plan.json.items() if name != "held_back_ms" and "run" not in name})
            self.assertEqual(*found)
            return found[0]

        plan = explained(admin, filter="port 1003", format="pcap")
        expected, result = extract(recorder, "r", filter="port 1003")
        self.assertEqual(expected, wanted)
        self.assertEqual(plan, {name: value for name, value in result.items() if name in plan})
        self.assertEqual((plan["packets"], plan["narrowing"], plan["output_bytes"]), (10, "port 1003", len(pcap(wanted))))
        self.assertLess(plan["packets_judged"], len(packets))
        listed = admin.ask("GET", "/api/v1/extractions").json["extractions"][0]
        self.assertEqual((listed["state"], listed["packets"], listed["explain"]), ("done", 10, True))
        whole = explained(admin, filter="port 1003", no_index=True)
        self.assertEqual((whole["packets"], whole["narrowing"], whole["segments_narrowed"], whole["packets_judged"]), (10, "", 0, len(packets)))
        query = "port 1003 and before 2023-11-14T22:13:20.005Z"
        plan = explained(admin, filter=query, query="steno")
        self.assertEqual((plan["packets"], plan["from_ns"], plan["to_ns"]), (5, None, str(1_700_000_000_005 * 10**6)))
        estimate = admin.ask("POST", "/api/v1/rings/r/estimate", {"filter": query, "query": "steno"}).json
        self.assertEqual([estimate[name] for name in ("filter", "from_ns", "to_ns")], [plan[name] for name in ("filter", "from_ns", "to_ns")])
        self.assertAlmostEqual(estimate["packets"], 5000, delta=10)

        # The packets themselves, too.
        for params, count in (({"filter": query, "query": "steno"}, 5), ({"filter": "port 1003", "no_index": True}, 10)):
            answer = admin.ask("POST", "/api/v1/extractions", {"ring": "r", "format": "pcap", **params})
            self.assertEqual(read_pcap(admin.download(answer.json["url"])[1]), wanted[:count])
        # Who may have headers only is told what is found of these.
        token = self.token(admin, "headers")
        self.assertEqual(explained(token, filter="port 1003")["packets"], 10)
        self.assertEqual(explained(token, filter="udp[8] = 0")["packets"], 0)
        self.assertEqual(explained(admin, filter="udp[8] = 0")["packets"], len(packets))
        for wrong in ({"query": "sql"}, {"explain": "yes"}, {"no_index": 1}, {"explain": True, "follow": True}):
            self.problem(admin.ask("POST", "/api/v1/extractions", {"ring": "r", **wrong}), 400, "invalid")
        for wrong in ("query=sql", "query=" + "s" * 90, "explain=1", "no_index=yes", "explain=true&follow=true"):
            self.problem(admin.ask("GET", "/api/v1/rings/r/packets?" + wrong), 400, "invalid")
        self.problem(admin.ask("POST", "/api/v1/rings/r/estimate", {"filter": "not tcp", "query": "steno"}), 400, "invalid")
        answer = admin.ask("POST", "/api/v1/extractions", {"ring": "r", "filter": "not tcp", "query": "steno", "explain": True})
        status, body, _ = admin.download(answer.json["url"])
        self.assertEqual(status, 400, body)
        self.assertIn("column 1", json.loads(body)["detail"])

    def test_headers_are_all_that_some_may_have(self):
        recorder = self.start()
        create_ring(recorder, "r", self.path("disk"))

        def udp(secret, tag=b""):
            body = b"\0\x35\0\x35" + bytes([0, 8 + len(secret), 0, 0]) + secret
            ip = bytes([0x45, 0, 0, 20 + len(body)]) + bytes(4) + b"\x40\x11\0\0" + bytes([10, 0, 0, 1, 10, 0, 0, 2])
            return bytes(12) + tag + b"\x08\0" + ip + body

        frames = [(udp(b"secret"), 42), (udp(b"public", b"\x81\0\0\x07"), 46), (bytes(12) + b"\x08\x06" + b"arp secret", 14),
                  (udp(b"secret")[:30], 30)]
        import_packets(recorder, "r", [(1_700_000_000 * 10**9 + i, frame) for i, (frame, _) in enumerate(frames)])
        wanted = [frame[:kept] for frame, kept in frames]
        cut, result = extract(recorder, "r", headers=True)
        self.assertEqual([body for _, body in cut], wanted)
        self.assertTrue(result["complete"])
        # Nobody finds out by asking: the filter sees no more than what is handed out.
        self.assertEqual(len(extract(recorder, "r", filter="udp[8:4] = 0x73656372")[0]), 1)
        self.assertEqual(extract(recorder, "r", filter="udp[8:4] = 0x73656372", headers=True)[0], [])
        admin = self.admin(self.web("--viewer-headers"))
        self.assertEqual(admin.ask("POST", "/api/v1/users", {"user": "vi", "role": "viewer", "password": "first password"}).status, 201)
        viewer = User(admin.web)
        viewer.log_in("vi", "first password")
        viewer.set_password("first password", PASSWORD)
        for user in (viewer, self.token(viewer, "headers")):
            answer = user.ask("POST", "/api/v1/extractions", {"ring": "r", "format": "pcap"})
            self.assertEqual((answer.status, answer.json["headers"]), (201, True), answer.body)
            self.assertEqual([body for _, body in read_pcap(user.download(answer.json["url"])[1])], wanted)
            answer = user.ask("GET", "/api/v1/rings/r/packets?format=pcap")
            self.assertEqual([body for _, body in read_pcap(user.download(answer.headers["Location"])[1])], wanted)
            self.problem(user.ask("POST", "/api/v1/extractions", {"ring": "r", "headers": False}), 403, "permission")
            self.problem(user.ask("GET", "/api/v1/rings/r/packets?headers=false"), 403, "permission")
            self.problem(user.ask("GET", "/api/v1/extractions"), 403, "permission")
        whole = admin.ask("GET", "/api/v1/rings/r/packets?format=pcap")
        self.assertEqual(read_pcap(admin.download(whole.headers["Location"])[1])[0][1], frames[0][0])
        short = admin.ask("GET", "/api/v1/rings/r/packets?format=pcap&headers=true")
        self.assertEqual([body for _, body in read_pcap(admin.download(short.headers["Location"])[1])], wanted)

    def test_a_stream_has_no_parts(self):
        """Range is ignored where nobody knows the length beforehand, and the answer says so: all of it comes, as RFC 9110 has it."""
        recorder = self.ring(1000)
        admin = self.admin(self.web())
        expected, _ = extract(recorder, "r")
        for wanted in ("bytes=100-", "bytes=0-0", "bytes=-5", "bytes=9999999999-", "lines=1-2"):
            answer = admin.ask("GET", "/api/v1/rings/r/packets?format=pcap")
            port, path = re.fullmatch(r"https://127\.0\.0\.1:(\d+)(/.*)", answer.headers["Location"]).groups()
            answer = User(admin.web).ask("GET", path, headers={"Range": wanted, "If-Range": '"x"'}, port=int(port))
            self.assertEqual((answer.status, answer.headers["Accept-Ranges"]), (200, "none"))
            self.assertEqual((answer.headers.get("Content-Range"), answer.headers.get("ETag")), (None, None))
            self.assertEqual(read_pcap(answer.body), expected)

    def test_one_user_leaves_places_to_others(self):
        self.ring(10)
        admin = self.admin(self.web("--viewer-headers"))
        self.assertEqual(admin.ask("POST", "/api/v1/users", {"user": "vi", "role": "viewer", "password": "first password"}).status, 201)
        viewer = User(admin.web)
        viewer.log_in("vi", "first password")
        viewer.set_password("first password", PASSWORD)
        numbers = []
        while (answer := viewer.ask("POST", "/api/v1/extractions", {"ring": "r"})).status == 201:
            numbers.append(answer.json["extraction"])
        self.assertIn("of this user", self.problem(answer, 409, "busy"))
        self.assertEqual(len(numbers), 64)
        self.assertEqual(admin.ask("POST", "/api/v1/extractions", {"ring": "r"}).status, 201)
        self.assertEqual(viewer.ask("DELETE", f"/api/v1/extractions/{numbers[0]}").status, 204)
        self.assertEqual(viewer.ask("POST", "/api/v1/extractions", {"ring": "r"}).status, 201)

    def test_what_cannot_be_extracted_is_said_before_the_first_byte(self):
        self.ring(10)
        admin = self.admin(self.web())
        for wrong in ({"ring": "no"}, {"ring": "r", "filter": "no such filter"}):
            url = admin.ask("POST", "/api/v1/extractions", wrong).json["url"]
            status, body, _ = admin.download(url)
            self.assertIn(status, (400, 404), body)
            self.assertEqual(json.loads(body)["status"], status)
            self.assertEqual(admin.ask("GET", "/api/v1/extractions").json["extractions"][0]["state"], "failed")
        for wrong in ({"ring": "../r"}, {"ring": "r", "format": "exe"}, {"ring": "r", "from": "noon"},
                      {"ring": "r", "from": "now", "to": "-1h"}, {"ring": "r", "more": 1}, {}):
            self.problem(admin.ask("POST", "/api/v1/extractions", wrong), 400, "invalid")
        self.assertEqual(admin.download(f"https://127.0.0.1:{admin.web.port + 1}/api/v1/downloads/{'0' * 64}")[0], 404)
        # Each server answers its own paths only.
        self.problem(admin.ask("GET", "/api/v1/rings", port=admin.web.port + 1), 404)
        self.problem(admin.ask("GET", "/api/v1/downloads/0"), 404)

    def test_packets_as_they_come(self):
        recorder = self.ring(100)
        admin = self.admin(self.web())

        def state(number):
            return next(one for one in admin.ask("GET", "/api/v1/extractions").json["extractions"] if one["extraction"] == number)

        wish = {"ring": "r", "format": "pcap", "follow": True}
        answer = admin.ask("POST", "/api/v1/extractions", wish).json
        self.assertTrue(answer["follow"])
        stream = admin.stream(answer["url"])
        data = b""
        for count in (100, 250):
            while data.count(bytes.fromhex("0200000000020200000000010800")) < count:
                data += stream.recv(1 << 16)
            if count == 100:
                import_packets(recorder, "r", numbered(150, first=100))
        self.assertEqual(state(answer["extraction"])["state"], "running")
        # Who stops it has a whole file.
        self.assertEqual(admin.ask("DELETE", f"/api/v1/extractions/{answer['extraction']}").status, 204)
        status, body, trailer = admin.answer_of(stream, data)
        self.assertEqual((status, trailer), (200, "Tapeloop-Complete: true"))
        self.assertEqual(read_pcap(body), extract(recorder, "r")[0])
        ended = state(answer["extraction"])
        self.assertEqual((ended["state"], ended["packets"], ended["complete"]), ("done", 250, True))
        # By one request as well; and where nothing comes, it ends when its client does.
        answer = admin.ask("GET", "/api/v1/rings/r/packets?follow=true&from=now")
        stream = admin.stream(answer.headers["Location"])
        while state(2)["state"] != "running":
            time.sleep(0.01)
        time.sleep(0.5)
        stream.close()
        closed = time.monotonic()
        while state(2)["state"] == "running":
            time.sleep(0.01)
        print(f"an extraction without packets has ended {(time.monotonic() - closed) * 1000:.0f} ms after its client")
        self.assertEqual((state(2)["state"], state(2)["error"]), ("failed", "the client has gone"))
        # It ends by itself where its range does.
        to = time.time() + 1
        answer = admin.ask("POST", "/api/v1/extractions", dict(wish, to=f"{to:.3f}")).json
        self.assertEqual(read_pcap(admin.download(answer["url"])[1]), extract(recorder, "r")[0])
        headers = self.token(admin, "headers")
        self.problem(headers.ask("POST", "/api/v1/extractions", wish), 403, "permission")
        self.problem(headers.ask("GET", "/api/v1/rings/r/packets?follow=true"), 403, "permission")
        self.assertEqual(headers.ask("GET", "/api/v1/rings/r/packets?follow=false").status, 307)
        self.problem(admin.ask("POST", "/api/v1/extractions", dict(wish, follow=1)), 400, "invalid")

    def test_stalled_downloads_are_bounded_and_can_be_stopped(self):
        self.ring(100000)
        web = self.web("--downloads", "2")
        admin = self.admin(web)
        stalled = []
        for _ in range(2):
            answer = admin.ask("POST", "/api/v1/extractions", {"ring": "r"}).json
            stream = admin.stream(answer["url"], 4096)
            stream.recv(1)
            stalled.append((stream, answer["extraction"]))
        third = admin.ask("POST", "/api/v1/extractions", {"ring": "r"}).json
        status, body, _ = admin.download(third["url"])
        self.assertEqual(status, 503, body)
        self.assertEqual(admin.ask("GET", "/api/v1/overview").status, 200)  # others are served
        for stream, number in stalled:
            self.assertEqual(admin.ask("DELETE", f"/api/v1/extractions/{number}").status, 204)
            stream.close()
        while (answer := admin.download(third["url"]))[0] == 503:  # the ticket was not used up
            time.sleep(0.1)
        self.assertEqual(answer[0], 200)


class Process(WebWorld):
    def test_a_crash_is_nobodys_loss(self):
        recorder = self.start()
        web = self.web()
        admin = self.admin(web)
        for _ in range(3):
            before = web.worker()
            os.kill(before, signal.SIGKILL)
            while True:
                try:
                    answer = admin.ask("GET", "/api/v1/overview")
                    break
                except OSError:
                    time.sleep(0.05)
            self.assertEqual(answer.status, 200)  # with the session that there was
            self.assertNotEqual(web.worker(), before)
        self.assertIsNone(recorder.process.poll())

    def test_the_web_process_goes_with_its_parent(self):
        self.start()
        web = self.web()
        worker = web.worker()
        web.process.kill()
        web.process.wait()
        recorder_world.wait_for(lambda: ended(worker))

    def test_the_web_process_has_no_power(self):
        if os.geteuid() != 0:
            self.skipTest("not root: there is nothing to give up")
        self.start()
        web = self.web()
        with open(f"/proc/{web.worker()}/status", encoding="ascii") as file:
            status = dict(line.split(":", 1) for line in file if ":" in line)
        self.assertNotIn("0", status["Uid"].split())
        self.assertNotIn("0", status["Gid"].split())
        for capabilities in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
            self.assertEqual(int(status[capabilities], 16), 0, capabilities)
        self.assertEqual(status["NoNewPrivs"].strip(), "1")
        self.assertEqual(status["Seccomp"].strip(), "2")
        for name in ("web.db", "certificate.pem"):
            self.assertEqual(os.stat(os.path.join(web.directory, name)).st_mode & 0o777, 0o600)

    def test_wrong_usage(self):
        for wrong in (["--port", "0"], ["--port", "x"], ["more"], ["--key", "k"], ["--downloads", "100"], ["--nothing"]):
            run = subprocess.run([WEB, *wrong], stderr=subprocess.PIPE, check=False)
            self.assertEqual(run.returncode, 2, wrong)
            self.assertTrue(run.stderr)
        taken = self.web()
        run = subprocess.run([WEB, "--state", self.path("other"), "--listen", "127.0.0.1", "--port", str(taken.port)],
                             stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, check=False, text=True)
        self.assertEqual(run.returncode, 1)
        self.assertIn(str(taken.port), run.stderr)


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    recorder_world.main()
