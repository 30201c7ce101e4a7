"""What the benchmarks share: fio as the physical limit, pairs in turn, medians."""

import json
import os
import shutil
import statistics
import subprocess
import sys


def need(program, package):
    """Exit 77 (skipped) where a program that is only measured against is not installed."""
    if shutil.which(program) is None:
        print(f"skipped: {program} is not installed (package {package})")
        sys.exit(77)


def binaries():
    """The directories of the programs and of the test programs: from ctest's environment, or build/release."""
    root = os.environ.get("TAPELOOP_SOURCE") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    build = os.path.join(root, "build", "release")
    return (os.environ.get("TAPELOOP_BIN", os.path.join(build, "bin")),
            os.environ.get("TAPELOOP_TEST_BIN", os.path.join(build, "tests", "bin")))


def fio(path, mode, size, io_size, loops_first=False):
    """Bytes per second of fio: io_uring, direct, 1 MiB, queue depth 8. The file is written once before it is measured."""
    common = ["fio", "--name=t", f"--filename={path}", f"--size={size}", "--bs=1M", "--iodepth=8",
              "--ioengine=io_uring", "--direct=1", "--output-format=json"]
    if loops_first or not os.path.exists(path) or os.path.getsize(path) < size:
        subprocess.run(common + ["--rw=write"], check=True, stdout=subprocess.DEVNULL)
    done = subprocess.run(common + [f"--rw={mode}", "--overwrite=1", f"--io_size={io_size}"], check=True,
                          capture_output=True, text=True)
    job = json.loads(done.stdout)["jobs"][0]["read" if mode == "read" else "write"]
    return float(job["bw_bytes"])


def pairs(count, first, second):
    """Runs both `count` times, AB BA AB ..., and returns the lists of their results."""
    results = ([], [])
    for i in range(count):
        for which in ((0, 1) if i % 2 == 0 else (1, 0)):
            results[which].append((first, second)[which]())
    return results


def spread(values):
    return f"{statistics.median(values):.2f} (min {min(values):.2f}, max {max(values):.2f})"


def gib(values):
    return [v / 2**30 for v in values]


def drop_caches():
    """Where it is permitted; the store reads with O_DIRECT and does not care."""
    try:
        os.sync()
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
            f.write("1")
    except OSError:
        pass


def parser(description):
    import argparse
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--dir", default="/dev/shm", help="where the ring's file and fio's file lie (default: tmpfs)")
    p.add_argument("--pairs", type=int, default=9)
    p.add_argument("--size", default="2G", help="of the ring's file and of fio's")
    p.add_argument("--json", action="store_true")
    return p


def size_of(text):
    unit = {"K": 10, "M": 20, "G": 30, "T": 40}.get(text[-1:].upper())
    return int(text[:-1]) << unit if unit else int(text)
