# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A third dataplane, of which nothing else in the collection knows: it runs, is switched to and from, and tells of itself."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane import offline, registry
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.interface import (
    Dataplane,
    Host,
    Observation,
    Summary,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.packet import Packet, Step, Trace
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.run import (
    NodeRun,
    RunError,
    info,
    plan_run,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.conflicts import BackendOf, Claim, claims
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.request import Request
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import (
    InvalidServices,
    Node,
    Service,
    parse_node,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.boot import BootState
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.transaction import Step as Change
from ansible_collections.layer4.service_proxy.tests.unit.fake_node import FakeNode

NODE = parse_node({"name": "node1", "addresses": ["192.0.2.1"], "local_cidrs": ["10.0.0.0/16"]})
Shelf = dict[str, Service]


class ShelfError(Exception):
    """The shelf is out of reach."""


def shelf(dummy: Host) -> Shelf:
    """The facility: services, one beside the other."""
    raise ShelfError("no shelf on this host")


class ShelfPlan(NamedTuple):
    """What is put there and what is taken away."""

    there: Shelf
    held: Shelf
    """What was there when it was planned."""
    wanted: Shelf

    @property
    def summary(self) -> Summary:
        both = self.held.keys() & self.wanted.keys()
        updated = sorted(name for name in both if self.held[name] != self.wanted[name])
        return Summary(sorted(self.wanted.keys() - both), updated, sorted(self.held.keys() - both))

    @property
    def changed(self) -> bool:
        return self.held != self.wanted

    @property
    def diff(self) -> dict[str, str]:
        sides = {"before": set(self.held) - set(self.wanted), "after": set(self.wanted) - set(self.held)}
        return {side: "".join(f"# shelf\n{name}\n" for name in sorted(names)) for side, names in sides.items()}

    def prepare(self) -> list[Change]:
        return []

    def activate(self) -> list[Change]:
        return [Change(partial(self.there.update, self.wanted), self._put_back)] if self.wanted else []

    def retire(self) -> list[Change]:
        return [
            Change(partial(self.there.__delitem__, one), self._put_back)
            for one in self.held.keys() - self.wanted.keys()
        ]

    def _put_back(self) -> None:
        self.there.clear()
        self.there.update(self.held)


class OnAShelf:
    """The dataplane."""

    name = "shelf"
    takes_input = False
    uses_iptables = False
    errors = (ShelfError,)

    def problems(self, services: Sequence[Service], dummy: Node) -> list[str]:
        return [
            f'service "{one.name}": protocol is sctp: no shelf has it' for one in services if one.protocol == "sctp"
        ]

    def compile(self, services: Sequence[Service], dummy: Node) -> Shelf:
        return {service.name: service for service in services}

    def bound_addresses(self, dummy: Sequence[Service], _node: Node) -> Collection[str]:
        return ()

    def in_use(self, host: Host, dummy: Node) -> bool:
        return bool(host.facility(shelf))

    def observe(self, host: Host, dummy: Node, request: Request) -> Observation:
        return Observation(request, host.facility(shelf), foreign_chains=())

    def claims(
        self,
        observed: Observation,
        dummy: Node,
        at: Collection[str | None] | None = None,
        of: Collection[str] | None = None,
    ) -> Mapping[str, Sequence[Claim]]:
        held = [claim for name, one in observed.state.items() if of is None or name in of for claim in claims(one)]
        return {"ipv4": [claim for claim in held if at is None or claim.address in at]}

    def backends(self, observed: Observation, dummy: Node, at: Collection[tuple[str, str, int]]) -> Iterable[BackendOf]:
        held = [
            (one.name, one.protocol, each.address, each.port)
            for one in observed.state.values()
            for each in one.backends
        ]
        return [BackendOf(*each) for each in held if each[1:] in at]

    def warnings(self, _host: Host, observed: Observation, dummy: Node, families: Collection[str]) -> list[str]:
        return ["the shelf is full"] if len(observed.state) > 1 and families else []

    def plan(self, dummy: Host, _node: Node, desired: Shelf, observed: Observation) -> ShelfPlan:
        request, held = observed.request, observed.state
        names = {raw["name"] for raw in request.services}
        kept = {} if request.exclusive else {name: one for name, one in held.items() if name not in names}
        return ShelfPlan(held, dict(held), {**kept, **desired})

    def review(self, desired: Shelf, _node: Node, dummy: Sequence[str]) -> str:
        return "".join(f"# shelf\n{name}\n" for name in desired)

    def render(self, desired: Shelf, dummy: Node) -> BootState:
        return BootState(sets="".join(f"{name}\n" for name in desired))

    def edited(self, dummy: BootState, _desired: Shelf, _names: Collection[str], _node: Node) -> BootState | None:
        return None

    def trace(self, desired: Shelf, dummy: Node, packet: Packet) -> Trace:
        taken = [one for one in desired.values() if packet.destination in one.vip]
        ends = {packet._replace(destination=one.backends[0].address, dnat=True): Fraction(1) for one in taken}
        return Trace(ends or {packet: Fraction(1)}, [Step("shelf", one.name, "taken", Fraction(1)) for one in taken])

    def info(self, host: Host, dummy: Node) -> dict[str, Any]:
        return {"services": sorted(host.facility(shelf)), "counts": {}, "unreadable": {}}


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    load = registry.load

    def with_shelf(name: str) -> Dataplane:
        return OnAShelf() if name == "shelf" else load(name)

    monkeypatch.setattr(registry, "load", with_shelf)
    monkeypatch.setattr(registry, "IMPLEMENTED", (*registry.IMPLEMENTED, "shelf"))
    monkeypatch.setattr(registry, "NAMES", (*registry.NAMES, "shelf"))
    for fields in (offline._RENDER_FIELDS, offline._TRACE_FIELDS, offline._VALIDATE_FIELDS):
        monkeypatch.setitem(fields, "dataplane", offline._dataplane_field())


@pytest.fixture
def host() -> FakeNode:
    return FakeNode(further={shelf: {}})


def _service(name: str, number: int, **keys: Any) -> dict[str, Any]:
    return {"name": name, "vip": f"10.96.0.{number}", "port": 80, "backends": [{"address": f"10.0.1.{number}"}], **keys}


WEB, DB = _service("web", 1), _service("db", 2)


def _run(host: FakeNode, *services: dict[str, Any], **how: Any) -> NodeRun:
    given = {"state": "present", "exclusive": True, "dataplane": "shelf", **how}
    run = plan_run(Request(given["state"], services, given["exclusive"], given["dataplane"]), NODE, host)
    run.apply()
    run.clean_up()
    return run


def test_it_runs(host: FakeNode) -> None:
    assert _run(host, WEB).summary == (["web"], [], [])
    assert not _run(host, WEB).changed
    added = _run(host, DB, exclusive=False)
    assert (added.summary, added.diff) == ((["db"], [], []), {"before": "", "after": "# shelf\ndb\n"})
    assert "the shelf is full" in _run(host, WEB, DB).warnings
    assert info("shelf", NODE, host)["services"] == ["db", "web"]
    assert _run(host, {"name": "web"}, state="absent", exclusive=False, dataplane="iptables").summary.removed == ["web"]
    assert list(host.facility(shelf)) == ["db"]


@pytest.mark.parametrize(("first", "then"), [("iptables", "shelf"), ("shelf", "iptables")])
def test_a_node_is_switched_to_it_and_from_it(host: FakeNode, first: str, then: str) -> None:
    _run(host, WEB, DB, dataplane=first)
    switched = _run(host, WEB, _service("new", 3), dataplane=then)
    assert switched.summary == (["new"], ["web"], ["db"])
    assert (sorted(host.facility(shelf)), bool(host.chains)) == (
        (["new", "web"], False) if then == "shelf" else ([], True)
    )
    assert not _run(host, WEB, _service("new", 3), dataplane=then).changed


@pytest.mark.parametrize(("first", "then"), [("iptables", "shelf"), ("shelf", "iptables")])
def test_services_that_are_not_named_are_not_left_in_another_dataplane(host: FakeNode, first: str, then: str) -> None:
    _run(host, WEB, DB, dataplane=first)
    with pytest.raises(InvalidServices, match=f"db would be left in dataplane {first}"):
        _run(host, WEB, dataplane=then, exclusive=False)


def test_a_switch_that_fails_leaves_the_node_as_it_was(host: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(host, WEB, dataplane="iptables")
    held = {table: dict(chains) for table, chains in host.tables.tables.items()}
    restoring = host.tables.restoring

    def fail(text: str) -> Any:
        def refuse() -> None:
            raise ShelfError("refused")

        return refuse if "-X" in text else restoring(text)

    monkeypatch.setattr(host.tables, "restoring", fail)
    with pytest.raises(RunError, match="refused"):
        _run(host, WEB)
    assert (host.facility(shelf), host.tables.tables) == ({}, held)


def test_what_it_takes_is_refused_twice_and_what_it_cannot_do_is_told(host: FakeNode) -> None:
    _run(host, WEB)
    with pytest.raises(InvalidServices, match=r"10\.96\.0\.1:80/tcp is taken already by vip of service \"web\""):
        _run(host, {**WEB, "name": "other"}, exclusive=False)
    with pytest.raises(InvalidServices, match="no shelf has it"):
        _run(host, {**WEB, "protocol": "sctp"})


def test_it_is_rendered_and_traced_without_a_host() -> None:
    node = {"name": "node1", "addresses": ["192.0.2.1"]}
    assert offline.render_services([WEB], {"node": node, "dataplane": "shelf"}) == "# shelf\nweb\n"
    asked = {"from": "192.0.2.9", "to": "10.96.0.1", "port": 80, "node": node, "dataplane": "shelf"}
    found = offline.trace_services([WEB], asked)
    assert (found["verdict"], found["backends"][0]["address"]) == ("accept", "10.0.1.1")
    assert [step["chain"] for step in found["rules"]] == ["web"]


def test_a_facility_that_is_out_of_reach_is_one_line() -> None:
    def out_of_reach(opened: Any) -> Any:
        return shelf(node) if opened is shelf else reach(opened)

    node = FakeNode()
    reach = node.facility
    node.facility = out_of_reach  # type: ignore[method-assign]
    with pytest.raises(RunError, match=r"^no shelf on this host$"):
        _run(node, WEB)


@pytest.mark.parametrize("dataplane", ["iptables", "shelf"])
def test_a_backend_at_which_a_service_answers_that_stays_is_refused(host: FakeNode, dataplane: str) -> None:
    _run(host, WEB, dataplane=dataplane)
    chained = {**DB, "backends": [{"address": "10.96.0.1", "port": 80}]}
    with pytest.raises(InvalidServices, match=r"backends has 10\.96\.0\.1:80, which is vip of service \"web\""):
        _run(host, chained, dataplane=dataplane, exclusive=False)
    _run(host, chained, dataplane=dataplane)


@pytest.mark.parametrize(
    ("given", "backend", "claim"),
    [
        ({"vip": "10.0.0.7"}, {"address": "10.0.0.7"}, "vip 10.0.0.7:5432/tcp"),
        ({"external_ips": "10.0.0.7"}, {"address": "10.0.0.7"}, "external_ips 10.0.0.7:5432/tcp"),
        ({"load_balancer_ips": "10.0.0.7"}, {"address": "10.0.0.7"}, "load_balancer_ips 10.0.0.7:5432/tcp"),
        ({"node_port": 30080}, {"address": "192.0.2.1", "port": 30080}, "node_port 30080/tcp"),
    ],
)
@pytest.mark.parametrize("dataplane", ["iptables", "shelf"])
def test_a_service_at_a_backend_of_one_that_stays_is_refused(
    host: FakeNode, dataplane: str, given: dict[str, Any], backend: dict[str, Any], claim: str
) -> None:
    kept = {**WEB, "port": 5432, "backends": [backend]}
    new = {"name": "db", "port": 5432, "backends": [{"address": "10.0.0.8"}], **given}
    _run(host, kept, dataplane=dataplane)
    held = str(host.chains)
    with pytest.raises(
        InvalidServices, match=f'service "db": {claim} would answer at .*, which backends of service "web" has'
    ):
        _run(host, new, dataplane=dataplane, exclusive=False)
    assert str(host.chains) == held
    _run(host, {**new, "protocol": "udp"}, dataplane=dataplane, exclusive=False)
    _run(host, {**kept, "backends": []}, new, dataplane=dataplane, exclusive=False)
    _run(host, {**new, "backends": [{"address": "10.0.0.9"}]}, dataplane=dataplane, exclusive=False)
