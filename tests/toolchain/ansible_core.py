# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run the collection with another ansible-core: its plugins' unit tests, sanity of modules, and whole plays on namespaces.

Usage: ansible_core.py REQUIREMENTS INTERPRETER, a file requirements-core-*.txt and a Python that this ansible-core runs on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from paths import CACHE, CHECKOUT, VENV
from prepare import locked, point, virtual_environment

_UNITS = ("action_vip_service", "collection", "filter_backends", "filter_trace_render", "netns_connection", "roles")
_FILE_OF_PLAYS = "tests/integration/test_service_proxy_node.py"
_PLAYS = (
    "a_rollback_is_a_run_with_what_an_earlier_run_was_given",
    "check_mode_on_a_host_without_tools_predicts_what_it_can",
    "settings_that_are_strings_mean_what_they_say",
    "the_tag_of_a_role_does_its_part_alone",
)
_SANITY = ("validate-modules", "runtime-metadata")


def main(requirements: str, interpreter: str) -> int:
    with locked(CACHE / f"{requirements}.lock"):
        environment = virtual_environment(interpreter, CHECKOUT / requirements)
        provide_callback(environment)
    python = str(environment / "bin" / "python")
    units = [f"tests/unit/test_{name}.py" for name in _UNITS]
    plays = [f"{_FILE_OF_PLAYS}::test_{name}" for name in _PLAYS]
    tests = [word for name in _SANITY for word in ("--test", name)]
    commands = [
        [python, "-m", "pytest", "-q", *units, *plays],
        [python, str(Path(__file__).with_name("sanity.py")), *tests],
    ]
    path = f"{environment / 'bin'}:{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, "L4_WARM": "1"}
    return max(subprocess.run(one, cwd=CHECKOUT, env=variables, check=False).returncode for one in commands)


def provide_callback(environment: Path) -> None:
    """Tests read results by a callback of a collection, which the development environment has."""
    (source,) = VENV.glob("lib/python3*/site-packages/ansible_collections/ansible/posix")
    (packages,) = environment.glob("lib/python3*/site-packages")
    collections = packages / "ansible_collections" / "ansible"
    collections.mkdir(parents=True, exist_ok=True)
    point(collections / "posix", source)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
