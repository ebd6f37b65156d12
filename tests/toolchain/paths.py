# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the tool chain keeps what it makes: everything below ``.cache`` in the checkout."""

from __future__ import annotations

import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = CHECKOUT / ".cache"
LOGS = CACHE / "logs"
VENV = CACHE / "venv"
LAB_VENV = CACHE / "venv-of-lab"
COLLECTIONS = CACHE / "collections"
COLLECTION = COLLECTIONS / "ansible_collections" / "layer4" / "service_proxy"
HOME = CACHE / "home"


def project_files() -> list[Path]:
    """The project's files, relative to the checkout: what git tracks, and what is new and not ignored."""
    command = ["git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return sorted({Path(name) for name in names.split("\0") if name and (CHECKOUT / name).is_file()})
