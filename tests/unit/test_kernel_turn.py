# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One at a time; that nothing is lost by runs at the same time is in the integration tests."""

from __future__ import annotations

import os

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel import run_lock as turn
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.run_lock import TurnError, in_turn


@pytest.fixture(autouse=True)
def _of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn, "_NAME", b"\0layer4-service-proxy-test-%d" % os.getpid())


def test_a_turn_is_for_one_at_a_time() -> None:
    with (
        in_turn(0),
        pytest.raises(TurnError, match="another run of vip_service is under way on this host"),
        in_turn(0.1),
    ):
        pass
    with in_turn(0):
        pass


def test_a_turn_ends_with_what_took_it() -> None:
    with pytest.raises(ZeroDivisionError), in_turn(0):
        raise ZeroDivisionError
    with in_turn(0):
        pass
