# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files that the collection keeps on a node, such that nobody but root can write, replace or redirect them.

Mode and owner are set explicitly, whatever the umask and whatever was there before. A symbolic link is never followed: reading
refuses it, writing replaces it. Everything that can fail raises FileError.
"""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

RUN_DIRECTORY = Path("/run/layer4-service-proxy")
"""For what is of no use after a boot; mode 0700."""

_PRIVATE = 0o600
_WRITABLE_BY_OTHERS = 0o022


class FileError(Exception):
    """A file or directory cannot be used; the text is one line that names it."""


def ensure_directory(path: Path, mode: int = 0o700) -> None:
    """Make a directory below one that exists, or give the one that is there its mode again.

    A link, a file, or a directory of another user in its place raises FileError.
    """
    os.close(open_directory(path, mode))


def open_directory(path: Path, mode: int = 0o700) -> int:
    """Return a descriptor of what `ensure_directory` ensures; the caller closes it."""
    try:
        with suppress(FileExistsError):
            os.mkdir(path, mode)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise FileError(f"directory {path} cannot be used: {error.strerror}") from error
    try:
        _own(descriptor, path, mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_lock_file(directory: Path, name: str) -> int:
    """Return a descriptor of a file in a private directory, both made where they are missing; the caller closes it."""
    parent = open_directory(directory)
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags, _PRIVATE, dir_fd=parent)
    except OSError as error:
        raise FileError(f"{directory / name} cannot be opened: {error.strerror}") from error
    finally:
        os.close(parent)
    try:
        _own(descriptor, directory / name, _PRIVATE)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def write_file(path: Path, content: str | bytes, mode: int = _PRIVATE) -> None:
    """Put a file in place in one step: readers see the old content or the new, also after a crash.

    What is there goes, a link without what it leads to; a directory in its place raises FileError. Text is UTF-8.
    """
    _replace(path, content, os.geteuid(), os.getegid(), mode)


def replace_content(path: Path, content: str) -> None:
    """Give a file that is somebody else's another content, as `write_file` does; its mode and owner stay. Raises FileError."""
    try:
        found = os.lstat(path)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from error
    _replace(path, content, found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))


def _replace(path: Path, content: str | bytes, user: int, group: int, mode: int) -> None:
    encoded = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(descriptor, "wb") as file:
                os.fchown(descriptor, user, group)
                os.fchmod(descriptor, mode)
                file.write(encoded)
                file.flush()
                os.fsync(descriptor)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror}") from error


def read_file(path: Path) -> bytes | None:
    """Return the content of a file of ours, None where there is none.

    Raises FileError where it cannot be read, or where somebody else may have written it: it is a link, no regular file, of
    another user, or others can write to it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise FileError(f"{path} cannot be read: it is not a regular file")
        if found.st_uid != os.geteuid() or found.st_mode & _WRITABLE_BY_OTHERS:
            raise FileError(f"{path} is not trusted: other users than {os.geteuid()} can write to it")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def remove_file(path: Path) -> bool:
    """Remove a file, or a link without what it leads to; whether there was one. A directory raises FileError."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise FileError(f"{path} cannot be removed: {error.strerror}") from error
    return True


def _own(descriptor: int, path: Path, mode: int) -> None:
    """Give what is open its mode. What belongs to another user is refused: he may have it open."""
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid():
        raise FileError(f"{path} belongs to user {found.st_uid}: remove it")
    if not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
        raise FileError(f"{path} is neither a file nor a directory: remove it")
    if stat.S_IMODE(found.st_mode) != mode:
        try:
            os.fchmod(descriptor, mode)
        except OSError as error:
            raise FileError(f"mode of {path} cannot be set: {error.strerror}") from error
