# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nodes whose keepalived announces what site.yml has compiled of their services."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from announce_bed import (
    ADDRESSES,
    BACKENDS,
    CHECK,
    KEEPALIVED_FILE,
    NODES,
    PROGRAM,
    AnnounceBed,
    Stream,
    service,
    wait_for,
)
from worlds import assert_same_changes

from lab.traffic import connect
from module_runner import COLLECTION

LOCAL = ("203.0.113.20", "2001:db8:203::20")
CLASHING = "vrrp_instance other {\n  interface eth0\n  virtual_router_id 51\n  priority 1\n  unicast_peer {\n    10.0.0.2\n  }\n}\n"
MAIN = "/etc/keepalived/keepalived.conf"
LEFT = "ls -d /run/layer4-service-proxy /var/lib/layer4* /etc/keepalived/*.conf 2> /dev/null || true"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnnounceBed]:
    with AnnounceBed(tmp_path_factory.mktemp("controller"), service_proxy_announce="vrrp") as bed:
        bed.put_addresses_on_link()
        predicted = bed.site(check=True)
        assert_same_changes(predicted, bed.site())
        for name in NODES:
            bed.start_keepalived(name)
        yield bed


@pytest.fixture
def bed(made: AnnounceBed) -> AnnounceBed:
    """One node holds the addresses of both families."""
    wait_for(lambda: len(made.holders()) == 1 == len(made.holders(ADDRESSES[1])), "no node holds the addresses")
    return made


def test_a_node_tells_who_holds_an_address(bed: AnnounceBed) -> None:
    [holder] = bed.holders()
    told = {node: bed.announced(node, ADDRESSES[0]) for node in NODES}
    assert told == {node: f"by vrrp, held by {'this' if node == holder else 'another'} node now" for node in NODES}


def answered(bed: AnnounceBed, address: str) -> set[str]:
    tally = connect(bed.neighbour, address, 80, count=40)
    assert tally.failed == 0, tally
    return set(tally.backends)


@pytest.mark.parametrize("address", ADDRESSES)
def test_one_node_holds_an_address_and_leads_to_all_backends(bed: AnnounceBed, address: str) -> None:
    assert answered(bed, address) == set(BACKENDS)


def test_a_change_that_concerns_no_address_reloads_nothing(bed: AnnounceBed) -> None:
    """It is a switch of the dataplane: what follows is with nftables."""
    before = written(bed)
    bed.inventory(service_proxy_dataplane="nftables")
    assert bed.site().changed == 2
    assert written(bed) == before
    assert [answered(bed, address) for address in ADDRESSES] == [set(BACKENDS)] * 2


def written(bed: AnnounceBed) -> str:
    """The number of the file that keepalived reads, another one whenever it is written."""
    return bed.nodes["node1"].run("stat", "--format=%i", KEEPALIVED_FILE).stdout


def test_a_drained_node_hands_over_without_a_failed_connection_and_stays_drained(bed: AnnounceBed) -> None:
    """But for one that is being made in that moment: the node that takes over does not know it."""
    [drained] = bed.holders()
    [other] = set(NODES) - {drained}
    with Stream(bed.neighbour, ADDRESSES[0]) as stream, Stream(bed.neighbour, ADDRESSES[1]) as other_stream:
        run = bed.play("drain_node.yml", drained, service_proxy_drain_seconds=10)
        wait_for(lambda: bed.holders() == [other] == bed.holders(ADDRESSES[1]), "the other node took nothing over")
    assert max(len(stream.failed), len(other_stream.failed)) <= 1
    [report] = [result["msg"] for task, _host, result in run.results if "Report" in task]
    assert report.startswith(f"{ADDRESSES[0]}, {ADDRESSES[1]}: no new connections in the last 3 seconds, ")
    again = bed.site()
    assert again.changed == 0, "neither on a drained node nor on one that holds addresses"
    warned = [warning for _task, _host, result in again.results for warning in result.get("warnings", ())]
    assert f"{drained} is drained: it announces nothing until undrain_node" in warned
    assert bed.announced(drained, ADDRESSES[0]) == "by vrrp, but not by this node, which is drained"
    with Stream(bed.neighbour, ADDRESSES[0]) as stream:
        bed.play("undrain_node.yml", drained)
    assert stream.failed == []


