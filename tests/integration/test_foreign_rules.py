# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules of others are the same to the byte, counters included, before and after ours come, change and go."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from nat_host import FAMILIES, NatHost

DOCKER = """\
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -d {address2} ! -i docker0 -j DROP
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [7:420]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-BRIDGE - [0:0]
:DOCKER-CT - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
[3:180] -A FORWARD -j DOCKER-USER
[3:180] -A FORWARD -j DOCKER-FORWARD
-A DOCKER -d {address2} ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-BRIDGE -o docker0 -j DOCKER
-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-USER -j RETURN
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
[12:720] -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
[5:300] -A OUTPUT ! -d {loopback} -m addrtype --dst-type LOCAL -j DOCKER
[44:2640] -A POSTROUTING -s {network} ! -o docker0 -j MASQUERADE
[1:60] -A DOCKER -i docker0 -j RETURN
[2:120] -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination {endpoint}
COMMIT
"""

FIREWALLD = """\
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:PREROUTING_direct - [0:0]
:PREROUTING_ZONES - [0:0]
:PRE_public - [0:0]
:PRE_public_allow - [0:0]
-A PREROUTING -j PREROUTING_direct
-A PREROUTING -j PREROUTING_ZONES
-A PREROUTING_ZONES -g PRE_public
-A PRE_public -j PRE_public_allow
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [9:540]
:INPUT_direct - [0:0]
:INPUT_ZONES - [0:0]
:IN_public - [0:0]
:IN_public_allow - [0:0]
[8:480] -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT
[6:360] -A INPUT -i lo -j ACCEPT
-A INPUT -j INPUT_direct
-A INPUT -j INPUT_ZONES
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -j REJECT
-A INPUT_ZONES -i eth0 -g IN_public
-A INPUT_ZONES -g IN_public
-A IN_public -j IN_public_allow
-A IN_public_allow -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW,UNTRACKED -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:POSTROUTING_ZONES - [0:0]
:POST_public - [0:0]
:PREROUTING_ZONES - [0:0]
:PRE_public - [0:0]
[4:240] -A PREROUTING -j PREROUTING_ZONES
[4:240] -A POSTROUTING -j POSTROUTING_ZONES
-A POSTROUTING_ZONES -o eth0 -g POST_public
-A POSTROUTING_ZONES -g POST_public
-A POST_public ! -o lo -j MASQUERADE
-A PREROUTING_ZONES -i eth0 -g PRE_public
COMMIT
"""

HAND_MADE = """\
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -p udp -m udp --dport 53 -j CT --notrack
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
[1:52] -A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
-A PREROUTING -i eth1 -j MARK --set-xmark 0x1/0xff
COMMIT
*filter
:INPUT DROP [31:1860]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:log_and_drop - [0:0]
[2:120] -A INPUT -i lo -j ACCEPT
[2:120] -A INPUT -i lo -j ACCEPT
-A INPUT -p tcp -m multiport --dports 22,80,443 -m comment --comment "the usual: -j L4-TEST, \\"quoted\\"" -j ACCEPT
-A INPUT -p tcp -m tcp --dport 25 -m limit --limit 3/min --limit-burst 7 -j LOG --log-prefix "mail -j L4-TEST: "
-A INPUT -j log_and_drop
-A log_and_drop -m statistic --mode random --probability 0.50000000000 -j RETURN
-A log_and_drop -j DROP
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
[6:360] -A PREROUTING -p tcp -m tcp --dport 2222 -j REDIRECT --to-ports 22
[6:360] -A PREROUTING -p tcp -m tcp --dport 2222 -j REDIRECT --to-ports 22
-A POSTROUTING -s {network} -o eth0 -m comment --comment office -j SNAT --to-source {address}
COMMIT
"""

