# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rule specifications as text, and the options of nat_chain."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables_words import (
    Word,
    ipsets,
    quote,
    render,
    targets,
    words,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.chain.request import (
    ChainRequest,
    InvalidChainError,
    JumpRequest,
    parse_chain,
)

LINE = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), max_size=20)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("-p tcp  --dport\t80", [Word("-p"), Word("tcp"), Word("--dport"), Word("80")]),
        ('--comment "a b" -j X', [Word("--comment"), Word("a b", True), Word("-j"), Word("X")]),
        (r'"a \"b\" c\\ \d"', [Word(r'a "b" c\ d', True)]),
        ("'a \\ \"b' -j", [Word('a \\ "b', True), Word("-j")]),
        ("it's", [Word("it's")]),
        ('--log-prefix="a b" -j', [Word("--log-prefix=a b", True), Word("-j")]),
        ('""', [Word("", True)]),
        ('"a"b', [Word("a", True), Word("b")]),
        ("  ", []),
    ],
)
def test_words(rule: str, expected: list[Word]) -> None:
    assert words(rule) == expected


@pytest.mark.parametrize("rule", ['"', 'a "b', "'a", "--comment 'a b", r'"a\"', "'a'b"])
def test_unbalanced_quotes(rule: str) -> None:
    with pytest.raises(ValueError, match="unbalanced quotes"):
        words(rule)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a-b_1", "a-b_1"),
        ("a.b", '"a.b"'),
        ("", '""'),
        ("it's", r'"it\'s"'),
        ('"\\', r'"\"\\"'),
        ("-t", '"-t"'),
        ("ä", '"ä"'),
    ],
)
def test_quote(value: str, expected: str) -> None:
    assert quote(value) == expected


@given(LINE)
def test_a_quoted_value_is_one_word(value: str) -> None:
    assert words("--comment " + quote(value) + " -j X")[1].text == value


@given(st.lists(st.builds(Word, LINE, st.just(True)), max_size=5))
def test_rendered_words_are_the_same_words(rule: list[Word]) -> None:
    assert [word.text for word in words(render(rule))] == [word.text for word in rule]


def test_targets_and_sets_are_found_outside_quotes_only() -> None:
    assert targets('-m comment --comment "-j DROP" -j WEB') == ["WEB"]
    assert targets("-p tcp --goto WEB") == ["WEB"]
    assert targets('--comment -j "X"') == ["X"]
    assert ipsets("-m set ! --match-set a src --match-set=b dst -m recent --set --name c -j SET --add-set d src") == [
        "a",
        "d",
        "b",
    ]


def options(**given_options: Any) -> dict[str, Any]:
    given = {"table": "nat", "chain": "WEB", "ip_version": "ipv4", "state": "present", "rules": None, "jumps": None}
    return {**given, **given_options}


def a_jump(**given_options: Any) -> dict[str, Any]:
    return {"from": "OUTPUT", "match": None, "position": "last", "comment": None, **given_options}


def test_parse_chain() -> None:
    jumps = [a_jump(match=" -p  tcp", comment="it is")]
    request = parse_chain(options(rules=[" -m comment --comment 'a b'  -j RETURN "], jumps=jumps))
    rules = ['-m comment --comment "a b" -j RETURN']
    asked = [JumpRequest("OUTPUT", "-p tcp", "last", "it is")]
    assert request == ChainRequest(("ipv4",), "nat", "WEB", True, rules, asked)
    assert request.jumps is not None
    assert request.jumps[0].rule("WEB") == '-p tcp -m comment --comment "it is" -j WEB'
    assert JumpRequest("OUTPUT", "", "last", "").rule("WEB") == "-j WEB"


def test_hooks_are_the_built_in_chains_and_those_named() -> None:
    assert parse_chain(options(table="raw")).hooks == ["OUTPUT", "PREROUTING"]
    jumps = [a_jump(**{"from": "DOCKER-USER"})]
    assert parse_chain(options(table="filter", jumps=jumps)).hooks == ["DOCKER-USER", "FORWARD", "INPUT", "OUTPUT"]


@pytest.mark.parametrize("name", ["L4-SERVICES", "W" * 28, "a", "f2b-sshd", "IN_public.allow", "ACCEPTED", "1:2"])
def test_chain_names(name: str) -> None:
    assert parse_chain(options(chain=name)).chain == name


