# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The developers' machine: one that is left standing, for commands by hand."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

from .command import Hardware
from .image import Image
from .machine import Machine, Snapshot, arrive, end, forwarded_port, launch
from .qmp import Qmp, QmpError
from .ssh import Ssh
from .store import RUNNING, STORE, locked, occupied

NAME = "standing"
DIRECTORY = RUNNING / NAME
RECORD = "machine.json"


def standing() -> Machine | None:
    """The machine that stands, if there is one."""
    with suppress(OSError, QmpError), Qmp(DIRECTORY):
        record = json.loads((DIRECTORY / RECORD).read_text())
        return Machine(NAME, DIRECTORY, Ssh(Image(Path(record["image"])), record["port"]))
    return None


def put_up(image: Image, hardware: Hardware, snapshot: Snapshot) -> Machine:
    """The machine that stands; where there is none, one that goes on from a snapshot and stays when this process ends."""
    with locked(STORE / "standing.lock"):
        return standing() or _put_up(image, hardware, snapshot)


def _put_up(image: Image, hardware: Hardware, snapshot: Snapshot) -> Machine:
    directory, lock = occupied(NAME)
    process = launch(directory, image, hardware, snapshot, inherited=(lock,))
    try:
        made = Machine(NAME, directory, Ssh(image, forwarded_port(directory, process)))
        arrive(made, snapshot)
        (directory / RECORD).write_text(json.dumps({"image": str(image.directory), "port": made.ssh.port}))
    except BaseException:
        end(directory, process)
        shutil.rmtree(directory)
        raise
    finally:
        os.close(lock)
    return made


def take_down() -> bool:
    """End the machine that stands; False if there was none."""
    stood = standing() is not None
    end(DIRECTORY)
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    return stood
