# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Change the pure code at random, one place at a time, and count how many of the changes the unit tests notice.

The tool is mutmut; it works on a copy of the checkout, below .cache, and tries each mutant (an operator turned, a
condition negated, an argument or a text changed) with the unit tests that run the changed function. The same seed on
the same code chooses the same mutants.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from paths import CACHE, CHECKOUT, LOGS
from prepare import locked, virtual_environment

COLLECTION = Path("ansible_collections/layer4/service_proxy")
PURE_ROOMS = ("_model", "_objects", "_plan", "_health", "_announce")
ROOMS_IN_PART = ("_dataplane", "_resource")
IMPURE = re.compile(
    r"^ *(?:from \S*\._kernel|(?:from|import) (?:os|socket|subprocess|threading)\b)|\b(?:Facilities|Host)\b",
    re.MULTILINE,
)
OTHER_TESTS = re.compile(
    r"test_(?:boot\w*|collection\w*|compiled_once|lab_\w+|lookup_\w+|netlink_\w+|netns_connection|properties|roles|trace_matrix)\.py"
)
ROUND_ABOUT = ("module_utils._dataplane.offline ", "plugins.filter.")
"""What tests import to have a dataplane render or trace, in place of its own modules."""
KILLED = ("killed", "timeout")
REQUIRED = 92.0

SETTINGS = """[tool.mutmut]
source_paths = {sources}
also_copy = ["{collection}"]
pytest_add_cli_args = [
  "--config-file={collection}/pyproject.toml", "--import-mode=importlib", "--hypothesis-profile=ci", "-m", "not playbook", "-p", "imported_anew",
]
pytest_add_cli_args_test_selection = {tests}
use_git_change_detection = false
use_setproctitle = false
track_dependencies = false
"""
# These run in mutmut's environment, in the copy.
MUTMUT = """
from mutmut.__main__ import cli
from mutmut.workers.isolation import ForkRunner
ForkRunner.run_clean_tests = lambda self, tests: 0  # they have just passed, when mutmut saw which functions they run
cli()
"""
LIST = """
from mutmut.configuration import config
from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.utils.format_utils import get_mutant_name
for path in config().source_paths:
    for name in mutate_file_contents(str(path), path.read_text()).mutant_names:
        print(get_mutant_name(path, name))
"""
REPORT = """
import json, sys
from mutmut.configuration import config
from mutmut.mutation.data import SourceFileMutationData
from mutmut.stats import status_by_exit_code
found = {}
for path in config().source_paths:
    data = SourceFileMutationData(path=path)
    data.load()
    found.update({name: status_by_exit_code[code] for name, code in data.exit_code_by_key.items()})
print(json.dumps(found))
"""


def main() -> int:
    chosen = arguments().parse_args()
    tree, found, total = CACHE / "mutants", dict[str, str](), 0
    with locked(CACHE / "mutants.lock"):
        python = virtual_environment(sys.executable, CHECKOUT / "requirements-mutants.txt") / "bin" / "python"
        copy_checkout(tree)
        rooms = {room: files for room, files in by_room(tree).items() if re.search(chosen.only, str(room))}
        lines = {room: sum(len(file.read_text().splitlines()) for file in files) for room, files in rooms.items()}
        for room, files in rooms.items():
            configure(tree, room, files)
            names = sorted(said(tree, python, LIST).split())
            count = min(len(names), round(chosen.count * lines[room] / sum(lines.values())))
            sample = random.Random(chosen.seed).sample(names, count)
            run(tree, python, sample, chosen.workers)
            results = json.loads(said(tree, python, REPORT)) if sample else {}
            show_others(tree, python, {name: results[name] for name in sample})
            found.update({name: results[name] for name in sample})
            total += len(names)
    return report(found, total)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, required=True, help="of the choice among all mutants")
    parser.add_argument("--count", type=int, default=400, help="how many are tried; of each room by its lines")
    parser.add_argument("--only", default="", metavar="REGEX", help="change rooms of module_utils whose path matches")
    parser.add_argument("--workers", type=int, default=2)
    return parser


