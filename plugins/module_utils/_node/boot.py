# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run leaves on a node for its next boot: a generation, the units that restore it, and the node's program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple

from .._dataplane.health_record import forget_failed
from .._kernel.files import FileError, read_file, write_file
from .._kernel.process import Runner
from .._objects.boot import BootState
from . import boot_generations as generations
from .asked import asks_for_checks
from .boot_files import AFTER_NETWORK, PARTS, render
from .boot_generations import BootError, Generation
from .boot_program import build
from .boot_restore import standing
from .boot_units import KNOWN, PROGRAM, wanted_units
from .change import Change, lines
from .units import has_systemd, plan_units

_NOT_RESTORED = "not restored"
_PROGRAM_MODE = 0o755
_SHOWN = 12
"""Characters of a digest in a diff."""


class Part(NamedTuple):
    """What a run has set on the node for one of `PARTS`."""

    state: Callable[[], BootState]
    """Called only where the files are not known to be what it would give."""
    digest: str
    """Of all that the state depends on; empty where it is not known."""
    asked: Mapping[str, Any]
    """JSON: what the run was given."""


class Settings(NamedTuple):
    """Of the node."""

    restore: bool
    """Whether services come back at boot (``service_proxy_save_rules``)."""
    reapply: bool
    """Whether they come back when somebody flushes them (``service_proxy_reapply``)."""


class Paths(NamedTuple):
    """Where it is kept."""

    directory: Path = generations.DIRECTORY
    """Of the generations."""
    program: Path = Path(PROGRAM)


class Kept(NamedTuple):
    """What is there from earlier runs."""

    paths: Paths
    generation: Generation | None
    asked: Mapping[str, Any]
    """By part, what the current generation was asked for."""
    problems: Sequence[str]
    """Of what is kept, one line each."""
    broken: frozenset[str]
    """The files of the current generation that are not as they were written."""
    newest: int
    """The highest number of a generation, 0 where there is none."""
    program: bytes
    """What the node's program is to be."""


class _Wanted(NamedTuple):
    """The generation that is to be current; without parts nothing is to be kept."""

    files: Mapping[str, bytes | Path]
    """By name: content, or a file of the current generation."""
    made_of: Mapping[str, str]
    """By part."""
    asked: Mapping[str, Any]
    """By part."""


def observe(paths: Paths = Paths()) -> Kept:  # noqa: B008 - immutable
    """Read what is kept. What is damaged is as if it were not there, and named in ``problems``. Raises BootError."""
    newest = max(generations.numbers(paths.directory), default=0)
    problems: list[str] = []
    found = _generation(paths.directory, newest, problems)
    broken = found.broken() if found else {}
    problems += broken.values()
    asked: Mapping[str, Any] = {}
    try:
        asked = found.asked() if found else {}
    except BootError as error:
        problems.append(str(error))
    return Kept(paths, found, asked, problems, frozenset(broken), newest, build())


def _generation(directory: Path, newest: int, problems: list[str]) -> Generation | None:
    """The current one, or else the newest."""
    try:
        return generations.current(directory)
    except BootError as error:
        problems.append(str(error))
    try:
        return generations.load(directory, newest) if newest else None
    except BootError as error:
        problems.append(str(error))
        return None


def asked_of(number: int, directory: Path = generations.DIRECTORY) -> dict[str, Any]:
    """Return what a kept generation was asked for, by part. Raises BootError, which names those that are kept."""
    return generations.asked_of(directory, number)


def plan_boot(parts: Mapping[str, Part | None], settings: Settings, kept: Kept, runner: Runner) -> list[Change]:
    """Compare what a run has set with what is kept; the changes in the order in which they are made. Raises BootError.

    parts: those that the run is about, None for one that goes; others stay as they are kept.
    """
    files: dict[str, bytes | Path] = {}
    made_of: dict[str, str] = {}
    for name in PARTS:
        content = _files(name, parts, settings, kept)
        if content is not None:
            made_of[name], of_part = content
            files.update({f"{name}.{facility}": one for facility, one in of_part.items()})
    asked = {
        name: dict(one.asked) if one else kept.asked.get(name, {}) for name in made_of for one in [parts.get(name)]
    }
    wanted = _Wanted(files, made_of, asked)
    return [
        program_change(kept, bool(made_of)),
        _generation_change(kept, wanted),
        _units_change(wanted, settings, runner),
    ]


def without_systemd(changes: Sequence[Change]) -> str | None:
    """Return the warning for a host on which nothing restores what these changes keep, None for any other."""
    if has_systemd() or not any(one.changed for one in changes):
        return None
    return (
        f"what restores the services at boot is kept in {generations.DIRECTORY}, but without systemd nothing calls it"
    )


