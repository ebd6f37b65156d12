# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from network import IPV4, IPV6, Network
from repetition import repetition

VARIANTS = ("nft", "legacy")
WITHOUT_BACKEND_CHAINS = "lean"
NFTABLES = "nftables"
RECORDS = Path("/run/layer4-service-proxy")
STARTED = time.time()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--dataplane",
        choices=["iptables", "ipvs"],
        default="iptables",
        help="what carries the packets of the traffic tests; ipvs needs a kernel that has it",
    )
    parser.addoption("--switches", type=int, default=6, help="how many times a node changes its dataplane under load")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """What runs in namespaces that are gone have left for the next ones goes too, but not what a checker of another session has found."""
    if hasattr(session.config, "workerinput") or not RECORDS.is_dir():
        return
    with suppress(OSError):
        for path in RECORDS.iterdir():
            if path.stat().st_mtime >= STARTED and not path.name.endswith("health"):
                path.unlink()
        RECORDS.rmdir()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    own = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "network" in metafunc.fixturenames and "network" not in own:
        dataplane = metafunc.config.getoption("--dataplane")
        if dataplane == "iptables":
            ids = [*VARIANTS, WITHOUT_BACKEND_CHAINS, NFTABLES]
            if metafunc.definition.get_closest_marker("switches_dataplane"):
                ids = [*VARIANTS]
            everywhere = metafunc.definition.get_closest_marker("every_variant") is not None
            repeated = set() if everywhere else {"legacy", WITHOUT_BACKEND_CHAINS}
            found = [repetition(name) if name in repeated else name for name in ids]
        else:
            found, ids = ["nft", repetition("legacy")], [f"{dataplane}-{variant}" for variant in VARIANTS]
        metafunc.parametrize("network", found, ids=ids, indirect=True, scope="module")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What another dataplane does differently is left out there, and proved by a test of its own."""
    if config.getoption("--dataplane") == "iptables":
        differing = [item for item in items if item.get_closest_marker("needs_iptables") and _is_of_nftables(item)]
    else:
        differing = [item for item in items if item.get_closest_marker("iptables_only")]
    config.hook.pytest_deselected(items=differing)
    items[:] = [item for item in items if item not in differing]


def _is_of_nftables(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    return callspec is not None and callspec.params.get("network") == NFTABLES


@pytest.fixture(scope="module")
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    """The network of the traffic tests, with each variant of iptables, layout of chains and nftables; each test applies its own services."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw")
    dataplane = NFTABLES if request.param == NFTABLES else request.config.getoption("--dataplane")
    node = {"backend_chains": request.param != WITHOUT_BACKEND_CHAINS}
    with Network(f"l4{os.getpid()}{worker}", request.param == "legacy", dataplane, node) as made:
        yield made


@pytest.fixture(params=[IPV4, IPV6])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)
