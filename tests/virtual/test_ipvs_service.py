# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Module ipvs_service, with ipvsadm as the judge of what the kernel then holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from ipvs_host import IpvsHost

from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import SCHEDULERS
from module_runner import COLLECTION

WEB: dict[str, Any] = {"address": "192.0.2.10", "port": 80}
A, B, C = ({"address": f"10.0.0.{number}", "port": 8080} for number in (1, 2, 3))
FULL = [
    "-A -t 192.0.2.10:80 -s sh -p 300 -M 255.255.255.0 -b sh-fallback,sh-port",
    "-a -t 192.0.2.10:80 -r 10.0.0.1:8080 -m -w 3 -x 100 -y 50",
    "-a -t 192.0.2.10:80 -r 10.0.0.4:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum",
]


@pytest.fixture
def host() -> Iterator[IpvsHost]:
    with IpvsHost() as made:
        yield made


def test_a_service_comes_changes_and_goes(host: IpvsHost) -> None:
    lines = ["-A -t 192.0.2.10:80 -s wlc", "-a -t 192.0.2.10:80 -r 10.0.0.1:8080 -m -w 1"]
    result = host.converge(**WEB, destinations=[A])
    assert result["diff"] == {"before": "", "after": "\n".join(lines) + "\n"}
    assert host.saved() == lines
    result = host.converge(**WEB, scheduler="wrr", destinations=[{**A, "weight": 5}, B])
    assert result["diff"]["before"].splitlines() == lines
    assert result["diff"]["after"].splitlines() == host.saved()
    result = host.converge(**WEB, state="absent")
    assert len(result["diff"]["before"].splitlines()) == 3
    assert host.saved() == []


KINDS: list[tuple[dict[str, Any], str]] = [
    ({"address": "192.0.2.1", "port": 80, "protocol": "udp", "one_packet": True}, "-A -u 192.0.2.1:80 -s wlc -o"),
    (
        {"address": "192.0.2.1", "port": 80, "protocol": "sctp", "scheduler": "rr"},
        "-A --sctp-service 192.0.2.1:80 -s rr",
    ),
    ({"address": "2001:DB8:0::1", "port": 80, "family": "ipv6"}, "-A -t [2001:db8::1]:80 -s wlc"),
    ({"address": "192.0.2.1", "port": 0, "persistence_timeout": 60}, "-A -t 192.0.2.1:0 -s wlc -p 60"),
    ({**WEB, "persistence_timeout": 60, "netmask": "24"}, "-A -t 192.0.2.10:80 -s wlc -p 60 -M 255.255.255.0"),
    ({**WEB, "persistence_timeout": 60, "netmask": "255.255.0.0"}, "-A -t 192.0.2.10:80 -s wlc -p 60 -M 255.255.0.0"),
    ({"address": "::5", "port": 80, "persistence_timeout": 60, "netmask": 64}, "-A -t [::5]:80 -s wlc -p 60 -M 64"),
    ({"fwmark": 7}, "-A -f 7 -s wlc"),
    ({"fwmark": 7, "family": "ipv6", "persistence_timeout": 9}, "-A -f 7 -6 -s wlc -p 9"),
    ({"fwmark": 7, "one_packet": True}, "-A -f 7 -s wlc -o"),
    ({**WEB, "scheduler": "sh", "scheduler_flags": ["sh-port"]}, "-A -t 192.0.2.10:80 -s sh -b sh-port"),
    (
        {**WEB, "scheduler": "mh", "scheduler_flags": ["mh-port", "mh-fallback"]},
        "-A -t 192.0.2.10:80 -s mh -b mh-fallback,mh-port",
    ),
    *(({**WEB, "scheduler": name}, f"-A -t 192.0.2.10:80 -s {name}") for name in SCHEDULERS if name != "twos"),
]


@pytest.mark.parametrize(("options", "line"), KINDS, ids=[line for dummy, line in KINDS])
def test_a_service_of_every_kind(host: IpvsHost, options: dict[str, Any], line: str) -> None:
    assert host.diff(**options) == ("", line + "\n")
    assert host.saved() == [line]
    assert host.diff(**options) == ("", "")


