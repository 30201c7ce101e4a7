"""What tests of tapeloop-web share: starting it, speaking HTTP to it, and holding every answer against schema/openapi.yaml."""

import atexit
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time

import recorder_world
from free_ports import free_ports
from recorder_world import ended  # noqa: F401

BIN = recorder_world.BIN
WEB = os.path.join(BIN, "tapeloop-web")
SOURCE = os.environ.get("TAPELOOP_SOURCE", os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", ".."))
METHODS = ("get", "post", "patch", "put", "delete")

if not os.access(WEB, os.X_OK):
    print("skipped: tapeloop-web is not part of this build (packaging/web)")
    sys.exit(recorder_world.SKIPPED)
try:
    import jsonschema
    import yaml
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(recorder_world.SKIPPED)

PASSWORD = "correct horse battery"
# What every answer must say about itself.
GUARDS = {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
          "Cache-Control": "no-store"}


class Document:
    """schema/openapi.yaml"""

    def __init__(self):
        with open(os.path.join(SOURCE, "schema", "openapi.yaml"), encoding="utf-8") as file:
            self.root = yaml.safe_load(file)
        self.operations = {}
        for path, item in self.root["paths"].items():
            for method in METHODS:
                if method in item:
                    self.operations[method.upper(), path] = item[method]

    def resolve(self, thing):
        while "$ref" in thing:
            found = self.root
            for part in thing["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            thing = found
        return thing

    def operation(self, method, path):
        """The operation of a request, or none; and its path."""
        for (known, pattern), operation in self.operations.items():
            if known == method and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", pattern), path):
                return operation
        return None

    def check(self, method, path, answer):
        """Fails unless the document describes this answer."""
        operation = self.operation(method, path)
        responses = operation["responses"] if operation else {}
        described = responses.get(str(answer.status), responses.get("default"))
        if not operation or answer.status >= 400:
            described = {"$ref": "#/components/responses/Problem"}
        assert described, f"{method} {path}: {answer.status} is not described"
        content = self.resolve(described).get("content", {})
        if not content:
            assert not answer.body, (method, path, answer.status, answer.body)
            return
        kind = answer.type.split(";")[0]
        assert kind in content, f"{method} {path}: {answer.status} {answer.type} is not described"
        if kind.endswith("json"):
            schema = dict(content[kind]["schema"], components=self.root["components"])
            jsonschema.Draft202012Validator(schema).validate(answer.json)


DOCUMENT = Document()


class Answer:
    def __init__(self, response, body):
        self.status = response.status
        self.headers = response.headers
        self.type = response.headers.get("Content-Type", "")
        self.body = body
        self.json = json.loads(body) if self.type.endswith("json") and body else None


def tls(**more):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # not the default one: that reads all authorities, which takes longer than the request
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for name, value in more.items():
        setattr(context, name, value)
    return context


class Local(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


class Web:
    """A tapeloop-web. Only ever killed by its own process numbers."""

    def __init__(self, state, *options, wait=True, directory=None):
        self.state = state
        self.port = free_ports()
        self.directory = directory or state + "-web"
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [WEB, "--state", state, "--web-state", self.directory, "--listen", "127.0.0.1", "--port", str(self.port),
             *options], stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        while wait and "https://" not in self.said():
            if self.process.poll() is not None:
                raise AssertionError("tapeloop-web has ended: " + self.said())
            time.sleep(0.01)

    def said(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def one_time_password(self, user="admin"):
        return re.findall(rf"user {re.escape(user)} has the one-time password ([\w-]+):", self.said())[-1]

    def worker(self):
        """The process number of the web process."""
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as file:
            return int(file.read().split()[0])

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait()

    def connection(self, port=None):
        return http.client.HTTPSConnection("127.0.0.1", port or self.port, context=tls())


class User:
    """Somebody who talks to a tapeloop-web, by cookie or by token. Every answer is checked."""

    def __init__(self, web, token=None, local=False):
        self.web = web
        self.token = token
        self.local = local
        self.cookie = None
        self.csrf = None

    def ask(self, method, path, body=None, headers=None, port=None, check=True):
        connection = Local(self.web.directory + "/web.sock") if self.local else self.web.connection(port)
        sent = {}
        if self.token:
            sent["Authorization"] = "Bearer " + self.token
        if self.cookie:
            sent["Cookie"] = self.cookie
        if self.csrf and method != "GET":
            sent["X-CSRF-Token"] = self.csrf
        if body is not None:
            sent["Content-Type"] = "application/json"
            body = body if isinstance(body, (bytes, str)) else json.dumps(body)
        sent.update(headers or {})
        connection.request(method, path, body, {name: value for name, value in sent.items() if value is not None})
        response = connection.getresponse()
        answer = Answer(response, response.read())
        connection.close()
        for name, value in GUARDS.items():
            assert answer.headers.get(name) == value, (path, name, answer.headers.get(name))
        if check:
            DOCUMENT.check(method, path.split("?")[0], answer)
        cookie = answer.headers.get("Set-Cookie")
        if cookie:
            self.cookie = cookie.split(";")[0]
        if answer.json and answer.json.get("csrf_token"):
            self.csrf = answer.json["csrf_token"]
        return answer

    def log_in(self, name, password):
        return self.ask("POST", "/api/v1/session", {"user": name, "password": password})

    def set_password(self, old, new):
        return self.ask("POST", "/api/v1/session/password", {"old_password": old, "password": new})

    def stream(self, url, buffer_bytes=None, body=None):
        """The connection on which the answer at an extraction's url comes; with a body, that to a POST of this user."""
        port, path = re.fullmatch(r"https://127\.0\.0\.1:(\d+)(/.*)", url).groups()
        plain = socket.socket()
        if buffer_bytes:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        plain.connect(("127.0.0.1", int(port)))
        stream = tls().wrap_socket(plain)
        if body is None:
            stream.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        else:
            stream.sendall(f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: {self.cookie}\r\nX-CSRF-Token: {self.csrf}\r\n"
                           f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        return stream

    def download(self, url):
        """The answer at an extraction's url, and the trailer of its chunks."""
        return self.answer_of(self.stream(url))

    @staticmethod
    def answer_of(stream, data=b""):
        """What is left of an answer whose first bytes are there already."""
        with stream:
            while True:
                try:
                    part = stream.recv(1 << 16)
                except ssl.SSLEOFError:
                    part = b""
                if not part:
                    break
                data += part
        head, _, rest = data.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        if b"chunked" not in head:
            return status, rest, None
        body = b""
        while True:
            size, _, rest = rest.partition(b"\r\n")
            if not size:
                return status, body, None  # broken off
            count = int(size, 16)
            if count == 0:
                return status, body, rest.decode().strip()
            body, rest = body + rest[:count], rest[count + 2:]


class Prepared:
    """A directory of tapeloop-web in which the admin has a password of his own and a session: made once for all tests of a file,
    which begin with copies of it. Deriving a key from a password takes half a second of one processor, and is done by each
    test that is about passwords."""

    made = None

    def __init__(self):
        self.root = tempfile.mkdtemp(prefix="tapeloop-web-")
        atexit.register(shutil.rmtree, self.root, ignore_errors=True)
        os.chmod(self.root, 0o755)
        web = Web(os.path.join(self.root, "state"))
        user = User(web)
        one_time = web.one_time_password()
        assert user.log_in("admin", one_time).status == 200
        assert user.set_password(one_time, PASSWORD).status == 200
        self.cookie, self.csrf = user.cookie, user.csrf
        assert web.stop() == 0, web.said()
        web.log.close()
        self.directory = web.directory

    def copy(self, directory):
        shutil.copytree(self.directory, directory)
        for name in (".", *os.listdir(directory)):
            owner = os.stat(os.path.join(self.directory, name))
            os.chown(os.path.join(directory, name), owner.st_uid, owner.st_gid)

    def user(self, web):
        """The admin."""
        user = User(web)
        user.cookie, user.csrf = self.cookie, self.csrf
        return user


def prepared():
    Prepared.made = Prepared.made or Prepared()
    return Prepared.made


class WebWorld(recorder_world.World):
    """Each test has its own recorder and its own tapeloop-web."""

    def setUp(self):
        super().setUp()
        os.chmod(self.directory, 0o755)  # the web process is another user
        self.webs = []

    def tearDown(self):
        ends = []
        for web in self.webs:
            ends.append((web.stop(), web.said()))
            web.log.close()
        super().tearDown()
        for status, outcome in ends:
            self.assertIn(status, (0, -signal.SIGKILL), outcome)
            for word in ("ERROR: AddressSanitizer", "WARNING: ThreadSanitizer", "runtime error:"):
                self.assertNotIn(word, outcome)

    def web(self, *options, fresh=False, **more):
        """A tapeloop-web, on the directory of the one before; the first one's is a copy of what was prepared, or, `fresh`, empty."""
        directory = self.path("state-web")
        if not fresh and not os.path.exists(directory):
            prepared().copy(directory)
        web = Web(self.path("state"), *options, directory=directory, **more)
        self.webs.append(web)
        return web

    def admin(self, web):
        """The admin of a web that is not fresh."""
        return prepared().user(web)

    def token(self, user, *scopes, **more):
        answer = user.ask("POST", "/api/v1/tokens", {"name": "test", "scopes": list(scopes), **more})
        self.assertEqual(answer.status, 201, answer.body)
        return User(user.web, token=answer.json["secret"])

    def problem(self, answer, status, code=None):
        self.assertEqual(answer.status, status, answer.body)
        if code:
            self.assertEqual(answer.json["code"], code, answer.body)
        return answer.json["detail"]


