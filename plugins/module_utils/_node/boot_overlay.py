# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An overlay as a file: one item a line, as a list of JSON whose first is the kind of item. Runs without Ansible."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import get_type_hints

from .._kernel.overlay import Overlay, OverlayError
from .._kernel.sysctl import SysctlError
from .._objects.overlay import DEVICE, KINDS, Item
from .._plan.overlay import plan
from .boot_generations import BootError

_KINDS = {kind.__name__: kind for kind in KINDS}


def encode(items: Sequence[Item]) -> bytes:
    """Return the content of the file."""
    return "".join(json.dumps([type(one).__name__, *one]) + "\n" for one in items).encode("utf-8", "surrogateescape")


def decode(content: bytes) -> list[Item]:
    """Return the items of a file. Raises BootError for what `encode` has not made."""
    try:
        rows = [json.loads(line) for line in content.decode("utf-8", "surrogateescape").split("\n") if line]
        found = [_KINDS[kind](*fields) for kind, *fields in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise BootError("it is no list of what makes an overlay") from error
    if not all(_has_right_types(one) for one in found):
        raise BootError("it is no list of what makes an overlay")
    return found


def _has_right_types(item: Item) -> bool:
    """Whether each field is of the type that it is annotated with, which are texts, numbers and truth values."""
    return [type(one) for one in item] == list(get_type_hints(type(item)).values())


def restore(content: bytes) -> None:
    """Make the overlay what the file says, each item for itself. Raises BootError, which names what has failed first."""
    failed: Exception | None = None
    with Overlay() as kernel:
        device = kernel.device()
        if device and not device.tunnel:
            raise BootError(f"device {DEVICE} is of kind {device.kind or 'physical'}, not ours")
        for change in plan(decode(content), kernel.held()):
            try:
                kernel.change(*change)
            except (OverlayError, SysctlError) as error:
                failed = failed or error
    if failed:
        raise BootError(str(failed)) from failed


def stands(content: bytes) -> bool:
    """Return whether the kernel holds all that the file says. Raises BootError and OverlayError."""
    with Overlay() as kernel:
        held = set(kernel.held())
    return held.issuperset(decode(content))
