# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""After scaling down: new connections go to what is left, the open one goes on."""

from __future__ import annotations

import pytest

from held import assert_held
from places import EVERYWHERE, Place, held


@pytest.mark.parametrize("place", EVERYWHERE, ids=str)
def test_the_backend_that_is_gone_gets_no_new_connection(place: Place) -> None:
    assert place.backends("10.100.100.1", 80, 30) == {"web1", "web2"}


def test_the_open_connection_went_on() -> None:
    assert_held(held)
