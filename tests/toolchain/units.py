# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run the unit tests under one Python, without a single capability even when root asks for it.

The controller's Python runs all of them. Any other one stands for a managed host's: it gets pytest and ansible-core's
``module_utils``, nothing else, and leaves out the tests of code that only a controller runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from paths import CACHE, CHECKOUT, VENV
from prepare import locked, point, virtual_environment
from stages import WITHOUT_CAPABILITIES


def main(interpreter: str) -> int:
    environment = dict(os.environ, HYPOTHESIS_STORAGE_DIRECTORY=str(CACHE / "hypothesis"))
    python = Path(interpreter)
    if python.parent.parent != VENV:
        with locked(CACHE / f"units-{python.name}.lock"):
            python = virtual_environment(interpreter, CHECKOUT / "requirements-units.txt") / "bin" / "python"
        environment["PYTHONPATH"] = str(module_utils())
    command = [str(python), "-m", "pytest", "-q", "tests/unit"]
    prefix = WITHOUT_CAPABILITIES if os.geteuid() == 0 else ()
    return subprocess.run([*prefix, *command], cwd=CHECKOUT, env=environment, check=False).returncode


def module_utils() -> Path:
    """A directory for PYTHONPATH that holds ansible-core, and of the controller's environment nothing else."""
    import ansible

    directory = CACHE / "module_utils"
    directory.mkdir(exist_ok=True)
    point(directory / "ansible", Path(ansible.__file__).parent)
    return directory


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
