# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Managed hosts that are virtual machines: Ansible comes by SSH, clients and backends are namespaces on the same LAN."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.vm.bed import Bed, bed_for
from playbooks import Controller


@pytest.fixture(scope="module")
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    """One machine and its LAN for the tests of a file; what its console said is kept if one of them fails."""
    failed = request.session.testsfailed
    with bed_for(f"l4h{os.getpid()}{os.environ.get('PYTEST_XDIST_WORKER', 'gw')}") as made:
        yield made
        if request.session.testsfailed > failed:
            print(f"console: {made.machine.keep_console()}")


@pytest.fixture
def controller(tmp_path: Path, bed: Bed) -> Controller:
    """Runs playbooks on the machine, which is the group service_proxy."""
    made = Controller(tmp_path)
    bed.write_inventory(tmp_path)
    return made
