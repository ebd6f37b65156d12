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
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from paths import CACHE, CHECKOUT, LOGS
from prepare import locked, virtual_environment

COLLECTION = Path("ansible_collections/layer4/service_proxy")
PURE_ROOMS = ("_model", "_objects", "_plan")
ROOMS_IN_PART = ("_dataplane", "_resource")
IMPURE = re.compile(
    r"^ *(?:from \S*\._kernel|(?:from|import) (?:os|socket|subprocess|threading)\b)|\b(?:Facilities|Host)\b",
    re.MULTILINE,
)
OTHER_TESTS = re.compile(
    r"test_(?:boot\w*|collection\w*|compiled_once|lab_\w+|lookup_\w+|netlink_\w+|netns_connection|roles)\.py"
)
KILLED = ("killed", "timeout")
NOT_TRIED = "not checked"
REQUIRED = 92.0
STOP_SECONDS = 60

SETTINGS = """[tool.mutmut]
source_paths = {sources}
also_copy = ["{collection}"]
pytest_add_cli_args = ["--config-file={collection}/pyproject.toml", "--import-mode=importlib", "-m", "not playbook", "--hypothesis-profile=ci"]
pytest_add_cli_args_test_selection = {tests}
use_git_change_detection = false
use_setproctitle = false
"""
# Both run in mutmut's environment, in the copy.
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
from mutmut.models.results import status_by_exit_code
found = {}
for path in config().source_paths:
    data = SourceFileMutationData(path=path)
    data.load()
    found.update({name: status_by_exit_code[code] for name, code in data.exit_code_by_key.items()})
print(json.dumps(found))
"""


def main() -> int:
    chosen = arguments().parse_args()
    tree = CACHE / "mutants"
    with locked(CACHE / "mutants.lock"):
        python = virtual_environment(sys.executable, CHECKOUT / "requirements-mutants.txt") / "bin" / "python"
        if not chosen.again:
            copy_checkout(tree, chosen.only)
        names = sorted(said(tree, python, LIST).split())
        sample = random.Random(chosen.seed).sample(names, min(chosen.count, len(names)))
        known = json.loads(said(tree, python, REPORT)) if chosen.again else {}
        left = [name for name in sample if known.get(name, NOT_TRIED) == NOT_TRIED]
        run(tree, python, left, chosen.workers, 60 * chosen.minutes)
        found = json.loads(said(tree, python, REPORT))
        return report(tree, python, {name: found[name] for name in sample}, len(names))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, required=True, help="of the choice among all mutants")
    parser.add_argument("--count", type=int, default=400, help="how many are tried")
    parser.add_argument("--only", default="", metavar="REGEX", help="change files whose path in module_utils matches")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=60, help="stop after so many; --again goes on")
    parser.add_argument("--again", action="store_true", help="go on with the copy that is there, and its results")
    return parser


def copy_checkout(tree: Path, only: str) -> None:
    """Copy what git knows or does not ignore to the place that the collection's full name asks for, and configure mutmut."""
    shutil.rmtree(tree, ignore_errors=True)
    listing = ["git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in filter(None, subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\0")):
        if (CHECKOUT / name).exists():
            target = tree / COLLECTION / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, target)
    utils = tree / COLLECTION / "plugins" / "module_utils"
    sources = [
        str(path.relative_to(tree)) for path in pure_files(utils) if re.search(only, str(path.relative_to(utils)))
    ]
    units = sorted((tree / COLLECTION / "tests" / "unit").glob("test_*.py"))
    tests = [str(path.relative_to(tree)) for path in units if not OTHER_TESTS.fullmatch(path.name)]
    (tree / "pyproject.toml").write_text(SETTINGS.format(sources=sources, tests=tests, collection=COLLECTION))


def pure_files(utils: Path) -> list[Path]:
    """All files of the pure rooms, and those of the others that touch neither the kernel nor the system."""
    files = [path for room in (*PURE_ROOMS, *ROOMS_IN_PART) for path in sorted((utils / room).rglob("*.py"))]
    return [
        path for path in files if path.relative_to(utils).parts[0] in PURE_ROOMS or not IMPURE.search(path.read_text())
    ]


def run(tree: Path, python: Path, names: list[str], workers: int, seconds: float) -> None:
    """Try these mutants, as many as the time allows; mutmut's own output goes to a log, of which a failure shows the end."""
    if not names:
        return
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HYPOTHESIS_STORAGE_DIRECTORY": str(tree / "hypothesis")}
    command = [str(python), "-m", "mutmut", "run", "--max-children", str(workers), *names]
    with open(LOGS / "mutants.log", "w") as log:
        process = subprocess.Popen(
            command, cwd=tree, env=environment, stdout=log, stderr=log, preexec_fn=_heed_interrupt
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            process.wait(STOP_SECONDS)
            return
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        sys.exit(f"{(LOGS / 'mutants.log').read_text()[-4000:]}\nmutmut failed; log: {LOGS / 'mutants.log'}")


def _heed_interrupt() -> None:
    """In the background of a shell the signal is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def report(tree: Path, python: Path, found: dict[str, str], total: int) -> int:
    """Print each mutant that lives, and how many of each room were killed; 1 if they are too few, 2 if some were not tried."""
    tried = {name: status for name, status in found.items() if status != NOT_TRIED}
    living = {name: status for name, status in tried.items() if status not in KILLED}
    for name, status in sorted(living.items()):
        change = subprocess.run(
            [str(python), "-m", "mutmut", "show", name], cwd=tree, capture_output=True, text=True, check=True
        ).stdout
        print(f"{name}: {status}", *(line for line in change.splitlines() if line[:1] in "+-@"), sep="\n", end="\n\n")
    rooms, survivors = Counter(map(room_of, tried)), Counter(map(room_of, living))
    for room, count in sorted(rooms.items()):
        print(f"{room:<12} {count - survivors[room]:>4} of {count:>4} killed")
    rate = 100 * (len(tried) - len(living)) / max(1, len(tried))
    print(
        f"{len(tried) - len(living)} of {len(tried)} killed ({rate:.1f} %), chosen of {total}; {REQUIRED} % are required"
    )
    if len(tried) < len(found):
        print(f"{len(found) - len(tried)} are left: go on with --again")
        return 2
    return int(rate < REQUIRED)


def room_of(name: str) -> str:
    return name.split(".")[5]


def said(tree: Path, python: Path, program: str) -> str:
    return subprocess.run([python, "-c", program], cwd=tree, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
