"""What tests of the recorder share: starting tapeloopd, speaking its control protocol, making and reading captures."""

import array
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import control_schema

BIN = os.environ.get("TAPELOOP_BIN", "")
RECORDER = os.path.join(BIN, "tapeloopd")
ROOT = os.geteuid() == 0
SKIPPED = 77
LINES = ["seen", "stored", "in_flight", "discarded", "duplicates", "sampled_out", "dropped_queue",
         "dropped_kernel", "lost_disk", "refused"]
MIB = 1 << 20


def main():
    """Runs the tests of the calling module. A file in which every test was skipped is itself skipped."""
    for program in ("tapeloopd", "tapeloop-extract"):
        if not os.access(os.path.join(BIN, program), os.X_OK):
            print(f"skipped: there is no {program} in TAPELOOP_BIN ({BIN!r})")
            sys.exit(SKIPPED)
    result = unittest.main(module="__main__", exit=False, verbosity=2).result
    if not result.wasSuccessful():
        sys.exit(1)
    if result.testsRun > 0 and len(result.skipped) == result.testsRun:
        sys.exit(SKIPPED)


# ---- captures -----------------------------------------------------------------------------------


def sanitized(program):
    """Whether it is built with a sanitizer: its shadow memory counts as the program's."""
    with open(program, "rb") as file:
        content = file.read()
    return b"__asan_init" in content or b"__tsan_init" in content


def packet(number, size=100):
    """An Ethernet frame that says which one it is."""
    head = bytes.fromhex("0200000000020200000000010800")
    return (head + struct.pack(">Q", number) + bytes((number + i) & 255 for i in range(size)))[:max(size, 22)]


def datagram(source, target, source_port, target_port, body=b""):
    """An Ethernet frame with a UDP datagram of IPv4; addresses as numbers. Checksums are left out, as the protocol allows for UDP."""
    udp = struct.pack(">HHHH", source_port, target_port, 8 + len(body), 0) + body
    ip = struct.pack(">BBHHHBBHII", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, source, target)
    return bytes.fromhex("0200000000020200000000010800") + ip + udp


def conversations(count, flows, start_ns=1_700_000_000 * 10**9):
    """Packets 1 us apart, of flows 10.0.0.1:1000+N -> 10.0.0.2:53 in turn."""
    return [(start_ns + i * 1000, datagram(0x0a000001, 0x0a000002, 1000 + i % flows, 53, bytes(64))) for i in range(count)]


