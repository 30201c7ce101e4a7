#!/usr/bin/env python3
"""schema/control.schema.json: that it names what there is, and that the programs say over the control socket what it describes.

    test_control_schema.py [--write] [unittest's arguments]

Every other test that speaks the protocol holds what it says and hears against it as well (recorder_world.py). --write makes the
words for the fuzzer (tests/fuzz) anew, when the schema has changed.
"""

import array
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import unittest

import control_schema
import recorder_world
from control_schema import METHODS, SCHEMA, SOURCE, check_answer
from recorder_world import BIN, MIB, World, numbered, pcap

TAPELOOP = os.path.join(BIN, "tapeloop")
WEB = os.path.join(BIN, "tapeloop-web")
FUZZ = os.path.join(SOURCE, "tests", "fuzz")


def text_of(*path):
    with open(os.path.join(SOURCE, *path), encoding="utf-8") as file:
        return file.read()


# ---- words for the fuzzer -----------------------------------------------------------------------


def resolve(schema):
    while "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].split("/")[-1]]
    return schema


def sample(schema):
    """Something that the schema allows, with every member that there may be."""
    schema = resolve(schema)
    if "oneOf" in schema:
        return sample(next(one for one in schema["oneOf"] if one != {"type": "null"}))
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    kind = schema["type"] if isinstance(schema["type"], str) else schema["type"][0]
    if kind == "object":
        members = {name: sample(part) for name, part in schema.get("properties", {}).items()}
        return members or ({"flush_window": "1s"} if isinstance(schema.get("additionalProperties"), dict) else {})
    if kind == "array":
        return [sample(schema["items"])]
    if kind == "string":
        return "1700000000000000000" if schema.get("pattern", "").startswith("^-?") else "web.x" if "web" in schema.get("pattern", "") else "r"
    return {"integer": 1, "number": 0.5, "boolean": True}[kind]


def fuzz_files():
    """{path: content}: a request of each method, and a dictionary of libFuzzer's."""
    files, words = {}, set()

    def collect(value):
        if isinstance(value, dict):
            for name, part in value.items():
                words.add(name)
                collect(part)
        elif isinstance(value, list):
            for part in value:
                collect(part)
        elif isinstance(value, str):
            words.add(value)

    for number, (method, parts) in enumerate(METHODS.items()):
        request = {"version": 1, "id": number, "method": method, "params": sample(parts["params"]), "actor": {"user": "u", "from": "::1"}}
        files[f"corpus/control/method-{method}"] = json.dumps(request, separators=(",", ":"))
        collect(request)
        collect(sample(parts["result"]))
    files["control.dict"] = "# Made by tests/integration/test_control_schema.py --write\n" + "".join(f'"\\"{word}\\""\n' for word in sorted(words) if '"' not in word)
    return files


# ---- between the programs -----------------------------------------------------------------------


class Tap:
    """A control socket in a directory of its own that hands on what comes, descriptors too, and checks it."""

    def __init__(self, state, directory):
        self.state = state
        os.mkdir(directory, 0o700)
        self.wrong = []
        self.methods = set()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(os.path.join(directory, "control.sock"))
        self.listener.listen(64)
        recorder_world.thread(self.accept)

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            recorder = socket.socket(socket.AF_UNIX)
            recorder.connect(os.path.join(self.state, "control.sock"))
            asked = {}
            recorder_world.thread(self.hand_on, client, recorder, lambda message, asked=asked: self.request(message, asked))
            recorder_world.thread(self.hand_on, recorder, client, lambda message, asked=asked: self.answer(message, asked))

    def request(self, message, asked):
        if message["method"] == "extract.finish":
            control_schema.check_request(message)
        else:
            asked[message["id"]] = message
        self.methods.add(message["method"])

    def answer(self, message, asked):
        if message["id"] in asked:  # else: what was no request at all
            check_answer(asked[message["id"]], message)

    def hand_on(self, source, sink, take):
        waiting = b""
        try:
            while True:
                data, ancillary, _, _ = source.recvmsg(1 << 16, socket.CMSG_SPACE(16 * 4))
                descriptors = array.array("i")
                for _, _, more in ancillary:
                    descriptors.frombytes(more[:len(more) // 4 * 4])
                if not data:
                    break
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)] if descriptors else []
                sent = sink.sendmsg([data], rights)
                sink.sendall(data[sent:])
                for descriptor in descriptors:
                    os.close(descriptor)
                waiting += data
                while len(waiting) >= 4 and len(waiting) >= 4 + (size := struct.unpack_from("<I", waiting)[0]):
                    message, waiting = json.loads(waiting[4:4 + size]), waiting[4 + size:]
                    try:
                        take(message)
                    except Exception as error:  # shown by the test
                        self.wrong.append((getattr(error, "message", str(error)), [*getattr(error, "absolute_path", [])], str(message)[:300]))
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RD if end is source else socket.SHUT_WR)
            except OSError:
                pass

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Names(unittest.TestCase):
    def test_the_schema_is_one(self):
        if control_schema.jsonschema is None:
            self.skipTest("there is no python3-jsonschema")
        control_schema.jsonschema.Draft202012Validator.check_schema(SCHEMA)

    def test_methods_and_their_parameters_are_those_of_the_recorder(self):
        table = text_of("capture", "methods.c")
        table = table[table.index("} methods[] = {"):]
        table = table[:table.index("\n};")]
        known = {name: set(parameters.split()) for name, parameters in re.findall(r'\{"([\w.]+)",\s*"([\w ]*)",\s*AUDIT_', table)}
        self.assertGreater(len(known), 30)
        known["extract.finish"] = set()  # a second message, see PROTOCOL.md
        described = {name: set(control_schema_properties(parts["params"])) for name, parts in METHODS.items()}
        self.assertEqual(described, known)
        self.assertEqual(set(SCHEMA["$defs"]["request"]["properties"]["method"]["enum"]), set(known))

    def test_the_page_about_the_protocol_lists_them(self):
        page = text_of("schema", "PROTOCOL.md")
        self.assertEqual(set(re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE)), set(METHODS))

    def test_the_lines_of_the_account_are_those_of_the_table(self):
        lines = re.findall(r"^ACCOUNT\((\w+)", text_of("schema", "account.def"), re.MULTILINE)
        self.assertEqual(list(SCHEMA["$defs"]["account"]["properties"]), lines)

    def test_the_fuzzer_has_its_words(self):
        for path, content in fuzz_files().items():
            self.assertEqual(text_of("tests", "fuzz", path), content, f"{path}: run {os.path.basename(__file__)} --write")

    def test_what_is_wrong_is_found(self):
        if control_schema.jsonschema is None:
            self.skipTest("there is no python3-jsonschema")
        request = {"version": 1, "id": 1, "method": "flush", "params": {"ring": "r"}}
        check_answer(request, {"id": 1, "result": {}})
        for wrong in ({"id": 1, "result": {"more": 1}}, {"id": 1}, {"id": 1, "result": {}, "error": {"code": "x", "message": "x"}}, {"id": 1, "progress": {}}):
            with self.assertRaises((control_schema.jsonschema.ValidationError, AssertionError)):
                check_answer(request, wrong)
        with self.assertRaises(control_schema.jsonschema.ValidationError):
            check_answer(dict(request, params={"ring": "r", "more": 1}), {"id": 1, "result": {}})


