# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run leaves on a node for its next boot: a generation, the units that restore it, and the node's program."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, NamedTuple

from .._kernel.files import FileError, ensure_directory, read_file, remove_file, write_file
from .._objects.boot import BootState
from . import boot_generations as generations
from .boot_files import PARTS, render
from .boot_generations import BootError, Generation
from .boot_program import build
from .boot_restore import standing
from .boot_units import PROGRAM, TIMER, UNIT, File, Link, Wanted, wanted_files, wanted_units
from .systemd import Systemd

__all__ = ("BootError", "Change", "Kept", "Part", "Settings", "asked_of", "observe", "plan_boot")

_NOT_RESTORED = "not restored"
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


class Kept(NamedTuple):
    """What is there from earlier runs."""

    root: Path
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
    systemd: Systemd | None
    """None on a host that systemd does not run."""

    @property
    def directory(self) -> Path:
        return _below(self.root, str(generations.DIRECTORY))


@dataclass
class Change:
    """What a run changes of it. before, after: lines for people."""

    kept: Kept
    files: Mapping[str, bytes | Path] = field(default_factory=dict)
    made_of: Mapping[str, str] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)
    before: str = ""
    after: str = ""
    stores: bool = False
    paths: Mapping[str, Wanted] = field(default_factory=dict)
    start: Sequence[str] = ()
    stop: Sequence[str] = ()
    warnings: Sequence[str] = ()
    name: str = "boot"

    @property
    def changed(self) -> bool:
        return bool(self.stores or self.paths or self.start or self.stop)

    def apply(self) -> None:
        """Write all in an order that leaves a node restorable whenever it ends. Raises BootError."""
        kept = self.kept
        if self.stores and self.made_of:
            generations.store(kept.directory, kept.newest + 1, self.files, self.made_of, self.asked)
        try:
            self._apply_paths()
        except FileError as error:
            raise BootError(str(error)) from error
        if self.stores and not self.made_of:
            generations.remove(kept.directory)

    def _apply_paths(self) -> None:
        systemd = self.kept.systemd
        if systemd and self.stop:
            systemd.run("stop", self.stop)
        for path, wanted in self.paths.items():
            _put(_below(self.kept.root, path), wanted)
        if systemd and any(path != PROGRAM for path in self.paths):
            systemd.run("daemon-reload")
        if systemd and self.start:
            with standing():
                systemd.run("start", self.start)


def observe(root: Path = Path("/")) -> Kept:
    """Read what is kept. What is damaged is as if it were not there, and named in ``problems``."""
    directory = _below(root, str(generations.DIRECTORY))
    newest = max(generations.numbers(directory), default=0)
    problems: list[str] = []
    found = _generation(directory, newest, problems)
    broken = found.broken() if found else {}
    problems += broken.values()
    asked: Mapping[str, Any] = {}
    try:
        asked = found.asked() if found else {}
    except BootError as error:
        problems.append(str(error))
    return Kept(root, found, asked, problems, frozenset(broken), newest, build(), Systemd.of_host(root))


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


def asked_of(number: int, root: Path = Path("/")) -> dict[str, Any]:
    """Return what a kept generation was asked for, by part. Raises BootError, which names those that are kept."""
    return generations.asked_of(_below(root, str(generations.DIRECTORY)), number)


def plan_boot(parts: Mapping[str, Part | None], settings: Settings, kept: Kept) -> Change:
    """Compare what a run has set with what is kept.

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
    change = Change(kept, files, made_of, asked)
    _compare_generation(change)
    _compare_paths(change, settings, kept.program if made_of else None)
    return change


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
    return part.digest, {facility: _encoded(text) for facility, text in render(part.state()).items()}


def _sound_files(name: str, kept: Kept) -> dict[str, bytes | Path]:
    """Those of a part's files that are as they were written."""
    if not kept.generation or name not in kept.generation.parts:
        return {}
    files = {facility: f"{name}.{facility}" for facility in kept.generation.parts[name].files}
    return {facility: kept.generation.directory / one for facility, one in files.items() if one not in kept.broken}


