# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which of many addresses a node has no route to: the same as is told of each, whether or not the default route tells it of all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.route import Routes
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.addresses import IPV4, IPV6
from lab.namespaces import Namespace, link

FIRST = [f"10.{last % 7}.0.{last}" for last in range(1, 251)]
SECOND = [f"fd00:{last % 7}::{last:x}" for last in range(1, 251)]
DEFAULTS = ["route add default via 192.0.2.2", "-6 route add default via 2001:db8:1::2"]


@pytest.fixture
def node() -> Iterator[Namespace]:
    """A node with an uplink of both families, and no route but that to its network."""
    with Namespace("l4routes") as made, Namespace("l4routes-up") as beyond:
        link(made, "eth0", beyond, "eth0")
        made.add_address("eth0", "192.0.2.1/24")
        made.add_address("eth0", "2001:db8:1::1/64")
        yield made


def _found() -> tuple[dict[str, bool], list[str], list[str]]:
    """Of which families all are reached; which addresses are not; and which are not when each is asked for alone."""
    addresses = [*FIRST, *SECOND]
    with Routes() as routes:
        alone = [one for one in addresses if routes.unreachable([one])]
        return {one: routes.reaches_all(one) for one in (IPV4, IPV6)}, routes.unreachable(addresses), alone


@pytest.mark.parametrize(
    ("commands", "told"),
    [
        ([], {IPV4: False, IPV6: False}),
        (DEFAULTS, {IPV4: True, IPV6: True}),
        (DEFAULTS[:1], {IPV4: True, IPV6: False}),
        (DEFAULTS[1:], {IPV4: False, IPV6: True}),
        ([*DEFAULTS, "route add 10.9.0.0/24 via 192.0.2.3"], {IPV4: True, IPV6: True}),
        ([*DEFAULTS, "route add unreachable 10.3.0.0/24"], {IPV4: False, IPV6: True}),
        ([*DEFAULTS, "route add prohibit 10.3.0.3/32"], {IPV4: False, IPV6: True}),
        ([*DEFAULTS, "-6 route add blackhole fd00:3::/64"], {IPV4: True, IPV6: False}),
        ([*DEFAULTS, "route add unreachable default table 77", "rule add to 10.4.0.0/16 table 77"], None),
        ([*DEFAULTS, "rule add to 10.4.0.0/16 prohibit"], {IPV4: False, IPV6: True}),
        ([*DEFAULTS, "-6 rule add to fd00:4::/32 unreachable"], {IPV4: True, IPV6: False}),
        ([*DEFAULTS, "rule del pref 32766"], {IPV4: False, IPV6: True}),
        ([*DEFAULTS, "rule add pref 5 fwmark 7 table main"], {IPV4: False, IPV6: True}),
    ],
)
def test_of_many_addresses_those_without_a_route_are_told(
    node: Namespace, commands: Sequence[str], told: dict[str, bool] | None
) -> None:
    for command in commands:
        node.run("ip", *command.split())
    all_reached, unreachable, alone = node.call(_found)
    assert unreachable == alone
    assert all_reached == (told or {IPV4: False, IPV6: True})