def test_without_a_limit_no_node_is_drained(bed: AnnounceBed) -> None:
    run = bed.controller.run(COLLECTION / "playbooks" / "drain_node.yml", expect_failure=True)
    assert run.message == "drain_node withdraws every node of the group: name those that are meant with --limit"


def test_an_address_with_a_local_policy_is_held_by_a_node_with_a_usable_backend(bed: AnnounceBed) -> None:
    local = service("local", external_ips=list(LOCAL), external_traffic_policy="local", health_check=CHECK)
    on_node2 = [{**one, "node": "node2"} for one in local["backends"]]
    bed.inventory([service(), {**local, "backends": on_node2}])
    bed.site()
    assert_held(bed, "node2")
    told = "by vrrp, but not by this node, which has no usable backend for it"
    assert bed.announced("node1", LOCAL[0]) == told
    before = written(bed)
    bed.inventory([service(), local])
    bed.site()
    checkers = [bed.nodes[node].start(PROGRAM, "check") for node in NODES]
    bed.fail("second")
    assert_held(bed, "node1")
    bed.mend("second")
    bed.fail("first")
    assert_held(bed, "node2")
    bed.mend("first")
    wait_for(
        lambda: not bed.follow_checks() and switched(bed, "node1") == ["0"] * 4, "node1 does not offer its own backend"
    )
    for checker in checkers:
        checker.terminate()
    assert written(bed) == before, "only other addresses are written"
    assert [answered(bed, address) for address in ADDRESSES] == [set(BACKENDS)] * 2


def assert_held(bed: AnnounceBed, node: str) -> None:
    held = [[node]] * 2
    wait_for(
        lambda: not bed.follow_checks() and [bed.holders(one) for one in LOCAL] == held, f"{node} does not hold it"
    )


def switched(bed: AnnounceBed, node: str) -> list[str]:
    """What tells keepalived whether the node can serve, by group of addresses."""
    return bed.nodes[node].run("sh", "-c", "cat /run/layer4-service-proxy/announce/*").stdout.split()


def test_a_node_that_could_not_bring_its_services_back_announces_nothing(bed: AnnounceBed) -> None:
    [holder] = bed.holders()
    node = bed.nodes[holder]
    assert node.run(PROGRAM, "boot", "restore").stderr == ""
    assert bed.holders() == [holder]
    kept = node.run(
        "sh", "-c", "ls -d /var/lib/layer4-service-proxy/generations/*/services.nft* | tail -n 1"
    ).stdout.strip()
    node.run("mv", kept, "/var/kept")
    assert node.run(PROGRAM, "boot", "restore", check=False).returncode == 1
    wait_for(lambda: bed.holders() == [one for one in NODES if one != holder], "the other node took nothing over")
    node.run("mv", "/var/kept", kept)
    assert node.run(PROGRAM, "boot", "restore").stderr == ""


def test_a_configuration_that_keepalived_refuses_is_not_put_in_place(bed: AnnounceBed) -> None:
    node, main, before = bed.nodes["node1"], bed.read("node1", MAIN), written(bed)
    node.run("sh", "-c", f"cat >> {MAIN}", input=CLASHING)
    bed.inventory([service(external_ips=[*ADDRESSES, "203.0.113.11"])])
    run = bed.controller.run(expect_failure=True)
    assert f"keepalived refuses its configuration with {KEEPALIVED_FILE}, which is not put in place: " in run.message
    assert (bed.read("node1", MAIN), written(bed)) == (main + CLASHING, before)
    node.run("sh", "-c", f"cat > {MAIN}", input=main)


def test_another_node_takes_over_from_one_that_is_gone(bed: AnnounceBed) -> None:
    [gone] = bed.holders()
    [other] = set(NODES) - {gone}
    with Stream(bed.neighbour, ADDRESSES[0]) as stream:
        bed.nodes[gone].ip("link", "set", "eth0", "down")
        wait_for(lambda: other in bed.holders(), "nobody took over")
        stream.wait_for_answers(100)
    print(f"{stream.outage:.2f} seconds without answers")
    bed.nodes[gone].ip("link", "set", "eth0", "up")


def test_removed_it_leaves_nothing(made: AnnounceBed) -> None:
    """Last, since it ends what the other tests share."""
    made.site(service_proxy_state="absent")
    wait_for(lambda: made.holders() == [], "keepalived holds addresses still")
    assert [host.run("sh", "-c", LEFT).stdout for host in made.nodes.values()] == ["", ""]
