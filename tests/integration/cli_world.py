"""What tests of the tapeloop command share: a recorder that says what it is told to, and a way to run the command."""

import array
import json
import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import unittest

BIN = os.environ.get("TAPELOOP_BIN", "")
SOURCE = os.environ.get("TAPELOOP_SOURCE",
                        os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
TAPELOOP = os.path.join(BIN, "tapeloop")
SKIPPED = 77


def skip(reason):
    print("skipped: " + reason)
    sys.exit(SKIPPED)


def main():
    """Runs the tests of the calling module. A file in which every test was skipped is itself skipped."""
    program = unittest.main(module="__main__", exit=False, verbosity=2)
    result = program.result
    if not result.wasSuccessful():
        sys.exit(1)
    if result.testsRun > 0 and len(result.skipped) == result.testsRun:
        sys.exit(SKIPPED)


class Connection:
    """One client of a fake recorder."""

    def __init__(self, sock):
        self.socket = sock
        self.descriptors = []

    def read(self, count):
        data = b""
        while len(data) < count:
            part, ancillary, _, _ = self.socket.recvmsg(count - len(data), socket.CMSG_SPACE(64 * 4))
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    numbers = array.array("i")
                    numbers.frombytes(content[:len(content) - len(content) % numbers.itemsize])
                    self.descriptors += list(numbers)
            if not part:
                return None
            data += part
        return data

    def receive(self):
        """The next request, or None when the client has hung up."""
        head = self.read(4)
        body = head and self.read(struct.unpack("<I", head)[0])
        return body and json.loads(body)

    def raw(self, data):
        self.socket.sendall(data)

    def send(self, message):
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.raw(struct.pack("<I", len(body)) + body)

    def progress(self, request, content):
        self.send({"id": request["id"], "progress": content})

    def result(self, request, content):
        self.send({"id": request["id"], "result": content})

    def error(self, request, code, text):
        self.send({"id": request["id"], "error": {"code": code, "message": text}})

    def close_descriptors(self):
        for number in self.descriptors:
            os.close(number)
        self.descriptors = []

    def hang_up(self):
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.socket.close()


HELLO = {"version": 1, "tapeloop": "0.1.0", "pid": 4711, "state": "/nowhere", "uptime_s": 77, "session": False}


class FakeRecorder:
    """Listens on a state directory; `methods` are functions (connection, request) that answer."""

    def __init__(self, state, methods):
        self.state = state
        self.methods = dict(methods)
        self.requests = []
        self.errors = []
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        here = os.getcwd()
        os.chdir(state)  # the address of a socket is short
        self.listener.bind("control.sock")
        os.chdir(here)
        self.listener.listen(16)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(Connection(sock),), daemon=True).start()

    def serve(self, connection):
        try:
            while True:
                request = connection.receive()
                if request is None:
                    break
                self.requests.append(request)
                method = self.methods.get(request["method"])
                if method:
                    method(connection, request)
                elif request["method"] == "hello":
                    connection.result(request, HELLO)
                else:
                    connection.error(request, "unsupported", "no such method: " + request["method"])
                connection.close_descriptors()
        except (BrokenPipeError, ConnectionResetError, OSError):
            pass
        except Exception as exception:  # shown by the test
            self.errors.append(exception)
        finally:
            connection.close_descriptors()
            connection.hang_up()

    def asked(self, method):
        return [request for request in self.requests if request["method"] == method]

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class World(unittest.TestCase):
    """A directory for each test."""

    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="tapeloop-cli-")
        self.state = os.path.join(self.directory, "state")
        os.mkdir(self.state)
        self.fakes = []
        self.tapeloop = TAPELOOP

    def tearDown(self):
        for fake in self.fakes:
            fake.close()
            self.assertEqual(fake.errors, [])
        shutil.rmtree(self.directory, ignore_errors=True)

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def write(self, name, content, mode=0o644):
        path = self.path(name)
        with open(path, "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        os.chmod(path, mode)
        return path

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def fake(self, **methods):
        """A recorder on self.state. ring_list=... answers the method ring.list."""
        table = {}
        for name, method in methods.items():
            name = name.replace("_", ".")
            if not callable(method):
                content = method
                method = lambda connection, request, content=content: connection.result(request, content)
            table[name] = method
        fake = FakeRecorder(self.state, table)
        self.fakes.append(fake)
        return fake

    def command(self, *arguments, state=None):
        return [self.tapeloop, "--state", state or self.state, *arguments]

    def run_command(self, *arguments, state=None, status=None, **options):
        """Runs tapeloop; standard output and error are captured as text."""
        options.setdefault("stdin", subprocess.DEVNULL)
        done = subprocess.run(self.command(*arguments, state=state), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, **options)
        done.out = done.stdout.decode("utf-8", "replace")
        done.err = done.stderr.decode("utf-8", "replace")
        self.assertNotIn("Sanitizer", done.err)
        binary = "extract" in arguments or arguments[:2] == ("job", "get")
        self.assertNotIn("\x1b", done.err if binary else done.out + done.err)
        if status is not None:
            shown = "" if binary else done.out
            self.assertEqual(done.returncode, status, f"{arguments}\n{shown}\n{done.err}")
        return done

    def refused(self, *arguments, status, says, **options):
        """A refusal: nothing on standard output, one clear line on standard error."""
        done = self.run_command(*arguments, status=status, **options)
        self.assertEqual(done.out, "")
        lines = done.err.splitlines()
        self.assertEqual(len(lines), 1, done.err)
        self.assertTrue(lines[0].startswith("tapeloop: "), done.err)
        self.assertRegex(lines[0], says)
        return done

    def start(self, *arguments, **options):
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        return subprocess.Popen(self.command(*arguments), **options)

    def tree(self, directory):
        """What a directory holds: names, kinds and sizes. To say that nothing was changed."""
        found = {}
        for path, below, names in os.walk(directory):
            for name in below + names:
                status = os.lstat(os.path.join(path, name))
                size = status.st_size if stat.S_ISREG(status.st_mode) else None
                found[os.path.relpath(os.path.join(path, name), directory)] = (status.st_mode, size)
        return found