def _compare_generation(change: Change) -> None:
    kept = change.kept
    held = {f"{part}.{facility}": one for part, facility, one in _held_files(kept)}
    wanted = {name: _digest(name, content, held) for name, content in change.files.items()}
    lines = [_file_lines(held), _file_lines(wanted)]
    lines[0] |= {f"asked of {part} {_short(one)}" for part, one in kept.asked.items()}
    lines[1] |= {f"asked of {part} {_short(one)}" for part, one in change.asked.items()}
    made = {name: one.made_of for name, one in kept.generation.parts.items()} if kept.generation else {}
    change.stores = bool(lines[0] != lines[1] or made != change.made_of or kept.problems)
    if change.stores:
        number = [f"generation {kept.generation.number}"] if kept.generation else []
        following = [f"generation {kept.newest + 1}"] if change.made_of else []
        change.before = _text([*number, *sorted(lines[0] - lines[1]), *kept.problems])
        change.after = _text([*following, *sorted(lines[1] - lines[0])])


def _held_files(kept: Kept) -> list[tuple[str, str, str]]:
    parts = kept.generation.parts if kept.generation else {}
    return [(part, facility, one) for part, index in parts.items() for facility, one in index.files.items()]


def _digest(name: str, content: bytes | Path, held: Mapping[str, str]) -> str:
    return held[name] if isinstance(content, Path) else generations.digest(content)


def _file_lines(files: Mapping[str, str]) -> set[str]:
    return {f"{name} {one[:_SHOWN]}" for name, one in files.items()}


def _short(value: Any) -> str:
    return generations.digest(generations.json_text(value).encode())[:_SHOWN]


def _compare_paths(change: Change, settings: Settings, program: bytes | None) -> None:
    systemd = change.kept.systemd
    restores = bool(change.files) and settings.restore
    if restores and not systemd:
        change.warnings = [
            f"what restores the services at boot is kept in {generations.DIRECTORY}, but without systemd nothing calls it"
        ]
    restore = restores and systemd is not None
    wanted = wanted_files(program, restore=restore, reapply=settings.reapply)
    held = {path: _read(_below(change.kept.root, path)) for path in wanted}
    change.paths = {path: one for path, one in wanted.items() if one != held[path]}
    units = wanted_units(restore=restore, reapply=settings.reapply)
    active = systemd.active((UNIT, TIMER)) if systemd else frozenset()
    change.start = [unit for unit in units if unit not in active]
    change.stop = [unit for unit in (TIMER, UNIT) if unit in active and unit not in units]
    change.before += _text([_path_line(path, held[path]) for path in change.paths if held[path]])
    change.before += _text([f"{unit} is active" for unit in change.stop])
    change.after += _text([_path_line(path, one) for path, one in change.paths.items() if one])
    change.after += _text([f"{unit} is active" for unit in change.start])


def _path_line(path: str, one: Wanted | str) -> str:
    if isinstance(one, File):
        return f"{path} mode {one.mode:04o} {generations.digest(one.content)[:_SHOWN]}"
    return f"{path} -> {one.target}" if isinstance(one, Link) else f"{path} {one}"


def _read(path: Path) -> Wanted | str:
    """What is at a path, in words where it is not what could be wanted."""
    try:
        if path.is_symlink():
            return Link(os.readlink(path))
        content = read_file(path)
        return None if content is None else File(content, path.stat().st_mode & 0o7777)
    except (FileError, OSError) as error:
        return f"is in the way: {error}"


def _put(path: Path, wanted: Wanted) -> None:
    if path.is_dir() and not path.is_symlink():
        generations.remove(path)
    if wanted is None:
        remove_file(path)
        return
    if not path.parent.is_dir():
        ensure_directory(path.parent, 0o755)
    if isinstance(wanted, File):
        write_file(path, wanted.content, wanted.mode)
        return
    remove_file(path)
    try:
        os.symlink(wanted.target, path)
    except OSError as error:
        raise FileError(f"{path} cannot be made: {error.strerror}") from error


def _below(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(lines: Sequence[str]) -> str:
    return "".join(line + "\n" for line in lines)
