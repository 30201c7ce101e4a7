"""stenographer (Debian's package), for measuring against it: in a network namespace of its own it records what is sent to it there, and answers.

It has no way to read a capture. So the packets are sent, at a bounded rate, over a pair of virtual interfaces: what it has then are the same packets, at other times, and
without VLAN tags, which it loses. Hence its answers are counted, and not compared. Needs root, ip, nsenter, unshare, curl and openssl, as its own scripts do.
"""
import contextlib
import json
import os
import shutil
import signal
import struct
import subprocess
import time

PORT = 1234
PATIENCE_S = 200  # until what was sent can be found: it closes a file after a minute
CERTIFICATES = ("ca", "server", "client")
WIRE = ("ip link add v0 type veth peer name v1", "ip link set v0 up", "ip link set v1 up", "ip link set lo up")


def obstacle():
    """Why it cannot be measured here, or None."""
    for program in ("stenographer", "stenotype", "ip", "nsenter", "unshare", "curl", "openssl"):
        if shutil.which(program) is None and not os.path.exists("/usr/sbin/" + program):
            return f"{program} is not installed"
    return None if os.geteuid() == 0 else "it takes root"


def packets_of(capture):
    """How many packets are in a classic capture, in its own byte order or the other one."""
    order = "<" if capture[:1] in (b"\xd4", b"\x4d") else ">"
    count, at = 0, 24
    while at + 16 <= len(capture):
        at += 16 + struct.unpack_from(order + "I", capture, at + 8)[0]
        count += 1
    return count


class Stenographer:
    def __init__(self, folder, capture, traffic, rate):
        self.folder = folder
        for name in ("packets", "index", "certificates"):
            os.makedirs(self.path(name))
        self.make_certificates()
        with open(self.path("config"), "w", encoding="ascii") as file:
            json.dump({"Threads": [{"PacketsDirectory": self.path("packets"), "IndexDirectory": self.path("index"), "MaxDirectoryFiles": 30000,
                                    "DiskFreePercentage": 1}],
                       "StenotypePath": shutil.which("stenotype") or "/usr/sbin/stenotype", "Interface": "v1", "Port": PORT, "Host": "127.0.0.1",
                       "Flags": ["--blocks=512", "--uid=root", "--gid=root", "--seccomp=none"], "CertPath": self.path("certificates")}, file)
        self.holder = self.process = self.log = None
        try:
            self.start(capture, traffic, rate)
        except BaseException:
            self.close()
            raise

    def start(self, capture, traffic, rate):
        self.holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.holder.stdin.write(b"x")
        self.holder.stdin.flush()
        self.holder.stdout.read(1)  # it is where it is to be
        self.enter = ["nsenter", "-t", str(self.holder.pid), "-n"]
        self.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        for command in WIRE:
            self.run(*command.split())
        self.log = open(self.path("log"), "wb")  # pylint: disable=consider-using-with
        self.process = subprocess.Popen([*self.enter, shutil.which("stenographer") or "/usr/sbin/stenographer", "-config", self.path("config"), "-syslog=false"],
                                        stdout=self.log, stderr=self.log, env={**os.environ, "TMPDIR": self.folder}, start_new_session=True)
        time.sleep(5)
        self.sent = int(self.run(traffic, "v0", str(rate), "0", "1", capture).stdout)

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def run(self, *command):
        return subprocess.run([*self.enter, *command], check=True, capture_output=True, text=True)

    def make_certificates(self):
        where = self.path("certificates")

        def openssl(*arguments):
            subprocess.run(["openssl", *arguments], check=True, cwd=where, stderr=subprocess.DEVNULL)
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca_key.pem", "-out", "ca_cert.pem", "-days", "2", "-subj", "/CN=bench",
                "-addext", "basicConstraints=critical,CA:TRUE")
        with open(os.path.join(where, "extensions"), "w", encoding="ascii") as file:
            file.write("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
        for name in ("server", "client"):
            openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", name + "_key.pem", "-out", name + ".csr", "-subj", "/CN=127.0.0.1")
            openssl("x509", "-req", "-in", name + ".csr", "-CA", "ca_cert.pem", "-CAkey", "ca_key.pem", "-CAcreateserial", "-days", "2",
                    "-extfile", "extensions", "-out", name + "_cert.pem")

    def files(self):
        return [os.path.join(folder, name) for part in ("packets", "index") for folder, _, names in os.walk(self.path(part)) for name in names]

    def ask(self, query):
        """(seconds, packets): from the connection to the last byte, as curl says, which is what stenoread runs."""
        answer = self.path("answer.pcap")
        certificates = self.path("certificates")
        done = self.run("curl", "--silent", "--show-error", "--fail", "--cacert", certificates + "/ca_cert.pem", "--cert", certificates + "/client_cert.pem",
                        "--key", certificates + "/client_key.pem", "--data", query, "--output", answer, "--write-out", "%{time_total}",
                        f"https://127.0.0.1:{PORT}/query")
        with open(answer, "rb") as file:
            return float(done.stdout), packets_of(file.read())

    def wait_for(self, query, packets):
        """Whether so many are found at last. It shows nothing of a file before it is closed."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if self.ask(query)[1] >= packets:
                return True
            time.sleep(3)
        return False

    def close(self):
        if self.process:
            self.process.terminate()
            self.process.wait()
            with contextlib.suppress(ProcessLookupError):  # it leaves stenotype behind, with half a GiB of memory, for a minute
                os.killpg(self.process.pid, signal.SIGKILL)
        if self.holder:
            self.holder.stdin.close()
            self.holder.wait()
            self.holder.stdout.close()
        if self.log:
            self.log.close()
