"""Ports for servers that tests start."""
import random
import socket

# Below those that the kernel gives to whoever connects somewhere: such a one may take a free port between our look and the server's.
FIRST, LAST = 20000, 32000


def free_ports():
    """Two ports, one above the other, that nobody has at the moment: the first one."""
    while True:
        port = random.randrange(FIRST, LAST, 2)
        with socket.socket() as one, socket.socket() as two:
            try:
                one.bind(("127.0.0.1", port))
                two.bind(("127.0.0.1", port + 1))
                return port
            except OSError:
                continue
