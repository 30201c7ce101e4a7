#!/usr/bin/env python3
"""The faulty file system does what its header says: each fault as a program on top sees it, and what then is on the disk."""

import errno
import fcntl
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
import unittest

import faulty_world

PAGE = 4096
DISK_BYTES = 4 << 20


def aligned(data):
    buffer = mmap.mmap(-1, len(data))
    buffer.write(data)
    return buffer


class Faulty(unittest.TestCase):
    def setUp(self):
        self.disks = faulty_world.FaultyDisks(seed=7)
        self.addCleanup(self.disks.close)
        self.path = self.disks.make("one", DISK_BYTES)
        self.fd = os.open(self.path, os.O_RDWR | os.O_DIRECT)
        self.addCleanup(self.shut)

    def shut(self):
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def write(self, offset, data):
        return os.pwritev(self.fd, [aligned(data)], offset)

    def read(self, offset, count):
        buffer = mmap.mmap(-1, count)
        got = os.preadv(self.fd, [buffer], offset)
        return buffer[:got]

    def on_disk(self, offset, count):
        with open(self.disks.peer("one"), "rb") as file:
            file.seek(offset)
            return file.read(count)

    def fails(self, number, function, *arguments):
        with self.assertRaises(OSError) as caught:
            function(*arguments)
        self.assertEqual(caught.exception.errno, number)

    def test_without_faults(self):
        data = os.urandom(2 << 20)  # more than one request
        self.assertEqual(self.write(PAGE, data), len(data))
        os.fsync(self.fd)
        self.assertEqual(self.read(PAGE, len(data)), data)
        self.assertEqual(self.on_disk(PAGE, len(data)), data)
        self.assertEqual(self.disks.state("one")["under_way"], 0)

    def test_errors(self):
        before, after = b"a" * PAGE, b"b" * PAGE
        self.write(0, before)
        self.disks.fault("one", "eio", op="write")
        self.fails(errno.EIO, self.write, 0, after)
        self.assertEqual(self.on_disk(0, PAGE), before)
        self.disks.fault("one", "eio_landed", op="write")
        self.fails(errno.EIO, self.write, 0, after)
        self.assertEqual(self.on_disk(0, PAGE), after)
        self.disks.fault("one", "eio", op="read", after=1, count=2)
        self.assertEqual(self.read(0, PAGE), after)
        self.fails(errno.EIO, self.read, 0, PAGE)
        self.fails(errno.EIO, self.read, 0, PAGE)
        self.assertEqual(self.read(0, PAGE), after)
        self.disks.fault("one", "eio", op="flush")
        self.fails(errno.EIO, os.fsync, self.fd)
        os.fsync(self.fd)

    def test_lies(self):
        zeros, data = bytes(16 * PAGE), os.urandom(16 * PAGE)
        self.disks.fault("one", "torn", op="write")
        self.assertEqual(self.write(0, data), len(data))
        found = self.on_disk(0, len(data))
        kept = next((i for i in range(len(data)) if found[i] != data[i]), len(data))
        self.assertNotEqual(found, data)
        self.assertEqual(found[kept - kept % 512 + 512:], zeros[kept - kept % 512 + 512:])
        self.disks.fault("one", "lost", op="write")
        self.write(1 << 20, data)
        self.assertEqual(self.on_disk(1 << 20, len(data)), zeros)
        self.disks.fault("one", "misdirected", op="write")
        self.write(2 << 20, data)
        self.assertNotEqual(self.on_disk(2 << 20, len(data)), data)
        self.assertIn(data, self.on_disk(0, DISK_BYTES))
        self.disks.fault("one", "flipped", op="write")
        self.write(3 << 20, data)
        self.assertEqual(self.bits_apart(self.on_disk(3 << 20, len(data)), data), 1)
        self.write(0, data)
        self.disks.fault("one", "flipped", op="read")
        self.assertEqual(self.bits_apart(self.read(0, len(data)), data), 1)
        self.assertEqual(self.read(0, len(data)), data)
        self.disks.flip("one", 5000, 3)
        self.assertEqual(self.bits_apart(self.read(0, len(data)), data), 1)

    @staticmethod
    def bits_apart(a, b):
        return sum(bin(x ^ y).count("1") for x, y in zip(a, b))

    def test_delay_and_bandwidth(self):
        self.disks.fault("one", "delayed", ms=300)
        begin = time.monotonic()
        self.write(0, b"x" * PAGE)
        self.assertGreaterEqual(time.monotonic() - begin, 0.3)
        self.disks.bandwidth("one", 8 << 20)
        begin = time.monotonic()
        self.write(0, bytes(1 << 20))
        self.read(0, 1 << 20)
        passed = time.monotonic() - begin
        self.assertGreaterEqual(passed, 0.25)  # one budget for both

    def test_hang(self):
        self.disks.hang("one")
        writer = threading.Thread(target=self.write, args=(0, b"h" * PAGE))
        writer.start()
        while self.disks.state("one")["hung"] == 0:
            time.sleep(0.01)
        other = self.disks.make("two", DISK_BYTES)  # one that hangs holds nobody else up
        with open(other, "r+b", buffering=0) as file:
            self.assertEqual(file.write(b"t" * PAGE), PAGE)
        self.assertEqual(self.on_disk(0, PAGE), bytes(PAGE))
        self.disks.heal("one")
        writer.join()
        self.assertEqual(self.on_disk(0, PAGE), b"h" * PAGE)

    def test_vanish_and_return(self):
        self.write(0, b"v" * PAGE)
        self.disks.vanish("one")
        self.fails(errno.ENODEV, self.write, 0, b"w" * PAGE)
        self.fails(errno.ENODEV, self.read, 0, PAGE)
        self.fails(errno.ENODEV, os.fsync, self.fd)
        self.fails(errno.ENOENT, os.stat, self.path)
        self.disks.hang("one")
        self.fails(errno.ENODEV, self.write, 0, b"w" * PAGE)
        self.disks.heal("one")
        self.assertEqual(self.read(0, PAGE), b"v" * PAGE)
        self.assertEqual(os.stat(self.path).st_size, DISK_BYTES)

    def test_lock_outlives_the_killed(self):
        """What the store's fence rests on: a write of a dead process is under way, and its flock still holds (P2)."""
        self.disks.hang("one")
        code = ("import fcntl, mmap, os, sys\n"
                "fd = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT)\n"
                "fcntl.flock(fd, fcntl.LOCK_EX)\n"
                "page = mmap.mmap(-1, 4096)\n"
                "page.write(b'k' * 4096)\n"
                "os.pwritev(fd, [page], 0)\n")
        child = subprocess.Popen([sys.executable, "-c", code, self.path])
        while self.disks.state("one")["under_way"] == 0:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        self.fails(errno.EWOULDBLOCK, fcntl.flock, self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.assertEqual(self.on_disk(0, PAGE), bytes(PAGE))
        self.disks.heal("one")
        fcntl.flock(self.fd, fcntl.LOCK_EX)
        self.assertEqual(self.on_disk(0, PAGE), b"k" * PAGE)
        child.wait()

    def test_under_a_loop_device(self):
        device = self.disks.loop("one")
        if device is None:
            self.skipTest("no loop device can be had")
        fd = os.open(device, os.O_RDWR | os.O_DIRECT | os.O_EXCL)
        try:
            self.assertEqual(os.pwritev(fd, [aligned(b"l" * PAGE)], 8 * PAGE), PAGE)
            self.assertEqual(self.on_disk(8 * PAGE, PAGE), b"l" * PAGE)
            self.disks.fault("one", "eio", op="write")
            self.fails(errno.EIO, os.pwritev, fd, [aligned(b"m" * PAGE)], 8 * PAGE)
            self.disks.fault("one", "eio", op="flush")
            os.pwritev(fd, [aligned(b"n" * PAGE)], 8 * PAGE)
            self.fails(errno.EIO, os.fsync, fd)
        finally:
            os.close(fd)


if __name__ == "__main__":
    faulty_world.require()
    unittest.main(verbosity=2)
