# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Health checks with IPVS: a destination that fails has weight 0 and keeps its connections; of UDP it goes, so that flows move."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from checked import Backends, Checked, wait_for
from network import IPV4, Network, backends, vip

from lab.traffic import LongLivedConnection

GOOD, BAD = "b11", "b21"
WEB, STICKY, DNS = "web", "sticky", "dns"
PORTS = {WEB: 9000, DNS: 9001}


@pytest.mark.semantics(33)
def test_a_destination_that_fails_takes_nothing_new(network: Network, tmp_path: Path) -> None:
    check = {"type": "http", "interval": 1, "timeout": 3, "fall": 2, "rise": 1}
    vips = {name: vip(1 + number, IPV4) for number, name in enumerate((WEB, STICKY, DNS))}
    of_web = {"port": 80, "backends": backends(GOOD, BAD, port=9000), "health_check": {**check, "port": 10000}}
    of_dns = {"port": 53, "protocol": "udp", "backends": backends(GOOD, BAD), "health_check": {**check, "port": 10001}}
    services = [
        {"name": WEB, "vip": vips[WEB], **of_web},
        {"name": STICKY, "vip": vips[STICKY], "session_affinity": "client_ip", **of_web},
        {"name": DNS, "vip": vips[DNS], **of_dns},
    ]
    made, checked = Backends(network, tmp_path, PORTS), Checked(network, tmp_path / "kept")
    client = network.hosts["client"]
    established: list[LongLivedConnection] = []
    flows: list[LongLivedConnection] = []
    try:
        for host in (GOOD, BAD):
            made.start(host, *PORTS)
        network.applied(services)
        checked.give(services)
        checked.start()
        established = [LongLivedConnection(client, vips[WEB], 80, timeout=10) for _number in range(4)]
        flows = [LongLivedConnection(client, vips[DNS], 53, "udp", timeout=10) for _number in range(4)]
        bound = set(network.ask("client", vips[STICKY], 80).backends)
        assert {one.first.backend for one in established} == {one.first.backend for one in flows} == {GOOD, BAD}

        out, stays = (BAD, {GOOD}) if bound == {BAD} else (GOOD, {BAD})
        for kind in PORTS:
            made.answer(out, kind, "500")
        wait_for(lambda: checked.told("out of") == {WEB, STICKY, DNS})
        for name, port, protocol in ((WEB, 80, "tcp"), (STICKY, 80, "tcp"), (DNS, 53, "udp")):
            tally = network.ask("client", vips[name], port, protocol, count=12)
            assert (tally.answered, set(tally.backends)) == (12, stays), name
        assert [one.ask().backend for one in established] == [one.first.backend for one in established]
        assert {one.ask().backend for one in flows} == stays
        assert not network.applied(services)["changed"]

        for kind in PORTS:
            made.answer(out, kind, "200")
        wait_for(lambda: checked.told("back in") == {WEB, STICKY, DNS})
        assert set(network.ask("client", vips[WEB], 80, count=12).backends) == {GOOD, BAD}
        assert not network.applied(services)["changed"]
    finally:
        for one in (*established, *flows):
            one.close()
        checked.stop(signal.SIGKILL)
        made.close()
