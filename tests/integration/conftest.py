# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from network import IPV4, IPV6, Network


@pytest.fixture(scope="module", params=["nft", "legacy"])
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    """The network of the traffic tests, once with each back end of iptables; each test applies its own services."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw")
    with Network(f"l4{os.getpid()}{worker}", legacy=request.param == "legacy") as made:
        yield made


@pytest.fixture(params=[IPV4, IPV6])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)
