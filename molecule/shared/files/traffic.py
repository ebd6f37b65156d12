# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Serve, ask and hold: a backend that says who it is and whom it sees, and its clients.

serve NAME PORT...                    answer on these TCP and UDP ports with "NAME SOURCE_ADDRESS"
ask PROTOCOL ADDRESS PORT COUNT       print each answer on a line, or "refused", "timeout", "denied" or "unreachable"; give up at the fifth of these
hold ADDRESS PORT SECONDS             keep one TCP connection, ask ten times a second, print what comes
return HOST ADDRESS PORT              wait until HOST is silent, then until it answers a ping again, then until ADDRESS PORT serves; print the
                                      seconds between the last two
"""

from __future__ import annotations

import errno
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable

PATIENCE = 2.5  # seconds: a client whose first SYN was answered by an ICMP error only believes the second
MOST_FAILURES = 5
WORDS = {
    errno.ECONNREFUSED: "refused",
    errno.EPERM: "denied",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
}


class Stream(socketserver.StreamRequestHandler):
    """A line when the connection opens, and one for each line that comes."""

    def handle(self) -> None:
        line = answer(self.client_address)
        self.wfile.write(line)
        for _question in self.rfile:
            self.wfile.write(line)


class Datagram(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request[1].sendto(answer(self.client_address), self.client_address)


class Streams(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024


class Datagrams(socketserver.UDPServer):
    address_family = socket.AF_INET6


def answer(peer: tuple[str, int]) -> bytes:
    return f"{sys.argv[2]} {peer[0].replace('::ffff:', '')}\n".encode()


def serve(*ports: str) -> None:
    for port in map(int, ports):
        for server in (Streams(("::", port), Stream), Datagrams(("::", port), Datagram)):
            threading.Thread(target=server.serve_forever).start()


def opened(protocol: str, address: str, port: str, patience: float = PATIENCE) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM)
    made.settimeout(patience)
    made.connect((address, int(port)))
    return made


def ask(protocol: str, address: str, port: str, count: str) -> None:
    failures = 0
    for _attempt in range(int(count)):
        word = asked(protocol, address, port)
        print(word)
        failures += " " not in word
        if failures == MOST_FAILURES:
            return


def asked(protocol: str, address: str, port: str, patience: float = PATIENCE) -> str:
    try:
        with opened(protocol, address, port, patience) as connection:
            if protocol == "udp":
                connection.send(b"?\n")
            return connection.recv(200).decode().strip() or "closed"
    except socket.timeout:
        return "timeout"
    except OSError as error:
        return WORDS.get(error.errno or 0) or str(error).replace(" ", "-")


def hold(address: str, port: str, seconds: str) -> None:
    with opened("tcp", address, port) as connection:
        for _question in range(int(seconds) * 10):
            print(connection.recv(200).decode().strip() or "closed", flush=True)
            connection.send(b"?\n")
            time.sleep(0.1)


def wait_for_return(host: str, address: str, port: str) -> None:
    while pinged(host):
        time.sleep(0.1)
    while not pinged(host):
        pass
    answered = time.monotonic()
    while " " not in asked("tcp", address, port, 1.0):
        time.sleep(0.05)
    print(f"{time.monotonic() - answered:.2f}")


def pinged(host: str) -> bool:
    return not subprocess.run(["ping", "-c1", "-W0.3", host], stdout=subprocess.DEVNULL, check=False).returncode


if __name__ == "__main__":
    ACTIONS: dict[str, Callable[..., None]] = {
        "serve": lambda _name, *ports: serve(*ports),
        "ask": ask,
        "hold": hold,
        "return": wait_for_return,
    }
    ACTIONS[sys.argv[1]](*sys.argv[2:])
