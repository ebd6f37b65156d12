# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services with and without chains of backends: beside each other, and when a node goes from one to the other.

That each line of the semantics holds of both is proved by the tests of these lines, which have the network ``lean`` too.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
from network import ADDRESSES, IPV6, PORT, Network, backends, vip

from ansible_collections.layer4.service_proxy.plugins.module_utils._model import addresses as ip
from lab.traffic import LongLivedConnection, Servers

LEAN, FULL = {"backend_chains": False}, {"backend_chains": True}

pytestmark = pytest.mark.parametrize("network", ["nft", "legacy"], indirect=True, scope="module")


def _service(family: str, number: int, *names: str, **options: Any) -> dict[str, Any]:
    found = backends(*names, family=family)
    return {"name": f"web{number}", "vip": vip(number, family), "port": 80, "backends": found, **options}


def _own(family: str) -> set[str]:
    return {ADDRESSES[name][family] for name in ("node1", "bridge1")}


def _tool(network: Network, family: str) -> str:
    return network.iptables.replace("ip", "ip6", 1) if family == IPV6 else network.iptables


@pytest.mark.iptables_only
@pytest.mark.semantics(12)
@pytest.mark.parametrize(("first", "second"), [(LEAN, FULL), (FULL, LEAN)], ids=["lean first", "full first"])
def test_hairpin_is_masqueraded_whichever_layout_a_service_was_given(
    network: Network, family: str, first: dict[str, bool], second: dict[str, bool]
) -> None:
    network.applied([_service(family, 1, "b11")], node=first)
    for beside in (["b12"], ["b12", "b21"]):
        network.applied([_service(family, 2, *beside)], node=second, exclusive=False)
        for number, backend in ((1, "b11"), (2, "b12")):
            tally = network.ask(backend, vip(number, family), 80, count=10)
            assert tally.answered == 10, (backend, tally)
            assert {source for one, source in tally.answers if one == backend} <= _own(family), (backend, tally)
        assert network.applied([_service(family, 2, *beside)], node=second, exclusive=False)["changed"] is False


@pytest.mark.iptables_only
@pytest.mark.semantics(20)
def test_connections_live_on_when_a_node_changes_its_layout(network: Network, family: str) -> None:
    services = [_service(family, 1, "b11", "b12"), _service(family, 2, "b12", session_affinity="client_ip")]
    for backend in (backend for service in services for backend in service["backends"]):
        backend["port"] = 9000
    with Servers() as servers, ExitStack() as stack:
        for name in ("b11", "b12"):
            servers.serve(network.hosts[name], name, ADDRESSES[name][family], 9000, keep_open=True)
        network.applied(services, node=FULL)
        made = [
            stack.enter_context(LongLivedConnection(network.hosts["client"], vip(number, family), 80))
            for number in (1, 1, 1, 2)
        ]
        for node in (LEAN, FULL, LEAN):
            result = network.applied(services, node=node)
            assert result["updated"] == ["web1"]
            assert [one.ask().backend for one in made] == [one.first.backend for one in made]
            assert network.applied(services, node=node)["changed"] is False


@pytest.mark.iptables_only
def test_without_chains_of_backends_there_are_less_than_half_the_rules(network: Network, family: str) -> None:
    services = [_service(family, number, "b11", "b12", "b21") for number in range(1, 21)]
    network.applied(services, node=FULL)
    full = sum(f'"{service["name"]}: ' in line for service in services for line in network.rules().splitlines())
    network.applied(services, node=LEAN)
    lean = sum(f'"{service["name"]}: ' in line for service in services for line in network.rules().splitlines())
    assert "-SEP-" not in network.rules()
    assert lean <= full / 2


@pytest.mark.iptables_only
@pytest.mark.semantics(12)
def test_what_others_translate_is_not_masqueraded_with_our_hairpin(network: Network, family: str) -> None:
    """A packet that somebody else's rule sends back to whom it is from is none of ours, unless it is from our backend."""
    address = vip(9, family)
    network.applied([_service(family, 1, "b11")], node=LEAN)
    to = ip.endpoint(ADDRESSES["b12"][family], PORT)
    rule = ["PREROUTING", "-d", address, "-p", "tcp", "-j", "DNAT", "--to-destination", to]
    tool, node = _tool(network, family), network.hosts["node1"]
    node.run(tool, "-t", "nat", "-A", *rule)
    try:
        assert network.ask("b11", address, 80).backends == {"b12": 1}
        assert network.ask("b12", address, 80, timeout=1.0).answered == 0
        network.applied([_service(family, 1, "b11", "b12")], node=LEAN)
        assert network.ask("b12", address, 80).answered == 1
    finally:
        node.run(tool, "-t", "nat", "-D", *rule)
