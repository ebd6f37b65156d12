# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A service that was removed while node3 was down is gone there too, in the kernel and in what comes back at boot."""

from __future__ import annotations

import pytest

from places import BACKENDS, NODES, OUTSIDE, Place, machine


@pytest.mark.parametrize("place", OUTSIDE, ids=str)
def test_it_answers_nobody(place: Place) -> None:
    assert not set(place.ask("10.100.100.3", 80)) & {"refused", *BACKENDS}
    assert place.backends("10.100.100.1", 80, 40) == set(BACKENDS)


@pytest.mark.parametrize("node", NODES)
def test_nothing_of_it_is_left(node: str) -> None:
    host = machine(node)
    for command in ("iptables-save", "ipset save", "cat /var/lib/layer4-service-proxy/current/services.*"):
        found = host.check_output(command)
        assert "removed: " not in found
        assert "10.100.100.3" not in found
        assert "L4-AFF-" not in found


@pytest.mark.parametrize("node", NODES)
def test_no_timer_is_left(node: str) -> None:
    assert machine(node).run("systemctl is-active layer4-service-proxy-watch.timer").stdout == "inactive\n"
