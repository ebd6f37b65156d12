# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options of ipset_entry: what is refused and in which words, and the set that comes out, given the set that is there."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipset import (
    SET_TYPES,
    Entry,
    HeldSet,
    InvalidSetError,
    SetHeader,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.ipset.entries import parse_entries
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.ipset.request import (
    SetRequest,
    entries_to_remove,
    parse_request,
    wanted_set,
)

OPTIONS = ("type", "family", "timeout", "counters", "comment", "hashsize", "maxelem", "range", "entries")
ADDRESSES = SetHeader("clients", "hash:ip", "ipv4", hashsize=1024, maxelem=65536)
PORTS = SetHeader("ports", "bitmap:port", ports=(0, 65535))


def request(**given: Any) -> SetRequest:
    return parse_request({**dict.fromkeys(OPTIONS), "set": "clients", "state": "present", "exclusive": False, **given})


def refusal(**given: Any) -> list[str]:
    with pytest.raises(InvalidSetError) as caught:
        request(**given)
    return caught.value.problems


def held(header: SetHeader = ADDRESSES, extensions: tuple[str, ...] = (), **entries: Entry) -> HeldSet:
    return HeldSet(header, 0, extensions, dict(entries))


def refused_header(current: HeldSet, **given: Any) -> list[str]:
    with pytest.raises(InvalidSetError) as caught:
        wanted_set(request(**given), current)
    return caught.value.problems


def refused_entry(entry: Any, header: SetHeader = ADDRESSES) -> str:
    with pytest.raises(InvalidSetError) as caught:
        parse_entries(header, [entry])
    (problem,) = caught.value.problems
    return problem


class TestOptions:
    @pytest.mark.parametrize(
        ("key", "low", "high"),
        [("timeout", 0, 2147483), ("hashsize", 1, 1 << 28), ("maxelem", 1, (1 << 32) - 1)],
    )
    def test_numbers_have_bounds(self, key: str, low: int, high: int) -> None:
        for wrong in (low - 1, high + 1):
            assert refusal(**{key: wrong}) == [
                f'set "clients": {key} is {wrong}: must be an integer from {low} to {high}'
            ]
        assert getattr(request(**{key: high}), key) == high
        assert getattr(request(**{key: low}), key) is not None

    @pytest.mark.parametrize(("given", "made"), [(1, 64), (64, 64), (65, 128), (1024, 1024), (1025, 2048)])
    def test_hashsize_is_rounded_as_the_kernel_does(self, given: int, made: int) -> None:
        assert request(hashsize=given).hashsize == made

    def test_exclusive_needs_entries_and_state_present(self) -> None:
        assert refusal(exclusive=True) == [
            'set "clients": exclusive is true: must be given together with entries; an empty list empties the set'
        ]
        assert refusal(exclusive=True, state="absent", entries=["192.0.2.1"]) == [
            'set "clients": exclusive is true: must be false with state absent, which removes the entries that are given'
        ]
        assert request(exclusive=True, entries=[]).exclusive is True

    @pytest.mark.parametrize("text", ["80", "80-", "-80", "81-80", "1-65536", "http-https", "1-2-3", "000001-2"])
    def test_a_range_is_two_ports_in_order(self, text: str) -> None:
        assert refusal(type="bitmap:port", range=text) == [
            f'set "clients": range is "{text}": must be two ports 1024-2047, the lower one first, from 0 to 65535'
        ]

    @pytest.mark.parametrize("text", ["0-65535", "80-80"])
    def test_a_range_may_be_of_one_port_or_of_all(self, text: str) -> None:
        assert "-".join(map(str, request(type="bitmap:port", range=text).ports or ())) == text

    @pytest.mark.parametrize(
        ("type_name", "excess"),
        [
            ("hash:ip", ["range"]),
            ("bitmap:port", ["hashsize", "maxelem", "family"]),
            ("list:set", ["hashsize", "maxelem", "family", "range"]),
        ],
    )
    def test_a_type_refuses_what_it_does_not_have(self, type_name: str, excess: list[str]) -> None:
        given = {"hashsize": 64, "maxelem": 10, "family": "ipv4", "range": "1-2"}
        shown = {"hashsize": "64", "maxelem": "10", "family": '"ipv4"', "range": '"1-2"'}
        assert refusal(type=type_name, **given) == [
            f'set "clients": {key} is {shown[key]}: must be left out, as type {type_name} has none' for key in excess
        ]

    @pytest.mark.parametrize(
        ("word", "family"), [("ipv4", "ipv4"), ("ipv6", "ipv6"), ("inet", "ipv4"), ("inet6", "ipv6"), (None, None)]
    )
    def test_families_have_the_words_of_ipset_too(self, word: str | None, family: str | None) -> None:
        assert request(family=word).family == family

    def test_all_errors_are_told_at_once(self) -> None:
        assert [line.split()[2] for line in refusal(timeout=-1, maxelem=0, range="x")] == [
            "timeout",
            "maxelem",
            "range",
        ]

    def test_what_is_given_is_taken_as_it_is(self) -> None:
        made = request(type="hash:ip", timeout=5, counters=True, comment=False, maxelem=7, entries=["192.0.2.1"])
        assert made == SetRequest(
            "clients", True, "hash:ip", None, 5, True, False, None, 7, None, ["192.0.2.1"], exclusive=False
        )
        assert request(state="absent").present is False


