# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one reader of what iptables prints: whatever stands in a comment, a rule is one rule, and none is made up."""

from __future__ import annotations

import random

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables import target_of
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables_text import (
    Rule,
    XtablesError,
    logical_lines,
    parse_save,
    parse_tables,
    rule_at,
    unquoted,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables_words import quote, render, words
from lab.comments import BREAKS, random_comment


def rule_with(comment: str) -> str:
    return f"-p tcp -m comment --comment {quote(comment)} -j RETURN"


def saved(rules: list[str]) -> str:
    lines = "".join(f"-A WEB {rule}\n" for rule in rules)
    return f"# Generated\n*nat\n:OUTPUT ACCEPT [0:0]\n:WEB - [0:0]\n-A OUTPUT -j WEB\n{lines}COMMIT\n# Completed\n"


def test_any_comment_is_read_back_as_one_rule() -> None:
    chance = random.Random(25)
    for _number in range(1000):
        rules = [rule_with(random_comment(chance)) for _rule in range(chance.randint(1, 4))]
        assert parse_tables(saved(rules)) == {("nat", "OUTPUT"): ["-j WEB"], ("nat", "WEB"): rules}
        assert [target_of(rule) for rule in rules] == ["RETURN"] * len(rules)
        assert logical_lines(saved(rules))[5:-3] == [f"-A WEB {rule}" for rule in rules]


def test_any_comment_of_a_user_reaches_iptables_as_it_is() -> None:
    chance = random.Random(29)
    for _number in range(1000):
        comment = random_comment(chance)
        assert [word.text for word in words(rule_with(comment))][4:] == ["--comment", comment, "-j", "RETURN"]
        assert render(words(rule_with(comment))) == rule_with(comment)


@pytest.mark.parametrize("character", BREAKS[1:])
def test_a_line_of_iptables_ends_at_a_line_feed_alone(character: str) -> None:
    rule = f'-m comment --comment "web{character}-A front" -j ACCEPT'
    assert parse_save(saved([rule]))["WEB"] == [rule]
    assert rule_at(f"*nat\n:WEB - [0:0]\n-A WEB {rule}\n-A WEB -j DROP\n", 4) == Rule("nat", "WEB", 2, "-j DROP")


def test_lines_are_the_same_whether_or_not_one_has_odd_quotes() -> None:
    for odd in ('-A B -i a"b', '-A B -m comment --comment "x\ny"', "-A B"):
        assert logical_lines(f"-A A -j C\n{odd}\n\n") == ["-A A -j C", odd, "", ""]


def test_a_rule_with_nothing_in_its_strings() -> None:
    assert (
        unquoted('-i a"b --comment "-j \\"x" --set y --log-prefix "p"') == '-i a"b --comment "" --set y --log-prefix ""'
    )
    assert unquoted("-j RETURN") == "-j RETURN"


def test_quotes_in_the_name_of_an_interface_are_part_of_it() -> None:
    rules = ['-i a"b -m comment --comment "x\n-A WEB -j DROP" -j RETURN', '-o "q -j RETURN', '-i x"y -j "chain']
    assert parse_save(saved(rules))["WEB"] == rules
    assert list(map(target_of, rules)) == ["RETURN", "RETURN", '"chain']


@pytest.mark.parametrize(
    ("text", "words_of_the_error"),
    [
        (
            '*nat\n:WEB - [0:0]\n-A WEB -m comment --comment "open\nCOMMIT\n',
            "printed a string that does not end: ' --comment \"open\\nCOMMIT\\n'",
        ),
        (
            f'*nat\n:WEB - [0:0]\n-A WEB -m comment --comment "a"b -j {"D" * 60}\nCOMMIT\n',
            f"printed a string that does not end: ' --comment \"a\"b -j {'D' * 41}'",
        ),
        ("*nat\n:WEB - [0:0]\nSegmentation fault\nCOMMIT\n", "printed what is no rule: 'Segmentation fault'"),
        (
            "# Table `filter' is incompatible, use 'nft' tool.\n",
            "Table `filter' is incompatible, use 'nft' tool. It holds what nft(8) or another program wrote: remove that",
        ),
    ],
)
def test_what_cannot_be_read_is_an_error_and_no_empty_table(text: str, words_of_the_error: str) -> None:
    with pytest.raises(XtablesError) as raised:
        parse_save(text)
    assert str(raised.value) == f"iptables-save: {words_of_the_error}"


def test_a_table_that_is_no_concern_of_ours_may_be_unreadable() -> None:
    assert parse_save("# Table `security' is incompatible, use 'nft' tool.\n") == {}
