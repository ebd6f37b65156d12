# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All nodes announce what they can serve to a router, which spreads connections over them."""

from __future__ import annotations

from outside import Outside, Stream, boot, kill, play, stamp, wait_for
from places import NODES, machine

WEB, OWN = ("203.0.113.10", "2001:db8:203::10"), ("203.0.113.20", "2001:db8:203::20")


def ways(address: str) -> list[str]:
    """The nodes to which the router sends what is for an address."""
    shown = machine("client").check_output(f"ip -{6 if ':' in address else 4} route show {address}")
    return [node for node, addresses in NODES.items() if any(f"via {one} " in shown for one in addresses)]


def known(addresses: tuple[str, str], *nodes: str) -> bool:
    return [ways(one) for one in addresses] == [list(nodes)] * 2


def test_connections_are_spread_over_the_nodes() -> None:
    wait_for(lambda: known(WEB, *NODES) and known(OWN, "node1", "node2"))
    for number, address in enumerate(WEB):
        seen = Outside().sources(address, 80, 60)
        assert seen.keys() == {"web1", "web3"}
        assert seen["web1"] >= {NODES["node2"][number], NODES["node3"][number]}


def test_a_second_run_changes_nothing_and_keepalived_is_as_it_was_found() -> None:
    before = [stamp(node, "bird") for node in NODES]
    assert play("site.yml", "--extra-vars announce=bgp").count("changed=0 ") == len(NODES)
    assert [stamp(node, "bird") for node in NODES] == before
    for node in NODES:
        keepalived = machine(node).service("keepalived")
        assert not keepalived.is_running
        assert not keepalived.is_enabled


def test_a_node_without_usable_backends_is_left_out() -> None:
    machine("node2").check_output("systemctl stop web@web3")
    try:
        wait_for(lambda: known(OWN, "node1"))
        assert known(WEB, *NODES)
    finally:
        machine("node2").check_output("systemctl start web@web3")
    wait_for(lambda: known(OWN, "node1", "node2"))


def test_a_drained_node_leaves_without_a_failed_connection() -> None:
    with Stream(WEB[0]) as stream, Stream(WEB[1]) as stream6:
        play("drain_node.yml", "--limit=node1 --extra-vars service_proxy_drain_seconds=10")
        wait_for(lambda: known(WEB, "node2", "node3"))
        play("undrain_node.yml", "--limit=node1")
        wait_for(lambda: known(WEB, *NODES))
    stream.tell("BGP, node1 drained")
    assert (stream.failed, stream6.failed) == ([], [])


def test_the_other_nodes_serve_when_one_is_killed_and_it_announces_after_its_boot() -> None:
    with Stream(WEB[0]) as stream, Stream(WEB[1]) as stream6:
        kill("node3")
        wait_for(lambda: known(WEB, "node1", "node2"))
        since = max(stream.wait_for_answers(), stream6.wait_for_answers())
    stream.tell("BGP with BFD, node3 killed")
    stream6.tell("BGP with BFD over IPv6, node3 killed")
    assert [at for at in (*stream.failed, *stream6.failed) if at > since] == []
    boot("node3")
    wait_for(lambda: known(WEB, *NODES))