class TestNewSets:
    @pytest.mark.parametrize("type_name", SET_TYPES)
    def test_defaults_are_those_of_ipset(self, type_name: str) -> None:
        is_hash, has_family = type_name.startswith("hash:"), type_name.startswith("hash:")
        assert wanted_set(request(type=type_name), None).header == SetHeader(
            "clients",
            type_name,
            "ipv4" if has_family else "",
            hashsize=1024 if is_hash else None,
            maxelem=65536 if is_hash else None,
            ports=(0, 65535) if type_name == "bitmap:port" else None,
        )

    def test_what_is_given_is_in_the_header(self) -> None:
        given = {"family": "inet6", "timeout": 0, "counters": True, "comment": True, "hashsize": 100, "maxelem": 9}
        expected = SetHeader("clients", "hash:net", "ipv6", 0, True, True, 128, 9)
        assert wanted_set(request(type="hash:net", **given), None).header == expected
        assert wanted_set(request(type="bitmap:port", range="1-9"), None).header.ports == (1, 9)

    def test_a_new_set_needs_a_type(self) -> None:
        with pytest.raises(
            InvalidSetError, match=r'^set "clients" does not exist: give its type to create it, one of hash:ip, '
        ):
            wanted_set(request(), None)

    def test_entries_and_exclusive_are_handed_on(self) -> None:
        wanted = wanted_set(request(type="hash:ip", entries=["192.0.2.1"], exclusive=True), None)
        assert (wanted.entries, wanted.exclusive) == ({"192.0.2.1": Entry("192.0.2.1")}, True)
        assert (wanted_set(request(type="hash:ip"), None).entries) == {}


class TestHeldSets:
    def test_what_is_not_given_is_kept(self) -> None:
        current = SetHeader("clients", "hash:ip", "ipv6", 60, True, True, 4096, 9, bucketsize=12, forceadd=True)
        assert wanted_set(request(), held(current)).header == current

    def test_what_is_given_is_changed(self) -> None:
        header = wanted_set(request(timeout=9, counters=True, comment=True, maxelem=8), held()).header
        assert header == SetHeader("clients", "hash:ip", "ipv4", 9, True, True, 1024, 8)
        assert wanted_set(request(range="5-7"), held(PORTS)).header.ports == (5, 7)

    @pytest.mark.parametrize(("given", "made"), [(512, 1024), (2048, 2048)])
    def test_hashsize_is_a_lower_bound(self, given: int, made: int) -> None:
        assert wanted_set(request(hashsize=given), held()).header.hashsize == made

    def test_another_type_is_refused(self) -> None:
        assert refused_header(held(), type="hash:net") == [
            'set "clients": type is hash:net: must be hash:ip, as the set exists with that type; remove it first to change its type'
        ]
        assert wanted_set(request(type="hash:ip"), held()).header == ADDRESSES

    def test_another_family_is_refused(self) -> None:
        assert refused_header(held(), family="ipv6") == [
            'set "clients": family is ipv6: must be ipv4, as the set exists with that family; remove it first to change its family'
        ]
        assert wanted_set(request(family="inet"), held()).header == ADDRESSES

    def test_what_the_type_of_the_held_set_lacks_is_refused(self) -> None:
        assert refused_header(held(PORTS), hashsize=64) == [
            'set "clients": hashsize is 64: must be left out, as type bitmap:port has none'
        ]
        assert refused_header(held(), range="1-2") == [
            'set "clients": range is "1-2": must be left out, as type hash:ip has none'
        ]
        (problem,) = refused_header(held(PORTS), family="ipv4")
        assert problem.endswith(
            ": must be left out, as the set exists with type bitmap:port, which has none; remove it first to change its family"
        )

    def test_a_type_that_is_not_known_is_refused(self) -> None:
        (problem,) = refused_header(held(SetHeader("clients", "hash:mac")), type="hash:ip")
        assert problem.startswith('set "clients" has type hash:mac: must be one of hash:ip, hash:net, ')

    def test_a_set_that_cannot_be_kept_whole_is_refused(self) -> None:
        assert refused_header(held(extensions=("skbinfo", "bucketsize 3"))) == [
            'set "clients" has skbinfo and bucketsize 3, which cannot be kept by this module: remove the set first'
        ]


