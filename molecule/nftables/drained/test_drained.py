# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""After draining a backend."""

from __future__ import annotations

import pytest

from places import EVERYWHERE, Place


@pytest.mark.parametrize("place", EVERYWHERE, ids=str)
def test_the_drained_backend_gets_no_new_connection(place: Place) -> None:
    assert place.backends("10.100.100.1", 80, 30) == {"web1", "web3"}
