# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run ``ansible-test sanity`` on a copy of the project's files.

ansible-test wants a real directory ``ansible_collections/layer4/service_proxy``, not a link to one. It makes virtual
environments without pip and fills them with a script from a server of its own; here Python's ensurepip does that, so
that nothing but the package index is needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

from ansible_test._internal.python_requirements import get_venv_packages

from paths import CACHE, CHECKOUT, project_files

COPY = CACHE / "sanity" / Path(sys.prefix).name / "ansible_collections" / "layer4" / "service_proxy"
"""One for each environment, with an ansible-core of its own."""
NOTHING_CHECKED = "All targets skipped"
PIP_FROM_ENSUREPIP = "import ensurepip\n\nensurepip.bootstrap()\n"


def main(arguments: list[str]) -> int:
    if any(path.parts[:2] == ("tests", "sanity") for path in project_files()):
        print("tests/sanity: this project keeps no list of findings to ignore")
        return 1
    copy_project()
    provide_pip()
    command = ["ansible-test", "sanity", "--local", "--color", "no", "--requirements", *arguments]
    with subprocess.Popen(command, cwd=COPY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        empty = [line for line in echoed(process.stdout or []) if NOTHING_CHECKED in line]
    return process.returncode or (1 if empty else 0)


def echoed(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        print(line, end="", flush=True)
        yield line


def copy_project() -> None:
    """Make `COPY` hold the project's files and no other, and a repository of its own: ansible-test asks git for them."""
    shutil.rmtree(COPY, ignore_errors=True)
    subprocess.run(["git", "init", "--quiet", str(COPY)], check=True)
    for path in project_files():
        target = COPY / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(CHECKOUT / path, target, follow_symlinks=False)


def provide_pip() -> None:
    """Put ensurepip where ansible-test keeps its copy of the script that installs pip."""
    version = get_venv_packages(SimpleNamespace(version=f"{sys.version_info.major}.{sys.version_info.minor}"))["pip"]
    script = Path(os.environ["HOME"], ".ansible/test/cache", f"get_pip_{version.replace('.', '_')}.py")
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(PIP_FROM_ENSUREPIP)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
