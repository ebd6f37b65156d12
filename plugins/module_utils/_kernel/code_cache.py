# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compiled code of this collection's modules, kept on the node from one run to the next.

Ansible sends sources in an archive, out of which zipimport compiles each module anew in every run, and twice: half of the time of a run
that changes nothing. Code is found by the SHA-256 of its source, in a file with a checksum that root alone can write.
"""

from __future__ import annotations

import hashlib
import marshal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import MAGIC_NUMBER, spec_from_file_location
from pkgutil import get_importer
from types import CodeType
from zipimport import zipimporter

from .files import RUN_DIRECTORY, FileError, ensure_directory, read_file, write_file

_FILE = RUN_DIRECTORY / "code"
_PACKAGE = __name__.rpartition(".")[0].rpartition(".")[0] + "."
_MOST = 500
"""Modules; those of two versions of the collection."""
_CHECKSUM = hashlib.sha256().digest_size
_known: dict[bytes, CodeType] = {}
"""By the digest of its source: what earlier runs have left."""
_used: dict[bytes, CodeType] = {}


class _Loader(SourceFileLoader):
    """Loads a module whose file is in an archive."""

    def __init__(self, name: str, archive: zipimporter) -> None:
        super().__init__(name, f"{archive.archive}/{archive.prefix}{name.rpartition('.')[2]}.py")
        self._archive = archive

    def get_data(self, path: str) -> bytes:
        return self._archive.get_data(path)

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - its name in importlib.abc.InspectLoader
        source = self.get_data(self.path)
        digest = hashlib.sha256(source).digest()
        code = _known.get(digest)
        _used[digest] = compile(source, self.path, "exec", dont_inherit=True) if code is None else code
        return _used[digest]


class _Finder:
    """Finds this collection's modules in archives, and leaves its packages, which are empty, to zipimport."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, _target: object = None) -> ModuleSpec | None:
        if name.startswith(_PACKAGE):
            for archive in map(get_importer, path or ()):
                if isinstance(archive, zipimporter) and not archive.is_package(name):
                    loader = _Loader(name, archive)
                    return spec_from_file_location(name, loader.path, loader=loader)
        return None


def install() -> None:
    """Use kept code for the imports from now on; nothing where this collection is in no archive."""
    if isinstance(globals()["__loader__"], zipimporter):
        with suppress(FileError):
            _known.update(_parse(read_file(_FILE) or b""))
        sys.meta_path.insert(sys.meta_path.index(PathFinder), _Finder)


def keep() -> None:
    """Leave the code of this run for the next; that is only ever a shortcut."""
    if _used.keys() <= _known.keys():
        return
    kept = {**_known, **_used} if len(_known) + len(_used) <= _MOST else _used
    content = MAGIC_NUMBER + marshal.dumps(kept)
    with suppress(FileError):
        ensure_directory(RUN_DIRECTORY)
        write_file(_FILE, hashlib.sha256(content).digest() + content)


def _parse(text: bytes) -> dict[bytes, CodeType]:
    """Return what a file holds; nothing where it is damaged, or of another Python."""
    content = text[_CHECKSUM:]
    if hashlib.sha256(content).digest() != text[:_CHECKSUM] or not content.startswith(MAGIC_NUMBER):
        return {}
    found: dict[bytes, CodeType] = marshal.loads(content[len(MAGIC_NUMBER) :])
    return found
