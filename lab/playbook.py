# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Running the checkout's site.yml on a lab, with this Python's ansible-core."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .build import CHECKOUT

SITE = CHECKOUT / "playbooks" / "site.yml"
USUAL_COLLECTIONS = "~/.ansible/collections:/usr/share/ansible/collections"
SETTINGS = {
    "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
    "ANSIBLE_DISPLAY_OK_HOSTS": "0",
    "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "0",
    "ANSIBLE_PIPELINING": "1",
}
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
RECAP = re.compile(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)\s", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """A playbook that has run: its exit code and what it printed, without colours."""

    code: int
    output: str

    @property
    def changed(self) -> dict[str, int]:
        """Tasks that changed something, by host."""
        return {host: int(count) for host, count in RECAP.findall(self.output)}

    @property
    def diff(self) -> Counter[str]:
        """The lines that the shown differences add and take away."""
        return Counter(line for line in self.output.splitlines() if re.match(r"[+-](?!\+\+ |-- )", line))


@contextmanager
def collections_path() -> Iterator[str]:
    """A search path in which this checkout is the collection, before any installed copy."""
    with tempfile.TemporaryDirectory(prefix="layer4-collections-") as directory:
        namespace = Path(directory, "ansible_collections", "layer4")
        namespace.mkdir(parents=True)
        namespace.joinpath("service_proxy").symlink_to(CHECKOUT)
        yield os.pathsep.join([directory, os.environ.get("ANSIBLE_COLLECTIONS_PATH", USUAL_COLLECTIONS)])


def play(inventory: Path, *arguments: str, colour: bool = False, shown: bool = True) -> Run:
    """Run site.yml on the inventory; what changes or fails is printed as it comes, unless `shown` is false."""
    settings = {**SETTINGS, "ANSIBLE_FORCE_COLOR" if colour else "ANSIBLE_NOCOLOR": "1"}
    command = [sys.executable, "-m", "ansible", "playbook", "-i", str(inventory), str(SITE), *arguments]
    with collections_path() as path:
        environment = {**os.environ, **settings, "ANSIBLE_COLLECTIONS_PATH": path}
        with subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, text=True) as process:
            try:
                output = "".join(_lines(process.stdout, shown))
            except BaseException:
                process.terminate()
                raise
    return Run(process.returncode, output)


def _lines(stream: IO[str] | None, shown: bool) -> Iterator[str]:
    """What comes, without colours, and printed with them."""
    for line in _readable(stream or ()):
        if shown:
            print(line, end="", flush=True)
        yield COLOUR.sub("", line)


def _readable(lines: Iterable[str]) -> Iterator[str]:
    """Leave out which files were included, and headings of tasks under which nothing stands."""
    held: list[str] = []
    for line in lines:
        plain = COLOUR.sub("", line)
        if plain.startswith("included: "):
            continue
        if plain.startswith("TASK ["):
            held = ["\n", line]
        elif plain == "\n":
            held.append(line)
        else:
            yield from ["\n"] if plain.startswith("PLAY ") else held
            yield line
            held = []
