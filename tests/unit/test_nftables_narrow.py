# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs of the nftables dataplane that know what the last one has left, against runs that read everything."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any
from unittest import mock

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from strategies import NODE, NODE_ADDRESSES, services

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.interface import Summary
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.nftables import narrow
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.nftables.cache import (
    decode,
    encode,
    store,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.nftables.counts import (
    Counts,
    from_plain,
    plain,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.run import plan_run
from ansible_collections.layer4.service_proxy.plugins.module_utils._model import addresses as ip
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.request import Request
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import InvalidServices
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables import Flowtable
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_changes import (
    DeleteChain,
    NftChange,
    NftRefusedError,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_parts import TABLES
from ansible_collections.layer4.service_proxy.tests.unit.nftables_node import Kernel, tables
from ansible_collections.layer4.service_proxy.tests.unit.sampling import EXAMPLES

Raw = dict[str, Any]
thorough = settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.generate])


Step = tuple[str, bool, list[int]]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["present", "present", "present", "absent"]),
        st.booleans(),
        st.lists(st.integers(0, 11), unique=True, max_size=8),
    ),
    min_size=2,
    max_size=6,
)


@thorough
@given(st.tuples(services(least=3, most=6), services(most=6)), NODE, STEPS, st.booleans())
def test_a_run_that_knows_the_last_one_does_what_one_does_that_reads_everything(
    raw: tuple[list[Raw], list[Raw]], raw_node: Raw, steps: list[Step], others: bool
) -> None:
    """others: somebody changes a table of their own before each run."""
    by_number = dict(enumerate([*raw[0], *raw[1]]))
    knowing, reading = Kernel(raw_node), Kernel(raw_node, keeps=False)
    worth = mock.patch.object(narrow, "_WORTH", 0)  # however many differ
    for state, exclusive, numbers in [("present", True, list(by_number)[:6]), *steps]:
        asked = list({by_number[one]["name"]: by_number[one] for one in numbers if one in by_number}.values())
        results = []
        for kernel in (knowing, reading):
            if others:
                kernel.nft.transactions += 1
            with worth:
                results.append((kernel.run(asked, state, exclusive), kernel.diff, kernel.held))
        assert results[0] == results[1]


def test_a_change_of_one_service_is_told_from_the_record() -> None:
    some = [_plain(number) for number in range(1, 20)]
    kernel = Kernel({"name": "node1", "addresses": list(NODE_ADDRESSES)})
    kernel.run(some)
    for changed in ({**some[3], "backends": some[3]["backends"][:1]}, some[3]):
        assert kernel.run([*some[:3], changed, *some[4:]]) == Summary([], ["service-4"], [])
        assert kernel.run([*some[:3], changed, *some[4:]]) == Summary([], [], [])
    assert kernel.run([_plain(20)], exclusive=False) == Summary(["service-20"], [], [])
    assert kernel.run([some[0]], "absent", exclusive=False) == Summary([], [], ["service-1"])
    assert kernel.narrowed == [False, *[True] * 6]
    assert (
        kernel.held[ip.IPV4]
        == tables([*some[1:], _plain(20)], {"name": "node1", "addresses": list(NODE_ADDRESSES)})[ip.IPV4]
    )


def test_a_new_service_among_all_is_told_from_the_record() -> None:
    some = [_plain(number) for number in range(1, 20)]
    kernel = Kernel({"name": "node1", "addresses": list(NODE_ADDRESSES)})
    kernel.run(some)
    assert kernel.run([*some, _plain(20)]) == Summary(["service-20"], [], [])
    assert kernel.narrowed == [False, True]


def test_new_backends_of_a_service_of_ipv6_are_told_from_the_record() -> None:
    """It answers nowhere where it did not."""
    some = [_plain(number) for number in range(1, 20)]
    some[3].update(vip=["fd96::4"], backends=[{"address": "fd00::1", "port": 8080}])
    kernel = Kernel({"name": "node1", "addresses": list(NODE_ADDRESSES)})
    kernel.run(some)
    changed = {**some[3], "backends": [{"address": "fd00::2", "port": 8080}]}
    assert kernel.run([*some[:3], changed, *some[4:]]) == Summary([], ["service-4"], [])
    assert kernel.narrowed == [False, True]


