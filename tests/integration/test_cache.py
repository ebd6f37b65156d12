# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A run looks only at what differs from what the last one left: it must come to the same, and miss nothing that others do.

The dataplane runs in this process, in a thread that has entered the namespace: hundreds of runs in seconds.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, Callable

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.interface import Facility, Host
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.netfilter import facilities
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.run import NodeRun, plan_run
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.conntrack import Conntrack
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.files import RUN_DIRECTORY
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.request import Request
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import InvalidServices, parse_node
from lab.namespaces import Namespace

EDITS = 120
STEPS = 80
SEED = 6
PREFIX = f"MEM{os.getpid() % 10000}"
NODE = parse_node(
    {
        "name": "node1",
        "addresses": ["192.0.2.1", "2001:db8::1"],
        "local_cidrs": ["10.0.0.0/16"],
        "chain_prefix": PREFIX,
    }
)

_numbers = count()


class LocalRunner:
    """Tools of this machine, and what was run: the words of each call."""

    def __init__(self, variant: str) -> None:
        self.variant = variant
        self.calls: list[list[str]] = []

    def find(self, tool: str) -> str | None:
        return shutil.which(self.variant if tool in ("iptables", "ip6tables") else tool)

    def run(self, argv: Sequence[str], stdin: str = "") -> tuple[int, str, str]:
        self.calls.append(list(argv))
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr


class _NothingKnown:
    """What makes a run read the kernel, whatever was left."""

    is_nft = False

    def now(self) -> str:
        return ""


class LocalHost:
    """A host of this process, in a namespace that the thread has entered."""

    def __init__(self, runner: LocalRunner, check_mode: bool, caching: bool) -> None:
        self.runner, self.check_mode, self.tracking = runner, check_mode, Conntrack()
        self._opened: dict[Callable[[Host], Any], Any] = {facilities.sets: facilities.NoSets("none")}
        if not caching:
            self._opened[facilities.rules_state] = _NothingKnown()

    def facility(self, opened: Callable[[Host], Facility]) -> Facility:
        if opened not in self._opened:
            self._opened[opened] = opened(self)
        found: Facility = self._opened[opened]
        return found