def pcap(packets, link_type=1, snapshot=262144):
    """A nanosecond pcap file; packets are (time in ns, bytes)."""
    data = [struct.pack("<IHHiIII", 0xa1b23c4d, 2, 4, 0, 0, snapshot, link_type)]
    for time_ns, body in packets:
        data.append(struct.pack("<IIII", time_ns // 10**9, time_ns % 10**9, len(body), len(body)))
        data.append(body)
    return b"".join(data)


def numbered(count, first=0, start_ns=1_700_000_000 * 10**9, size=100):
    return [(start_ns + (first + i) * 1000, packet(first + i, size)) for i in range(count)]


def read_pcap(data):
    """The packets of a pcap file in nanoseconds, as pcap() takes them."""
    magic, = struct.unpack_from("<I", data)
    assert magic == 0xa1b23c4d, hex(magic)
    found, at = [], 24
    while at < len(data):
        seconds, nanoseconds, captured, _ = struct.unpack_from("<IIII", data, at)
        found.append((seconds * 10**9 + nanoseconds, data[at + 16:at + 16 + captured]))
        at += 16 + captured
    return found


def read_pcapng(data):
    """(packets as of read_pcap(), comments) of a pcapng file of ours: times in nanoseconds, before 1970 in no packet."""
    packets, comments, at = [], [], 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        options = {0x0a0d0d0a: 24, 1: 16, 5: 20}.get(kind)
        if kind == 6:
            _, high, low, captured = struct.unpack_from("<IIII", data, at + 8)
            packets.append((high << 32 | low, data[at + 28:at + 28 + captured]))
            options = 28 + (captured + 3) // 4 * 4
        place = at + options if options else at + length
        while place + 8 <= at + length - 4:
            code, size = struct.unpack_from("<HH", data, place)
            if code == 1:
                comments.append(data[place + 4:place + 4 + size].decode())
            place += 4 + (size + 3) // 4 * 4
        at += length
    return packets, comments


# ---- the control protocol -----------------------------------------------------------------------


class RemoteError(Exception):
    def __init__(self, error):
        super().__init__(f"{error['code']}: {error['message']}")
        self.code = error["code"]
        self.message = error["message"]


class Client:
    """One connection. Answers are those of schema/PROTOCOL.md."""

    def __init__(self, state):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        directory = os.open(state, os.O_PATH | os.O_DIRECTORY)
        try:  # the address of a socket is short
            self.socket.connect(f"/proc/self/fd/{directory}/control.sock")
        except OSError:
            self.socket.close()
            raise
        finally:
            os.close(directory)
        self.number = 0
        self.progress = []
        self.asked = None  # the last request, as far as it was made by send()

    def raw(self, data):
        self.socket.sendall(data)

    def send(self, message, descriptors=()):
        if isinstance(message, dict) and message.get("method") in control_schema.METHODS:
            ends = self.asked and message.get("id") == self.asked.get("id")  # what is still being answered, under its number
            self.asked = self.asked if ends or message["method"] == "extract.finish" else message
        body = json.dumps(message).encode()
        data = struct.pack("<I", len(body)) + body
        rights = []
        if descriptors:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        sent = self.socket.sendmsg([data], rights)
        if sent < len(data):
            self.socket.sendall(data[sent:])

    def read(self, count):
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise EOFError("the recorder has closed the connection")
            data += part
        return data

    def receive(self):
        """The next message. What answers a request is held against the schema."""
        message = json.loads(self.read(struct.unpack("<I", self.read(4))[0]))
        if self.asked and message.get("id") == self.asked.get("id"):
            control_schema.check_answer(self.asked, message, strict=False)
        return message

    def ask(self, method, descriptors=(), request_id=None, **params):
        """Sends a request, waits for nothing."""
        if request_id is None:
            self.number += 1
            request_id = self.number
        self.send({"version": 1, "id": request_id, "method": method, "params": params}, descriptors)

    def answer(self):
        """The result of what was asked; progress is collected in self.progress."""
        while True:
            message = self.receive()
            assert message["id"] == self.number, message
            if "progress" in message:
                self.progress.append(message["progress"])
            elif "error" in message:
                raise RemoteError(message["error"])
            else:
                return message["result"]

    def fetch(self, job):
        """(the row of the job, a descriptor of its file, which is the caller's)"""
        self.ask("job.fetch", job=str(job))
        data, descriptors, _, _ = socket.recv_fds(self.socket, 4, 1)
        message = json.loads(self.read(struct.unpack("<I", data + self.read(4 - len(data)))[0]))
        if "error" in message:
            raise RemoteError(message["error"])
        return message["result"]["job"], descriptors[0]

    def call(self, method, descriptors=(), **params):
        self.ask(method, descriptors, **params)
        return self.answer()

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Recorder:
    """A tapeloopd on a state directory. Only ever killed by its own process number."""

    def __init__(self, state, wait=True, prefix=(), environment=None):
        self.state = state
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen([*prefix, RECORDER, "--state", state], stderr=self.log,
                                        stdin=subprocess.DEVNULL,
                                        env={**os.environ, **(environment or {})})
        while wait:
            try:
                self.client().close()
                return
            except OSError:
                if self.process.poll() is not None:
                    raise AssertionError("tapeloopd has ended: " + self.said()) from None
                time.sleep(0.01)

    def said(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def client(self):
        return Client(self.state)

    def call(self, method, descriptors=(), **params):
        with self.client() as client:
            return client.call(method, descriptors, **params)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        """SIGTERM; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait()


def children(pid):
    """The reading processes that run for a recorder; not the one that waits for a job."""
    return [child for child in all_children(pid) if process_name(child) != "tapeloop-waits"]


def spares(pid):
    """Those that wait for a job: the one that is kept, and any that have just been started for one."""
    return [child for child in all_children(pid) if process_name(child) == "tapeloop-waits"]


def all_children(pid):
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += [int(child) for child in file.read().split()]
        except OSError:
            pass  # a thread that has just ended
    return found


def process_name(pid):
    try:
        with open(f"/proc/{pid}/comm", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""  # it has just ended


def create_ring(recorder, name, path, size=64 * MIB, **more):
    return recorder.call("ring.create", name=name, disks=[{"path": path, "bytes": size}], **more)["ring"]


def import_packets(recorder, ring, packets, name="test.pcap"):
    return import_files(recorder, ring, [(name, pcap(packets))])


def import_files(recorder, ring, files):
    """files: (name, bytes)"""
    opened = []
    try:
        for _, data in files:
            file = tempfile.TemporaryFile()
            opened.append(file)
            file.write(data)
            file.flush()
            file.seek(0)
        return recorder.call("import", [file.fileno() for file in opened], ring=ring,
                             names=[name for name, _ in files])
    finally:
        for file in opened:
            file.close()


def extract(recorder, ring, **params):
    """(packets, result): everything unless the parameters say otherwise."""
    with tempfile.TemporaryFile() as output:
        result = recorder.call("extract", [output.fileno()], ring=ring, format="pcap", **params)
        output.seek(0)
        data = output.read()
    return (read_pcap(data) if data else []), result


class World(unittest.TestCase):
    """Each test has a directory of its own; recorders that it starts end with it."""

    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="tapeloop-recorder-")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.recorders = []

    def tearDown(self):
        ends = []  # all of them first: what the test finds wrong with one must not leave another behind
        for recorder in self.recorders:
            ends.append((recorder.stop(), recorder.said()))
            recorder.log.close()
        for status, outcome in ends:
            self.assertIn(status, (0, -signal.SIGKILL), outcome)
            for word in ("ERROR: AddressSanitizer", "WARNING: ThreadSanitizer", "runtime error:"):
                self.assertNotIn(word, outcome)

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def start(self, state="state", **more):
        recorder = Recorder(self.path(state), **more)
        self.recorders.append(recorder)
        return recorder

    def refused(self, code, recorder, method, descriptors=(), **params):
        """The sentence of an error that must come."""
        with self.assertRaises(RemoteError) as caught:
            recorder.call(method, descriptors, **params)
        self.assertEqual(caught.exception.code, code, caught.exception.message)
        return caught.exception.message

    def check_account(self, account):
        """Promise P6: every packet seen is accounted for, by cause."""
        self.assertEqual(account["seen"], sum(account[line] for line in LINES if line != "seen"), account)

    def check_clean(self, recorder, ring):
        found = recorder.call("verify", ring=ring)
        self.assertTrue(found["clean"], found)
        return found


def wait_for(condition, process=None):
    """Until it holds. What never comes is ended by ctest's own patience, not by a number here."""
    while not condition():
        assert process is None or process.poll() is None, "the process has ended"
        time.sleep(0.01)


def ended(process):
    """Whether there is no process of that number any more, or what is left of it waits to be counted by its parent."""
    try:
        with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


def thread(function, *arguments):
    started = threading.Thread(target=function, args=arguments, daemon=True)
    started.start()
    return started


# ---- interfaces ---------------------------------------------------------------------------------


WIRE = ("ip link add v0 type veth peer name v1", "ip link set v0 up", "ip link set v1 up",
        "ip link set lo up")


def make_namespace(test):
    """A network namespace with a veth pair in it: (prefix of commands in it); or the test is skipped."""
    if not ROOT or not shutil.which("ip") or not shutil.which("unshare") or not shutil.which("nsenter"):
        test.skipTest("a network namespace takes root, ip, unshare and nsenter")
    probe = subprocess.run(["unshare", "-n", "true"], stderr=subprocess.PIPE)
    if probe.returncode != 0:
        test.skipTest("no network namespace here: " + probe.stderr.decode())
    holder = subprocess.Popen(["unshare", "-n", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    test.addCleanup(lambda: (holder.stdin.close(), holder.wait(), holder.stdout.close()))
    holder.stdin.write(b"x")
    holder.stdin.flush()
    holder.stdout.read(1)  # it is where it is to be
    enter = ["nsenter", "-t", str(holder.pid), "-n"]
    subprocess.run(enter + "sysctl -qw net.ipv6.conf.all.disable_ipv6=1".split(), stderr=subprocess.DEVNULL)
    for command in WIRE:
        made = subprocess.run(enter + command.split(), stderr=subprocess.PIPE)
        if made.returncode != 0:
            test.skipTest(f"{command}: {made.stderr.decode()}")
    # Up is one thing, and that the kernel has noticed the other side another: until then it throws away what is sent.
    for device in ("v0", "v1"):
        wait_for(lambda: "state UP" in subprocess.run(enter + ["ip", "link", "show", "dev", device],
                                                      capture_output=True, text=True, check=True).stdout)
    return enter