def test_of_two_services_at_one_address_one_goes_and_the_other_keeps_it() -> None:
    raw_node = {"name": "node1", "addresses": list(NODE_ADDRESSES)}
    some = [{**_plain(number), "vip": ["10.96.0.1"], "port": 8000 + number} for number in range(1, 20)]
    kernel = Kernel(raw_node)
    kernel.run(some)
    for rest in (some[1:], [*some[1:5], {**some[5], "port": 90}, *some[6:]]):
        kernel.run(rest)
        assert kernel.held[ip.IPV4] == tables(rest, raw_node)[ip.IPV4]
    assert kernel.narrowed == [False, True, True]


def test_what_was_asked_for_before_is_not_there_behind_a_change_of_one_service() -> None:
    """A run of the same request then changes it back; a run that finds nothing to do leaves nothing anew."""
    some = [_plain(number) for number in range(1, 20)]
    kernel = Kernel({"name": "node1", "addresses": list(NODE_ADDRESSES)})
    kernel.run(some)
    kernel.run([{**some[3], "port": 81}], exclusive=False)
    assert kernel.run(some) == Summary([], ["service-4"], [])
    left = kernel.facility(store)
    with mock.patch.object(left, "save", side_effect=AssertionError):
        for asked, exclusive in ((some, True), (some[:2], False), (some, True)):
            assert kernel.run(asked, exclusive=exclusive) == Summary([], [], [])
    kernel.nft.transactions += 1  # somebody else has changed a table of theirs
    with mock.patch.object(left, "save", wraps=left.save) as saved:
        kernel.run(some)
    saved.assert_called_once()


def _plain(number: int) -> Raw:
    backends = [{"address": f"10.0.2.{number + one}", "port": 8080} for one in range(3)]
    return {"name": f"service-{number}", "vip": [f"10.96.0.{number}"], "port": 80, "backends": backends}


@pytest.mark.parametrize("text", ["", "\n", "00000000\n[]", "not a checksum\n{}"])
def test_a_text_that_no_run_has_left_is_none(text: str) -> None:
    assert decode(text) is None


@pytest.mark.parametrize(
    "first",
    [
        "[]",
        "{}",
        '["", "", 1, "", [], [{}, [], ["", {}]]]',
        '["", "", 1, "", [], [{}, ["", {"a": "b"}], ["", {}]]]',
        '["", "", 1, "", [], [{}, [["a"], {}], ["", {}]]]',
        '["", "", 1, "", [], [{}, ["a", [1]], ["", {}]]]',
        '["", "", 1, "", [], [{}, {"a": 1}, ["", {}]]]',
    ],
)
def test_a_record_of_other_values_is_none(first: str) -> None:
    assert decode(f"{zlib.crc32(first.encode()):08x}\n{first}") is None


def test_a_record_is_read_as_it_was_left() -> None:
    kernel = Kernel({"name": "node1", "addresses": list(NODE_ADDRESSES)})
    kernel.run([_plain(1), _plain(2)])
    record = kernel.facility(store).load()
    assert record is not None
    assert decode(encode(record)) == record
    assert [name for name in ("service-1", "service-2") if f'"name":"{name}"' in record.texts[0] + record.texts[1]] == [
        "service-1",
        "service-2",
    ]


COUNTERS = st.dictionaries(st.text(alphabet="a|\n ", max_size=3), st.integers(1, 3), max_size=4).map(Counter)


@given(COUNTERS, COUNTERS, COUNTERS)
def test_counts_are_read_as_they_were_left(facts: Counter[str], leading: Counter[str], backends: Counter[str]) -> None:
    counts = Counts({"warnings": facts}, leading, backends)
    assert from_plain(json.loads(json.dumps(plain(counts)))) == counts


