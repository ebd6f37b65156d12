# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services that take a port of the node: the listener is named, and the port of the run's own connection refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from network import ADDRESSES, IPV4, LOCAL_CIDRS, Network, vip
from warned import warnings_of, web

from lab.traffic import Servers
from module_runner import MANAGED_HOST_PYTHON, run_module

pytestmark = pytest.mark.parametrize("network", ["nft"], indirect=True)
SSH_PORT = 2222
OWN = ADDRESSES["node1"][IPV4]
TAKEN: list[tuple[dict[str, Any], str]] = [
    ({"node_port": SSH_PORT}, f"node_port {SSH_PORT}/tcp"),
    ({"external_ips": [OWN], "port": SSH_PORT}, f"external_ips {OWN}:{SSH_PORT}/tcp"),
]


@pytest.mark.parametrize(("service", "named"), TAKEN, ids=["node_port", "external_ips"])
def test_a_program_that_a_service_cuts_off_is_named(network: Network, service: dict[str, Any], named: str) -> None:
    network.applied([])
    comm = Path("/proc/self/comm").read_text(encoding="utf-8").strip()
    with Servers() as servers:
        servers.serve(network.hosts["node1"], "daemon", "0.0.0.0", SSH_PORT)
        assert network.ask("client", OWN, SSH_PORT).backends == {"daemon": 1}
        (warning,) = warnings_of(network, web(IPV4, "b11", **service))
        assert warning.startswith(
            f'service "web": {named} takes the port on which {comm} (0.0.0.0:{SSH_PORT}) listens: '
        )
        assert network.ask("client", OWN, SSH_PORT).backends == {"b11": 1}
    assert warnings_of(network, web(IPV4, "b11", **service)) == []


def _run(network: Network, directory: Path, service: Mapping[str, Any], **node: Any) -> dict[str, Any]:
    """A run that is connected over SSH and of which sudo hides that."""
    sudo = directory / "python"
    sudo.write_text(f'#!/bin/sh\nenv -u SSH_CONNECTION {MANAGED_HOST_PYTHON} "$@"\nexit $?\n')
    sudo.chmod(0o755)
    arguments = {
        "services": [web(IPV4, "b11", **service)],
        "exclusive": True,
        "dataplane": network.dataplane,
        "node": {"name": "node1", "local_cidrs": LOCAL_CIDRS, **node},
    }
    connection = {"SSH_CONNECTION": f"{ADDRESSES['client'][IPV4]} 40000 {OWN} {SSH_PORT}"}
    how: dict[str, Any] = {"path_prefix": network.path_prefix, "interpreter": str(sudo), "environment": connection}
    return run_module(network.hosts["node1"], "vip_service", arguments, **how)


@pytest.mark.parametrize(("service", "named"), TAKEN, ids=["node_port", "external_ips"])
def test_the_port_of_the_run_itself_is_refused_unless_allowed(
    network: Network, tmp_path: Path, service: dict[str, Any], named: str
) -> None:
    network.applied([web(IPV4, "b12")])
    held = network.rules()
    refused = _run(network, tmp_path, service)
    assert refused.get("failed")
    assert refused["msg"].startswith(f'service "web": {named} is {OWN}:{SSH_PORT}, by which this run is connected')
    assert "\n" not in refused["msg"]
    assert network.rules() == held
    allowed = _run(network, tmp_path, service, allow_management_port=True)
    assert not allowed.get("failed"), allowed
    assert allowed["changed"]
    assert network.ask("client", vip(1, IPV4), service.get("port", 80)).backends == {"b11": 1}
    assert _run(network, tmp_path, service)["msg"] == refused["msg"]  # also of what stands already