class TestRemoval:
    def test_without_entries_the_whole_set_goes(self) -> None:
        assert entries_to_remove(request(state="absent"), held()) is None
        assert entries_to_remove(request(state="absent", type="hash:ip"), None) is None

    def test_of_a_set_that_is_not_there_nothing_goes(self) -> None:
        assert entries_to_remove(request(state="absent", entries=["anything"]), None) == {}

    def test_entries_are_in_the_spelling_of_the_set(self) -> None:
        asked = request(state="absent", entries=[{"entry": "192.0.2.1", "timeout": 5, "comment": "gone", "packets": 1}])
        assert list(entries_to_remove(asked, held()) or ()) == ["192.0.2.1"]

    def test_entries_are_checked_where_the_type_is_known(self) -> None:
        with pytest.raises(InvalidSetError):
            entries_to_remove(request(state="absent", type="hash:ip", entries=["nonsense"]), None)

    def test_a_set_of_another_type_is_refused(self) -> None:
        with pytest.raises(InvalidSetError, match="remove it first to change its type"):
            entries_to_remove(request(state="absent", type="hash:net"), held())


class TestEntries:
    @pytest.mark.parametrize(
        ("given", "text"), [("two words", "two words"), (7, "7"), (1.5, "1.5"), ("x" * 255, "x" * 255)]
    )
    def test_comments_are_texts_or_numbers(self, given: Any, text: str) -> None:
        header = SetHeader("clients", "hash:ip", "ipv4", comment=True)
        found = parse_entries(header, [{"entry": "192.0.2.1", "comment": given}])
        assert found["192.0.2.1"].comment == text

    @pytest.mark.parametrize("given", [True, ["x"], 'a "quote"', "two\nlines", "x" * 256, "ä" * 128])
    def test_other_comments_are_refused(self, given: Any) -> None:
        problem = refused_entry({"entry": "192.0.2.1", "comment": given})
        assert problem.startswith('set "clients": entries[0]: comment is ')
        assert problem.endswith(": must be a string of at most 255 bytes, printable and without double quotes")

    def test_what_the_set_has_no_room_for_is_refused(self) -> None:
        for key, value, needs in (
            ("timeout", 5, "timeout: 0"),
            ("comment", "x", "comment: true"),
            ("packets", 0, "counters: true"),
            ("bytes", 0, "counters: true"),
        ):
            problem = refused_entry({"entry": "192.0.2.1", key: value})
            assert problem.endswith(f": must be without {key}, or the set needs {needs}")

    def test_the_part_that_is_wrong_is_named_where_it_is_not_the_whole(self) -> None:
        header = SetHeader("clients", "hash:ip,port", "ipv4")
        assert refused_entry("192.0.2.1,tcp:x", header).startswith(
            'set "clients": entries[0] is "192.0.2.1,tcp:x": "tcp:x" must be '
        )
        assert refused_entry("nonsense").count('"nonsense"') == 1
        assert refused_entry(None).startswith(
            'set "clients": entries[0] is null: must be a string as ipset add takes it'
        )
