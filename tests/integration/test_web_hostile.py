#!/usr/bin/env python3
"""tapeloop-web under attack, while a recording runs: nothing crashes, others are served, nothing is dropped.

    test_web_hostile.py [--requests N] [--seed N] [unittest's arguments]

In every test somebody with a token asks for the overview again and again; how long he waited is printed, and that he was
served is tested. --requests: how many random requests are made (a soak makes 100,000); --seed replays them.
"""

import json
import os
import queue
import random
import re
import socket
import ssl
import statistics
import sys
import threading
import time

import recorder_world
from recorder_world import LINES, MIB, create_ring, import_packets, numbered
from web_world import DOCUMENT, User, WebWorld, tls


def option(name, default):
    if name not in sys.argv:
        return default
    at = sys.argv.index(name)
    value = int(sys.argv[at + 1])
    del sys.argv[at:at + 2]
    return value


REQUESTS, SEED = option("--requests", 400), option("--seed", random.randrange(1 << 32))
HOST = b"Host: localhost\r\n"
LOSSES = ("dropped_queue", "dropped_kernel", "lost_disk", "refused")


class Good(threading.Thread):
    """A client that means well."""

    def __init__(self, user):
        super().__init__(daemon=True)
        self.user = user
        self.over = threading.Event()
        self.waited_s = []
        self.wrong = None
        self.start()

    def run(self):
        while not self.over.is_set():
            began = time.monotonic()
            try:
                answer = self.user.ask("GET", "/api/v1/overview")
                if answer.status != 200:
                    self.wrong = answer.body
            except Exception as error:  # whatever it is, he was not served
                self.wrong = error
            self.waited_s.append(time.monotonic() - began)
            self.over.wait(0.02)

    def end(self):
        """(answers, median and longest wait in seconds)"""
        self.over.set()
        self.join()
        return len(self.waited_s), statistics.median(self.waited_s), max(self.waited_s)


