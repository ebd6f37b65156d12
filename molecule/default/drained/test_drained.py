# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""After scaling up again and draining a backend."""

from __future__ import annotations

import pytest

from held import assert_held
from places import EVERYWHERE, Place, held, machine


@pytest.mark.parametrize("place", EVERYWHERE, ids=str)
def test_the_drained_backend_gets_no_new_connection(place: Place) -> None:
    assert place.backends("10.100.100.1", 80, 30) == {"web1", "web3"}


def test_the_node_remembers_the_drained_backend() -> None:
    assert machine("node3").file("/var/lib/layer4-service-proxy.drained").content_string == "10.10.1.12\n"


def test_the_open_connection_went_on() -> None:
    assert_held(held)
