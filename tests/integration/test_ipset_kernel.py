# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernel's ipsets by `kernel.ipset`: at once or not at all, read as they are, and refused with the entry's name."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Callable

import pytest
from set_host import SetHost

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.ipset import Ipset, IpsetError
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipset import SET_TYPES, Entry, SetHeader
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.ipset_steps import (
    Add,
    Create,
    Delete,
    SetStep,
    Swap,
    bind,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.transaction import run

PORTS = SetHeader("p", "bitmap:port", ports=(1, 60000))
HASH = SetHeader("s", "hash:ip", "ipv4", hashsize=64, maxelem=70000)


@pytest.fixture
def host() -> Iterator[SetHost]:
    with SetHost() as made:
        yield made


def inside(host: SetHost, act: Callable[[Ipset], object]) -> object:
    def call() -> object:
        with Ipset() as sets:
            return act(sets)

    return host.namespace.call(call)


def addresses(count: int, second: int = 0) -> tuple[Entry, ...]:
    return tuple(Entry(f"10.{second}.{number >> 8}.{number & 255}") for number in range(1, count + 1))


def test_nobody_sees_a_set_between_the_old_and_the_new_entries(host: SetHost) -> None:
    """The tool counts the entries all the time, while two memberships of equal size replace each other."""
    memberships = [[entry.element for entry in addresses(20000, second)] for second in (0, 1)]
    host.apply(set="s", type="hash:ip", entries=memberships[0])
    done = threading.Event()

    def watch() -> Counter[str]:
        seen: Counter[str] = Counter()
        while not done.wait(0.001):
            seen[re.findall(r"Number of entries: (\d+)", host.ipset("list", "-t", "s"))[0]] += 1
        return seen

    with ThreadPoolExecutor(1) as threads:
        watching = threads.submit(watch)
        try:
            for membership in (memberships[1], memberships[0]):
                assert host.apply(set="s", entries=membership, exclusive=True)["changed"]
        finally:
            done.set()
        seen = watching.result()
    assert list(seen) == ["20000"]
    assert seen["20000"] > 20


def refused(host: SetHost, *steps: SetStep) -> str:
    def act(sets: Ipset) -> str:
        with pytest.raises(IpsetError) as refusal:
            run(bind(steps, sets))
        return str(refusal.value)

    return str(inside(host, act))


def test_what_the_kernel_refuses_midway_is_taken_back_and_named(host: SetHost) -> None:
    ports = tuple(Entry(str(port)) for port in range(1, 60002))
    assert refused(host, Create(PORTS), Add(PORTS, ports)) == 'set "p": adding 60001: it is outside of the set\'s range'
    assert host.saved() == []
    host.ipset("create", "p", "bitmap:port", "range", "1-60000")
    host.ipset("add", "p", "7")
    refused(host, Add(PORTS, ports, replaced=(Entry("7"),)))
    assert host.members("p") == ["7"]
    refused(host, Delete(PORTS, (Entry("7"),)), Swap("p", "nobody"))
    assert host.members("p") == ["7"]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([Create(PORTS), Create(PORTS)], 'set "p": creating it: it exists already'),
        (
            [Create(PORTS), Create(HASH), Swap("p", "s")],
            'set "p": swapping it with "s": the types or families of both sets differ',
        ),
        ([Add(HASH, addresses(1))], 'set "s": adding 10.0.0.1: there is no such set'),
        (
            [Create(SetHeader("s", "hash:ip", "ipv4", maxelem=1, hashsize=64)), Add(HASH, addresses(300))],
            "the set is full: it holds maxelem entries",
        ),
        ([Create(HASH), Add(HASH, (Entry("0.0.0.0"),))], 'set "s": adding 0.0.0.0: a null address cannot be stored'),
        (
            [Create(HASH), Add(HASH, (Entry("10.0.0.1", timeout=5),))],
            'set "s": adding 10.0.0.1: the set has no timeouts',
        ),
        (
            [Create(HASH), Add(HASH, (Entry("10.0.0.1", comment="x"),))],
            'set "s": adding 10.0.0.1: the set has no comments',
        ),
        (
            [Create(SetHeader("l", "list:set")), Add(SetHeader("l", "list:set"), (Entry("x"),))],
            "adding x: there is no such set to be a member",
        ),
    ],
)
def test_refusals_in_words(host: SetHost, steps: Sequence[SetStep], message: str) -> None:
    assert message in refused(host, *steps)
    assert host.saved() == []


def test_a_set_is_read_as_it_was_made(host: SetHost) -> None:
    header = SetHeader(
        "s", "hash:net", "ipv6", timeout=9, counters=True, comment=True, hashsize=64, maxelem=3, forceadd=True
    )
    entries = (Entry("fd00::/8", 0, "größer", 1, 2), Entry("fd00::1", 0, None, 3, 1 << 33, nomatch=True))

    def act(sets: Ipset) -> None:
        sets.create(header)
        sets.add(header, entries)
        held = sets.read("s")
        assert held is not None
        assert held.header == header
        assert tuple(sorted(held.entries.values())) == entries
        assert set(sets.headers()) == {"s"}
        assert sets.headers()["s"].entries == {}
        assert sets.read("other") is None
        image = sets.images(["s", "other"])["s"]
        assert (image.header, sets.decode(image, image.entries)) == (header, held.entries)

    inside(host, act)
    host.ipset("create", "theirs", "hash:ip", "forceadd", "netmask", "24", "skbinfo")
    held = inside(host, lambda sets: sets.read("theirs"))
    assert getattr(held, "extensions", None) == ("skbinfo", "netmask")


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_some_entries_are_found_by_their_comments_and_addresses(host: SetHost, family: str) -> None:
    """Of so many that the kernel sends them in several messages."""
    header = SetHeader("s", "hash:ip,port", family, comment=True, hashsize=64, maxelem=9999)
    start = {"ipv4": "10.96.%d.%d", "ipv6": "fd96::%x:%x"}[family]
    entries = {
        number: Entry(f"{start % (number // 250 + 1, number % 250 + 1)},tcp:80", comment=f"s{number}: vip")
        for number in range(4000)
    }

    def act(sets: Ipset) -> None:
        sets.create(header)
        sets.add(header, list(entries.values()))
        held = sets.read("s")
        assert held
        assert len(held.entries) == 4000
        by_address = entries[2222].element.partition(",")[0]
        found = sets.select("s", ["s17: ", "s3999: ", "17: "], [by_address, "10.9.9.9", "fd09::9"])
        assert found
        assert found.header == held.header
        assert found.entries.items() <= held.entries.items()
        assert {entries[17], entries[3999], entries[2222]} <= set(found.entries.values())
        assert len(found.entries) < 3000
        nothing = sets.select("s", ["17: ", "s4000: "], [])
        assert nothing
        assert (nothing.header, nothing.entries) == (held.header, {})
        assert sets.select("other", ["s17: "], []) is None

    inside(host, act)


@pytest.mark.parametrize("type_name", SET_TYPES)
def test_thousands_of_sets_are_no_burden(host: SetHost, type_name: str) -> None:
    family = "ipv4" if SET_TYPES[type_name].has_family else ""

    def act(sets: Ipset) -> int:
        for number in range(300):
            sets.create(
                SetHeader(
                    f"set-{number}", type_name, family, timeout=60, ports=(1, 9) if type_name == "bitmap:port" else None
                )
            )
        return len(sets.headers())

    assert inside(host, act) == 300
    assert len(host.ipset("list", "-n").split()) == 300
