# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Numbered generations of what a node was asked for, each with the files that bring it back after a boot.

    /var/lib/layer4-service-proxy/              0700, root's
        current -> generations/12               changed by one rename
        generations/12/index.json               the names of the files with their digests, by part, and of what they were made
                       asked.json               what was asked for, by part
                       services.iptables ...    `boot_files`

A generation is complete before it has its number, and is never changed after. Its files are root's alone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from .._kernel.files import FileError, ensure_directory, read_file, write_file
from .change import NodeError

DIRECTORY = Path("/var/lib/layer4-service-proxy")
INDEX, ASKED = "index.json", "asked.json"
KEPT = 10
"""Generations."""
_FORMAT = 1
_CURRENT, _GENERATIONS, _UNFINISHED = "current", "generations", ".new"
_NUMBER = re.compile(r"[1-9][0-9]{0,9}")
_NAME = re.compile(r"[a-z][a-z0-9.-]*")

Asked = Mapping[str, Any]
"""What was asked for, by part: JSON."""


class BootError(NodeError):
    """What is kept for boot cannot be read or written; the text is one line."""


class PartIndex(NamedTuple):
    """One part of a generation."""

    made_of: str
    """The digest of all that its files depend on; empty where that is not known."""
    files: Mapping[str, str]
    """The digest of each file by its facility."""


class Generation(NamedTuple):
    """A generation without the content of its files."""

    number: int
    parts: Mapping[str, PartIndex]
    directory: Path

    def read(self, part: str, facility: str) -> bytes:
        """Return the content of a file that is as it was written. Raises BootError for any other."""
        path = self.directory / f"{part}.{facility}"
        content = _read(path)
        if digest(content) != self.parts[part].files[facility]:
            raise BootError(f"{path} is damaged: it is not as it was written")
        return content

    def asked(self) -> dict[str, Any]:
        """Return what was asked for, by part. Raises BootError."""
        return _object(self.directory / ASKED)

    def broken(self) -> dict[str, str]:
        """Return the files that are not as they were written, each with a line that says so."""
        found = {}
        for part, index in self.parts.items():
            for facility in index.files:
                try:
                    self.read(part, facility)
                except BootError as error:
                    found[f"{part}.{facility}"] = str(error)
        return found


def digest(content: bytes) -> str:
    """Return the digest by which a file is known."""
    return hashlib.sha256(content).hexdigest()