DESTINATIONS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (WEB, {"address": "10.0.0.1"}, "-r 10.0.0.1:80 -m -w 1"),
    (WEB, {"address": "10.0.0.1", "port": 0}, "-r 10.0.0.1:80 -m -w 1"),
    (WEB, {"address": "10.0.0.1", "port": 8080, "weight": 0}, "-r 10.0.0.1:8080 -m -w 0"),
    (WEB, {"address": "10.0.0.1", "forward_method": "direct", "weight": 65535}, "-r 10.0.0.1:80 -g -w 65535"),
    (WEB, {"address": "10.0.0.1", "port": 80, "forward_method": "tunnel"}, "-r 10.0.0.1:80 -i -w 1 --tun-type ipip"),
    (WEB, {"address": "fd00:0::1", "forward_method": "tunnel"}, "-r [fd00::1]:80 -i -w 1 --tun-type ipip"),
    ({"fwmark": 7}, {"address": "10.0.0.1"}, "-r 10.0.0.1:0 -m -w 1"),
    ({"fwmark": 7}, {"address": "10.0.0.1", "port": "8080"}, "-r 10.0.0.1:8080 -m -w 1"),
    ({"fwmark": 7}, {"address": "10.0.0.1", "forward_method": "direct"}, "-r 10.0.0.1:0 -g -w 1"),
]


@pytest.mark.parametrize(
    ("service", "destination", "line"), DESTINATIONS, ids=[line for dummy, dummy, line in DESTINATIONS]
)
def test_a_destination_of_every_kind(
    host: IpvsHost, service: dict[str, Any], destination: dict[str, Any], line: str
) -> None:
    host.diff(**service, destinations=[destination])
    assert host.saved()[1].endswith(line)
    assert host.diff(**service, destinations=[destination]) == ("", "")
    host.diff(**service, destinations=[destination], state="absent")
    assert len(host.saved()) == 1


def test_thresholds_are_written_and_shown(host: IpvsHost) -> None:
    limited = {**A, "upper_threshold": 100, "lower_threshold": 50}
    result = host.converge(**WEB, destinations=[limited])
    assert result["diff"]["after"].splitlines()[1] == "-a -t 192.0.2.10:80 -r 10.0.0.1:8080 -m -w 1 -x 100 -y 50"
    assert host.thresholds() == ["10.0.0.1:8080 100 50"]
    result = host.converge(**WEB, destinations=[{**A, "lower_threshold": 0}])
    assert host.thresholds() == ["10.0.0.1:8080 100 0"]


def test_what_is_not_given_is_kept(host: IpvsHost) -> None:
    """Of a virtual service and destinations that ipvsadm made, with what the module has no option for."""
    host.restore(FULL)
    before, thresholds = host.saved(), host.thresholds()
    assert not host.apply(**WEB)["changed"]
    assert not host.apply(**WEB, destinations=[A, {"address": "10.0.0.4"}])["changed"]
    result = host.converge(**WEB, persistence_timeout=600)
    assert result["diff"] == {"before": FULL[0] + "\n", "after": FULL[0].replace("300", "600") + "\n"}
    host.converge(**WEB, destinations=[{**A, "weight": 4}, {"address": "10.0.0.4", "weight": 2}])
    assert host.thresholds() == thresholds
    assert host.saved() == sorted(
        line.replace("300", "600").replace("-w 3", "-w 4").replace("-w 1", "-w 2") for line in before
    )


def test_what_belongs_to_another_setting_goes_with_it(host: IpvsHost) -> None:
    """Flags of a scheduler, the netmask of persistence, the kind of a tunnel."""
    host.restore(FULL)
    host.converge(
        **WEB, scheduler="mh", persistence_timeout=0, destinations=[{"address": "10.0.0.4", "forward_method": "direct"}]
    )
    assert host.saved()[0] == "-A -t 192.0.2.10:80 -s mh"
    assert host.saved()[2] == "-a -t 192.0.2.10:80 -r 10.0.0.4:80 -g -w 1"
    host.converge(**WEB, persistence_timeout=10)
    assert host.saved()[0] == "-A -t 192.0.2.10:80 -s mh -p 10"