def _files(
    name: str, parts: Mapping[str, Part | None], settings: Settings, kept: Kept
) -> tuple[str, Mapping[str, bytes | Path]] | None:
    """What a part is made of, and its files by facility; None for one that is not there."""
    held = kept.generation.parts.get(name) if kept.generation else None
    sound = _sound_files(name, kept)
    is_sound = held is not None and sound.keys() == held.files.keys()
    if name not in parts:
        return (held.made_of if is_sound else "", sound) if held else None
    part = parts[name]
    if part is None:
        return None
    if not settings.restore:
        return _NOT_RESTORED, {}
    if held and is_sound and part.digest and held.made_of == part.digest:
        return part.digest, sound
    return part.digest, render(part.state())


def _sound_files(name: str, kept: Kept) -> dict[str, bytes | Path]:
    """Those of a part's files that are as they were written."""
    if not kept.generation or name not in kept.generation.parts:
        return {}
    files = {facility: f"{name}.{facility}" for facility in kept.generation.parts[name].files}
    return {facility: kept.generation.directory / one for facility, one in files.items() if one not in kept.broken}


def _generation_change(kept: Kept, wanted: _Wanted) -> Change:
    """The next generation. Its lines tell which files differ, not what is in them: that is in the diff of the facilities."""
    held = {f"{part}.{facility}": one for part, facility, one in _held_files(kept)}
    digests = {name: _digest(name, content, held) for name, content in wanted.files.items()}
    before = _file_lines(held) | {f"asked of {part} {_short(one)}" for part, one in kept.asked.items()}
    after = _file_lines(digests) | {f"asked of {part} {_short(one)}" for part, one in wanted.asked.items()}
    made = {name: one.made_of for name, one in kept.generation.parts.items()} if kept.generation else {}
    if before == after and made == wanted.made_of and not kept.problems:
        return Change("boot")
    current = [f"generation {kept.generation.number}"] if kept.generation else []
    following = [f"generation {kept.newest + 1}"] if wanted.made_of else []
    return Change(
        "boot",
        lines([*current, *sorted(before - after), *kept.problems]),
        lines([*following, *sorted(after - before)]),
        lambda: _store(kept, wanted),
    )


def _store(kept: Kept, wanted: _Wanted) -> None:
    directory = kept.paths.directory
    if wanted.made_of:
        generations.store(directory, kept.newest + 1, wanted.files, wanted.made_of, wanted.asked)
    else:
        generations.remove(directory)


def _held_files(kept: Kept) -> list[tuple[str, str, str]]:
    parts = kept.generation.parts if kept.generation else {}
    return [(part, facility, one) for part, index in parts.items() for facility, one in index.files.items()]


def _digest(name: str, content: bytes | Path, held: Mapping[str, str]) -> str:
    return held[name] if isinstance(content, Path) else generations.digest(content)


def _file_lines(files: Mapping[str, str]) -> set[str]:
    return {f"{name} {one[:_SHOWN]}" for name, one in files.items()}


def _short(value: Any) -> str:
    return generations.digest(generations.json_text(value).encode())[:_SHOWN]


def program_change(kept: Kept, is_wanted: bool) -> Change:
    """Return what makes the node's program as wanted, or removes it."""
    path, wanted = kept.paths.program, kept.program if is_wanted else None
    try:
        held = read_file(path)
        before = _program_line(path, held, 0 if held is None else path.stat().st_mode & 0o7777)
    except (FileError, OSError) as error:
        before = [str(error)]
    after = _program_line(path, wanted, _PROGRAM_MODE)

    def apply() -> None:
        generations.remove(path)
        if wanted is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, wanted, _PROGRAM_MODE)

    return Change("program", lines(before), lines(after), apply) if before != after else Change("program")


def _program_line(path: Path, content: bytes | None, mode: int) -> list[str]:
    return [] if content is None else [f"{path} (mode {mode:04o}) {generations.digest(content)[:_SHOWN]}"]


def _units_change(wanted: _Wanted, settings: Settings, runner: Runner) -> Change:
    restore = bool(wanted.files) and settings.restore
    overlay = any(name.partition(".")[2] in AFTER_NETWORK for name in wanted.files)
    checks = asks_for_checks(wanted.asked)
    units = wanted_units(restore=restore, reapply=settings.reapply, overlay=overlay, checks=checks)
    change = plan_units("units", units, KNOWN, runner)

    def apply() -> None:
        with standing():
            change.apply()
        if not checks:
            forget_failed()

    return Change(change.name, change.before, change.after, apply)
