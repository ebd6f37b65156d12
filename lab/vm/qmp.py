# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""QEMU's own control channel (QMP), by the library qemu.qmp: one command at a time, over a machine's socket."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from qemu.qmp import QMPClient, QMPError

if TYPE_CHECKING:
    from typing_extensions import Self

Result = TypeVar("Result")

SOCKET = "qmp"


class QmpError(Exception):
    """QEMU refused a command, or went away."""


class Qmp:
    """A connection, for the length of a block; OSError from the constructor while there is no QEMU that listens."""

    def __init__(self, directory: Path, timeout: float = 30.0) -> None:
        self._timeout = timeout
        self._client = QMPClient()
        stream = _connected(directory)
        self._loop = asyncio.new_event_loop()
        try:
            self._run("connection", self._client.connect(stream))
        except BaseException:
            self._loop.close()
            stream.close()
            raise

    def command(self, name: str, **arguments: Any) -> Any:
        """Execute a command and return what it returns; events that come in between are dropped."""
        return self._run(name, self._client.execute(name, arguments))

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
        """Disconnect; what QEMU has to say to that, such as that it has gone, is of no interest."""
        try:
            self._run("disconnect", self._client.disconnect())
        except QmpError:
            pass
        finally:
            self._loop.close()

    def _run(self, name: str, coroutine: Coroutine[Any, Any, Result]) -> Result:
        try:
            return self._loop.run_until_complete(asyncio.wait_for(coroutine, self._timeout))
        except (QMPError, OSError, EOFError, asyncio.TimeoutError) as error:
            raise QmpError(f"{name}: {error}") from error


def _connected(directory: Path) -> socket.socket:
    """By way of a descriptor: a socket's path may have 107 characters, a checkout's may have more."""
    stream = socket.socket(socket.AF_UNIX)
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        stream.connect(f"/proc/self/fd/{descriptor}/{SOCKET}")
    except BaseException:
        stream.close()
        raise
    finally:
        os.close(descriptor)
    return stream
