"""Disks that fail on purpose under a real recorder: tests/lib/faulty_fuse.c mounted, and loop devices on top of its files."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

PROGRAM = os.path.join(os.environ.get("TAPELOOP_TEST_BIN", ""), "tapeloop-faulty-fuse")
SKIPPED = 77


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(SKIPPED)


def require():
    """Ends the program with 77 where such a file system cannot be had."""
    if not os.access(PROGRAM, os.X_OK):
        skip(f"there is no {PROGRAM} (built where libfuse3 is)")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        skip("no /dev/fuse")
    with FaultyDisks():
        pass


class FaultyDisks:
    """
    A mounted faulty file system in a directory of its own. Use as a context: leaving it releases what hangs, unmounts and
    removes everything, whatever happened. The program also ends, and unmounts, with the process that started it.
    """

    def __init__(self, seed=1):
        self.directory = tempfile.mkdtemp(prefix="tapeloop-faulty-")
        self.backing = os.path.join(self.directory, "backing")
        self.mountpoint = os.path.join(self.directory, "disks")
        self.control = os.path.join(self.directory, "control")
        os.mkdir(self.backing)
        os.mkdir(self.mountpoint)
        os.chmod(self.directory, 0o711)
        self.loops = []
        self.process = subprocess.Popen([PROGRAM, self.backing, self.mountpoint, self.control, str(seed)],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "ready\n":
            status = self.process.wait()
            self.process.stdout.close()
            shutil.rmtree(self.directory, ignore_errors=True)
            if status == SKIPPED:
                skip("no FUSE file system can be mounted here")
            raise AssertionError(f"the faulty file system ended with {status}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def path(self, name):
        return os.path.join(self.mountpoint, name)

    def peer(self, name):
        """The same disk without its faults: what really is on it."""
        return os.path.join(self.backing, name)

    def make(self, name, size):
        with open(self.peer(name), "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        return self.path(name)

    def tell(self, *words):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(self.control)
            connection.sendall((" ".join(str(word) for word in words) + "\n").encode())
            answer = b""
            while not answer.endswith(b"\n"):
                part = connection.recv(4096)
                if not part:
                    break
                answer += part
        answer = answer.decode().split()
        if not answer or answer[0] != "ok":
            raise AssertionError(f"{words}: {' '.join(answer)}")
        return answer[1:]

    def fault(self, name, kind, **options):
        self.tell("fault", name, kind, *(f"{key}={value}" for key, value in options.items()))

    def clear(self, name):
        self.tell("clear", name)

    def release(self, name):
        self.tell("release", name)

    def hang(self, name):
        """Every request from now on, until heal()."""
        self.fault(name, "hung", count=0)

    def vanish(self, name):
        self.tell("vanish", name)

    def heal(self, name):
        """No fault any more; what hung lands."""
        self.clear(name)
        self.tell("return", name)
        self.release(name)

    def bandwidth(self, name, bytes_per_s):
        self.tell("bandwidth", name, bytes_per_s)

    def flip(self, name, offset, bit):
        self.tell("flip", name, offset, bit)

    def state(self, name):
        return {key: int(value) for key, value in (word.split("=") for word in self.tell("state", name))}

    def loop(self, name):
        """A loop device on the disk; None where there is none to be had."""
        made = subprocess.run(["losetup", "--find", "--show", "--direct-io=on", self.path(name)],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        if made.returncode != 0:
            return None
        self.loops.append(made.stdout.strip())
        return self.loops[-1]

    def close(self):
        if self.process is None:
            return
        for name in os.listdir(self.backing):
            try:
                self.heal(name)
            except (AssertionError, OSError):
                pass  # never looked up, or the program is dead
        for device in self.loops:
            subprocess.run(["losetup", "--detach", device], check=False)
        self.process.terminate()
        status = self.process.wait()
        self.process.stdout.close()
        self.process = None
        while os.path.ismount(self.mountpoint):  # only if it died instead of ending
            subprocess.run(["umount", "--lazy", self.mountpoint], check=False)
            time.sleep(0.05)
        shutil.rmtree(self.directory, ignore_errors=True)
        if status != 0:
            raise AssertionError(f"the faulty file system ended with {status}")
