# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""After scaling up: all backends, a scheduler for each service, no more rules than before, and the open connection goes on."""

from __future__ import annotations

import pytest

from held import assert_held
from machine_places import EVERYWHERE, VIP, Place, held, machine


@pytest.mark.parametrize("address", VIP, ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("place", EVERYWHERE, ids=str)
def test_the_backend_that_came_has_its_share(place: Place, address: str) -> None:
    assert place.shares(address, 8080, 9) == {"web1": 3, "web2": 3, "web3": 3}


@pytest.mark.parametrize("place", EVERYWHERE, ids=str)
def test_another_service_keeps_each_client_at_one_backend(place: Place) -> None:
    assert len(place.backends(VIP[0], 9090, 9)) == 1


def test_the_rules_are_the_same() -> None:
    assert (
        machine().check_output("{ iptables --list-rules; iptables --table=nat --list-rules; } | diff /run/rules -")
        == ""
    )


def test_the_open_connection_went_on() -> None:
    assert_held(held)
