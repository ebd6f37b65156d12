# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lock of runs, where only root can set the scene."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.files import FileError
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.run_lock import exclusive_run


def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    os.chown(directory, 65534, 65534)
    with pytest.raises(FileError, match="belongs to user 65534"), exclusive_run(0, directory):
        pass
