#!/usr/bin/env python3
"""The layout of the source tree: top-level entries, include rules, unique names, complete build lists.

The build files let the compiler refuse a forbidden include; this says it again, in words, and
sees what the compiler does not: names that two folders use, files that no build list names.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

FOLDERS = ["schema", "rules", "storage", "capture", "web", "cli"]

# Who may include whom. A file may always include its own folder.
MAY_INCLUDE = {
    "schema": set(),
    "rules": {"schema"},
    "storage": {"schema"},
    "capture": {"rules", "storage", "schema"},
    "web": {"storage", "rules", "schema"},
    "cli": {"storage", "rules", "schema"},
    "tests": set(FOLDERS),
}

TOP_LEVEL = set(FOLDERS) | {
    "tests", "packaging", "CMakeLists.txt", "CMakePresets.json", "README.md", "LICENSE", "NOTICE",
    "CHANGELOG.md",
}

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]*)"', re.MULTILINE)


def files_of(root):
    """Paths of the tree as git knows them, or, outside of git, as they lie there without build/."""
    if os.path.exists(os.path.join(root, ".git")) and shutil.which("git"):
        listed = subprocess.run(
            ["git", "-c", "safe.directory=*", "-C", root, "ls-files", "-z", "--cached", "--others",
             "--exclude-standard"], stdout=subprocess.PIPE, check=True)
        names = listed.stdout.decode().split("\0")
        return [n for n in names if n and os.path.exists(os.path.join(root, n))]
    found = []
    for directory, below, names in os.walk(root):
        if directory == root:
            below[:] = [d for d in below if d not in ("build", ".git")]
        found += [os.path.relpath(os.path.join(directory, n), root) for n in names]
    return found


def text_of(root, path):
    with open(os.path.join(root, path), encoding="utf-8", errors="replace") as file:
        return file.read()


def folder_of(path):
    return path.split("/")[0]


def is_code(path):
    return path.endswith((".c", ".h", ".def")) and folder_of(path) in MAY_INCLUDE


def wrong_top_level(files):
    return sorted({t for t in map(folder_of, files)
                   if t not in TOP_LEVEL and not t.startswith(".")})


def names_used_twice(files):
    first = {}
    twice = []
    for path in sorted(filter(is_code, files)):
        name = os.path.basename(path)
        if name in first:
            twice.append(f"{path} has the name of {first[name]}")
        first.setdefault(name, path)
    return twice


def forbidden_includes(root, files):
    owner = {os.path.basename(p): folder_of(p) for p in files if is_code(p)}
    # Made by the build: schema/NAME.sql as a string in NAME_sql.h.
    owner.update({os.path.basename(p)[:-4] + "_sql.h": folder_of(p) for p in files if p.endswith(".sql")})
    wrong = []
    for path in sorted(filter(is_code, files)):
        folder = folder_of(path)
        for name in INCLUDE.findall(text_of(root, path)):
            if name not in owner:
                wrong.append(f'{path} includes "{name}", which is no file of ours by its bare name')
            elif owner[name] != folder and owner[name] not in MAY_INCLUDE[folder]:
                wrong.append(f'{path} includes "{name}" of {owner[name]}/')
    return wrong


def sources_not_built(root, files):
    """Sources that no build list names: they would rot unseen. Tests are named by their stem."""
    wrong = []
    for path in sorted(p for p in files if p.endswith(".c") and is_code(p)):
        folder = folder_of(path)
        lists = "".join(text_of(root, p) for p in files
                        if folder_of(p) == folder and os.path.basename(p) == "CMakeLists.txt")
        stems = {os.path.basename(path)[:-2]}
        for kind in re.findall(r"^tests/(?:unit/test|fuzz/fuzz)_(\w+)\.c$", path):
            stems.add(kind)  # tapeloop_unit_test(text schema) stands for unit/test_text.c
        named = "|".join(map(re.escape, stems))
        if not re.search(rf"(^|[\s(/])({named})(\.c)?($|[\s)])", lists, re.MULTILINE):
            wrong.append(f"{path} is in no build list")
    return wrong


def forbidden_paths(root, commands):
    """Include paths that let a folder's sources see a folder that they may not."""
    wrong = set()
    for command in commands:
        path = os.path.relpath(os.path.realpath(command["file"]), root)
        folder = folder_of(path)
        if folder not in FOLDERS:
            continue
        for seen in re.findall(r"-I\s*(\S+)", command["command"]):
            seen = os.path.relpath(os.path.realpath(seen), root)
            if seen in FOLDERS and seen != folder and seen not in MAY_INCLUDE[folder]:
                wrong.add(f"{path} is compiled with the headers of {seen}/")
    return sorted(wrong)


