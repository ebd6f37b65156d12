# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Session affinity keeps two numbers in the marks of packet and connection; what others have in them is there again behind it."""

from __future__ import annotations

import pytest
from network import IPV4, IPV6, Network, backends, vip

pytestmark = pytest.mark.parametrize("network", ["nftables"], indirect=True, scope="module")

MARK, CT_MARK = 0x11, 0x2200
OTHERS = """
table inet others {
    counter marked { }
    counter new { }
    chain before {
        type filter hook prerouting priority -150;
        tcp dport 80 ct state new meta mark set %(mark)d ct mark set %(ct_mark)d
    }
    chain behind {
        type filter hook forward priority 0;
        tcp flags & (syn | ack) == syn counter name "new"
        tcp flags & (syn | ack) == syn meta mark and 0xff == %(mark)d ct mark %(ct_mark)d counter name "marked"
    }
}
"""


@pytest.mark.parametrize("address_family", [IPV4, IPV6])
def test_marks_of_others_are_put_back(network: Network, address_family: str) -> None:
    service = {
        "name": "sticky",
        "vip": vip(1, address_family),
        "port": 80,
        "session_affinity": "client_ip",
        "backends": backends("b11", "b12", family=address_family),
    }
    network.applied([service])
    node = network.hosts["node1"]
    node.run("nft", "-f", "-", input=OTHERS % {"mark": MARK, "ct_mark": CT_MARK})
    try:
        tally = network.ask("client", vip(1, address_family), 80, count=6)
        assert tally.answered == 6
        assert len(set(tally.backends)) == 1
        counted = {name: _packets(network, name) for name in ("new", "marked")}
    finally:
        node.run("nft", "delete", "table", "inet", "others")
    assert counted == {"new": 6, "marked": 6}


def _packets(network: Network, name: str) -> int:
    listed = network.hosts["node1"].run("nft", "list", "counter", "inet", "others", name).stdout
    return int(listed.partition("packets ")[2].split()[0])
