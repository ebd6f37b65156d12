# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tests that need a kernel with IPVS. They run inside of a virtual machine of the lab, each in namespaces of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from network import IPV4, IPV6, Network

from lab.namespaces import Namespace
from lab.vm.image import MARK


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to run anywhere else: a suite that passes because it did nothing proves nothing."""
    if not Path(MARK).exists() and not config.option.collectonly:
        raise pytest.UsageError(
            "tests/virtual runs in a virtual machine: python -m lab.vm test PATH (docs/development.md)"
        )


@pytest.fixture
def node() -> Iterator[Namespace]:
    """A fresh network namespace, with IPVS of its own."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw")
    with Namespace(f"l4v{os.getpid()}{worker}") as made:
        yield made


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """The network of the traffic tests, its nodes with the ipvs dataplane unless a test says otherwise."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw")
    with Network(f"l4{os.getpid()}{worker}", dataplane="ipvs") as made:
        yield made


@pytest.fixture(params=[IPV4, IPV6])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)
