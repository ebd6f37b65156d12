# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What checks have found: counters of each check, and the text of those that have failed. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from .._model import addresses as ip
from .checks import Out, Probe

_VERSION = 1


class DamagedState(ValueError):
    """A text that is no state of ours."""


class Health:
    """What is known of each check. Nothing known is healthy."""

    def __init__(self, failed: Mapping[Probe, str] | None = None) -> None:
        self.failed: dict[Probe, str] = dict(failed or {})
        """Why each one is out."""
        self._against: dict[Probe, int] = {}
        """How many results in a row contradict what is held of a check."""

    def record(self, probe: Probe, error: str | None) -> bool:
        """Take one result, its error or None; whether the backend is out or back by it."""
        is_out = probe in self.failed
        if (error is not None) == is_out:
            self._against.pop(probe, None)
            return False
        count = self._against.get(probe, 0) + 1
        if count < (probe.rise if is_out else probe.fall):
            self._against[probe] = count
            return False
        self._against.pop(probe, None)
        if error is None:
            del self.failed[probe]
        else:
            self.failed[probe] = error
        return True

    def keep(self, probes: Collection[Probe]) -> None:
        """Forget all other checks. A check that has changed is another one, and so begins anew."""
        wanted = set(probes)
        self.failed = {probe: error for probe, error in self.failed.items() if probe in wanted}
        self._against = {probe: count for probe, count in self._against.items() if probe in wanted}


def out_line(out: Out, reason: str) -> str:
    """Return a line for people about a backend that is out."""
    backend, probe = out.backend, out.probe
    elsewhere = "" if probe.port == backend.port else f" to port {probe.port}"
    return (
        f"{out.service}: {ip.endpoint(backend.address, backend.port)} is out: {probe.type} check{elsewhere}: {reason}"
    )


def failed_lines(failed: Mapping[Probe, str]) -> list[str]:
    """Return a line for people about each check that has failed."""
    return [f"{probe}: {failed[probe]}" for probe in sorted(failed)]


def text_of(failed: Mapping[Probe, str]) -> str:
    """Return the text of a state: equal states have one text."""
    return (
        json.dumps({"version": _VERSION, "failed": sorted([*probe, error] for probe, error in failed.items())}) + "\n"
    )


def parse(text: str) -> dict[Probe, str]:
    """Raises DamagedState."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedState("it is no JSON") from error
    if (
        not isinstance(content, dict)
        or content.get("version") != _VERSION
        or not isinstance(content.get("failed"), list)
    ):
        raise DamagedState("it is of another version")
    return dict(map(_entry, content["failed"]))


_TYPES = (str, int, str, str, list, int, int, int, int, str)


def _entry(item: Any) -> tuple[Probe, str]:
    if not isinstance(item, list) or [type(value) for value in item] != list(_TYPES):
        raise DamagedState("an entry is damaged")
    *first, status, interval, timeout, rise, fall, error = item
    if not all(isinstance(pair, list) and [type(one) for one in pair] == [int, int] for pair in status):
        raise DamagedState("an entry is damaged")
    address, port, kind, path = first
    return Probe(address, port, kind, path, tuple(map(tuple, status)), interval, timeout, rise, fall), error