ADDRESSES = {
    "iptables": {
        "address": "192.0.2.1",
        "address2": "172.17.0.2/32",
        "network": "172.17.0.0/16",
        "loopback": "127.0.0.0/8",
        "endpoint": "172.17.0.2:80",
    },
    "ip6tables": {
        "address": "2001:db8::1",
        "address2": "fd17::2/128",
        "network": "fd17::/64",
        "loopback": "::1/128",
        "endpoint": "[fd17::2]:80",
    },
}

STEPS: list[dict[str, Any]] = [
    {
        "rules": ["-p tcp --dport http -j RETURN", "-m comment --comment 'a b' -j RETURN"],
        "jumps": [
            {"from": "PREROUTING", "position": "first"},
            {"from": "OUTPUT", "match": "-p tcp", "comment": "ours"},
        ],
    },
    {
        "rules": ["-j RETURN"],
        "jumps": [{"from": "PREROUTING", "position": "last"}, {"from": "OUTPUT", "match": "-p udp"}],
    },
    {"rules": [], "jumps": [{"from": "OUTPUT", "position": "first"}]},
    {"jumps": []},
    {"state": "absent"},
]
IN_FILTER = {"PREROUTING": "FORWARD", "OUTPUT": "INPUT"}


def in_filter(step: dict[str, Any]) -> dict[str, Any]:
    """The same step for the chains of the filter table."""
    jumps = [{**jump, "from": IN_FILTER[jump["from"]]} for jump in step.get("jumps", [])]
    return {**step, "jumps": jumps} if "jumps" in step else step


@pytest.fixture(params=["nft", "legacy"])
def host(request: pytest.FixtureRequest) -> Iterator[NatHost]:
    with NatHost(legacy=request.param == "legacy") as made:
        yield made


def of_others(host: NatHost) -> str:
    """All rules with their counters, without the lines of our chain and the jumps to it.

    iptables-legacy itself sets the counters of a built-in chain's policy to zero, with each change to that chain by
    anyone (`iptables-legacy -A`): there they are left out.
    """
    saved = host.saved()
    if host.legacy:
        saved = re.sub(r"^(:\S+ [A-Z]+) \[.*", r"\1", saved, flags=re.MULTILINE)
    return re.sub(r"^(:L4-TEST |\[[\d:]+\] -A L4-TEST |.* -j L4-TEST$).*\n", "", saved, flags=re.MULTILINE)


@pytest.mark.parametrize("table", ["nat", "filter"])
@pytest.mark.parametrize(
    "foreign", [DOCKER, FIREWALLD, HAND_MADE, ""], ids=["docker", "firewalld", "hand-made", "none"]
)
def test_rules_of_others_stay(host: NatHost, foreign: str, table: str) -> None:
    for family in FAMILIES:
        if foreign:
            host.iptables("-restore", "-c", family=family, text=foreign.format(**ADDRESSES[family]))
    before = of_others(host)
    for step in STEPS if table == "nat" else map(in_filter, STEPS):
        result = host.apply(chain="L4-TEST", table=table, ip_version="both", **step)
        assert result["changed"]
        assert of_others(host) == before
        assert not host.apply(chain="L4-TEST", table=table, ip_version="both", **step)["changed"]
    assert "L4-TEST " not in re.sub(r'".*"', "", host.saved())
    assert of_others(host) == before


def test_jumps_of_others_to_chains_of_others_stay(host: NatHost) -> None:
    """A chain whose name begins like ours, a rule that only mentions ours in a comment."""
    host.iptables(
        "-restore",
        text="*nat\n:L4-TEST-2 - [0:0]\n:XL4-TEST - [0:0]\n-A OUTPUT -j L4-TEST-2\n-A OUTPUT -g XL4-TEST\n"
        '-A OUTPUT -m comment --comment "-j L4-TEST" -j L4-TEST-2\nCOMMIT\n',
    )
    before = host.saved()
    host.apply(chain="L4-TEST", jumps=[{"from": "OUTPUT", "position": "first"}])
    assert host.rules("OUTPUT")[0] == "-j L4-TEST"
    host.apply(chain="L4-TEST", jumps=[])
    host.apply(chain="L4-TEST", state="absent")
    assert host.saved() == before
