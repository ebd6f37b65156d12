# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nodes whose BIRD announces what site.yml has compiled of their services, to a router that spreads connections over them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from announce_bed import (
    ADDRESSES,
    BACKENDS,
    BIRD_FILE,
    CHECK,
    NODES,
    PROGRAM,
    ROUTER,
    AnnounceBed,
    Stream,
    service,
    wait_for,
)
from worlds import assert_same_changes

from lab.traffic import connect

MAIN = "/etc/bird/bird.conf"
LOCAL = "203.0.113.20"
LEAVING = [{"layer4.service_proxy.service_proxy_node": {"parts": ["announce"], "withdrawal": "begin"}}]
LEFT = f"ls -d /run/layer4-service-proxy /var/lib/layer4* {BIRD_FILE} 2> /dev/null || true"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnnounceBed]:
    neighbors = [{"address": address, "asn": 65000, "bfd": True} for address in ROUTER]
    variables = {"service_proxy_bgp_asn": 65001, "service_proxy_bgp_neighbors": neighbors}
    with AnnounceBed(tmp_path_factory.mktemp("controller"), service_proxy_announce="bgp", **variables) as bed:
        bed.start_router()
        bed.start_bird(bed.nodes["node1"])  # the distribution's starts with the package
        predicted = bed.site(check=True)
        assert_same_changes(predicted, bed.site())
        bed.start_bird(bed.nodes["node2"])
        yield bed


@pytest.fixture
def bed(made: AnnounceBed) -> AnnounceBed:
    """Both nodes announce the addresses of both families."""
    wait_for(lambda: [made.ways(one) for one in ADDRESSES] == [list(NODES)] * 2, "a node does not announce")
    return made


@pytest.mark.parametrize("address", ADDRESSES)
def test_connections_are_spread_over_the_nodes(bed: AnnounceBed, address: str) -> None:
    tally = connect(bed.client, address, 80, count=60)
    number = ADDRESSES.index(address)
    assert tally.failed == 0
    assert set(tally.backends) == set(BACKENDS)
    assert tally.sources == {addresses[number] for addresses in NODES.values()}


def test_the_configuration_that_was_there_has_two_lines_more(bed: AnnounceBed) -> None:
    found = Path(MAIN).read_text()
    written = bed.read("node1", MAIN)
    assert written.endswith(found)
    assert written[: -len(found)].splitlines()[1:] == [f'include "{BIRD_FILE}";']
    assert bed.nodes["node1"].run("stat", "--format=%U %a", MAIN).stdout == "bird 640\n"


def test_nodes_announce_what_they_can_serve(bed: AnnounceBed) -> None:
    local = service("local", external_ips=[LOCAL], external_traffic_policy="local", health_check=CHECK)
    local["backends"] = [one for one in local["backends"] if one["node"] == "node2"]
    unready = service("unready", external_ips=["203.0.113.21"])
    unready["backends"] = [{**one, "ready": False} for one in unready["backends"]]
    bed.inventory([service(), local, unready])
    bed.site()
    wait_for(lambda: bed.ways(LOCAL) == ["node2"], "node2 does not announce its own backend's address")
    assert bed.ways("203.0.113.21") == []
    assert [bed.announced("node2", one) for one in (LOCAL, "10.0.0.254")] == ["by bgp", ""]
    checker = bed.nodes["node2"].start(PROGRAM, "check")
    bed.fail("second")
    wait_for(
        lambda: not bed.follow_checks() and bed.ways(LOCAL) == [], "node2 announces the address of a backend that fails"
    )
    assert bed.site().changed == 0, "a run reckons with checks"
    bed.mend("second")
    wait_for(lambda: not bed.follow_checks() and bed.ways(LOCAL) == ["node2"], "node2 does not announce what is back")
    checker.terminate()
    assert [bed.ways(one) for one in ADDRESSES] == [list(NODES)] * 2


def test_a_drained_node_leaves_without_a_failed_connection(bed: AnnounceBed) -> None:
    with Stream(bed.client, ADDRESSES[0]) as stream, Stream(bed.client, ADDRESSES[1]) as other_stream:
        bed.controller.judged(bed.controller.run_anyhow(bed.controller.play(LEAVING), False, "--limit", "node1"))
        wait_for(lambda: [bed.ways(one) for one in ADDRESSES] == [["node2"]] * 2, "the router does not prefer node2")
        assert known(bed) == 2, "the router does not know node1's way any more"
        bed.play("drain_node.yml", "node1", service_proxy_drain_seconds=5)
        wait_for(lambda: known(bed) == 1, "node1 announces its address still")
        assert bed.router.run("birdc", "show", "protocols").stdout.count("Established") == 4
        bed.play("undrain_node.yml", "node1")
        wait_for(lambda: [bed.ways(one) for one in ADDRESSES] == [list(NODES)] * 2, "node1 does not announce")
    assert (stream.failed, other_stream.failed) == ([], [])


def known(bed: AnnounceBed) -> int:
    """How many ways to the address the router has been told of."""
    return bed.router.run("birdc", "show", "route", "for", f"{ADDRESSES[0]}/32").stdout.count("via 10.0.0.")


def test_the_other_nodes_serve_when_one_is_gone(bed: AnnounceBed) -> None:
    with Stream(bed.client, ADDRESSES[0]) as stream:
        bed.nodes["node1"].ip("link", "set", "eth0", "down")
        wait_for(lambda: bed.ways() == ["node2"], "the router sends connections to a node that is gone")
        since = stream.wait_for_answers(100)
    assert [at for at in stream.failed if at > since] == []
    print(f"{stream.outage:.2f} seconds without answers")
    bed.nodes["node1"].ip("link", "set", "eth0", "up")


def test_removed_it_leaves_what_was_there(made: AnnounceBed) -> None:
    """Last, since it ends what the other tests share."""
    for number, address in enumerate(NODES["node1"]):
        made.nodes["node1"].ip("address", "replace", f"{address}/{(24, 64)[number]}", "dev", "eth0")
    made.site(service_proxy_state="absent")
    assert [host.run("sh", "-c", LEFT).stdout for host in made.nodes.values()] == ["", ""]
    assert made.read("node1", MAIN) == Path(MAIN).read_text()
    assert made.nodes["node1"].run("stat", "--format=%U %a", MAIN).stdout == "bird 640\n"
    shown = made.nodes["node1"].run("birdc", "show", "protocols").stdout
    assert "l4_service_proxy" not in shown
    assert "kernel1" in shown
