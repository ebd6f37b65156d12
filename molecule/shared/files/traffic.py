# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Serve, ask, hold and stream: a backend that says who it is and whom it sees, and its clients.

serve NAME PORT...                    answer on these TCP and UDP ports with "NAME SOURCE_ADDRESS"
ask PROTOCOL ADDRESS PORT COUNT       print each answer on a line, or "refused", "timeout", "denied" or "unreachable"; give up at the fifth of these
hold ADDRESS PORT SECONDS             keep one TCP connection, ask ten times a second, print what comes
send ADDRESS PORT BYTES               send so many in one TCP connection, print how many have come back
stream ADDRESS PORT                   a new TCP connection each 10 ms until SIGTERM; print of each when it began, on the monotonic clock, and
                                      its answer, or a word as above
return HOST ADDRESS PORT              wait until HOST is silent, then until it answers a ping again, then until ADDRESS PORT serves; print the
                                      seconds between the last two
"""

from __future__ import annotations

import errno
import os
import selectors
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable

PATIENCE = 2.5  # seconds: a client whose first SYN was answered by an ICMP error only believes the second
MOST_FAILURES = 5
INTERVAL = 0.01  # seconds between two connections of a stream
LOST = 0.9  # seconds, less than until a client sends its first packet again
WORDS = {
    errno.ECONNREFUSED: "refused",
    errno.EPERM: "denied",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
}


class Stream(socketserver.StreamRequestHandler):
    """A line when the connection opens, and one for each line that comes, as long as that at least."""

    def handle(self) -> None:
        line = answer(self.client_address)
        self.wfile.write(line)
        for question in self.rfile:
            self.wfile.write(line[:-1].ljust(len(question) - 1) + b"\n")


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
        return word_of(error)


def hold(address: str, port: str, seconds: str) -> None:
    with opened("tcp", address, port) as connection:
        for _question in range(int(seconds) * 10):
            print(connection.recv(200).decode().strip() or "closed", flush=True)
            connection.send(b"?\n")
            time.sleep(0.1)


def send(address: str, port: str, count: str) -> None:
    with opened("tcp", address, port) as connection, connection.makefile("rb") as answers:
        answers.readline()
        connection.sendall(b"x" * (int(count) - 1) + b"\n")
        print(len(answers.readline()))


def stream(address: str, port: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    waiting = selectors.DefaultSelector()
    ending: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: ending.append(number))
    due = time.monotonic()
    while not ending or waiting.get_map():
        now = time.monotonic()
        if not ending and now >= due:
            begin(waiting, socket.socket(family), (address, int(port)))
            due = max(due + INTERVAL, now)
        for key, _events in waiting.select(max(min(due - now, INTERVAL), 0)):
            end(waiting, key)
        # An answer that was there when a busy machine let this process go on is none that is missing.
        for key in [key for key in waiting.get_map().values() if key.data[1] + LOST < now]:
            end(waiting, key, "timeout")


def begin(waiting: selectors.BaseSelector, made: socket.socket, target: tuple[str, int]) -> None:
    made.setblocking(False)
    key = waiting.register(made, selectors.EVENT_READ, (made, time.monotonic()))
    failure = made.connect_ex(target)
    if failure not in (0, errno.EINPROGRESS):
        end(waiting, key, word_of(OSError(failure, os.strerror(failure))))


def end(waiting: selectors.BaseSelector, key: selectors.SelectorKey, word: str = "") -> None:
    connection, began = key.data
    waiting.unregister(connection)
    with connection:
        try:
            word = word or connection.recv(200).decode().strip() or "closed"
        except OSError as error:
            word = word_of(error)
    print(f"{began:.3f} {word}", flush=True)


def word_of(error: OSError) -> str:
    return WORDS.get(error.errno or 0) or str(error).replace(" ", "-")


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
        "send": send,
        "stream": stream,
        "return": wait_for_return,
    }
    ACTIONS[sys.argv[1]](*sys.argv[2:])