def json_text(value: Any) -> str:
    """Return one text for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def numbers(directory: Path) -> list[int]:
    """Return the generations that are kept, the oldest first."""
    try:
        names = os.listdir(directory / _GENERATIONS)
    except OSError:
        return []
    return sorted(int(name) for name in names if _NUMBER.fullmatch(name))


def load(directory: Path, number: int) -> Generation:
    """Return one of the kept generations. Raises BootError."""
    path = directory / _GENERATIONS / str(number)
    found = _object(path / INDEX)
    try:
        if found["format"] != _FORMAT:
            raise BootError(f"{path / INDEX} is of format {found['format']}, which this version does not know")
        parts = {str(part): PartIndex(str(one["made_of"]), dict(one["files"])) for part, one in found["parts"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BootError(f"{path / INDEX} is damaged: it is no index of a generation") from error
    if not all(_NAME.fullmatch(name) for part, one in parts.items() for name in (part, *one.files)):
        raise BootError(f"{path / INDEX} is damaged: it names what is no file of ours")
    return Generation(number, parts, path)


def current(directory: Path) -> Generation | None:
    """Return the current generation, None where nothing is kept. Raises BootError."""
    kept = numbers(directory)
    try:
        name = os.path.basename(os.readlink(directory / _CURRENT))
    except FileNotFoundError:
        if not kept:
            return None
        raise BootError(f"{directory / _CURRENT} is missing") from None
    except OSError as error:
        reason = "it is no link" if error.errno == errno.EINVAL else error.strerror
        raise BootError(f"{directory / _CURRENT} cannot be read: {reason}") from error
    if not _NUMBER.fullmatch(name):
        raise BootError(f"{directory / _CURRENT} does not lead to a generation")
    return load(directory, int(name))


def without_index(directory: Path, number: int) -> Generation:
    """Return a generation whose index is lost: the files that it has, taken for what they are. Raises BootError."""
    path = directory / _GENERATIONS / str(number)
    parts: dict[str, dict[str, str]] = {}
    try:
        names = sorted(one.name for one in os.scandir(path) if one.is_file(follow_symlinks=False))
    except OSError as error:
        raise BootError(f"{path} cannot be read: {error.strerror}") from error
    for name in names:
        part, dot, facility = name.partition(".")
        if dot and name not in (INDEX, ASKED):
            parts.setdefault(part, {})[facility] = digest(_read(path / name))
    return Generation(number, {part: PartIndex("", files) for part, files in parts.items()}, path)


def asked_of(directory: Path, number: int) -> dict[str, Any]:
    """Return what a kept generation was asked for, by part. Raises BootError, naming those that are kept."""
    kept = numbers(directory)
    if number not in kept:
        there = f"kept are {', '.join(map(str, kept))}" if kept else "none is kept"
        raise BootError(f"there is no generation {number} on this node: {there}")
    return load(directory, number).asked()


def store(
    directory: Path, number: int, files: Mapping[str, bytes | Path], made_of: Mapping[str, str], asked: Asked
) -> None:
    """Write a generation whole, make it current, and remove the oldest. Raises BootError.

    files: by ``PART.FACILITY``, the content, or a file of an earlier generation with the same content. made_of: by part.
    """
    try:
        _replace_strangers(directory)
        parent = directory / _GENERATIONS
        unfinished = parent / _UNFINISHED
        _remove(unfinished)
        ensure_directory(unfinished)
        digests = {name: _put(unfinished / name, content) for name, content in files.items()}
        write_file(unfinished / ASKED, json_text(asked) + "\n")
        write_file(unfinished / INDEX, _index(digests, made_of))
        _sync(unfinished)
        _remove(parent / str(number))
        os.rename(unfinished, parent / str(number))
        _sync(parent)
        _make_current(directory, number)
        for old in [one for one in numbers(directory) if one != number][: 1 - KEPT]:
            _remove(parent / str(old))
    except OSError as error:
        raise BootError(f"{error.filename or directory} cannot be written: {error.strerror}") from error
    except FileError as error:
        raise BootError(str(error)) from error


def remove(directory: Path) -> None:
    """Remove all that is kept. Raises BootError."""
    try:
        _remove(directory)
    except OSError as error:
        raise BootError(f"{error.filename or directory} cannot be removed: {error.strerror}") from error


def _replace_strangers(directory: Path) -> None:
    """Make our directories, in place of what else bears their names."""
    for path in (directory, directory / _GENERATIONS):
        if path.is_symlink() or not path.is_dir():
            _remove(path)
        ensure_directory(path)


def _put(path: Path, content: bytes | Path) -> str:
    if isinstance(content, Path):
        text = _read(content)
        os.link(content, path)
        return digest(text)
    write_file(path, content)
    return digest(content)


def _index(digests: Mapping[str, str], made_of: Mapping[str, str]) -> str:
    parts = {
        part: {
            "made_of": made,
            "files": {name[len(part) + 1 :]: one for name, one in digests.items() if name.startswith(part + ".")},
        }
        for part, made in made_of.items()
    }
    return json.dumps({"format": _FORMAT, "parts": parts}, indent=1, sort_keys=True) + "\n"


def _make_current(directory: Path, number: int) -> None:
    link, unfinished = directory / _CURRENT, directory / _UNFINISHED
    _remove(unfinished)
    os.symlink(f"{_GENERATIONS}/{number}", unfinished)
    if link.is_dir() and not link.is_symlink():
        _remove(link)
    os.replace(unfinished, link)
    _sync(directory)


def _remove(path: Path) -> None:
    """Remove a file, a link without what it leads to, or a directory with all that is in it; nothing where there is none."""
    with suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> bytes:
    try:
        content = read_file(path)
    except FileError as error:
        raise BootError(str(error)) from error
    if content is None:
        raise BootError(f"{path} is missing")
    return content


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise BootError(f"{path} is damaged: it is not JSON") from error
    if not isinstance(found, dict):
        raise BootError(f"{path} is damaged: it is no object")
    return found
