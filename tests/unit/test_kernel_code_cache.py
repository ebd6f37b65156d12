# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Modules of the collection in an archive, as Ansible sends them: compiled in the first run, and not again."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel import code_cache, files

UTILS = "ansible_collections/layer4/service_proxy/plugins/module_utils"
RUN = """
import collections, pathlib, sys, traceback
compiled = collections.Counter()
sys.addaudithook(lambda event, given: compiled.update([str(given[1])]) if event == "compile" else None)
sys.path.insert(0, sys.argv[1])
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel import code_cache, files
code_cache.RUN_DIRECTORY = pathlib.Path(sys.argv[2])
code_cache._FILE = code_cache.RUN_DIRECTORY / "code"
code_cache.install()
from ansible_collections.layer4.service_proxy.plugins.module_utils.below import other
from ansible_collections.layer4.service_proxy.plugins.module_utils.below.module import fails
print(other.__package__, other.VALUE, compiled[other.__file__])
try:
    fails()
except KeyError:
    traceback.print_exc()
code_cache.keep()
"""


class Archive:
    """An archive with a module whose value can be changed, and the directory of what runs leave."""

    def __init__(self, directory: Path) -> None:
        self.path, self.kept = directory / "payload.zip", directory / "run"
        self.write("1")

    def write(self, value: str) -> None:
        packages = [str(path) for path in (Path(UTILS) / "below" / "__init__.py").parents][:-1]
        with zipfile.ZipFile(self.path, "w") as file:
            for package in [*packages, f"{UTILS}/_kernel"]:
                file.writestr(f"{package}/__init__.py", "")
            file.write(code_cache.__file__, f"{UTILS}/_kernel/code_cache.py")
            file.write(files.__file__, f"{UTILS}/_kernel/files.py")
            file.writestr(f"{UTILS}/below/other.py", f"VALUE = {value}")
            file.writestr(f"{UTILS}/below/module.py", 'from . import other\ndef fails():\n    raise KeyError("told")\n')

    def run(self) -> list[str]:
        """The value of the module, and how often it was compiled."""
        argv = [sys.executable, "-c", RUN, str(self.path), str(self.kept)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert (
            f'  File "{self.path}/{UTILS}/below/module.py", line 3, in fails\n    raise KeyError("told")' in done.stderr
        )
        package, *found = done.stdout.split()
        assert package == f"{UTILS}/below".replace("/", ".")
        return found


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path)


def test_each_module_is_compiled_in_the_first_run_alone(archive: Archive) -> None:
    assert [archive.run() for dummy in range(2)] == [["1", "1"], ["1", "0"]]
    assert (archive.kept.stat().st_mode & 0o777, (archive.kept / "code").stat().st_mode & 0o777) == (0o700, 0o600)


def test_other_source_is_other_code(archive: Archive) -> None:
    archive.run()
    archive.write("2")
    assert [archive.run() for dummy in range(2)] == [["2", "1"], ["2", "0"]]


@pytest.mark.parametrize("damage", ["cut", "flipped", "writable", "link", "nothing"])
def test_what_is_damaged_or_not_ours_alone_is_not_used(archive: Archive, damage: str) -> None:
    archive.run()
    kept = archive.kept / "code"
    content = kept.read_bytes()
    if damage == "cut":
        kept.write_bytes(content[:-5])
    elif damage == "flipped":
        kept.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    elif damage == "writable":
        kept.chmod(0o666)
    elif damage == "link":
        kept.rename(archive.kept / "other")
        kept.symlink_to("other")
    else:
        kept.write_bytes(b"")
    assert [archive.run() for dummy in range(2)] == [["1", "1"], ["1", "0"]]
