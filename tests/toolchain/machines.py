# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run Molecule's scenarios on virtual machines. Arguments: their names."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from paths import CHECKOUT, LOGS
from scenarios import EVIDENCE, ON_MACHINES, tested

sys.path.insert(0, str(CHECKOUT))

from lab.vm.standing import standing


def main(names: Sequence[str]) -> int:
    return tested(names, lambda: keep_what_machines_logged(names))


def keep_what_machines_logged(names: Sequence[str]) -> None:
    """Save console, journal, rules and links of the machine that stands beside the stage's own log."""
    for name in (f"l4-{name}" for name in names):
        machine = standing(name)
        if machine:
            log = LOGS / f"molecule-{name}.log"
            log.write_text(machine.ssh.run("sh", "-c", f"exec 2>&1; {EVIDENCE}", check=False).stdout)
            print(f"what {name} logged: {log.relative_to(CHECKOUT)}, {machine.keep_console()}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ON_MACHINES))