def test_flags_can_be_cleared(host: IpvsHost) -> None:
    host.restore(FULL)
    host.converge(**WEB, scheduler_flags=[])
    assert host.saved()[0] == "-A -t 192.0.2.10:80 -s sh -p 300 -M 255.255.255.0"


def test_destinations_are_added_to_those_that_are_there_unless_exclusive(host: IpvsHost) -> None:
    host.apply(**WEB, destinations=[A, B])
    host.converge(**WEB, destinations=[C])
    assert [line.split()[4] for line in host.saved()[1:]] == ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"]
    result = host.converge(**WEB, destinations=[C], exclusive=True)
    assert result["diff"]["after"] == ""
    assert [line.split()[4] for line in host.saved()[1:]] == ["10.0.0.3:8080"]
    host.converge(**WEB, destinations=[], exclusive=True)
    assert host.saved() == ["-A -t 192.0.2.10:80 -s wlc"]


def test_absent(host: IpvsHost) -> None:
    """Destinations that are given go alone; what is not there is gone already."""
    for destinations in (None, [A]):
        assert not host.apply(**WEB, destinations=destinations, state="absent")["changed"]
    host.apply(**WEB, destinations=[A, B])
    host.converge(**WEB, destinations=[A, C], state="absent")
    assert len(host.saved()) == 2
    host.converge(**WEB, destinations=[B], state="absent")
    assert host.saved() == ["-A -t 192.0.2.10:80 -s wlc"]
    host.converge(**WEB, state="absent")
    assert host.saved() == []


def test_other_services_stay_as_they_are(host: IpvsHost) -> None:
    """Also those of the same address with another port or protocol, and of the same mark in the other family."""
    others = [
        "-A -t 192.0.2.10:81 -s rr",
        "-A -u 192.0.2.10:80 -s rr",
        "-a -u 192.0.2.10:80 -r 10.0.0.1:8080 -m -w 1",
        "-A -f 7 -6 -s rr",
    ]
    host.restore(others)
    host.apply(**WEB, destinations=[A])
    host.apply(fwmark=7, destinations=[A])
    host.apply(**WEB, state="absent")
    host.apply(fwmark=7, state="absent")
    assert host.saved() == sorted(others)


def test_the_destinations_can_move_to_another_method_and_back(host: IpvsHost) -> None:
    for method, option in (("masquerade", "-m"), ("direct", "-g"), ("tunnel", "-i"), ("masquerade", "-m")):
        host.diff(**WEB, destinations=[{"address": "10.0.0.1", "forward_method": method}])
        assert f"10.0.0.1:80 {option} -w 1" in host.saved()[1]


def test_a_change_that_the_kernel_refuses_leaves_what_was_there(host: IpvsHost) -> None:
    """A destination of this address is refused only by the kernel: on no interface here, it is a broadcast address."""
    host.namespace.ip("link", "add", "lan0", "type", "dummy")
    host.namespace.ip("link", "set", "lan0", "up")
    host.namespace.add_address("lan0", "10.1.0.1/24")
    host.apply(**WEB, destinations=[A, B])
    before = host.saved()
    result = host.run(**WEB, scheduler="rr", destinations=[C, {"address": "10.1.0.255"}], exclusive=True)
    assert result["failed"]
    assert result["msg"].startswith(
        "virtual service tcp 192.0.2.10:80: adding destination 10.1.0.255:80: the kernel takes no such"
    )
    assert host.saved() == before


def test_examples_of_the_documentation(host: IpvsHost) -> None:
    """Every example runs, in order, in check mode too."""
    text = (
        (COLLECTION / "plugins" / "modules" / "ipvs_service.py").read_text().split('EXAMPLES = r"""')[1].split('"""')[0]
    )
    for task in yaml.safe_load(text):
        options = {**task["layer4.service_proxy.ipvs_service"]}
        options.pop("drain_timeout", None)
        assert host.converge(**options)["changed"], task["name"]
    assert host.saved() == [
        "-A -f 7 -s sh -p 3600 -M 255.255.255.0 -b sh-fallback",
        "-A -u [2001:db8::53]:53 -s rr -o",
        "-a -u [2001:db8::53]:53 -r [fd00::11]:53 -m -w 1",
        "-a -u [2001:db8::53]:53 -r [fd00::12]:53 -m -w 1",
    ]