@pytest.mark.parametrize(
    "name", ["", " ", "-a", "!a", "a b", "a\n", "a\tb", "W" * 29, "INPUT", "POSTROUTING", "RETURN", "DNAT", 'a"b', "ä"]
)
def test_refused_chain_names(name: str) -> None:
    with pytest.raises(InvalidChainError, match=f"^chain {name!r} ".replace("\\", "\\\\")):
        parse_chain(options(chain=name))


@pytest.mark.parametrize(
    "word",
    "-A -D -I -R -L -S -F -Z -N -X -P -E -C -V -M -t -h --append --delete-chain --table=filter --help --modprobe=/x".split(),
)
def test_commands_are_refused_unless_quoted(word: str) -> None:
    with pytest.raises(
        InvalidChainError, match=r"chain WEB, rule 2 \(.*\): must be a rule specification alone, without "
    ):
        parse_chain(options(rules=["-j RETURN", f"-p tcp {word} X"]))
    assert parse_chain(options(rules=[f'-m comment --comment "{word}"'])).rules


@pytest.mark.parametrize("text", ["-j A\n-F", "-j A\rB", "a\0b", "a\x1bb"])
def test_control_characters_are_refused(text: str) -> None:
    with pytest.raises(InvalidChainError, match=r"rule 1 .* must be one line without control characters"):
        parse_chain(options(rules=[text]))


@pytest.mark.parametrize("match", ["-j X", "-g X", "-jX", "--jump X", "--goto=X"])
def test_a_match_carries_no_target(match: str) -> None:
    with pytest.raises(InvalidChainError, match="match must be without target"):
        parse_chain(options(jumps=[a_jump(match=match)]))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (
            {"chain": "INPUT"},
            "chain 'INPUT' is a built-in chain: must be a chain of your own (jumps lead to it from built-in chains)",
        ),
        ({"chain": "W" * 29}, f"chain '{'W' * 29}' must be at most 28 characters, not 29"),
        ({"chain": "DNAT"}, "chain 'DNAT' is the name of a target: must be another name"),
        (
            {"chain": "-a"},
            "chain '-a' must be letters, digits and _.:+@/-, and not begin with a dash",
        ),
        (
            {"rules": ["-j RETURN", " "]},
            "chain WEB, rule 2 (''): must not be empty: a rule specification such as '-p tcp --dport 80 -j ACCEPT'",
        ),
        (
            {"rules": ['--comment "a']},
            (
                "chain WEB, rule 1 ('--comment \"a'): unbalanced quotes: must be closed, inside double quotes a backslash "
                "goes before a quote"
            ),
        ),
        (
            {"jumps": [a_jump(**{"from": "FORWARD"})]},
            (
                "chain WEB, jump 1 from 'FORWARD': table nat has no such chain: must be one of PREROUTING, INPUT, OUTPUT, "
                "POSTROUTING, or a chain of your own"
            ),
        ),
        (
            {"jumps": [a_jump(**{"from": "WEB"})]},
            "chain WEB, jump 1 from 'WEB': a chain cannot jump to itself: must be another chain",
        ),
        (
            {"jumps": [a_jump(), a_jump(**{"from": "RETURN"})]},
            "chain WEB, jump 2 from 'RETURN': from 'RETURN' is the name of a target: must be another name",
        ),
        (
            {"jumps": [a_jump(match=" -j X")]},
            "chain WEB, jump 1 from 'OUTPUT' ('-j X'): match must be without target (-j, -g): it leads to WEB",
        ),
        *(
            (
                {"jumps": [a_jump(comment=comment)]},
                "chain WEB, jump 1 from 'OUTPUT': comment must be one line of at most 255 bytes",
            )
            for comment in ("a" * 256, "ä" * 128, "two\nlines")
        ),
    ],
)
def test_refusals_say_where_and_what_is_allowed(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidChainError) as caught:
        parse_chain(options(**given))
    assert str(caught.value) == problem


@pytest.mark.parametrize(("version", "families"), [("ipv6", ("ipv6",)), ("both", ("ipv4", "ipv6"))])
def test_what_is_not_given_stays_as_it_is(version: str, families: tuple[str, ...]) -> None:
    request = parse_chain(options(ip_version=version, state="absent", table="raw"))
    assert request == ChainRequest(families, "raw", "WEB", present=False, rules=None, jumps=None)


def test_a_comment_may_have_255_bytes() -> None:
    (jump,) = parse_chain(options(jumps=[a_jump(comment="a" * 255)])).jumps or ()
    assert jump.comment == "a" * 255
