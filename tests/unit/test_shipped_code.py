# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The collection's code as `service_proxy_node` gets it: found ahead of all else, compiled in the first run, and not again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel import files
from ansible_collections.layer4.service_proxy.plugins.module_utils._node import shipped_code

UTILS = "ansible_collections/layer4/service_proxy/plugins/module_utils"
PACKAGE = UTILS.replace("/", ".")
PACK = f"""
import sys
sys.path.insert(0, sys.argv[1])
from {PACKAGE}._node import shipped_code
print(shipped_code.pack_code())
"""
RUN = f"""
import collections, pathlib, sys, traceback
compiled = collections.Counter()
sys.addaudithook(lambda event, given: compiled.update([str(given[1])]) if event == "compile" else None)
sys.path.insert(0, sys.argv[1])
from {PACKAGE}._node import shipped_code
shipped_code.RUN_DIRECTORY = pathlib.Path(sys.argv[2])
shipped_code._FILE = shipped_code.RUN_DIRECTORY / "code"
shipped_code.install(sys.stdin.read())
from {PACKAGE}.below import other
from {PACKAGE}.below.module import fails
print(other.__package__, other.VALUE, compiled[other.__file__])
try:
    fails()
except KeyError:
    traceback.print_exc()
shipped_code.keep()
"""


class Collection:
    """A controller's files with a module whose value can be changed, a node's few, and the directory of what runs leave there."""

    def __init__(self, directory: Path) -> None:
        self.controller, self.node, self.kept = directory / "controller", directory / "node", directory / "run"
        for root in (self.controller, self.node):
            for module in (files, shipped_code):
                path = root / UTILS / Path(str(module.__file__)).relative_to(Path(str(files.__file__)).parents[1])
                _write(path, Path(str(module.__file__)).read_text())
        _write(
            self.controller / UTILS / "below" / "module.py",
            'from . import other\n\n\ndef fails():\n    raise KeyError("told")\n',
        )
        self.write("1")

    def write(self, value: str) -> None:
        _write(self.controller / UTILS / "below" / "other.py", f"VALUE = {value}")

    def run(self) -> list[str]:
        """The value of the module, and how often it was compiled."""
        code = subprocess.run(
            [sys.executable, "-c", PACK, str(self.controller)], capture_output=True, text=True, check=True
        )
        argv = [sys.executable, "-c", RUN, str(self.node), str(self.kept)]
        done = subprocess.run(argv, input=code.stdout, capture_output=True, text=True, check=False)
        where = "layer4_service_proxy.zip/layer4_service_proxy/below/module.py"
        assert f'  File "{where}", line 5, in fails\n    raise KeyError("told")' in done.stderr, done.stderr
        package, *found = done.stdout.split()
        assert package == f"{PACKAGE}.below"
        return found


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for package in (path.parent, path.parents[1]):
        (package / "__init__.py").touch()
    path.write_text(text)


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    return Collection(tmp_path)


def test_each_module_is_compiled_in_the_first_run_alone(collection: Collection) -> None:
    assert [collection.run() for dummy in range(2)] == [["1", "1"], ["1", "0"]]
    kept = collection.kept / "code"
    assert (collection.kept.stat().st_mode & 0o777, kept.stat().st_mode & 0o777) == (0o700, 0o600)


def test_other_source_is_other_code(collection: Collection) -> None:
    collection.run()
    collection.write("2")
    assert [collection.run() for dummy in range(2)] == [["2", "1"], ["2", "0"]]


def test_the_archive_is_the_same_for_the_same_code() -> None:
    assert shipped_code.pack_code() == shipped_code.pack_code()
    assert b"layer4_service_proxy/_dataplane/run.py" in shipped_code.archive()


@pytest.mark.parametrize("damage", ["cut", "flipped", "writable", "link", "nothing"])
def test_what_is_damaged_or_not_ours_alone_is_not_used(collection: Collection, damage: str) -> None:
    collection.run()
    kept = collection.kept / "code"
    content = kept.read_bytes()
    if damage == "cut":
        kept.write_bytes(content[:-5])
    elif damage == "flipped":
        kept.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    elif damage == "writable":
        kept.chmod(0o666)
    elif damage == "link":
        kept.rename(collection.kept / "other")
        kept.symlink_to("other")
    else:
        kept.write_bytes(b"")
    assert [collection.run() for dummy in range(2)] == [["1", "1"], ["1", "0"]]
