# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the lab expects of its inventory, and that it is not content with less."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml

from lab.expectation import Expectation, Question, expect, judge, questions
from lab.topology import INVENTORY, Topology, copy_inventory, edit, load
from lab.traffic import Tally

EVEN = Expectation({"web1": 1, "web3": 1}, {"web1": "10.77.1.1", "web3": "192.168.77.11"})


@pytest.fixture(scope="module")
def topology() -> Topology:
    return load()


def question(topology: Topology, service: str, asker: str, entry: str = "VIP", version: int = 4) -> Question:
    """The first of the lab's questions that is like this."""
    found = (
        one
        for one in questions(topology)
        if (one.service, one.asker, one.entry, one.version) == (service, asker, entry, version)
    )
    return next(found)


def test_namespaces_in_the_inventory_are_those_that_are_built(topology: Topology) -> None:
    groups = yaml.safe_load((INVENTORY / "hosts.yml").read_text())["all"]["children"]
    named = {host: values["ansible_netns_name"] for group in groups.values() for host, values in group["hosts"].items()}
    assert named == {
        host: topology.namespace_name(host) for host in (*topology.nodes, *topology.backends, topology.client.name)
    }


def test_a_copy_is_another_lab_and_scales_with_its_groups(topology: Topology, tmp_path: Path) -> None:
    copied = copy_inventory(tmp_path / "inventory", "other")
    assert load(copied).namespace_name("node1") == "other-node1"
    assert "l4lab" not in (copied / "hosts.yml").read_text()
    assert set(expect(topology, question(topology, "web", "client")).weights) == {"web1", "web2", "web3"}
    edit(copied / "hosts.yml", "    spare:\n      hosts:\n", "")
    assert set(expect(load(copied), question(topology, "web", "client")).weights) == {"web1", "web2", "web3", "web4"}


@pytest.mark.parametrize(
    ("asker", "entry", "version", "sources"),
    [
        ("client", "VIP", 4, {"web1": "10.77.1.1", "web2": "10.77.1.1", "web3": "192.168.77.11"}),
        ("node1", "VIP", 4, {"web1": "10.77.1.1", "web2": "10.77.1.1", "web3": "192.168.77.11"}),
        ("web1", "VIP", 4, {"web1": "10.77.1.1", "web2": "10.77.1.11", "web3": "10.77.1.11"}),
        ("web3", "VIP", 6, {"web1": "fd77:2::11", "web2": "fd77:2::11", "web3": "fd77:2::1"}),
        ("client", "external", 4, {"web1": "192.168.77.12", "web2": "192.168.77.12", "web3": "10.77.2.1"}),
        ("node2", "node port", 6, {"web1": "fd77::12", "web2": "fd77::12", "web3": "fd77:2::1"}),
    ],
)
def test_sources_follow_the_semantics(
    topology: Topology, asker: str, entry: str, version: int, sources: dict[str, str]
) -> None:
    assert expect(topology, question(topology, "web", asker, entry, version)).sources == sources


def test_weights_and_refusals_are_the_inventory_s(topology: Topology) -> None:
    assert expect(topology, question(topology, "canary", "client")).weights == {"web1": 3, "web3": 1}
    assert expect(topology, question(topology, "closed", "client")).weights == {}


def answers(**counts: int) -> Counter[tuple[str, str]]:
    return Counter({(backend, EVEN.sources.get(backend, "10.0.0.1")): count for backend, count in counts.items()})


def test_what_is_as_expected_is_not_complained_about() -> None:
    assert judge(EVEN, Tally(answers(web1=2510, web3=2490))) == []
    assert judge(Expectation({}, {}), Tally(failures=Counter(refused=3))) == []


@pytest.mark.parametrize(
    ("tally", "faults"),
    [
        (Tally(answers(web1=2800, web3=2200)), ["shares differ"]),
        (Tally(answers(web1=5000)), ["shares differ"]),
        (Tally(answers(web1=2500, web3=2499, web2=1)), ["shares differ"]),
        (Tally(answers(web1=2500, web3=2499), Counter(reset=1)), ["1 reset"]),
        (
            Tally(Counter({("web1", "10.77.1.1"): 50, ("web3", "192.168.77.1"): 50})),
            ["web3 sees 192.168.77.1, not 192.168.77.11"],
        ),
    ],
)
def test_what_differs_is_said(tally: Tally, faults: list[str]) -> None:
    assert judge(EVEN, tally) == faults


@pytest.mark.parametrize(
    "tally", [Tally(answers(web1=3)), Tally(failures=Counter(timeout=3)), Tally(failures=Counter(refused=2, timeout=1))]
)
def test_anything_but_a_refusal_is_wrong_without_backends(tally: Tally) -> None:
    assert judge(Expectation({}, {}), tally) == ["not refused"]
