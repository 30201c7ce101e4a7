#!/usr/bin/env python3
"""app NAME on a live recording: two hosts, each in a network namespace of its own, talk DNS, HTTP and TLS through sockets of the kernel, and the recorder listens to the wire between them.

A filter by name finds what a filter by the ports finds that were agreed on, no more and no less: while it is recorded, when it has ended, and after a crash.
One connection is opened, and says nothing until the segment with its first packets has been sealed.
"""
import glob
import os
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import recorder_world as world  # noqa: E402
from recorder_world import MIB, extract  # noqa: E402

TAPELOOP = os.path.join(world.BIN, "tapeloop")
SERVER, CLIENT = "10.7.0.2", "10.7.0.1"

SERVE = """
import http.server, socket, ssl, sys, threading

def sink():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((sys.argv[1], 9))
        while True:
            taken.recv(2048)

def names():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((sys.argv[1], 53))
        while True:
            query, peer = taken.recvfrom(512)
            end = 12
            while query[end]:
                end += 1 + query[end]
            question = query[12:end + 5]
            taken.sendto(query[:2] + bytes.fromhex("81800001000100000000") + question + bytes.fromhex("c00c000100010000003c00045db8d822"), peer)

class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", "3000")
        self.end_headers()
        self.wfile.write(b"<p>a page</p>".ljust(3000))
    def log_message(self, *arguments):
        pass

def pages(port, context):
    server = http.server.ThreadingHTTPServer((sys.argv[1], port), Page)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2])
for serve in (sink, names, lambda: pages(8080, None), lambda: pages(8443, context)):
    threading.Thread(target=serve, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""

TALK = """
import socket, ssl, struct, sys, time
server, count = sys.argv[1], int(sys.argv[2])

def fill(packets):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sent:
        for i in range(packets):
            sent.sendto(bytes(1400), (server, 9))
            if i % 50 == 49:
                time.sleep(0.005)

