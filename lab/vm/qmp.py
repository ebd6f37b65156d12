# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""QEMU's own control channel (QMP): one command at a time, over the socket in a machine's directory."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

SOCKET = "qmp"


class QmpError(Exception):
    """QEMU refused a command, or went away."""


class Qmp:
    """A connection, for the length of a block; OSError from the constructor while there is no QEMU that listens."""

    def __init__(self, directory: Path, timeout: float = 30.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        self._lines = self._socket.makefile("r")
        try:
            _connect(self._socket, directory)
            self._read()
            self.command("qmp_capabilities")
        except BaseException:
            self._close()
            raise

    def command(self, name: str, **arguments: Any) -> Any:
        """Execute a command and return what it returns; events that come in between are dropped."""
        message = json.dumps({"execute": name, "arguments": arguments}) + "\n"
        try:
            self._socket.sendall(message.encode())
            answer = self._read()
            while "event" in answer:
                answer = self._read()
        except OSError as error:
            raise QmpError(f"{name}: {error}") from error
        if "error" in answer:
            raise QmpError(f"{name}: {answer['error']['desc']}")
        return answer["return"]

    def wait(self, command: str, wanted: str, seconds: float) -> None:
        """Ask again until the answer's status is `wanted`; QmpError if it is "failed", or after so many seconds."""
        give_up = time.monotonic() + seconds
        while (answer := self.command(command)).get("status") != wanted:
            if answer.get("status") == "failed" or time.monotonic() > give_up:
                raise QmpError(f"{command}: {answer}, not {wanted}")
            time.sleep(0.02)

    def forwarded_port(self) -> int:
        """The port of this machine that leads to SSH; the kernel chose it when none was asked for."""
        for line in str(self.command("human-monitor-command", **{"command-line": "info usernet"})).splitlines():
            words = line.split()
            if words[:1] == ["TCP[HOST_FORWARD]"]:
                return int(words[3])
        raise QmpError("no forwarded port")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._lines.close()
        self._socket.close()

    def _read(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise QmpError("QEMU has gone")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _connect(stream: socket.socket, directory: Path) -> None:
    """By way of a descriptor: a socket's path may have 107 characters, a checkout's may have more."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        stream.connect(f"/proc/self/fd/{descriptor}/{SOCKET}")
    finally:
        os.close(descriptor)