class Node:
    """A namespace with one variant of iptables."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.variant = f"xtables-{kind}-multi"
        self.namespace = Namespace(f"l4mem{os.getpid()}n{next(_numbers)}")
        self.runner = LocalRunner(self.variant)
        self.looked_at_all = False

    def plan(self, request: Request, caching: bool = True, check_mode: bool = True, node: Any = NODE) -> NodeRun:
        def inside() -> NodeRun:
            return plan_run(request, node, LocalHost(self.runner, check_mode, caching))

        run = self.namespace.call(inside)
        self.looked_at_all = run.parts[0].observation.request is request
        return run

    def apply(self, services: Sequence[Any], **request: Any) -> NodeRun:
        run = self.plan(_request(services, **request), check_mode=False)
        self.namespace.call(run.apply)
        return run

    def read_whole(self) -> bool:
        """Whether the last plan looked at everything."""
        return self.looked_at_all

    def tool(self, *arguments: str, family: str = "iptables") -> str:
        return self.namespace.run(self.variant, family, *arguments).stdout


def _request(services: Sequence[Any], state: str = "present", exclusive: bool = True) -> Request:
    return Request(state, services, exclusive, "iptables")


@pytest.fixture(params=["nft", "legacy"])
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    made = Node(request.param)
    with made.namespace:
        yield made
    for path in RUN_DIRECTORY.glob(f"*-{PREFIX}.json"):
        path.unlink()


def _service(number: int, **keys: Any) -> dict[str, Any]:
    backends = [{"address": f"10.0.0.{at + 1}", "port": 8080} for at in range(1 + number % 3)]
    vips = [f"10.96.{number // 200}.{number % 200 + 1}"]
    extra: dict[str, Any] = {}
    if number % 4 == 0:
        extra["node_port"] = 30000 + number
    if number % 5 == 0:
        vips.append(f"fd96::{number + 1:x}")
    if number % 7 == 0:
        backends = []
    return {"name": f"s{number}", "vip": vips, "port": 80, "backends": backends, **extra, **keys}


def _services(many: int) -> list[dict[str, Any]]:
    return [_service(number) for number in range(many)]


def test_what_is_there_is_not_read(node: Node) -> None:
    services = _services(60)
    assert node.apply(services).changed
    assert node.read_whole()
    assert not node.apply(services).changed
    assert not node.read_whole()
    services[8] = _service(8, port=81)
    del services[20]
    services.append(_service(300))
    summary = node.apply(services).summary
    assert (summary.added, summary.updated, summary.removed) == (["s300"], ["s8"], ["s20"])
    assert not node.read_whole()
    assert not node.plan(_request(services), caching=False).changed


def test_looking_at_what_differs_comes_to_what_looking_at_everything_does(node: Node) -> None:
    chance = random.Random(SEED)
    present: dict[str, dict[str, Any]] = {raw["name"]: raw for raw in _services(45)}
    node.apply(list(present.values()))
    partial = 0
    for _step in range(STEPS):
        numbers = chance.sample(range(70), chance.randint(1, 4))
        named = [_service(number, port=chance.choice([80, 81])) for number in numbers]
        names = [raw["name"] for raw in named]
        kind = chance.choice(["exclusive", "some", "absent"])
        if kind == "absent":
            present = {name: raw for name, raw in present.items() if name not in names}
            node.apply([{"name": name} for name in names], state="absent", exclusive=False)
        elif kind == "some":
            present.update(zip(names, named))
            node.apply(named, exclusive=False)
        else:
            present = {name: raw for name, raw in present.items() if name not in names[1:]}
            present[names[0]] = named[0]
            node.apply(list(present.values()))
        partial += not node.read_whole()
        fresh = node.plan(_request(list(present.values())), caching=False)
        assert fresh.diff == {"before": "", "after": ""}, kind
    assert partial == STEPS


def test_every_edit_by_hand_is_found_and_repaired(node: Node) -> None:
    """One rule of ours taken away, doubled, moved, or a stranger put between, in any chain."""
    services = _services(50)
    node.apply(services)
    whole = _saved(node)
    chance = random.Random(SEED)
    for _edit in range(EDITS):
        edit = _edit_by_hand(node, chance, whole)
        change = node.apply(services)
        assert change.changed, edit
        if chance.random() < 0.1:
            assert _saved(node) == whole, edit
    assert _saved(node) == whole


def _saved(node: Node) -> dict[str, str]:
    """Of both families."""
    return {
        family: "".join(
            line + "\n"
            for table in ("nat", "filter")
            for line in node.tool("-t", table, "-S", family=family).splitlines()
            for line in [f"{table} {line}"]
        )
        for family in ("iptables", "ip6tables")
    }


def _edit_by_hand(node: Node, chance: random.Random, whole: dict[str, str]) -> list[str]:
    family = chance.choice(["iptables", "iptables", "iptables", "ip6tables"])
    rules = [line for line in whole[family].splitlines() if f" -A {PREFIX}-" in line]
    table, _append, chain, rest = chance.choice(rules).split(" ", 3)
    count_of = sum(line.startswith(f"{table} -A {chain} ") for line in rules)
    place = str(chance.randint(1, count_of))
    edits = {
        "gone": ["-D", chain, place],
        "doubled": ["-A", chain, "-m", "comment", "--comment", "again", "-j", "RETURN"],
        "stranger": ["-I", chain, place, "-p", "tcp", "--dport", "7", "-j", "RETURN"],
        "flushed": ["-F", chain],
        "replaced": ["-R", chain, place, "-p", "udp", "--dport", "9", "-j", "RETURN"],
    }
    kind = chance.choice(sorted(edits))
    node.tool("-t", table, *edits[kind], family=family)
    return [kind, family, table, chain, place, rest]


def test_what_others_change_is_told_from_what_is_ours() -> None:
    """Once somebody else has changed rules: whoever does again is no reason to read everything, unless it is in what is ours."""
    node, chance = Node("nft"), random.Random(SEED)
    present = {raw["name"]: raw for raw in _services(40)}
    with node.namespace:
        node.apply(list(present.values()))
        _edit_of_others(node, chance)
        assert not node.apply(list(present.values())).changed
        assert node.read_whole()
        for _step in range(STEPS):
            _edit_of_others(node, chance)
            kind = chance.choice(["nothing", "changed", "first of its kind", "edited"])
            if kind == "edited":
                edit = _edit_by_hand(node, chance, _saved(node))
                assert node.apply(list(present.values())).changed, edit
            elif kind == "nothing":
                assert not node.apply(list(present.values())).changed
            elif kind == "changed":
                number = chance.randrange(40)
                present[f"s{number}"] = _service(number, port=chance.choice([80, 81]))
                node.apply(list(present.values()))
            else:
                present = {} if present else {raw["name"]: raw for raw in _services(12)}
                node.apply(list(present.values()))
            assert not node.read_whole() or kind in ("edited", "first of its kind"), kind
            fresh = node.plan(_request(list(present.values())), caching=False)
            assert fresh.diff == {"before": "", "after": ""}, kind
            if not present:
                present = {raw["name"]: raw for raw in _services(40)}
                node.apply(list(present.values()))
                _edit_of_others(node, chance)
                node.apply(list(present.values()))
    for path in RUN_DIRECTORY.glob(f"*-{PREFIX}.*"):
        path.unlink()


def _edit_of_others(node: Node, chance: random.Random) -> None:
    family = chance.choice(["iptables", "ip6tables"])
    # Not in filter: a rule beside our jumps there may drop what they accept, so that it has the run read everything.
    table, chain = chance.choice(
        [("nat", "PREROUTING"), ("nat", "OUTPUT"), ("nat", "POSTROUTING"), ("mangle", "INPUT")]
    )
    rule = ["-p", "tcp", "--dport", str(chance.randint(1, 9999)), "-j", "RETURN"]
    node.tool("-t", table, chance.choice(["-A", "-I"]), chain, *rule, family=family)


def test_a_run_that_cannot_be_sure_reads_everything(node: Node) -> None:
    """Somebody changes rules between a plan and its being applied."""
    services = _services(40)
    node.apply(services)
    services[1] = _service(1, port=99)
    change = node.plan(_request(services))
    node.tool("-t", "nat", "-A", PREFIX + "-SERVICES", "-j", "RETURN")
    node.namespace.call(change.apply)
    assert node.apply(services).changed
    assert node.read_whole()
    assert not node.apply(services).changed


def test_services_that_were_written_before_memory_was_lost_are_read(node: Node) -> None:
    """A service that no run since then has named is known by its rules alone."""
    services = _services(40)
    node.apply(services)
    for path in RUN_DIRECTORY.glob(f"*-{PREFIX}.json"):
        path.unlink()
    node.apply([_service(1, port=90)], exclusive=False)
    assert node.apply([_service(2, port=91)], exclusive=False).summary.updated == ["s2"]
    assert node.apply([{"name": "s3"}], state="absent", exclusive=False).summary.removed == ["s3"]
    left = [one for one in services if one["name"] not in ("s1", "s2", "s3")]
    wanted = [*left, _service(1, port=90), _service(2, port=91)]
    assert not node.plan(_request(wanted), caching=False).changed


def test_a_service_at_a_backend_of_one_that_stays_is_refused(node: Node) -> None:
    services = [*_services(8), _service(9, backends=[{"address": "192.0.2.1", "port": 30090}])]
    node.apply(services)
    before = node.tool("-t", "nat", "-S")
    for key in ({"vip": "10.0.0.3", "port": 8080}, {"vip": [], "node_port": 30090}):
        thief = {"name": "thief", "port": 80, "backends": [{"address": "10.0.0.9"}], **key}
        for request in (_request([thief], exclusive=False), _request([*services, thief])):
            for caching in (True, False):
                with pytest.raises(InvalidServices, match="since a connection is translated once"):
                    node.plan(request, caching)
    assert node.tool("-t", "nat", "-S") == before


def test_all_services_that_change_are_not_read_either(node: Node) -> None:
    node.apply(_services(40))
    changed = [_service(number, port=99) for number in range(40)]
    assert len(node.apply(changed).summary.updated) == len(changed)
    assert not node.read_whole()
    assert not node.plan(_request(changed), caching=False).changed


def test_other_settings_of_the_node_are_looked_at_as_a_whole(node: Node) -> None:
    services = _services(40)
    node.apply(services)
    assert node.plan(_request(services), node=NODE._replace(masquerade_all=True)).changed
    assert node.read_whole()


def _say_something() -> None:
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as any_socket:
            any_socket.sendto(b"counted", (address, 9))


def test_a_repeated_request_is_known_by_its_digest_alone(node: Node) -> None:
    services = _services(60)
    node.apply(services)
    counted = [node.tool("-t", "filter", "-v", "-S", "OUTPUT", family=family) for family in ("iptables", "ip6tables")]
    node.namespace.call(_say_something)
    for family, before in zip(("iptables", "ip6tables"), counted):
        assert node.tool("-t", "filter", "-v", "-S", "OUTPUT", family=family) != before
    assert _is_unchanged(node, services)
    assert not node.plan(_request(services)).changed
    assert not _is_unchanged(node, services[1:])
    node.tool("-t", "nat", "-A", "OUTPUT", "-j", "RETURN")
    assert not _is_unchanged(node, services)


def _is_unchanged(node: Node, services: Sequence[Any]) -> bool:
    found: bool = node.plan(_request(services)).parts[0].observation.state.is_unchanged
    return found


def test_a_run_warns_of_the_services_that_it_names(node: Node) -> None:
    services = [{**raw, "source_ranges": ["192.0.2.0/24"]} for raw in _services(5)]
    node.apply(services)
    assert _warned(node, _request(services)) == {raw["name"] for raw in services}
    assert _warned(node, _request(services[:1], exclusive=False)) == {"s0"}
    assert _warned(node, _request([{"name": "s1"}], state="absent", exclusive=False)) == set()
    another = [{**services[0], "port": 81}, *services[1:]]
    assert _warned(node, _request(another)) == {raw["name"] for raw in services}


def _warned(node: Node, request: Request) -> set[str]:
    """The services of which a warning says that they have source ranges for nothing."""
    run = node.plan(request)
    told = node.namespace.call(lambda: run.warnings)
    return {line.split('"')[1] for line in told if "source_ranges" in line}


def test_without_services_nothing_is_left(node: Node) -> None:
    node.apply(_services(5))
    assert list(RUN_DIRECTORY.glob(f"*-{PREFIX}.json"))
    node.apply([], state="absent", exclusive=True)
    assert not list(RUN_DIRECTORY.glob(f"*-{PREFIX}.json"))


def test_udp_services_have_their_flows_judged_every_time(node: Node) -> None:
    services = [*_services(5), _service(50, protocol="udp")]
    node.apply(services)
    assert node.plan(_request(services)).cleanup.targets
    assert not node.read_whole()
    assert not _is_unchanged(node, services)


@pytest.mark.parametrize("damage", ["state", "header", "services", "shared", "cut"])
def test_a_damaged_cache_is_forgotten_and_the_kernel_read(node: Node, damage: str) -> None:
    services = _services(12)
    node.apply(services)
    (path,) = RUN_DIRECTORY.glob(f"*-{PREFIX}.json")
    text = path.read_text()
    changes = {
        "state": (text[:60], text[:60].swapcase()),
        "header": ("-m comment", "-m comeent"),
        "services": ('"10.0.0.1"', "null"),
        "shared": (f"{PREFIX}-FIREWALL", f"{PREFIX}-FIREWALZ"),
        "cut": (text[len(text) // 2 :], ""),
    }
    path.write_text(text.replace(*changes[damage]))
    more = [*services, _service(13)]
    assert node.apply(more).summary.added == ["s13"]
    assert node.read_whole()
    assert not node.apply(more).changed
    assert node.tool("-S", "INPUT").count(f"-j {PREFIX}-FIREWALL") == 1
    assert not node.plan(_request(more), caching=False).changed