def test_a_cleanup_that_fails_is_taken_back() -> None:
    """The only service with one backend gets more; the chains that served it alone are removed behind that."""
    some = [_plain(number) for number in range(1, 20)]
    kernel = Kernel({"name": "node1", "addresses": list(NODE_ADDRESSES)})
    kernel.run([{**some[0], "backends": some[0]["backends"][:1]}, *some[1:]])
    before = kernel.held
    apply = kernel.nft.apply

    def refusing(changes: Sequence[NftChange], generation: int | None = None) -> None:
        if all(isinstance(change, DeleteChain) for change in changes):
            raise NftRefusedError("chains are in use")
        apply(changes, generation)

    with mock.patch.object(kernel.nft, "apply", refusing), pytest.raises(NftRefusedError):
        kernel.run(some)
    assert kernel.narrowed[-1]
    assert kernel.held == before
    assert kernel.run(some) == Summary([], ["service-1"], [])


@pytest.mark.parametrize("others", [True, False])
def test_a_device_of_the_flow_table_that_goes_stops_no_run_and_comes_back(others: bool) -> None:
    """others: somebody changes a table of their own meanwhile, so that ours are read."""
    some = [_plain(number) for number in range(1, 10)]
    kernel = Kernel({"name": "node1", "addresses": list(NODE_ADDRESSES), "flow_offload": ["eth0", "eth1"]})
    kernel.run(some)
    before = kernel.held
    for there, offloading in (("lo eth0", ("eth0",)), ("lo eth0 eth1", ("eth0", "eth1"))):
        with mock.patch("socket.if_nameindex", lambda there=there: list(enumerate(there.split()))):
            if there == "lo eth0":
                kernel.nft.flowtables(TABLES["ipv4"])["offloaded"] = Flowtable(0, ("eth0",))
            kernel.nft.transactions += others
            kernel.run(some)
            assert bool(kernel.diff["after"]) == (len(offloading) == 2)
            assert kernel.run([_plain(20), *some]).added == ["service-20"]
            assert kernel.run(some).removed == ["service-20"]
            assert kernel.held["ipv4"].flowtables == {"offloaded": Flowtable(0, offloading)}
    assert kernel.held == before


@pytest.mark.parametrize("keeps", [True, False])
def test_a_service_at_a_backend_of_one_that_stays_is_refused(keeps: bool) -> None:
    kernel = Kernel({"name": "node1", "addresses": list(NODE_ADDRESSES)}, keeps)
    some = [_plain(number) for number in range(1, 20)]
    some[4]["backends"] = [{"address": NODE_ADDRESSES[0], "port": 30080}]
    some[5].update(vip=["fd00:96::6"], backends=[{"address": "fd00:10:0::5", "port": 8080}])
    kernel.run(some)
    held = kernel.held
    of_ipv6 = {**_plain(20), "vip": ["fd00:10::5"], "port": 8080, "backends": [{"address": "fd00:10::6", "port": 8080}]}
    for raw, exclusive in (([of_ipv6], False), ([*some, of_ipv6], True)):
        with pytest.raises(InvalidServices, match="fd00:10::5"):
            plan_run(Request("present", raw, exclusive, "nftables"), kernel.node, kernel)
    for key, claim in (({"vip": "10.0.2.19", "port": 8080}, "vip"), ({"vip": [], "node_port": 30080}, "node_port")):
        new = {**_plain(20), **key}
        for raw, exclusive, words in (([new], False, "would answer at"), ([*some, new], True, f"which is {claim} of")):
            with pytest.raises(InvalidServices, match=words):
                plan_run(Request("present", raw, exclusive, "nftables"), kernel.node, kernel)
    assert kernel.held == held


def test_an_ipv6_address_is_the_backend_of_one_that_stays_however_that_is_spelled() -> None:
    kernel = Kernel({"name": "node1", "addresses": list(NODE_ADDRESSES)})
    some = [_plain(number) for number in range(1, 20)]
    some[5].update(vip=["fd00:96::6"], backends=[{"address": "fd00:10:0::5", "port": 8080}])
    kernel.run(some)
    new = {**_plain(20), "vip": ["fd00:10::5"], "port": 8080, "backends": [{"address": "fd00:10::6", "port": 8080}]}
    with pytest.raises(InvalidServices, match="fd00:10::5"):
        plan_run(Request("present", [new], False, "nftables"), kernel.node, kernel)
