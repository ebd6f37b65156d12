# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run shellcheck on every shell script of the project, found by suffix or first line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from paths import CHECKOUT, project_files

SHELL = re.compile(rb"#!\s*/\S+[/ ](?:ba|da)?sh\b")


def main() -> int:
    scripts = [str(path) for path in project_files() if is_shell_script(path)]
    print(f"shellcheck {' '.join(scripts)}", flush=True)
    return subprocess.run(["shellcheck", "--", *scripts], cwd=CHECKOUT, check=False).returncode


def is_shell_script(path: Path) -> bool:
    if path.suffix == ".j2":
        return False
    with (CHECKOUT / path).open("rb") as handle:
        return path.suffix == ".sh" or bool(SHELL.match(handle.readline(200)))


if __name__ == "__main__":
    sys.exit(main())
