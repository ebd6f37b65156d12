# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A node of `network.Network` with the checker, and backends that are processes, each with a port for clients and one for checks.

What a backend answers to checks is said in a file, so that it can be changed at any time.
"""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable

from network import ADDRESSES, IPV4, IPV6, LOCAL_CIDRS, Network

from ansible_collections.layer4.service_proxy.plugins.module_utils._model.payload import pack
from ansible_collections.layer4.service_proxy.plugins.module_utils._node import boot_generations
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.settings import DEFAULTS
from module_runner import MANAGED_HOST_PYTHON, library_path, run_module

PATIENCE = 30.0
"""Seconds for what takes three on an idle machine."""

CHECKER = """
import signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from ansible_collections.layer4.service_proxy.plugins.module_utils._checker.daemon import Checker
from ansible_collections.layer4.service_proxy.plugins.module_utils._checker.services import Services
checker = Checker(Services(Path(sys.argv[2])))
def stop(*dummy):
    checker.is_stopping = True
signal.signal(signal.SIGTERM, stop)
checker.run()
"""

_BACKEND = """
import os, socket, socketserver, ssl, struct, sys, threading, time
from pathlib import Path

name, directory, *kinds = sys.argv[1:]

class Client(socketserver.StreamRequestHandler):
    def handle(self):
        line = f"{name} {self.client_address[0]} {self.client_address[1]}\\n".encode()
        self.wfile.write(line)
        for _line in self.rfile:
            self.wfile.write(line)

class Check(socketserver.StreamRequestHandler):
    def setup(self):
        if self.server.kind == "tls":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(Path(directory) / "certificate")
            self.request = context.wrap_socket(self.request, server_side=True)
        super().setup()

    def handle(self):
        try:
            self.answer((Path(directory) / f"{name}-{self.server.kind}").read_text())
        except OSError:
            pass

    def answer(self, mode):
        if mode == "reset":
            self.request.setsockopt(1, 13, struct.pack("ii", 1, 0))
            os.close(self.request.detach())
            return
        if mode == "silent":
            time.sleep(60)
        if mode == "drip":
            for byte in b"HTTP/1.1 200 OK" * 9:
                self.wfile.write(bytes([byte]))
                time.sleep(0.2)
        while mode == "endless":
            self.wfile.write(b"HTTP/1.1 " * 9999)
        if mode == "garbage":
            self.wfile.write(bytes(range(256)) * 99)
            return
        self.rfile.readline()
        self.wfile.write(f"HTTP/1.1 {mode} So\\r\\nLocation: /\\r\\n\\r\\n".encode())

class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads, request_queue_size = True, True, 128

    def handle_error(self, *dummy):
        # Clients reset their connections. Nobody reads standard error: threads would wait to write there.
        pass

for one in kinds:
    kind, port, address = one.split(":", 2)
    Server.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for handler, number in ((Client, int(port)), (Check, int(port) + 1000)):
        server = Server((address, number), handler)
        server.kind = kind
        threading.Thread(target=server.serve_forever, daemon=True).start()
print("serving", flush=True)
threading.Event().wait()
"""


def family_of(kind: str) -> str:
    """The address family of a kind of failure: that of one is IPv6."""
    return IPV6 if kind == "ipv6" else IPV4


def wait_for(told: Callable[[], Any]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE
    while not told():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.05)


class Backends:
    """Backend processes, by the host on which they are. kinds: ports for clients, by name."""

    def __init__(self, network: Network, directory: Path, kinds: Mapping[str, int]) -> None:
        self._network, self._directory, self._kinds = network, directory, kinds
        self._processes: dict[tuple[str, str], subprocess.Popen[str]] = {}
        if "tls" in kinds:
            certificate = str(directory / "certificate")
            made = ("openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "1", "-subj", "/CN=nobody")
            subprocess.run(
                [*made, "-keyout", certificate, "-out", f"{certificate}.crt"], check=True, capture_output=True
            )
            with open(certificate, "a") as file:
                file.write(Path(f"{certificate}.crt").read_text())

    def start(self, host: str, *kinds: str) -> None:
        """Serve these kinds in one process, which is known by the first."""
        for kind in kinds:
            self.answer(host, kind, "200")
        served = [f"{kind}:{self._kinds[kind]}:{ADDRESSES[host][family_of(kind)]}" for kind in kinds]
        argv = (MANAGED_HOST_PYTHON, "-c", _BACKEND, host, str(self._directory), *served)
        process = self._network.hosts[host].start(*argv)
        assert process.stdout
        assert process.stdout.readline() == "serving\n"
        self._processes[host, kinds[0]] = process

    def answer(self, host: str, kind: str, mode: str) -> None:
        """Have checks of a kind answered so."""
        path = self._directory / f"{host}-{kind}"
        path.with_suffix(".new").write_text(mode)
        path.with_suffix(".new").rename(path)

    def signal(self, host: str, kind: str, number: signal.Signals) -> None:
        """Send a signal to the process that is known by a kind."""
        process = self._processes[host, kind]
        process.send_signal(number)
        if number == signal.SIGKILL:
            process.wait()

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()


class Checked:
    """The checker on node1, for services that it is given as `site.yml` gives them."""

    def __init__(self, network: Network, directory: Path) -> None:
        self.network = network
        self.lines: list[str] = []
        """What it has said."""
        self.directory = directory
        self._number = 0
        self._process: subprocess.Popen[str] | None = None

    def give(self, services: Sequence[Mapping[str, Any]]) -> None:
        """Leave on the node what it was asked for."""
        self._number += 1
        own = {"name": "node1", "local_cidrs": LOCAL_CIDRS, **self.network.node}
        settings = {**DEFAULTS, **own, "dataplane": self.network.dataplane}
        asked = {"settings": settings, "services": pack(list(services))._asdict(), "drained": []}
        boot_generations.store(self.directory, self._number, {}, {"services": ""}, {"services": asked})

    def start(self) -> None:
        self._process = self.network.hosts["node1"].start(
            MANAGED_HOST_PYTHON, "-c", CHECKER, library_path(), str(self.directory)
        )
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        self.lines.extend(line.rstrip("\n") for line in process.stdout)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it by a signal; its exit code."""
        if not self._process:
            return 0
        self._process.send_signal(number)
        code, self._process = self._process.wait(20), None
        return code

    def told(self, what: str) -> set[str]:
        """The services of which it has said that a backend is ``out of`` them, or ``back in``."""
        named = [line.partition(f" is {what} ")[2].partition(": ")[0] for line in list(self.lines)]
        return {name for names in named for name in names.split(", ") if name}

    @property
    def descriptors(self) -> int:
        """How many files and sockets it has open."""
        assert self._process
        return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))

    def failed(self) -> list[str]:
        """What `service_proxy_info` tells of checks that have failed: address, port and reason."""
        found = run_module(self.network.hosts["node1"], "service_proxy_info", {"dataplane": []})
        return [str(line) for line in found["unhealthy"]]