class Tree(unittest.TestCase):
    """The tree itself."""

    @classmethod
    def setUpClass(cls):
        here = os.path.dirname(os.path.realpath(__file__))
        cls.root = os.path.realpath(os.path.join(here, "..", ".."))
        cls.files = files_of(cls.root)

    def test_the_tree_was_found(self):
        self.assertIn("CMakeLists.txt", self.files)
        self.assertIn("schema/errors.h", self.files)

    def test_top_level(self):
        self.assertEqual(wrong_top_level(self.files), [])

    def test_names(self):
        self.assertEqual(names_used_twice(self.files), [])

    def test_includes(self):
        self.assertEqual(forbidden_includes(self.root, self.files), [])

    def test_build_lists(self):
        self.assertEqual(sources_not_built(self.root, self.files), [])

    def test_include_paths(self):
        binaries = os.environ.get("TAPELOOP_BIN")
        if not binaries:
            self.skipTest("TAPELOOP_BIN does not say where the build is")
        with open(os.path.join(os.path.dirname(binaries), "compile_commands.json"), encoding="utf-8") as file:
            commands = json.load(file)
        self.assertGreater(len(commands), 0)
        self.assertEqual(forbidden_paths(self.root, commands), [])


class Checks(unittest.TestCase):
    """The checks themselves notice what they are there for."""

    def tree(self, files):
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        for path, text in files.items():
            full = os.path.join(place.name, path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "w", encoding="utf-8") as file:
                file.write(text)
        return place.name

    def test_top_level(self):
        self.assertEqual(wrong_top_level(["lib/a.c", "schema/a.h", ".ci/run", "TODO"]),
                         ["TODO", "lib"])

    def test_names(self):
        self.assertEqual(len(names_used_twice(["schema/a.h", "storage/a.h", "cli/b.c"])), 1)
        self.assertEqual(names_used_twice(["schema/README.md", "storage/README.md"]), [])

    def test_includes(self):
        root = self.tree({
            "schema/word.h": "", "storage/disk.h": '#include "word.h"\n', "capture/source.h": "",
            "schema/bad.c": '#include "disk.h"\n', "storage/bad2.c": ' # include "source.h"\n',
            "cli/bad3.c": '#include "../storage/disk.h"\n', "cli/bad4.c": '#include "source.h"\n',
            "capture/good.c": '#include <stdio.h>\n#include "disk.h"\n#include "source.h"\n',
        })
        wrong = forbidden_includes(root, files_of(root))
        self.assertEqual([w.split()[0] for w in wrong],
                         ["cli/bad3.c", "cli/bad4.c", "schema/bad.c", "storage/bad2.c"])

    def test_build_lists(self):
        root = self.tree({
            "cli/CMakeLists.txt": "SOURCES\n    good.c\n", "cli/good.c": "", "cli/od.c": "",
            "tests/CMakeLists.txt": "tapeloop_unit_test(good schema)\ntapeloop_fuzz(x)\n",
            "tests/unit/test_good.c": "", "tests/unit/test_bad.c": "", "tests/fuzz/fuzz_x.c": "",
        })
        wrong = sources_not_built(root, files_of(root))
        self.assertEqual([w.split()[0] for w in wrong], ["cli/od.c", "tests/unit/test_bad.c"])

    def test_include_paths(self):
        commands = [{"file": "/t/schema/a.c", "command": "cc -I/t/schema -I/t/storage"},
                    {"file": "/t/capture/b.c", "command": "cc -I/t/storage -I /t/schema"},
                    {"file": "/t/storage/c.c", "command": "cc -I /t/capture"}]
        self.assertEqual([w.split()[0] for w in forbidden_paths("/t", commands)],
                         ["schema/a.c", "storage/c.c"])


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    unittest.main()
