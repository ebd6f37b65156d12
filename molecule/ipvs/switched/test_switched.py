# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""After a switch to iptables: the service from every place, and nothing of IPVS."""

from __future__ import annotations

import pytest

from machine_places import EVERYWHERE, INSIDE, VIP, Place, machine


@pytest.mark.parametrize("address", VIP, ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("place", EVERYWHERE, ids=str)
def test_every_place_reaches_every_backend(place: Place, address: str) -> None:
    assert place.backends(address, 8080, 30) == set(INSIDE)


def test_nothing_of_ipvs_is_left() -> None:
    host = machine()
    assert host.check_output("ipvsadm --save --numeric") == ""
    assert host.check_output("ipset list --name") == ""
    assert not host.interface("l4-ipvs0").exists
    assert host.sysctl("net.ipv4.vs.conntrack") == 0
