# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One node holds what is announced, and hands it over."""

from __future__ import annotations

import pytest

from outside import Outside, Stream, boot, kill, play, stamp, wait_for
from places import NODES, machine

WEB, OWN = ("203.0.113.10", "2001:db8:203::10"), ("203.0.113.20", "2001:db8:203::20")


def holders(address: str) -> list[str]:
    return [node for node in NODES if f" {address}/" in machine(node).run("ip -oneline address").stdout]


def held_by(addresses: tuple[str, str], *nodes: str) -> bool:
    """Whether each is held by one of these nodes, and by no other. The families elect theirs apart."""
    found = [holders(one) for one in addresses]
    return all(len(one) == 1 and one[0] in nodes for one in found)


@pytest.mark.parametrize("address", WEB)
def test_one_node_holds_an_address_and_leads_to_all_backends(address: str) -> None:
    wait_for(lambda: held_by(WEB, *NODES))
    assert Outside().backends(address, 80, 30) == {"web1", "web3"}


def test_a_service_without_announced_addresses_reloads_nothing() -> None:
    before = [stamp(node, "keepalived") for node in NODES]
    play("site.yml", "--extra-vars scaled=true")
    assert [stamp(node, "keepalived") for node in NODES] == before


def test_a_node_without_usable_backends_hands_over() -> None:
    """Those of the service are on node1 and node2, and nobody else may serve it."""
    wait_for(lambda: held_by(OWN, "node1", "node2"))
    [holder] = holders(OWN[0])
    backend, other = ("web1", "node2") if holder == "node1" else ("web3", "node1")
    machine(holder).check_output(f"systemctl stop web@{backend}")
    wait_for(lambda: held_by(OWN, other))
    assert len(Outside().backends(OWN[0], 80, 5)) == 1
    machine(holder).check_output(f"systemctl start web@{backend}")


def test_drained_nodes_hand_over_without_a_failed_connection() -> None:
    """But for one that is being made in that moment: the node that takes over does not know it. Until node3 holds the addresses."""
    for limit in [*(["node3"] if held_by(WEB, "node3") else []), "node1:node2"]:
        with Stream(WEB[0]) as stream, Stream(WEB[1]) as stream6:
            play("drain_node.yml", f"--limit={limit} --extra-vars service_proxy_drain_seconds=10")
            wait_for(lambda: held_by(WEB, *(set(NODES) - set(limit.split(":")))))  # noqa: B023
            play("undrain_node.yml", f"--limit={limit}")
        stream.tell(f"VRRP, {limit} drained")
        assert max(len(stream.failed), len(stream6.failed)) <= 1
    assert held_by(WEB, "node3")


def test_another_node_takes_over_from_one_that_is_killed() -> None:
    with Stream(WEB[0]) as stream, Stream(WEB[1]) as stream6:
        kill("node3")
        wait_for(lambda: held_by(WEB, "node1", "node2"))
        since = stream.wait_for_answers()
    stream.tell("VRRP, node3 killed")
    stream6.tell("VRRP over IPv6, node3 killed")
    assert [at for at in stream.failed if at > since] == []
    boot("node3")
    assert machine("node3").service("keepalived").is_running
    assert held_by(WEB, "node1", "node2")
