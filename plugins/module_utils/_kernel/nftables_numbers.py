# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the kernel numbers what the expressions of rules are made of (``linux/netfilter/nf_tables.h``)."""

from __future__ import annotations

from .._objects.nftables import Match
from .._objects.nftables_types import pack

DATA_VALUE, DATA_VERDICT = 1, 2
VERDICT_CODE, VERDICT_CHAIN = 1, 2
VERDICTS = {"drop": 0, "accept": 1, "continue": -1, "jump": -3, "goto": -4, "return": -5}
NETWORK, TRANSPORT = 1, 2
PAYLOADS = {
    "ip protocol": (NETWORK, 9, 1),
    "ip saddr": (NETWORK, 12, 4),
    "ip daddr": (NETWORK, 16, 4),
    "ip6 nexthdr": (NETWORK, 6, 1),
    "ip6 saddr": (NETWORK, 8, 16),
    "ip6 daddr": (NETWORK, 24, 16),
    "th sport": (TRANSPORT, 0, 2),
    "th dport": (TRANSPORT, 2, 2),
    "tcp flags": (TRANSPORT, 13, 1),
}
"""Header, offset and bytes of the fields that are read of the packet."""
METAS = {"meta mark": 3, "iif": 4, "oif": 5, "iifname": 6, "oifname": 7, "meta l4proto": 16, "meta pkttype": 19}
CTS = {
    "ct state": (0, None),
    "ct direction": (1, None),
    "ct status": (2, None),
    "ct mark": (3, None),
    "ct id": (23, None),
    "ct original proto-src": (11, 0),
    "ct original proto-dst": (12, 0),
    "ct original ip saddr": (19, 0),
    "ct original ip daddr": (20, 0),
    "ct original ip6 saddr": (21, 0),
    "ct original ip6 daddr": (22, 0),
}
"""Key and direction of what conntrack knows."""
FIBS = {
    "fib saddr . iif oif": (1, 1 | 8),
    "fib saddr type": (3, 1),
    "fib daddr type": (3, 2),
    "fib daddr . iif type": (3, 2 | 8),
}
"""Result and flags of a look-up of routes."""
OPERATORS = {"==": 0, "!=": 1, "<": 2, "<=": 3, ">": 4, ">=": 5}
NAT_FLAGS = {"random": 4, "fully-random": 16, "persistent": 8}
NAT_PORT = 2
NAT_KINDS = {"snat": 0, "dnat": 1}
UPDATES = {"add": 0, "update": 1, "delete": 2}
NUMGENS = {"inc": 0, "random": 1}
FAMILIES = {"inet": 1, "ip": 2, "ip6": 10}
PORT_UNREACHABLE = {"ip": 3, "ip6": 4}
TCP_ONLY = Match("meta l4proto", pack("inet_proto", "tcp"))
"""What nft(8) puts, unasked, before what only TCP has, and leaves out when it lists."""


def prefix_mask(length: int, size: int) -> bytes:
    """Return the mask of a network of this prefix length, in so many bytes."""
    return (((1 << length) - 1) << (8 * size - length)).to_bytes(size, "big")
