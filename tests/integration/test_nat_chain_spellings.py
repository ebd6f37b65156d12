# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Any spelling of a rule that iptables accepts is idempotent: applied once, the second run finds nothing to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from nat_host import NatHost

NAT = [
    "-p tcp --dport 80 -j ACCEPT",
    "-p tcp -m tcp --dport 80 -j ACCEPT",
    "--protocol tcp --destination-port 80 --jump ACCEPT",
    "-p 6 --dport http -j ACCEPT",
    "-p TCP --dport 80 -j ACCEPT",
    "-p tcp --dport 8000:8080 -j ACCEPT",
    "-p tcp --sport :1023 -j ACCEPT",
    "-p udp --dport domain -j RETURN",
    "-p sctp --dport 9 -j RETURN",
    "-p 47 -j RETURN",
    "-p all -j RETURN",
    "-m mark --mark 0x4000 -j RETURN",
    "-m mark --mark 16384/16384 -j RETURN",
    "-m mark ! --mark 0x4000/0x4000 -j RETURN",
    "-j MARK --set-mark 0x4000",
    "-j MARK --or-mark 0x4000",
    "-j MARK --set-xmark 0x200/0x200",
    "-d 10.0.0.1 -j ACCEPT",
    "-s 10.0.0.5/24 -j ACCEPT",
    "-s 10.0.0.0/255.255.255.0 -j ACCEPT",
    "--src 10.1.2.3,10.1.2.4 -j ACCEPT",
    "-d 0/0 -j RETURN",
    "-s localhost -j RETURN",
    "! -s 10.0.0.1 -j RETURN",
    "-p tcp ! --dport 22 -j RETURN",
    "! -i eth+ -o lo -j RETURN",
    "-m comment --comment plain -j RETURN",
    '-m comment --comment "published ports" -j RETURN',
    "-m comment --comment 'single quotes' -j RETURN",
    r'-m comment --comment "a \"quoted\" word and a back\\slash" -j RETURN',
    '-m comment --comment "it\'s" -j RETURN',
    "-m comment --comment it's -j RETURN",
    '-m comment --comment "-j DROP" -j RETURN',
    '-m comment --comment "tcp -A INPUT -t filter" -j RETURN',
    '-m comment --comment "größer als früher" -j RETURN',
    "-p tcp -m multiport --dports 80,443,8000:8080 -j RETURN",
    "-p tcp -m multiport --ports https,http -j RETURN",
    "-m set --match-set l4-addresses src -j RETURN",
    "-m set ! --match-set l4-pairs dst,dst -j RETURN",
    "-m set --match-set l4-ports dst -j RETURN",
    "-m limit --limit 5/min -j RETURN",
    "-m limit --limit 3/second --limit-burst 10 -j RETURN",
    '-j LOG --log-prefix "refused: " --log-level 4',
    "-j LOG --log-level debug --log-prefix x",
    "-p icmp --icmp-type echo-request -j RETURN",
    "-p icmp --icmp-type 3/1 -j RETURN",
    "-p tcp --syn -j RETURN",
    "-p tcp --tcp-flags ALL SYN,ACK -j RETURN",
    "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
    "-m state --state NEW -j RETURN",
    "-m addrtype --dst-type local -j RETURN",
    "-m statistic --mode random --probability 0.33333 -j RETURN",
    "-m statistic --mode nth --every 3 --packet 0 -j RETURN",
    "-p tcp -j DNAT --to 10.0.0.11:8080",
    "-p tcp -j DNAT --to-destination 10.0.0.11-10.0.0.12 --persistent --random",
    "-p tcp -j REDIRECT --to-port 8080",
    "-m recent --name seen --rcheck --seconds 60 --reap -j RETURN",
    "-m tcp -p tcp --dport 80 -m tcp --sport 1 -j RETURN",
    "-j OTHER",
    "--goto OTHER",
    "-m set --match-set=l4-addresses src -j RETURN",
    "   -p   tcp \t --dport 80 -j  ACCEPT  ",
    "-c 10 20 -p tcp -j RETURN",
    "-p tcp",
    "-6 -d ::1 -j RETURN",
]

