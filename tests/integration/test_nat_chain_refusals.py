# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Wrong input gets one line that says what is wrong, and leaves the kernel as it was, to the generation number."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from nat_host import NatHost
from repetition import repetition

Options = dict[str, Any]


def rules(*texts: str) -> Options:
    return {"chain": "WEB", "rules": list(texts)}


def jump(**options: str) -> Options:
    return {"chain": "WEB", "rules": [], "jumps": [{"from": "PREROUTING"}, options]}


INVALID: list[tuple[Options, str]] = [
    ({"chain": ""}, r"chain '' must be letters, digits"),
    ({"chain": "-WEB"}, r"chain '-WEB' must be .* not begin with a dash"),
    ({"chain": "!WEB"}, r"chain '!WEB' must be"),
    ({"chain": "W EB"}, r"chain 'W EB' must be"),
    ({"chain": "WEB\n-F PREROUTING"}, r"chain 'WEB\\n-F PREROUTING' must be"),
    ({"chain": "W" * 29}, r"chain 'W{29}' must be at most 28 characters, not 29"),
    ({"chain": "PREROUTING"}, r"chain 'PREROUTING' is a built-in chain"),
    ({"chain": "FORWARD"}, r"chain 'FORWARD' is a built-in chain"),
    ({"chain": "ACCEPT"}, r"chain 'ACCEPT' is the name of a target"),
    ({"chain": "MASQUERADE", "state": "absent"}, r"chain 'MASQUERADE' is the name of a target"),
    ({"chain": "WEB", "table": "broute"}, r"value of table must be one of: .*nat"),
    ({"chain": "WEB", "ip_version": "ipv5"}, r"value of ip_version must be one of: ipv4, ipv6, both"),
    ({"chain": "WEB", "state": "flushed"}, r"value of state must be one of: present, absent"),
    ({"chain": "WEB", "wait": -1}, r"wait is -1: must be 0 or more seconds"),
    ({"chain": "WEB", "rule": "-j ACCEPT"}, r"Unsupported parameters .*: rule"),
    ({"rules": []}, r"one of the following is required: chain, chains"),
    ({"chain": "WEB", "chains": [{"chain": "WEB"}]}, r"parameters are mutually exclusive: chain\|chains"),
    ({"chains": [{"chain": "WEB"}], "rules": []}, r"parameters are mutually exclusive: rules\|chains"),
    ({"chains": [{"chain": "WEB"}, {"chain": "W EB"}]}, r"chain 'W EB' must be"),
    (rules("-j ACCEPT", ""), r"chain WEB, rule 2 \(''\): must not be empty"),
    (rules("-A WEB -j ACCEPT"), r"chain WEB, rule 1 .*: must be a rule specification alone, without -A"),
    (rules("-I PREROUTING -j WEB"), r"without -I"),
    (rules("-j ACCEPT", "-D WEB 1"), r"chain WEB, rule 2 .* without -D"),
    (rules("-F"), r"without -F"),
    (rules("-X WEB"), r"without -X"),
    (rules("-N OTHER"), r"without -N"),
    (rules("-P INPUT DROP"), r"without -P"),
    (rules("-t filter -j ACCEPT"), r"without -t"),
    (rules("--table filter -j ACCEPT"), r"without --table"),
    (rules("--append WEB -j ACCEPT"), r"without --append"),
    (rules("-p tcp --help"), r"without --help"),
    (rules("-p tcp --hel"), r"iptables: takes no rules for chain WEB: one of them only asks for help"),
    (rules("--flus"), r"iptables: table nat, chain WEB, rule 1 \(--flus\): Cannot use -F with -A"),
    (rules("-j ACCEPT\nCOMMIT\n*filter\n-F INPUT"), r"rule 1 .* must be one line without control characters"),
    (rules('-m comment --comment "open'), r"chain WEB, rule 1 .*: unbalanced quotes"),
    (rules("-m comment --comment 'open"), r"chain WEB, rule 1 .*: unbalanced quotes"),
    (
        rules("-p tcp --dport 99999 -j ACCEPT"),
        r"table nat, chain WEB, rule 1 \(-p tcp --dport 99999 -j ACCEPT\): invalid port/service `99999'",
    ),
    (
        rules("-j RETURN", "-p tcp --dport nosuch"),
        r"chain WEB, rule 2 \(-p tcp --dport nosuch\): invalid port/service `nosuch'",
    ),
    (rules("-d 10.0.0.300 -j ACCEPT"), r"rule 1 .*: host/network `10.0.0.300' not found"),
    (rules("-d ::1 -j ACCEPT"), r"rule 1 \(-d ::1 -j ACCEPT\): host/network `::1' not found"),
    ({**rules("-d 10.0.0.1 -j ACCEPT"), "ip_version": "both"}, r"ip6tables: table nat, chain WEB, rule 1 .*10.0.0.1"),
    (rules("-p nosuch -j ACCEPT"), r"unknown protocol \"nosuch\""),
    (rules("-j NOSUCH"), r"rule 1 \(-j NOSUCH\): .*NOSUCH"),
    (rules("-j RETURN", "-j RETURN", "-g NOSUCH", "-j RETURN"), r"rule 3 \(-g NOSUCH\): .*NOSUCH"),
    (rules("-m nosuch -j ACCEPT"), r"Couldn't load match `nosuch'"),
    (rules("-m set --match-set nosuch src -j ACCEPT"), r"rule 1 .*: Set nosuch doesn't exist"),
    (rules("-j DNAT"), r'option "--to-destination" must be specified'),
    (rules("-j MASQUERADE --to-ports 80"), r"Need TCP, UDP, SCTP or DCCP with port specification"),
    (rules("-p tcp --bogus"), r'unknown option "--bogus"'),
    (rules("-p tcp -j ACCEPT", "-j REJECT"), r"rule 2 \(-j REJECT\): "),
    (rules("-i eth0123456789abcd -j ACCEPT"), r"interface name `eth0123456789abcd' must be shorter"),
    (rules("-m limit --limit 5/fortnight -j ACCEPT"), r"bad rate"),
    (jump(match="-p tcp"), r"missing required arguments: from found in jumps"),
    (
        jump(**{"from": "FORWARD"}),
        r"chain WEB, jump 2 from 'FORWARD': table nat has no such chain: must be one of PREROUTING, INPUT",
    ),
    (jump(**{"from": "NOSUCH"}), r"chain WEB: jump from 'NOSUCH': table nat has no such chain"),
    (jump(**{"from": "WEB"}), r"jump 2 from 'WEB': a chain cannot jump to itself"),
    (jump(**{"from": "DROP"}), r"jump 2 from 'DROP': from 'DROP' is the name of a target"),
    (jump(**{"from": "OUTPUT", "match": "-p tcp -j ACCEPT"}), r"jump 2 from 'OUTPUT' .* match must be without target"),
    (jump(**{"from": "OUTPUT", "match": "-A OUTPUT"}), r"jump 2 .* without -A"),
    (jump(**{"from": "OUTPUT", "match": "--dport 80"}), r"chain OUTPUT, rule 1 \(--dport 80 -j WEB\): unknown option"),
    (jump(**{"from": "OUTPUT", "comment": "two\nlines"}), r"jump 2 from 'OUTPUT': comment must be one line"),
    (jump(**{"from": "OUTPUT", "comment": "x" * 256}), r"comment must be one line of at most 255 bytes"),
    (jump(**{"from": "OUTPUT", "position": "middle"}), r"value of position must be one of: first, last"),
    (jump(**{"from": "PREROUTING"}), r"chain WEB: jump from 'PREROUTING' \(-j WEB\) is given twice"),
    (
        {"chain": "WEB", "rules": ["-j MASQUERADE"], "jumps": [{"from": "PREROUTING"}]},
        r"table nat, chain PREROUTING, rule 1 \(-j WEB\)",
    ),
    (
        {"chain": "WEB", "rules": ["-j WEB"], "jumps": [{"from": "OUTPUT"}]},
        r"table nat, chain OUTPUT, rule 1 \(-j WEB\)",
    ),
    ({"chain": "USED", "state": "absent"}, r"chain USED cannot be removed from table nat: USER leads to it"),
]


@pytest.fixture(scope="module", params=["nft", repetition("legacy")])
def host(request: pytest.FixtureRequest) -> Iterator[NatHost]:
    with NatHost(legacy=request.param == "legacy") as made:
        made.iptables(
            "-restore", text="*nat\n:USED - [0:0]\n:USER - [0:0]\n-A USER -j USED\n-A OUTPUT -j USED\nCOMMIT\n"
        )
        yield made


@pytest.mark.parametrize(("options", "message"), INVALID, ids=[str(number) for number in range(len(INVALID))])
def test_wrong_input(host: NatHost, options: Options, message: str) -> None:
    before = host.state()
    result = host.run(**options)
    assert result.get("failed"), result
    assert re.search(message, result["msg"]), result["msg"]
    assert "\n" not in result["msg"]
    assert host.state() == before


def test_wrong_rule_is_refused_in_check_mode_too(host: NatHost) -> None:
    before = host.state()
    result = host.run(check=True, **rules("-j RETURN", "-p tcp --dport 99999"))
    assert "rule 2 (-p tcp --dport 99999): invalid port/service" in result["msg"]
    assert host.state() == before
