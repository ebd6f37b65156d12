# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""This collection's code on its way to a node, as one archive, and compiled from one run to the next.

Ansible finds out what to send by parsing each module, for every play: 1.6 seconds for two hundred modules, three times a play that pings.
The node then compiles each of them in every run. So `service_proxy_node` imports little, and gets the rest as an option, packed once a
play. The archive is also what the node's program is made of.
"""

from __future__ import annotations

import base64
import hashlib
import marshal
import sys
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import MAGIC_NUMBER, spec_from_loader
from io import BytesIO
from pathlib import Path
from types import CodeType
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from .._kernel.files import RUN_DIRECTORY, FileError, ensure_directory, read_file, write_file

NAME = "layer4_service_proxy"
"""What the package is called in an archive."""
PACKAGE = __name__.rpartition("._node.")[0]
_DIRECTORY = Path(__file__).parents[1]
_FILE = RUN_DIRECTORY / "code"
_CHECKSUM = hashlib.sha256().digest_size
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MAIN = f"""\
import sys

if sys.argv[1:2] == ["boot"]:
    from {NAME}._node.boot_restore import main
elif sys.argv[1:] == ["check"]:
    from {NAME}._checker.daemon import main
else:
    from {NAME}._node.command import main
main()
"""


class _Loader(SourceFileLoader):
    """Loads a module of an archive."""

    def __init__(self, name: str, code: ShippedCode) -> None:
        super().__init__(name, "/".join([NAME + ".zip", code.path_of(name)]))
        self._code = code

    def get_data(self, path: str) -> bytes:
        return self._code.sources[path.partition("/")[2]]

    def get_code(self, fullname: str) -> CodeType:
        return self._code.compiled(fullname, self)


class ShippedCode:
    """The code of a run, from an archive, found by Python ahead of all else once it is installed."""

    def __init__(self, archive: bytes, kept: Mapping[str, CodeType]) -> None:
        """kept: what earlier runs have compiled of this archive, by the names of modules."""
        self.archive = archive
        self._kept = kept
        self._used: dict[str, CodeType] = {}
        with ZipFile(BytesIO(archive)) as file:
            self.sources = {name: file.read(name) for name in file.namelist()}

    def path_of(self, name: str) -> str:
        """Return where a module or package is in the archive."""
        path = NAME + name[len(PACKAGE) :].replace(".", "/")
        return f"{path}/__init__.py" if f"{path}/__init__.py" in self.sources else f"{path}.py"

    def find_spec(self, name: str, _path: Sequence[str] | None, _target: object = None) -> ModuleSpec | None:
        if not name.startswith(PACKAGE + ".") or self.path_of(name) not in self.sources:
            return None
        is_package = self.path_of(name).endswith("/__init__.py")
        return spec_from_loader(name, _Loader(name, self), is_package=is_package)

    def compiled(self, name: str, loader: _Loader) -> CodeType:
        """Return the code of a module."""
        code = self._kept.get(name)
        if code is None:
            code = compile(loader.get_data(loader.path), loader.path, "exec", dont_inherit=True)
        self._used[name] = code
        return code

    def keep(self) -> None:
        """Leave what this run has compiled for the next; that is only ever a shortcut."""
        if self._used.keys() <= self._kept.keys():
            return
        content = _head(self.archive) + marshal.dumps({**self._kept, **self._used})
        with suppress(FileError):
            ensure_directory(RUN_DIRECTORY)
            write_file(_FILE, hashlib.sha256(content).digest() + content)


_installed: list[ShippedCode] = []


def pack_code() -> str:
    """Return this collection's code as an option of `service_proxy_node`."""
    return base64.b64encode(zlib.compress(_pack(), 9)).decode()


def install(body: str | None) -> None:
    """Have Python find what `pack_code` gave; nothing where the module is run with the whole collection around it."""
    if body:
        archive = zlib.decompress(base64.b64decode(body))
        code = ShippedCode(archive, _kept(archive))
        _installed.append(code)
        sys.meta_path.insert(0, code)


def keep() -> None:
    """Leave what this run has compiled for the next."""
    for code in _installed:
        code.keep()


def archive() -> bytes:
    """Return the archive that this run came with, or else that of the files around this one."""
    return _installed[-1].archive if _installed else _pack()


def _pack() -> bytes:
    """Always the same for the same code."""
    sources = {"__main__.py": _MAIN}
    for path in _DIRECTORY.rglob("*.py"):
        sources[f"{NAME}/{path.relative_to(_DIRECTORY)}"] = path.read_text(encoding="utf-8")
    file = BytesIO()
    with ZipFile(file, "w", ZIP_STORED) as made:
        for name, source in sorted(sources.items()):
            made.writestr(ZipInfo(name, _EPOCH), source)
    return file.getvalue()


def _head(archive: bytes) -> bytes:
    """What compiled code belongs to."""
    return MAGIC_NUMBER + hashlib.sha256(archive).digest()


def _kept(archive: bytes) -> dict[str, CodeType]:
    """Return what is kept for this archive; nothing where it is damaged, of other code, or of another Python."""
    try:
        text = read_file(_FILE) or b""
    except FileError:
        return {}
    content, head = text[_CHECKSUM:], _head(archive)
    if hashlib.sha256(content).digest() != text[:_CHECKSUM] or not content.startswith(head):
        return {}
    found: dict[str, CodeType] = marshal.loads(content[len(head) :])
    return found
