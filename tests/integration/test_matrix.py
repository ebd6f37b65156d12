# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A random sample of the matrix, asked in the kernel: what the semantics say is what connections meet.

SERVICE_PROXY_MATRIX_SEED repeats a sample; each failure names its seed.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any, NamedTuple

import pytest
from matrix import BRIDGE_PORT, FAMILIES, LOCALHOST_PORT, SETTINGS, VIP, Kind, Question, kinds, node, questions
from network import ADDRESSES, HOSTED, Network
from semantics import Expected

from lab.shares import share_test
from lab.traffic import Tally

SERVICES = 45
"""For each of the settings; every service of a network has a number of its own, so that no connection meets an old one."""
ASKED_PER_SERVICE = 2
CHANCE_OF_MISSING = 1e-9
"""How likely a backend with its fair share may go unseen, and a fair spread may look uneven, in one question."""
ENOUGH_REFUSALS = 2
PATIENCE, DROPPED_AFTER = 8.0, 2.5
"""Seconds: for an answer, on a busy machine; and until silence is a drop, a second SYN included."""
THREADS = 24
NAMES = {address: name for name, addresses in ADDRESSES.items() for address in addresses.values()}


class Case(NamedTuple):
    """One question to one service."""

    kind: Kind
    question: Question
    service: dict[str, Any]
    expected: Expected


def sample(random: Random, settings: str, first: int, dataplane: str) -> Iterator[Case]:
    """Questions to services of which each is of a random kind."""
    of_node = node(settings, dataplane)
    possible = [kind for family in FAMILIES for kind in kinds(family, settings)]
    for number in range(first, first + SERVICES):
        kind = random.choice(possible)
        service = kind.service(number, random.choice(["tcp", "udp"]))
        cases = [
            Case(kind, one, service, one.expected(service, of_node, kind.family, dataplane))
            for one in questions(kind, dataplane)
        ]
        can_be_told = [case for case in cases if _can_be_told(case)]
        yield from random.sample(can_be_told, min(ASKED_PER_SERVICE, len(can_be_told)))


def _can_be_told(case: Case) -> bool:
    """Whether this network shows the difference.

    A sender of its own datagrams learns alike (EPERM) of reject and drop. A backend elsewhere answers a client outside
    whose address it sees past the node.
    """
    if case.service["protocol"] == "udp" and case.question.source == "node1":
        return case.expected.verdict == "accept"
    remote = {ADDRESSES[name][case.kind.family] for name in HOSTED["node2"]}
    past = [at for at, snat in case.expected.snat.items() if at[0] in remote and not snat]
    return not (past and case.question.source == "client")


def ask(network: Network, case: Case) -> Tally:
    """A busy machine loses packets, and nobody sends a datagram again: what got no answer is asked once more."""
    destination, port = case.question.destination(case.service, case.kind.family)
    count, timeout = ENOUGH_REFUSALS, PATIENCE
    if case.expected.verdict == "accept":
        rarest = float(min(case.expected.shares.values()))
        count = math.ceil(math.log(CHANCE_OF_MISSING) / math.log(1 - rarest)) if rarest < 1 else ENOUGH_REFUSALS
    elif case.expected.verdict == "drop":
        timeout = DROPPED_AFTER
    source, protocol = case.question.source, case.service["protocol"]
    tally = network.ask(source, destination, port, protocol, count, timeout=timeout)
    if case.expected.verdict != "drop" and tally.failures["timeout"]:
        again = network.ask(source, destination, port, protocol, tally.failures.pop("timeout"), timeout=timeout)
        tally.answers += again.answers
        tally.failures += again.failures
    return tally


def ask_all(network: Network, cases: list[Case]) -> list[tuple[Case, Tally]]:
    """All at once, but what is asked of IPVS from one host, and answered, one after another.

    IPVS tells connections by the client's address and port and the backend: of two that are the same in this, through two services, the
    earlier gets no answers.
    """
    lanes: dict[Any, list[Case]] = {}
    for number, case in enumerate(cases):
        alone = network.dataplane == "ipvs" and case.expected.verdict == "accept"
        lanes.setdefault(case.question.source if alone else number, []).append(case)
    with ThreadPoolExecutor(THREADS) as threads:
        asked = threads.map(lambda lane: [(case, ask(network, case)) for case in lane], lanes.values())
    return [one for lane in asked for one in lane]


def as_expected(case: Case, tally: Tally) -> bool:
    if case.expected.verdict != "accept":
        kind = "timeout" if case.expected.verdict == "drop" else "refused"
        return not tally.answered and set(tally.failures) == {kind}
    shares = {NAMES[at[0]]: float(share) for at, share in case.expected.shares.items()}
    sources = {NAMES[at[0]]: _sources(case, snat) for at, snat in case.expected.snat.items()}
    return (
        not tally.failed
        and set(tally.backends) == set(shares)
        and share_test(tally.backends, shares) > CHANCE_OF_MISSING
        and all(source in sources[backend] for backend, source in tally.answers)
    )


def _sources(case: Case, snat: Any) -> set[str]:
    """The addresses as which a backend may see who asks."""
    if snat == "masquerade":
        return {ADDRESSES[name][case.kind.family] for name in ("node1", "bridge1")}
    return {snat or ADDRESSES[case.question.source][case.kind.family]}


def test_a_random_sample_of_the_matrix_meets_in_the_kernel_what_the_semantics_say(network: Network) -> None:
    seed = int(os.environ.get("SERVICE_PROXY_MATRIX_SEED", secrets.randbits(32)))
    print(f"SERVICE_PROXY_MATRIX_SEED={seed}")
    random = Random(seed)
    network.hosts["node1"].sysctl("net/ipv4/conf/all/route_localnet", 1)
    asked = 0
    for settings, first in zip(SETTINGS, range(1, 250, SERVICES)):
        cases = list(sample(random, settings, first, network.dataplane))
        services = {case.service["name"]: case.service for case in cases}
        network.applied(list(services.values()), node=node(settings, network.dataplane))
        wrong = [(case, tally) for case, tally in ask_all(network, cases) if not as_expected(case, tally)]
        assert not wrong, (f"{len(wrong)} of {len(cases)}, seed {seed}, {settings}", wrong[:3])
        asked += len(cases)
    assert asked >= 300, asked


@pytest.mark.parametrize(
    "question", [Question(VIP, "client"), Question(BRIDGE_PORT, "b11"), Question(LOCALHOST_PORT, "node1")]
)
def test_the_comparison_sees_what_is_not_as_expected(question: Question) -> None:
    """An answer from a backend that is no part of the pool, by a wrong source, too rarely, or instead of a refusal."""
    kind = Kind(FAMILIES[0], "cluster", "cluster", "ready", "none", "everyone")
    service = kind.service(1)
    settings = "node port addresses" if question.way == LOCALHOST_PORT else "usual"
    case = Case(kind, question, service, question.expected(service, node(settings), kind.family))
    own = ADDRESSES["node1"][kind.family]

    def tally(**answers: int) -> Tally:
        made = Tally()
        made.answers.update({(backend, own): count for backend, count in answers.items()})
        return made

    assert as_expected(case, tally(b11=18, b12=54))
    assert not as_expected(case, tally(b11=18, b12=53, b21=1))
    assert not as_expected(case, tally(b11=72))
    assert not as_expected(case, tally(b11=54, b12=18))
    refused = tally()
    refused.failures["refused"] = 2
    assert not as_expected(case, refused)
    elsewhere = tally(b11=18, b12=54)
    elsewhere.answers["b12", "192.0.2.77"] = 1
    assert not as_expected(case, elsewhere)