class Hostile(WebWorld):
    def setUp(self):
        super().setUp()
        self.recorder = self.start()
        create_ring(self.recorder, "r", self.path("disk"))
        self.recorder.call("record.start", ring="r", interfaces=[], backend="generator",
                           generator={"packets_per_s": 20000, "seed": 1}, attach=False)
        self.site = self.web()
        self.admin_user = self.admin(self.site)
        self.worker = self.site.worker()
        self.good = Good(self.token(self.admin_user, "read", "packets"))

    def tearDown(self):
        account, answers = None, None
        try:
            answers = self.good.end()
            account = self.recorder.call("record.stop", ring="r")["account"]
            worker = self.site.worker()
        finally:
            super().tearDown()
        print(f"{self._testMethodName}: {answers[0]} answers meanwhile, waited for {answers[1] * 1000:.0f} ms (median), "
              f"{answers[2] * 1000:.0f} ms at most; {account['seen']} packets recorded")
        self.assertIsNone(self.good.wrong)
        self.assertEqual(worker, self.worker, "the web process has crashed")
        self.assertEqual({line: account[line] for line in LOSSES}, dict.fromkeys(LOSSES, 0))
        self.assertEqual(account["seen"], sum(account[line] for line in LINES if line != "seen"))
        self.assertGreater(account["stored"], 0)

    def connect(self):
        return tls().wrap_socket(socket.create_connection(("127.0.0.1", self.site.port)))

    def raw(self, data, local=False):
        """What comes back for bytes sent as they are."""
        answer = b""
        try:
            if local:
                stream = socket.socket(socket.AF_UNIX)
                stream.connect(self.site.directory + "/web.sock")
            else:
                stream = self.connect()
            with stream:
                for at in range(0, len(data), 1 << 14):
                    stream.sendall(data[at:at + (1 << 14)])
                while part := stream.recv(1 << 16):
                    answer += part
        except OSError:
            pass
        return answer

    def test_bytes_that_are_no_request(self):
        post = b"POST /api/v1/session HTTP/1.1\r\n" + HOST
        typed = post + b"Content-Type: application/json\r\n"
        for data in (b"\0" * 100 + b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 5000, b" " * 20000,
                     b"GET /" + b"a" * MIB + b" HTTP/1.1\r\n" + HOST + b"\r\n",
                     b"GET /api/v1/rings/" + b"a" * 8000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
                     b"GET /api/v1/rings?" + b"a=b&" * 3000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
                     b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"b" * MIB + b"\r\n\r\n",
                     b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 5000 + b"\r\n",
                     b"GET /../../../etc/passwd HTTP/1.1\r\n" + HOST + b"\r\n",
                     b"GET /..\\..\\etc\\passwd HTTP/1.1\r\n" + HOST + b"\r\n",
                     b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n" + HOST + b"\r\n",
                     b"GET /api/v1/rings/..%2f..%2fetc%2fpasswd HTTP/1.1\r\n" + HOST + b"\r\n",
                     b"GET /%00 HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /api/v1/rings/\0 HTTP/1.1\r\n" + HOST + b"\r\n",
                     b"GET http://evil/ HTTP/1.1\r\n" + HOST + b"\r\n", b"CONNECT evil:443 HTTP/1.1\r\n" + HOST + b"\r\n",
                     b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n",
                     b"PROPFIND / HTTP/1.1\r\n" + HOST + b"\r\n", b"PUT /x HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n\r\nx",
                     b"GET /api/v1/rings HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n", b"GET /api/v1/rings HTTP/1.1\r\n\r\n",
                     b"GET /api/v1/rings HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n"
                     b"Sec-WebSocket-Version: 13\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                     typed + b"Content-Length: 99999999999\r\n\r\n{}", typed + b"Content-Length: -1\r\n\r\n{}",
                     typed + b"Content-Length: 2\r\nContent-Length: 20\r\n\r\n{}", typed + b"Content-Length: 0x2\r\n\r\n{}",
                     typed + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
                     typed + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n{}", typed + b"\r\n",
                     post + b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 5\r\n\r\n--x--"):
            answer = self.raw(data)
            if answer:
                self.assertRegex(answer[:14], rb"^HTTP/1.1 [45]\d\d", data[:60])
            self.assertNotIn(b"root:", answer)
            self.raw(data, local=True)
        for body in ("[" * 30000 + "]" * 30000, '{"user":' * 5000 + "1" + "}" * 5000, "{", "null", '"x"', "{}x",
                     '{"user": 1, "password": {}}', '{"user": "a", "user": "b"}', '{"user": "\\ud800"}', b"\xff{}",
                     '{"user": "a", "password": 1e999}', "{" + ",".join(f'"{i}": {i}' for i in range(5000)) + "}"):
            self.problem(User(self.site).ask("POST", "/api/v1/session", body), 400)
        self.assertRegex(self.raw(typed + b"Content-Length: 70000\r\n\r\n" + b"x" * 70000) or b"HTTP/1.1 413 ", rb"^HTTP/1.1 413 ")
        self.assertRegex(self.raw(typed + b"Content-Length: 70000\r\n\r\n"), rb"^HTTP/1.1 413 ")
        self.problem(User(self.site, token="tl_" + "0" * 5000).ask("GET", "/api/v1/rings"), 401)
        self.problem(User(self.site).ask("GET", "/api/v1/rings", headers={"Cookie": "__Host-tapeloop=" + "a" * 4000}), 401)
        self.problem(User(self.site).ask("DELETE", "/api/v1/overview"), 405)

    def test_broken_tls(self):
        chance = random.Random(SEED)
        print(f"seed {SEED}")
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        try:
            tls().wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
        except ssl.SSLWantReadError:
            hello = outgoing.read()
        for port in (self.site.port, self.site.port + 1):
            for turn in range(60):
                data = bytearray(hello)
                if turn == 0:
                    data = b"GET / HTTP/1.1\r\n\r\n"
                elif turn < 10:
                    data = chance.randbytes(chance.randrange(1, 5000))
                elif turn < 30:
                    data = data[:chance.randrange(len(data))]
                else:
                    for _ in range(chance.randrange(1, 20)):
                        data[chance.randrange(len(data))] = chance.randrange(256)
                with socket.create_connection(("127.0.0.1", port)) as plain:
                    try:
                        plain.sendall(data)
                        plain.shutdown(socket.SHUT_WR)
                        while plain.recv(1 << 16):
                            pass
                    except OSError:
                        pass
            for _ in range(20):  # after a handshake that was none the worse
                with socket.create_connection(("127.0.0.1", port)) as plain:
                    secure = tls().wrap_socket(plain.dup())
                    secure.sendall(b"GET /api/v1/rings HTTP/1.1\r\n")
                    plain.sendall(b"\x17\x03\x03" + chance.randbytes(chance.randrange(1, 400)))
                    os.close(secure.detach())

    def test_clients_that_say_nothing(self):
        idle = []
        for turn in range(200):
            if turn % 4 == 0:
                stream = self.connect()
                stream.sendall(b"GET / HTTP/1.1\r\nHos"[:turn % 7 * 3])
            else:
                stream = socket.create_connection(("127.0.0.1", self.site.port))
                stream.sendall(b"\x16\x03\x01"[:turn % 4])  # a handshake that does not go on
            idle.append(stream)
        answers = len(self.good.waited_s)
        recorder_world.wait_for(lambda: len(self.good.waited_s) > answers + 20)
        # They are given up, and not kept for ever.
        for stream in idle:
            try:
                while stream.recv(1 << 16):
                    pass
            except OSError:
                pass
            stream.close()

    def test_clients_that_drip(self):
        """A byte now and then keeps a thread no longer than silence does."""
        body = b"POST /api/v1/session HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\nContent-Length: 60000\r\n\r\n"
        began, ends = time.monotonic(), queue.Queue()

        def drip(what, head):
            stream = self.connect()
            try:
                stream.sendall(head)
                while True:
                    stream.sendall(b"x")
                    stream.settimeout(0.3)
                    try:
                        if not stream.recv(1 << 16):
                            break
                    except TimeoutError:
                        pass
            except OSError:
                pass
            stream.close()
            ends.put((what, time.monotonic() - began))

        for turn in range(60):
            recorder_world.thread(drip, *(("head", b"GET /") if turn % 2 else ("body", body)))
        lasted = {"head": 0, "body": 0}
        for _ in range(60):  # until all of them were given up
            what, seconds = ends.get()
            lasted[what] = max(lasted[what], seconds)
        print(f"dripping clients lasted {lasted['head']:.1f} s with their heads, {lasted['body']:.1f} s with their bodies")

    def test_stalled_downloads(self):
        create_ring(self.recorder, "past", self.path("past"))
        import_packets(self.recorder, "past", numbered(60000, size=400))
        stalled, statuses = [], []
        for _ in range(50):
            answer = self.admin_user.ask("POST", "/api/v1/extractions", {"ring": "past"}).json
            stream = self.admin_user.stream(answer["url"], 4096)
            statuses.append(int(stream.recv(12).split()[1]))
            stalled.append(stream)
        self.assertEqual(statuses[0], 200)
        self.assertLessEqual(set(statuses), {200, 503})
        answers = len(self.good.waited_s)
        recorder_world.wait_for(lambda: len(self.good.waited_s) > answers + 50)
        print(f"{statuses.count(200)} of 50 downloads began, the others were told to come again")
        for stream in stalled:
            stream.close()
        # There is room again, as soon as they have gone.
        while True:
            answer = self.admin_user.ask("POST", "/api/v1/extractions", {"ring": "past", "format": "pcap"}).json
            status, body, trailer = self.admin_user.download(answer["url"])
            if status == 200:
                break
        self.assertEqual(trailer, "Tapeloop-Complete: true")
        self.assertGreater(len(body), 60000 * 400)

    def test_downloads_that_drip(self):
        """Clients that take just enough never to be silent for long have no places among the downloads for ever."""
        create_ring(self.recorder, "past", self.path("past"))
        import_packets(self.recorder, "past", numbered(60000, size=400))
        job = self.admin_user.ask("POST", "/api/v1/jobs", {"ring": "past"}).json["number"]
        recorder_world.wait_for(lambda: self.admin_user.ask("GET", f"/api/v1/jobs/{job}").json["state"] == "done")
        places, over, statuses = 8, threading.Event(), queue.Queue()  # as many as --downloads is by itself

        def url_of(kind):
            if kind == "job":
                return self.admin_user.ask("GET", f"/api/v1/jobs/{job}/packets").headers["Location"]
            return self.admin_user.ask("POST", "/api/v1/extractions", {"ring": "past"}).json["url"]

        def drip(url):
            port, path = re.fullmatch(r"https://127\.0\.0\.1:(\d+)(/.*)", url).groups()
            plain = socket.socket()
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # as over a long way: kernels keep little
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
            plain.connect(("127.0.0.1", int(port)))
            stream = tls().wrap_socket(plain)
            stream.sendall(f"GET {path} HTTP/1.1\r\n".encode() + HOST + b"\r\n")
            statuses.put(int(stream.recv(512).split()[1]))
            try:
                while not over.is_set() and stream.recv(512):
                    over.wait(0.25)
            except OSError:
                pass
            stream.close()

        began = time.monotonic()
        threads = [recorder_world.thread(drip, url_of("job" if number % 2 else "extraction")) for number in range(places)]
        self.assertEqual([statuses.get() for _ in range(places)], [200] * places)
        self.assertEqual(self.admin_user.download(url_of("job"))[0], 503)

        def begins(kind):
            """Downloads that begin, one beside the other; they are given up at once."""
            streams = [self.admin_user.stream(url_of(kind), 4096) for _ in range(places)]
            found = [int(stream.recv(12).split()[1]) for stream in streams]
            for stream in streams:
                stream.close()
            return found.count(200)

        while begins("job") < places:
            time.sleep(1)
        print(f"{places} dripping downloads had places for {time.monotonic() - began:.0f} s at most")
        ended = self.admin_user.ask("GET", "/api/v1/extractions").json["extractions"]
        self.assertEqual([one["state"] for one in ended], ["failed"] * (places // 2))
        over.set()
        for thread in threads:
            thread.join()

    def test_random_requests(self):
        """Requests made of what the API's description says there is, and of what it does not."""
        print(f"seed {SEED}")
        create_ring(self.recorder, "q", self.path("q"))
        token = self.token(self.admin_user, "read", "packets", "control", "users")
        work = queue.Queue()
        for number in range(REQUESTS):
            work.put(number)
        wrong, statuses, lock = [], {}, threading.Lock()

        def attack():
            while not wrong:
                try:
                    number = work.get_nowait()
                except queue.Empty:
                    return
                request, local = self.make_request(random.Random(f"{SEED} {number}"), token.token)
                answer = self.raw(request, local)
                status = answer[9:12].decode() if answer.startswith(b"HTTP/1.1 ") else "nothing"
                with lock:
                    statuses[status] = statuses.get(status, 0) + 1
                if status == "500" or (answer and status == "nothing"):
                    wrong.append((number, request, answer))

        attackers = [recorder_world.thread(attack) for _ in range(4)]
        for attacker in attackers:
            attacker.join()
        self.assertEqual(wrong, [])
        print("answers:", dict(sorted(statuses.items())))

    PIECES = ["", "q", "none", "..", "%2f", "%00", "%", "%ff", "{ring}", "\xff", "A" * 200, "a.b", "-1", "0", "2", "999",
              "9" * 30, "r%20", "*", ";", "'", '"', "<x>"]
    VALUES = [None, True, False, 0, 1, -1, 2**63, -2**63, 1e308, 0.1, "", "q", "none", "-5m", "now", "2020-01-01", "\0", "\ud7ff", "x" * 5000,
              "tcp port 443 : headers l3+l4", "all : full", "udp or (", "a" * 300 + " and", [], {}, [[]], [{}], {"a": {}}, ["x"] * 300,
              {"path": "relative"}, [{"path": "/nowhere/at/all", "bytes": 1}], {"kind": "discard"}]

    def make_request(self, chance, token):
        """(bytes, whether they go to the Unix socket)"""
        (method, path), operation = chance.choice(list(DOCUMENT.operations.items()))
        if path.endswith(("/session", "/password", "/users", "/users/{user}")) and chance.random() < 0.97:
            path = "/api/v1/overview"  # a second of scrypt each, and that is not what is tested

        def value_of(found):
            pieces = self.PIECES
            if method == "GET" and chance.random() < 0.3:
                pieces = ["r"]  # what is recorded into is only looked at
            return chance.choice(pieces if found[1] != "token" else ["999", "-1", "x"])

        target = re.sub(r"\{(\w+)\}", value_of, path)
        names = [p["name"] for p in map(DOCUMENT.resolve, operation.get("parameters", [])) if p["in"] == "query"]
        query = [f"{chance.choice(names + ['from', 'x'])}={chance.choice(self.PIECES + ['-5m', '1700000000', 'true', 'tcp'])}"
                 for _ in range(chance.choice((0, 0, 1, 1, 2, 3)))]
        if query:
            target += "?" + "&".join(query)
        content = DOCUMENT.resolve(operation.get("requestBody", {})).get("content", {}).get("application/json", {})
        properties = DOCUMENT.resolve(content.get("schema", {})).get("properties", {})
        body = {name: chance.choice(self.VALUES) for name in properties if chance.random() < 0.7}
        if "ring" in body:
            body["ring"] = chance.choice(("q", "none", "", 7))
        if "packet_capture" in path or path == "/api/v1/captures":  # nothing that this machine has is recorded, and nobody's recording stopped
            body["ring"] = chance.choice(("q", "none", 7))
            body.update(interface=chance.choice(("nope0", "", 5)), interfaces=chance.choice((["nope0"], [], "x")), backend=chance.choice(("packet", "pcap", "x", 3)))
        if chance.random() < 0.1:
            body["x"] = 1
        data = json.dumps(body).encode() if chance.random() < 0.9 else chance.choice((b"", b"[]", b"{" * 40, b"null", b"\xff", b'{"a":1,"a":2}'))
        stops = path.endswith("/capture/stop")
        if stops and not data:
            data = b"{]"  # no body is an empty object, and stops, rightly, the only recording that there is
        if chance.random() < 0.05:
            method = chance.choice(("HEAD", "OPTIONS", "PUT", "get", "\0", "TRACE"))
        head = [f"{method} {target} HTTP/1.1".encode("latin-1"), b"Host: " + (b"localhost" if chance.random() < 0.95 else b"evil"),
                b"Authorization: Bearer " + token.encode(), b"Content-Type: application/json"]
        if method != "GET" or chance.random() < 0.1:
            head.append(b"Content-Length: %d" % max(0, len(data) + chance.choice((0,) * 30 + (-1,))))
        else:
            data = b""
        if chance.random() < 0.1 and not stops:  # without its Content-Length it had no body
            head[chance.randrange(len(head))] = chance.choice(self.PIECES).encode("latin-1") * chance.randrange(1, 20)
        request = b"\r\n".join(head) + b"\r\n\r\n" + data
        if chance.random() < 0.1:
            request = bytearray(request)
            for _ in range(chance.randrange(1, 6)):
                request[chance.randrange(len(request))] = chance.randrange(256)
            if method == "DELETE" or method == "POST" and (b"session" in request or b"capture" in request):
                request[:1] = b"X"
            request = bytes(request)
        return request, chance.random() < 0.8


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    recorder_world.main()
