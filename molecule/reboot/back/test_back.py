# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""After a reboot, and after a reload: all that the roles have set is as it was before, and was so before the network came up."""

from __future__ import annotations

import time

import pytest

from found import assert_as_found
from machine_places import EVERYWHERE, INSIDE, RECORDS, Place, machine

BACK_SECONDS = 5.0
PATIENCE = 60.0
"""Seconds; an emulated machine needs most of them to start all that it starts."""


def test_the_service_answered_soon_after_the_node_did() -> None:
    assert float((RECORDS / "returned").read_text()) < BACK_SECONDS


@pytest.mark.parametrize("place", EVERYWHERE, ids=str)
def test_every_place_reaches_every_backend(place: Place) -> None:
    for inside, outside in (("10.100.100.100", "10.100.100.101"), ("fd00:100::100", "fd00:100::101")):
        assert place.backends(inside, 80, 30) == set(INSIDE)
        assert place.backends(outside, 80, 2) == {"web3"}
    assert set(place.ask("10.100.100.102", 80)) == {"refused"}


def test_the_checker_is_back_and_takes_out_what_is_down() -> None:
    """After a boot all backends count as healthy, until they are checked."""
    unit = "layer4-service-proxy-health"
    assert machine().service(unit).is_running
    end = time.monotonic() + PATIENCE
    while "10.89.78.21:8081 is out of checked" not in (
        told := machine().check_output(f"journalctl --boot --unit {unit} --output cat")
    ):
        assert time.monotonic() < end, told
        time.sleep(1)
    assert "2 checks, 0 failed" in told
    assert Place("client").backends("10.100.100.104", 80, 10) == {"web3"}


def test_all_is_as_it_was() -> None:
    assert_as_found(machine(), apart_from=("/run/",))


def test_the_unit_had_done_its_work_before_the_network_came_up() -> None:
    unit, network = (machine().service(name) for name in ("layer4-service-proxy", "systemd-networkd"))
    assert unit.is_running
    assert unit.is_enabled
    done = int(unit.systemd_properties["ExecMainExitTimestampMonotonic"])
    assert 0 < done < int(network.systemd_properties["ExecMainStartTimestampMonotonic"])
    assert machine().check_output("systemctl --failed --plain --no-legend") == ""
