# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files and links that belong to the collection: read, compared, written atomically, removed."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Union

from .._kernel.files import remove_file, write_file
from .change import Change, NodeError, lines

_LEAST_FREE = 1 << 20
"""Bytes; what a run writes is less, but for thousands of services."""
_UNREADABLE = "(not a text)"
"""Stands in the diff for what is no regular text file."""


class File(NamedTuple):
    """A regular file of root's."""

    content: str
    mode: int = 0o644


class Link(NamedTuple):
    """A symbolic link."""

    target: str


Wanted = Union[File, Link, None]
"""None: nothing is to be there."""


class Held(NamedTuple):
    """What is at a path."""

    entry: File | Link
    """Content and mode, or target."""
    is_roots: bool
    """Whether user and group are root."""


def plan_files(name: str, wanted: Mapping[str, Wanted]) -> Change:
    """Return what makes these paths as wanted. Raises NodeError where one cannot be read."""
    held = {path: read(path) for path in wanted}
    differing = {path: entry for path, entry in wanted.items() if not _is_as_wanted(held[path], entry)}

    def apply() -> None:
        for path, entry in differing.items():
            write(path, entry)

    before = "".join(_shown(path, one.entry) for path in differing for one in [held[path]] if one)
    after = "".join(_shown(path, entry) for path, entry in differing.items() if entry)
    foreign = [path for path in differing for one in [held[path]] if one and not one.is_roots]
    return Change(name, lines(f"{path} is not root's" for path in foreign) + before, after, apply)


def read(path: str) -> Held | None:
    """Return what is at a path, None where there is nothing. Raises NodeError where that cannot be told."""
    try:
        found = os.lstat(path)
        is_roots = found.st_uid == 0 and found.st_gid == 0
        if stat.S_ISLNK(found.st_mode):
            return Held(Link(os.readlink(path)), is_roots)
        if not stat.S_ISREG(found.st_mode):
            raise NodeError(f"{path} is neither a file nor a link: remove it, it is in the way")
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            return Held(File(_text(file.read()), stat.S_IMODE(found.st_mode)), is_roots)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NodeError(f"{path} cannot be read: {error.strerror}") from error


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return _UNREADABLE


def read_text(path: str) -> str | None:
    """Return the content of a file of ours, None where there is none. Raises NodeError for anything else."""
    held = read(path)
    if held is None:
        return None
    if not isinstance(held.entry, File):
        raise NodeError(f"{path} is a link: remove it, it is in the way of a file")
    return held.entry.content


def refuse_unwritable(directory: Path, *, grows: bool) -> None:
    """Raise NodeError where no file can be written, which would end a run when rules have changed already.

    grows: or else files are removed, which takes no space.
    """
    there = next(one for one in (directory, *directory.parents) if one.is_dir())
    found = os.statvfs(there)
    if found.f_flag & os.ST_RDONLY:
        raise NodeError(f"{directory} cannot be written: its file system is read-only")
    if not grows:
        return
    if found.f_blocks and found.f_bfree * found.f_frsize < _LEAST_FREE:
        free = found.f_bfree * found.f_frsize
        raise NodeError(
            f"{directory} cannot be written: its file system has {free} bytes left, of {_LEAST_FREE} needed"
        )
    if found.f_files and not found.f_ffree:
        raise NodeError(f"{directory} cannot be written: its file system can take no further file")


def write(path: str, entry: Wanted) -> None:
    """Make one path as wanted, in one step. Raises NodeError and FileError."""
    if entry is None:
        remove_file(Path(path))
        return
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        if isinstance(entry, Link):
            _link(path, entry.target)
    except OSError as error:
        raise NodeError(f"{path} cannot be written: {error.strerror}") from error
    if isinstance(entry, File):
        write_file(Path(path), entry.content, entry.mode)


def _link(path: str, target: str) -> None:
    new = f"{path}.new"
    with suppress(FileNotFoundError):
        os.unlink(new)
    os.symlink(target, new)
    os.replace(new, path)


def _is_as_wanted(held: Held | None, entry: Wanted) -> bool:
    return held is None if entry is None else held is not None and held.is_roots and held.entry == entry


def _shown(path: str, entry: File | Link) -> str:
    """Return the lines of the diff for what is at a path."""
    if isinstance(entry, Link):
        return f"{path} -> {entry.target}\n"
    text = entry.content if entry.content.endswith("\n") or not entry.content else entry.content + "\n"
    return f"{path} (mode {entry.mode:04o})\n{text}"
