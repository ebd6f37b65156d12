# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The services of a node whose backends are checked, as the node was last given them, and how a flip comes into the kernel."""

from __future__ import annotations

import gc
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from .._dataplane.host import LocalHost
from .._dataplane.run import RunError, plan_run
from .._dataplane.service_run import node_of
from .._health.checks import Out, Probe, probes, without_failed
from .._kernel.files import FileError, write_file
from .._kernel.link import LinkError
from .._kernel.run_lock import LockTimeout, exclusive_run
from .._model.request import Request
from .._model.service import InvalidServices, Node, parse_node, parse_services
from .._node import boot_generations
from .._node.announce import RECORD
from .._node.announcing import without_held
from .._node.asked import effective_services
from .._node.boot_facilities import Host
from .._node.boot_units import FLIPPED
from .._node.change import NodeError
from .._node.given import last_given
from .._node.settings import Settings

ERRORS = (FileError, InvalidServices, LinkError, LockTimeout, NodeError, RunError, ValueError)
"""What reading or changing the node raises; each text is told to people."""


class Services:
    """Those of the node that ask for checks. Empty before the first `load`."""

    def __init__(self, directory: Path = boot_generations.DIRECTORY) -> None:
        self._directory = directory
        self._node: Node = parse_node({"name": "none"})
        self._dataplane = ""
        self._raw: dict[str, Any] = {}
        self._users: dict[Probe, list[str]] = {}
        self.stamp: Any = None
        """What `current_stamp` returned before it was loaded."""

    @property
    def probes(self) -> Collection[Probe]:
        """All checks that they ask for."""
        return self._users.keys()

    def current_stamp(self) -> Any:
        """Return a value that is another one as soon as the node is given something else."""
        try:
            return os.readlink(self._directory / "current")
        except OSError:
            return None

    def load(self) -> None:
        """Take over what the node was last given. Raises one of `ERRORS`."""
        stamp = self.current_stamp()
        generation = boot_generations.current(self._directory)
        asked = generation.asked() if generation else {}
        given = last_given(asked)
        settings = Settings(given.settings if given else {})
        raw = [one for one in effective_services(asked) if one.get("health_check") is not None] if given else []
        node = self._node
        if given:
            node = node_of(Host(), settings.node)
            if settings.addresses is None:
                node = node._replace(addresses=without_held(node.addresses))
        users: dict[Probe, list[str]] = {}
        for service in parse_services(raw, node):
            for probe in probes([service]):
                users.setdefault(probe, []).append(service.name)
        self._node, self._dataplane = node, settings.dataplane or ""
        self._raw, self._users = {one["name"]: one for one in raw}, users
        self.stamp = stamp

    def users(self, found: Collection[Probe]) -> list[str]:
        """Return the names of services that have one of these checks."""
        return sorted({name for probe in found for name in self._users.get(probe, ())})

    def out(self, names: Collection[str], failed: Mapping[Probe, str]) -> list[Out]:
        """Return the backends of these services that are out."""
        return without_failed([self._raw[name] for name in names], failed, self._node)[1]

    def converge(self, names: Collection[str], failed: Mapping[Probe, str]) -> bool:
        """Bring into the kernel what checks have found of these services, and have what is announced follow; False where another
        run is under way, or has changed what the node is given. Raises one of `ERRORS`.
        """
        gc.disable()  # hundreds of thousands of values that are no cycles: half of the time otherwise
        try:
            with exclusive_run(0):
                if self.current_stamp() != self.stamp:
                    return False
                services = without_failed([self._raw[name] for name in names], failed, self._node)[0]
                run = plan_run(Request("present", services, False, self._dataplane), self._node, LocalHost(Host()))
                run.apply()
                run.clean_up()
                if os.path.exists(RECORD):
                    write_file(Path(FLIPPED), "")
                return True
        except LockTimeout:
            return False
        finally:
            gc.enable()


def stamp_of(path: Path) -> Any:
    """Return a value that is another one as soon as a file is another one; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