def ask(i):
    query = struct.pack(">HHHHHH", i, 0x100, 1, 0, 0, 0) + b"".join(bytes([len(part)]) + part for part in (b"host%d" % i, b"example", b"org")) + bytes([0, 0, 1, 0, 1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sent:
        sent.settimeout(10)
        sent.sendto(query, (server, 53))
        sent.recv(512)

def get(connection):
    connection.sendall(b"GET / HTTP/1.1\\r\\nHost: example.org\\r\\nUser-Agent: test\\r\\nConnection: close\\r\\n\\r\\n")
    while connection.recv(65536):
        pass

def connect(port):
    return socket.create_connection((server, port), timeout=10)

context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
early = connect(8443)
fill(1600)
for i in range(count):
    ask(i)
    with connect(8080) as plain:
        get(plain)
    with context.wrap_socket(connect(8443), server_hostname="www.example.org") as secret:
        get(secret)
    fill(20)
with context.wrap_socket(early, server_hostname="www.example.org") as secret:
    get(secret)
"""


class AppLive(world.World):
    def wire(self):
        """Two hosts with a wire between them: the prefixes of commands on each."""
        client = world.make_namespace(self)
        holder = subprocess.Popen(["unshare", "-n", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(lambda: (holder.stdin.close(), holder.wait(), holder.stdout.close()))
        holder.stdin.write(b"x")
        holder.stdin.flush()
        holder.stdout.read(1)
        server = ["nsenter", "-t", str(holder.pid), "-n"]
        subprocess.run(server + "sysctl -qw net.ipv6.conf.all.disable_ipv6=1".split(), stderr=subprocess.DEVNULL, check=False)
        for prefix, command in ((client, f"ip link set v1 netns {holder.pid}"), (server, "ip link set v1 up"), (client, f"ip addr add {CLIENT}/24 dev v0"),
                                (server, f"ip addr add {SERVER}/24 dev v1")):
            subprocess.run(prefix + command.split(), check=True)
        for prefix, device in ((client, "v0"), (server, "v1")):
            world.wait_for(lambda: "state UP" in subprocess.run(prefix + ["ip", "link", "show", "dev", device], capture_output=True, text=True, check=True).stdout)
        return client, server

    def serve(self, server):
        pem = self.path("server.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=www.example.org", "-keyout", pem, "-out",
                        pem + ".crt"], check=True, stderr=subprocess.DEVNULL)
        with open(pem, "ab") as whole, open(pem + ".crt", "rb") as certificate:
            whole.write(certificate.read())
        serving = subprocess.Popen(server + ["python3", "-c", SERVE, SERVER, pem], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(lambda: (serving.stdin.close(), serving.wait(), serving.stdout.close()))
        self.assertEqual(serving.stdout.readline(), b"ready\n")

    def find(self, recorder, text):
        return extract(recorder, "live", filter=text)

    def check(self, recorder, complete):
        for app, ports in (("dns", "udp port 53"), ("http", "tcp port 8080"), ("tls", "tcp port 8443"), ("unknown", "udp port 9")):
            wanted, _ = self.find(recorder, ports)
            found, result = self.find(recorder, "app " + app)
            self.assertEqual(found, wanted, app)
            if complete:
                self.assertEqual((result["undecided"], result["complete"]), (0, True), app)
        others, _ = self.find(recorder, "not (app dns or app http or app tls or app unknown)")
        self.assertEqual({body[12:14] for _, body in others} - {b"\x08\x06"}, set())  # ARP is of no conversation

    def test_talk(self):
        client, server = self.wire()
        self.serve(server)
        recorder = self.start(prefix=client)
        world.create_ring(recorder, "live", self.path("disk"), size=128 * MIB, slot_bytes=MIB)
        recorder.call("ring.set", ring="live", settings={"classify": "on", "flush_window": "100ms"})
        recorder.call("record.start", ring="live", interfaces=["v0"])
        subprocess.run(client + ["python3", "-c", TALK, SERVER, "10"], check=True)
        account = recorder.call("status")["rings"][0]["account"]
        if account["dropped_kernel"] + account["dropped_queue"] > 0:
            self.skipTest(f"this machine is too busy to record without drops: {account}")
        end = time.monotonic() + 60
        while True:  # layer 7 hears the last packets a little later
            try:
                self.check(recorder, complete=False)
                break
            except AssertionError:
                self.assertLess(time.monotonic(), end, "layer 7 has not found what it should")
                time.sleep(0.3)
        dns, _ = self.find(recorder, "app dns")
        self.assertEqual(len(dns), 20)
        early, _ = self.find(recorder, "app tls and tcp[tcpflags] == tcp-syn")  # also of the one whose first packets were sealed before it said anything
        self.assertEqual(len(early), 11)
        listed = subprocess.run([TAPELOOP, "--state", self.path("state"), "apps"], capture_output=True, text=True, check=True).stdout.splitlines()
        self.assertLessEqual({"DNS", "HTTP", "TLS"}, set(listed))
        account = recorder.call("record.stop", ring="live")["account"]
        self.check_account(account)
        self.check(recorder, complete=True)
        recorder.kill()
        self.recorders.remove(recorder)
        recorder = self.start(prefix=client)
        self.check(recorder, complete=True)
        self.assertEqual(recorder.stop(), 0)
        # Its first packets are known by what was written down only.
        for path in glob.glob(os.path.join(self.path("state"), "verdicts", "*.verdicts")):
            os.unlink(path)
        recorder = self.start(prefix=client)
        found, result = self.find(recorder, "app tls and tcp[tcpflags] == tcp-syn")
        self.assertEqual(len(found), 10)
        self.assertGreater(result["undecided"], 0)
        self.assertEqual(recorder.stop(), 0)


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    if not os.access(os.path.join(world.BIN, "tapeloop-classify"), os.X_OK):
        print("skipped: there is no tapeloop-classify: built without libndpi-dev")
        sys.exit(world.SKIPPED)
    for tool in ("ip", "openssl"):
        if not shutil.which(tool):
            print(f"skipped: there is no {tool}")
            sys.exit(world.SKIPPED)
    world.main()
