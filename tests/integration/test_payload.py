# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A long list of services on its way from the inventory to a node: as one text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.hosts import Host
from playbooks import Controller

MANY = 250
TASK = {
    "name": "Proxy",
    "layer4.service_proxy.vip_service": {
        "services": "{{ service_proxy_services }}",
        "exclusive": True,
        "node": {"addresses": ["192.0.2.1"]},
    },
}


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(f"l4pay{os.getpid()}") as made:
        yield made


def _services(port: int = 80) -> list[dict[str, Any]]:
    backends = [{"address": "10.0.0.1"}]
    return [
        {"name": f"s{number}", "vip": f"10.96.0.{number + 1}", "port": port, "backends": backends}
        for number in range(MANY)
    ]


def test_many_services_travel_as_one_text(host: Host, tmp_path: Path) -> None:
    services = _services()
    services[-1]["name"] = "s{{ 200 + 49 }}"
    controller = Controller(tmp_path)
    controller.inventory({"node1": host}, {"service_proxy_services": services})
    play = controller.play([TASK])
    predicted = controller.run(play, check=True)
    first, second = controller.run(play), controller.run(play)
    assert predicted.changes == first.changes
    ((_task, _host, result),) = first.results
    assert sorted(result["added"]) == sorted(f"s{number}" for number in range(MANY))
    assert result["invocation"]["module_args"]["services"] == []
    assert len(str(result["invocation"])) < 2000
    assert (second.changed, second.results[0][2]["diff"]) == (0, {"before": "", "after": ""})


def test_one_service_that_differs_is_seen(host: Host, tmp_path: Path) -> None:
    controller = Controller(tmp_path)
    services = _services()
    controller.inventory({"node1": host}, {"service_proxy_services": services})
    play = controller.play([TASK])
    controller.run(play)
    services[7]["port"] = 81
    controller.inventory({"node1": host}, {"service_proxy_services": services})
    ((_task, _host, result),) = controller.run(play).results
    assert (result["added"], result["updated"], result["removed"]) == ([], ["s7"], [])
    host.run("iptables", "-t", "nat", "-F", "L4-SERVICES")
    repaired, after = controller.run(play), controller.run(play)
    assert (repaired.changed, after.changed) == (1, 0)


def test_an_error_in_many_services_is_reported_by_name(host: Host, tmp_path: Path) -> None:
    controller = Controller(tmp_path)
    services = _services()
    services[7]["port"] = 0
    controller.inventory({"node1": host}, {"service_proxy_services": services})
    refused = controller.run(controller.play([TASK]), expect_failure=True)
    assert 'service "s7": port is 0' in refused.message
