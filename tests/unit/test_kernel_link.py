# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What `ip -json` prints of links, read."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.link import addresses, own_addresses

PRINTED = (
    '[{"ifindex":2,"ifname":"%s","flags":[],"mtu":1500,"operstate":"UP",'
    '"addr_info":[{"family":"inet","local":"192.0.2.7","prefixlen":24,"scope":"global"}]}]'
)


class Host:
    """Has one link, as iproute2 6.1 prints it."""

    def __init__(self, name: str) -> None:
        self._printed = PRINTED % name

    def find(self, tool: str) -> str:
        return tool

    def run(self, *_argv: Any) -> tuple[int, str, str]:
        return 0, self._printed, ""


@pytest.mark.parametrize(
    ("printed", "name"),
    [
        ("eth0", "eth0"),
        (r"o\'clock", "o'clock"),
        (r"a\"b", 'a"b'),
        (r"back\\slash", r"back\slash"),
        (r"\\\'", r"\'"),
        ("bell\a", "bell\a"),
        ("\x7f\u2028", "\x7f\u2028"),
    ],
)
def test_a_link_may_have_any_name(printed: str, name: str) -> None:
    """ip(8) escapes apostrophes, which JSON does not know, and no control characters, which it wants to be escaped."""
    assert own_addresses(Host(printed)) == ["192.0.2.7"]
    assert addresses(Host(printed)) == {name: ["192.0.2.7"]}


def test_an_address_that_two_links_have_is_one() -> None:
    host = Host("eth0")
    host._printed = f"[{host._printed[1:-1]},{(PRINTED % 'eth1')[1:-1]}]"
    assert own_addresses(host) == ["192.0.2.7"]
    assert addresses(host) == {"eth0": ["192.0.2.7"], "eth1": ["192.0.2.7"]}