def control_schema_properties(schema):
    return resolve(schema).get("properties", {})


class Programs(World):
    def setUp(self):
        super().setUp()
        if control_schema.jsonschema is None:
            self.skipTest("there is no python3-jsonschema")
        os.chmod(self.directory, 0o755)
        self.recorder = self.start()
        self.tap = Tap(self.path("state"), self.path("tap"))
        self.addCleanup(self.tap.close)

    def tapeloop(self, *words, status=0):
        run = subprocess.run([TAPELOOP, "--state", self.path("tap"), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, text=True)
        self.assertEqual(run.returncode, status, (words, run.stderr))
        return run.stdout

    def test_the_command_line_says_what_is_described(self):
        with open(self.path("some.pcap"), "wb") as file:
            file.write(pcap(numbered(500)))
        self.tapeloop("ring", "create", "r", "--disk", self.path("disk") + ":64M")
        self.tapeloop("import", "r", self.path("some.pcap"))
        self.tapeloop("disk", "add", "r", self.path("disk2") + ":64M")
        for words in (["ring", "list"], ["ring", "show", "r"], ["ring", "set", "r", "flush_window=100ms"], ["disk", "list"], ["rule", "add", "r", "all : full"],
                      ["rule", "list", "r"], ["rule", "test", "r", "--from", "-1h"], ["rule", "delete", "r", "1"], ["status"], ["history", "r"], ["events"], ["interfaces"],
                      ["extract", "r", "-w", self.path("all.pcap")], ["verify", "r"], ["flush", "r"], ["audit", "list"], ["audit", "verify"],
                      ["rebuild", "r"], ["job", "start", "r"], ["job", "list"]):
            self.tapeloop(*words)
        self.tapeloop("ring", "show", "none", status=1)
        self.assertEqual(self.tap.wrong, [])
        self.assertGreater(len(self.tap.methods), 18)

    def test_the_web_process_says_what_is_described(self):
        if not os.access(WEB, os.X_OK):
            self.skipTest("tapeloop-web is not part of this build")
        from web_world import User, Web, prepared
        prepared().copy(self.path("web"))
        web = Web(self.path("tap"), directory=self.path("web"))
        self.addCleanup(lambda: (web.stop(), web.log.close()))
        admin = prepared().user(web)
        self.assertEqual(admin.ask("POST", "/api/v1/rings", {"name": "r", "disks": [{"path": self.path("disk"), "bytes": 64 * MIB}]}).status, 201)
        for method, path, body in (("GET", "overview", None), ("GET", "rings/r", None), ("GET", "rings/r/history?from=-1m", None), ("GET", "disks?oldest=true", None),
                                   ("POST", "rings/r/rules", {"rule": "all : full"}), ("GET", "rings/r/rules", None), ("POST", "rings/r/rules/test", {}),
                                   ("POST", "rings/r/estimate", {"filter": "udp"}), ("PATCH", "rings/r/settings", {"settings": {"copies": "1"}}),
                                   ("GET", "settings", None), ("GET", "events", None), ("GET", "interfaces", None), ("GET", "audit", None), ("GET", "audit/verify", None),
                                   ("POST", "tokens", {"name": "t", "scopes": ["read"]})):
            self.assertIn(admin.ask(method, "/api/v1/" + path, body).status, (200, 201), path)
        admin.download(admin.ask("POST", "/api/v1/extractions", {"ring": "r"}).json["url"])
        self.assertEqual(admin.ask("DELETE", "/api/v1/rings/r").status, 204)
        self.assertEqual(self.tap.wrong, [])
        self.assertGreater(len(self.tap.methods), 14)


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    if "--write" in sys.argv:
        for name, text in fuzz_files().items():
            with open(os.path.join(FUZZ, name), "w", encoding="utf-8") as out:
                out.write(text)
        sys.exit(0)
    recorder_world.main()
