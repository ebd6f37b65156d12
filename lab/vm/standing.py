# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Machines that are left standing, by name: the developers' one, for commands by hand, and those of `standing_bed`."""

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
RECORD = "machine.json"


def directory_of(name: str) -> Path:
    return RUNNING / name


def standing(name: str = NAME) -> Machine | None:
    """The machine that stands under this name, if there is one."""
    directory = directory_of(name)
    with suppress(OSError, QmpError), Qmp(directory):
        record = json.loads((directory / RECORD).read_text())
        return Machine(name, directory, Ssh(Image(Path(record["image"])), record["port"]))
    return None


def put_up(image: Image, hardware: Hardware, snapshot: Snapshot, name: str = NAME, lan: int | None = None) -> Machine:
    """The machine that stands; where there is none, one that goes on from a snapshot and stays when this process ends.

    lan: descriptor of a tap device for eth1.
    """
    with locked(STORE / "standing.lock"):
        return standing(name) or _put_up(image, hardware, snapshot, name, lan)


def _put_up(image: Image, hardware: Hardware, snapshot: Snapshot, name: str, lan: int | None) -> Machine:
    directory, lock = occupied(name)
    process = launch(directory, image, hardware, snapshot, lan=lan, inherited=(lock,))
    try:
        made = Machine(name, directory, Ssh(image, forwarded_port(directory, process)))
        arrive(made, snapshot)
        (directory / RECORD).write_text(json.dumps({"image": str(image.directory), "port": made.ssh.port}))
    except BaseException:
        end(directory, process)
        shutil.rmtree(directory)
        raise
    finally:
        os.close(lock)
    return made


def take_down(name: str = NAME) -> bool:
    """End the machine that stands; False if there was none."""
    stood = standing(name) is not None
    end(directory_of(name))
    shutil.rmtree(directory_of(name), ignore_errors=True)
    return stood
