# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Modules of the collection in an archive, as Ansible sends them."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from ansible_collections.layer4.service_proxy.plugins.module_utils import compiled_once

UTILS = "ansible_collections/layer4/service_proxy/plugins/module_utils"
RUN = """
import collections, sys, traceback
compiled = collections.Counter()
sys.addaudithook(lambda event, given: compiled.update([str(given[1])]) if event == "compile" else None)
sys.path.insert(0, sys.argv[1])
from ansible_collections.layer4.service_proxy.plugins.module_utils import compiled_once
compiled_once.install()
from ansible_collections.layer4.service_proxy.plugins.module_utils.below import other
from ansible_collections.layer4.service_proxy.plugins.module_utils.below.module import fails
print(other.__file__, other.__package__, [compiled[one.__file__] for one in (compiled_once, other)])
try:
    fails()
except KeyError:
    traceback.print_exc()
"""


def test_from_an_archive_each_module_is_compiled_once_and_its_lines_are_told(tmp_path: Path) -> None:
    archive = tmp_path / "payload.zip"
    packages = [str(path) for path in (Path(UTILS) / "below" / "__init__.py").parents][:-1]
    with zipfile.ZipFile(archive, "w") as file:
        for package in packages:
            file.writestr(f"{package}/__init__.py", "")
        file.write(compiled_once.__file__, f"{UTILS}/compiled_once.py")
        file.writestr(f"{UTILS}/below/other.py", "")
        file.writestr(f"{UTILS}/below/module.py", 'from . import other\ndef fails():\n    raise KeyError("told")\n')
    done = subprocess.run([sys.executable, "-c", RUN, str(archive)], capture_output=True, text=True, check=False)
    package = f"{UTILS}/below".replace("/", ".")
    assert done.stdout == f"{archive}/{UTILS}/below/other.py {package} [2, 1]\n", done.stderr
    told = f'  File "{archive}/{UTILS}/below/module.py", line 3, in fails\n    raise KeyError("told")\n'
    assert told in done.stderr