IPV6 = [
    "-d ::1 -j ACCEPT",
    "-d 2001:DB8:0:0::00ab -j ACCEPT",
    "-s 2001:db8::5/64 -j ACCEPT",
    "-s fd00::/8 ! -d fd00:1::/ffff:ffff:: -j ACCEPT",
    "-p icmpv6 --icmpv6-type echo-request -j RETURN",
    "-p ipv6-icmp --icmpv6-type 135 -j RETURN",
    "-p 58 -j RETURN",
    "-p tcp --dport http -j DNAT --to-destination [fd00::11]:8080",
    "-m set --match-set l4-six src -j RETURN",
    "-p tcp --dport 80 -j MARK --set-mark 0x4000",
]

FILTER = [
    "-j REJECT",
    "-p tcp -j REJECT --reject-with tcp-rst",
    "-j REJECT --reject-with icmp-port-unreach",
    "-j DROP",
]


@pytest.fixture(scope="module", params=["nft", "legacy"])
def host(request: pytest.FixtureRequest) -> Iterator[NatHost]:
    with NatHost(legacy=request.param == "legacy") as made:
        for family in ("iptables", "ip6tables"):
            made.iptables("-t", "nat", "-N", "OTHER", family=family)
        for definition in (
            "l4-addresses hash:ip",
            "l4-pairs hash:ip,port timeout 60 comment",
            "l4-ports bitmap:port range 0-65535",
            "l4-six hash:net family inet6",
        ):
            made.namespace.run("ipset", "create", *definition.split())
        yield made


def settles(host: NatHost, rule: str, **options: Any) -> None:
    """The second run finds nothing to do, and says so in its diff."""
    wanted: dict[str, Any] = {"chain": "L4-SPELLED", "rules": ["-m mark --mark 0x1 -j RETURN", rule], **options}
    host.apply(**wanted)
    again = host.apply(**wanted)
    assert not again["changed"], again["diff"]
    assert again["diff"] == {"before": "", "after": ""}


@pytest.mark.parametrize("rule", NAT)
def test_spelling(host: NatHost, rule: str) -> None:
    settles(host, rule)


@pytest.mark.parametrize("rule", IPV6)
def test_spelling_in_ipv6(host: NatHost, rule: str) -> None:
    settles(host, rule, ip_version="ipv6")


@pytest.mark.parametrize("rule", FILTER)
def test_spelling_in_the_filter_table(host: NatHost, rule: str) -> None:
    settles(host, rule, table="filter")


def test_all_spellings_in_one_chain(host: NatHost) -> None:
    rules = [rule for rule in NAT if "OTHER" not in rule]
    host.apply(chain="L4-SPELLED", rules=rules)
    doubled, skipped = "--src 10.1.2.3,10.1.2.4 -j ACCEPT", "-6 -d ::1 -j RETURN"
    assert len(host.rules("L4-SPELLED")) == len(rules) + rules.count(doubled) - rules.count(skipped)
    assert not host.apply(chain="L4-SPELLED", rules=rules, check=True)["changed"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("-p tcp --dport 80 -j ACCEPT", "--jump ACCEPT --protocol 6 --dport http"),
        ("-s 10.0.0.5/24 -j RETURN", "-s 10.0.0.0/255.255.255.0 -j RETURN"),
        ("-m comment --comment 'a b' -j RETURN", '-m comment --comment "a b" -j RETURN'),
        ("-j MARK --set-mark 0x4000", "-j MARK --set-xmark 16384/0xffffffff"),
    ],
)
def test_two_spellings_of_one_rule_are_no_change(host: NatHost, one: str, other: str) -> None:
    host.apply(chain="L4-SPELLED", rules=[one])
    assert not host.apply(chain="L4-SPELLED", rules=[other])["changed"]


@pytest.mark.parametrize(
    "match",
    ["-p tcp --dport http", "-d 10.0.0.1", "-m comment --comment 'x y' -p udp", "-s 10.0.0.1,10.0.0.2", "! -i lo"],
)
@pytest.mark.parametrize("position", ["first", "last"])
def test_spelling_of_a_jump(host: NatHost, match: str, position: str) -> None:
    jumps = [
        {"from": "PREROUTING", "match": match, "position": position, "comment": "it's a jump"},
        {"from": "PREROUTING", "match": "-p sctp"},
    ]
    assert host.apply(chain="L4-JUMPED", rules=[], jumps=jumps)["changed"]
    assert not host.apply(chain="L4-JUMPED", rules=[], jumps=jumps)["changed"]
