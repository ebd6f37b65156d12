# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Imports out of the archive that Ansible sends, of which each module is compiled once.

zipimport compiles a module twice, to tell where it is and to run it, which is a seventh of a run that changes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from pkgutil import get_importer
from zipimport import zipimporter

_PACKAGE = __name__.rpartition(".")[0] + "."


class _Loader(SourceFileLoader):
    """Of a module whose file is in an archive."""

    def __init__(self, name: str, archive: zipimporter) -> None:
        super().__init__(name, f"{archive.archive}/{archive.prefix}{name.rpartition('.')[2]}.py")
        self._archive = archive

    def get_data(self, path: str) -> bytes:
        return self._archive.get_data(path)


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
    """For the imports from now on; nothing where this collection is in no archive."""
    if isinstance(globals()["__loader__"], zipimporter):
        sys.meta_path.insert(sys.meta_path.index(PathFinder), _Finder)