def copy_checkout(tree: Path) -> None:
    """Copy what git knows or does not ignore to the place that the collection's full name asks for."""
    shutil.rmtree(tree, ignore_errors=True)
    listing = ["git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in filter(None, subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\0")):
        if (CHECKOUT / name).exists():
            target = tree / COLLECTION / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, target)


def by_room(tree: Path) -> dict[Path, list[Path]]:
    """The files to change, by their folder in module_utils."""
    utils = tree / COLLECTION / "plugins" / "module_utils"
    rooms: dict[Path, list[Path]] = {}
    for path in pure_files(utils):
        rooms.setdefault(path.parent.relative_to(utils), []).append(path)
    return rooms


def configure(tree: Path, room: Path, files: Sequence[Path]) -> None:
    """Have mutmut change these files, and try that with those unit tests that import something of their room."""
    shutil.rmtree(tree / "mutants", ignore_errors=True)
    units = sorted((tree / COLLECTION / "tests" / "unit").glob("test_*.py"))
    imported = (f"module_utils.{'.'.join(room.parts)}.", *(ROUND_ABOUT if room.parts[0] == "_dataplane" else ()))
    tests = [
        one
        for one in units
        if not OTHER_TESTS.fullmatch(one.name) and any(name in one.read_text() for name in imported)
    ]
    paths = {"sources": files, "tests": tests}
    told = {key: [str(path.relative_to(tree)) for path in given] for key, given in paths.items()}
    (tree / "pyproject.toml").write_text(SETTINGS.format(collection=COLLECTION, **told))


def pure_files(utils: Path) -> list[Path]:
    """All files of the pure rooms, and those of the others that touch neither the kernel nor the system."""
    files = [path for room in (*PURE_ROOMS, *ROOMS_IN_PART) for path in sorted((utils / room).rglob("*.py"))]
    return [
        path for path in files if path.relative_to(utils).parts[0] in PURE_ROOMS or not IMPURE.search(path.read_text())
    ]


def run(tree: Path, python: Path, names: Sequence[str], workers: int) -> None:
    """Try these mutants; mutmut's own output goes to a log, of which a failure shows the end."""
    if not names:
        return
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    plugins = str(Path(__file__).parent)
    environment = {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": plugins,
        "HYPOTHESIS_STORAGE_DIRECTORY": str(tree / "hypothesis"),
    }
    command = [str(python), "-c", MUTMUT, "run", "--max-children", str(workers), *names]
    with open(LOGS / "mutants.log", "w") as log:
        done = subprocess.run(command, cwd=tree, env=environment, stdout=log, stderr=log, check=False)
    if done.returncode:
        sys.exit(f"{(LOGS / 'mutants.log').read_text()[-4000:]}\nmutmut failed; log: {LOGS / 'mutants.log'}")


def show_others(tree: Path, python: Path, found: Mapping[str, str]) -> None:
    """Print the mutants that no failing test has killed: those that live, and those at which time ran out."""
    for name in sorted(name for name, status in found.items() if status != "killed"):
        command = [str(python), "-m", "mutmut", "show", name]
        change = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=True).stdout
        print(f"{name.partition('module_utils.')[2]}: {found[name]}")
        print(*(line for line in change.splitlines() if line[:1] in "+-"), sep="\n", end="\n\n", flush=True)


def report(found: Mapping[str, str], total: int) -> int:
    """Print how many of each room were killed; 1 if they are too few."""
    tried = Counter(map(room_of, found))
    killed = Counter(room_of(name) for name, status in found.items() if status in KILLED)
    for room, count in sorted(tried.items()):
        print(f"{room:<24} {killed[room]:>4} of {count:>4} killed")
    rate = 100 * sum(killed.values()) / max(1, len(found))
    print(f"{sum(killed.values())} of {len(found)} killed ({rate:.1f} %), chosen of {total}; {REQUIRED} % are required")
    return int(rate < REQUIRED)


def room_of(name: str) -> str:
    """The folder in module_utils of a mutant's file."""
    return "/".join(name.partition("module_utils.")[2].split(".")[:-2])


def said(tree: Path, python: Path, program: str) -> str:
    return subprocess.run([python, "-c", program], cwd=tree, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
