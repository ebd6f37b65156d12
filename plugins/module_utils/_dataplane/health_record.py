# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The file in which the checker leaves what checks have found, until the next boot. All runs reckon with it.

Unlike the caches of dataplanes it is no shortcut: one that is damaged is an error, since nobody knows which backends are out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .._health.checks import Probe
from .._health.state import DamagedState, parse, text_of
from .._kernel.files import RUN_DIRECTORY, FileError, ensure_directory, read_file, remove_file, write_file
from .._kernel.rules_state import namespace_name


def path() -> Path:
    """Return where it is for this network namespace. Kernels before 5.14 do not tell namespaces apart."""
    try:
        return RUN_DIRECTORY / f"{namespace_name()}-health"
    except OSError:
        return RUN_DIRECTORY / "health"


def read_failed() -> dict[Probe, str]:
    """Return the checks that have failed, each with its reason; none where there is no file. Raises FileError."""
    file = path()
    content = read_file(file)
    if content is None:
        return {}
    try:
        return parse(content.decode())
    except (DamagedState, UnicodeDecodeError) as error:
        raise FileError(
            f"{file}, what health checks have found, is damaged ({error}): remove it to use all backends again"
        ) from error


def write_failed(failed: Mapping[Probe, str]) -> None:
    """Leave these in its place. Raises FileError."""
    if not failed:
        forget_failed()
        return
    ensure_directory(RUN_DIRECTORY)
    write_file(path(), text_of(failed))


def forget_failed() -> bool:
    """Leave nothing; whether there was anything. Raises FileError."""
    return remove_file(path())
