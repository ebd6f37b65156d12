# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernel's IPVS by `kernel.ipvs`, with ipvsadm as the judge: written and read exactly, refusals in words."""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from ipvs_host import IpvsHost

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel import ipvs_messages as wire
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.ipvs import Ipvs, IpvsError
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.netlink import attributes
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import SCHEDULERS
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipvs import (
    SCHEDULER_FLAGS,
    AddDestination,
    AddService,
    DeleteDestination,
    DeleteService,
    Destination,
    HeldService,
    IpvsChange,
    ServiceKey,
    SetDestination,
    SetService,
    Timeouts,
    VirtualService,
    destination_line,
    service_line,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.ipvs import plan_virtual_services
from module_runner import MANAGED_HOST_PYTHON, library_path

Services = dict[ServiceKey, HeldService]

WEB = ServiceKey("ipv4", "tcp", "192.0.2.1", 80, 0)
WEB_SERVICE = VirtualService(WEB, "rr", (), 0, 32, False)
ONE = Destination("10.0.0.1", 8080, "masquerade", 1)
TUNNELS = ((0, 0, 0), (1, 6080, 0), (1, 6080, 1), (1, 6080, 2), (2, 0, 0), (2, 0, 1))


@pytest.fixture
def host() -> Iterator[IpvsHost]:
    with IpvsHost() as made:
        yield made


def generate(seed: int, count: int) -> Services:
    """Virtual services of all kinds."""
    dice = random.Random(seed)
    made: Services = {}
    while len(made) < count:
        service = random_service(dice, len(made) + 1)
        found = [random_destination(dice, service.key, number) for number in range(dice.randrange(5))]
        made[service.key] = HeldService(service, {(one.address, one.port): one for one in found})
    return made


def random_service(dice: random.Random, number: int) -> VirtualService:
    family = dice.choice(["ipv4", "ipv6"])
    protocol = dice.choice(["tcp", "udp", "sctp", ""])
    timeout = dice.choice([0, 0, 1, 300, 86400])
    address = {"ipv4": f"10.96.{number >> 8}.{number & 255}", "ipv6": f"fd96::{number:x}"}[family]
    port = 0 if timeout and dice.random() < 0.2 else dice.randrange(1, 65536)
    key = ServiceKey(family, protocol, address, port, 0) if protocol else ServiceKey(family, "", "", 0, number)
    scheduler = dice.choice([name for name in SCHEDULERS if name != "twos"])
    flags = SCHEDULER_FLAGS.get(scheduler, ("flag-1", "flag-2", "flag-3"))
    longest = 32 if family == "ipv4" else 128
    return VirtualService(
        key,
        scheduler,
        tuple(sorted(dice.sample(flags, dice.randrange(len(flags) + 1)))),
        timeout,
        dice.choice([longest, longest // 2, 1]) if timeout else longest,
        protocol in ("udp", "") and dice.random() < 0.3,
        "sip" if protocol == "udp" and timeout and dice.random() < 0.3 else "",
    )


def random_destination(dice: random.Random, key: ServiceKey, number: int) -> Destination:
    method = dice.choice(["masquerade", "direct", "tunnel"])
    other = method == "tunnel" and dice.random() < 0.3
    ipv4 = (key.family == "ipv4") != other
    upper = dice.choice([0, 0, 100, 2**31 - 1])
    return Destination(
        f"172.16.0.{number + 1}" if ipv4 else f"fd00::{number + 1:x}",
        dice.randrange(1, 65536) if method == "masquerade" else key.port,
        method,
        dice.choice([0, 1, 7, 65535]),
        upper,
        dice.choice([0, upper // 2]),
        dice.choice(TUNNELS) if method == "tunnel" else (0, 0, 0),
    )


def rendered(services: Services, thresholds: bool = True) -> list[str]:
    """The lines of ``ipvsadm -Sn``, which has no thresholds."""
    lines = []
    for key, held in services.items():
        lines.append(service_line(held.service))
        for one in held.destinations.values():
            shown = one if thresholds else one._replace(upper_threshold=0, lower_threshold=0)
            lines.append(destination_line(key, shown))
    return lines


def test_200_services_of_all_kinds_are_written_as_ipvsadm_restore_writes_them(host: IpvsHost) -> None:
    wanted = generate(1, 200)
    with IpvsHost() as other:
        other.restore(rendered(wanted))
        plan = plan_virtual_services(wanted, {})
        host.change(*plan.additions)
        assert host.saved() == other.saved() == sorted(rendered(wanted, thresholds=False))
        assert host.thresholds() == other.thresholds()
    assert sorted(plan.after.splitlines()) == sorted(rendered(wanted))


def test_services_made_by_ipvsadm_are_read_back_exactly(host: IpvsHost) -> None:
    wanted = generate(2, 200)
    host.restore(rendered(wanted))
    found = host.inside(lambda ipvs: ipvs.services())
    number, same = host.inside(lambda ipvs: ipvs.snapshot())
    assert (number, same) == (host.inside(lambda ipvs: ipvs.fingerprint()), found)
    some = list(found)[::7]
    assert host.inside(lambda ipvs: ipvs.snapshot(some))[1] == {key: found[key] for key in some}
    assert found == wanted
    some = random.Random(3).sample(sorted(wanted), 20)
    assert host.inside(lambda ipvs: [ipvs.service(key) for key in some]) == [wanted[key] for key in some]
    assert not plan_virtual_services(wanted, found).changed


def test_it_is_told_which_virtual_services_lead_to_a_destination(host: IpvsHost) -> None:
    wanted = generate(6, 300)
    host.restore(rendered(wanted))
    users: dict[Any, set[ServiceKey]] = {}
    for key, held in wanted.items():
        for endpoint in held.destinations if key.protocol else ():
            users.setdefault((key.protocol, *endpoint), set()).add(key)
    asked = [*users, ("tcp", "10.9.9.9", 80), ("udp", "fd09::9", 80)]
    found = host.inside(lambda ipvs: ipvs.users(asked))
    assert found is not None
    assert len(found) == len(set(found)) == sum(map(len, users.values())) > 300
    assert all(key in users[destination] for destination, key in found)
    assert host.inside(lambda ipvs: ipvs.users([])) == []


def test_every_change_from_one_state_to_another(host: IpvsHost) -> None:
    """And back again by what undoes it."""
    states = [dict(list(generate(seed, 60).items())[seed % 7 :]) for seed in (4, 5)]
    host.change(*plan_virtual_services(states[0], {}).additions)
    plan = plan_virtual_services(states[1], host.inside(lambda ipvs: ipvs.services()))
    phases: list[Sequence[IpvsChange]] = [plan.additions, plan.drain, plan.removals]
    for changes in phases:
        host.change(*changes)
    assert host.inside(lambda ipvs: ipvs.services()) == states[1]
    assert host.saved() == sorted(rendered(states[1], thresholds=False))
    for changes in reversed(phases):
        host.change(*plan.undo(changes))
    assert host.inside(lambda ipvs: ipvs.services()) == states[0]


def test_flags_that_nobody_here_knows_are_kept(host: IpvsHost) -> None:
    """The kernel is told which bits are meant."""
    unknown = 0x100
    host.change(AddService(WEB_SERVICE))

    def flags(ipvs: Ipvs) -> int:
        (body,) = ipvs._dump(wire.message(wire.GET_SERVICE))
        found = attributes(attributes(body[4:])[1])
        return int(struct.unpack_from("=I", found[7])[0])

    def set_unknown(ipvs: Ipvs) -> None:
        message = wire.encode_change(SetService(WEB_SERVICE))
        pair = struct.pack("=II", 0, 0x3D)
        assert pair in message
        ipvs._netlink.execute(ipvs._family, 0, message.replace(pair, struct.pack("=II", unknown, unknown)))

    host.inside(set_unknown)
    before = host.inside(flags)
    assert before & unknown
    host.change(SetService(WEB_SERVICE._replace(one_packet=True, scheduler="sh", scheduler_flags=("sh-port",))))
    assert host.inside(flags) == before | 0x14
    host.change(SetService(WEB_SERVICE))
    assert host.inside(flags) == before


def test_a_service_that_is_not_there(host: IpvsHost) -> None:
    assert host.inside(lambda ipvs: ipvs.service(WEB)) is None
    assert host.inside(lambda ipvs: ipvs.connections([WEB])) == {WEB: {}}


REFUSALS: list[tuple[IpvsChange, str]] = [
    (AddService(WEB_SERVICE), "virtual service tcp 192.0.2.1:80: adding it: it exists already"),
    (
        AddService(WEB_SERVICE._replace(key=WEB._replace(port=81), scheduler="gone")),
        "virtual service tcp 192.0.2.1:81: adding it: the kernel has no scheduler gone: load module ip_vs_gone",
    ),
    (
        SetService(WEB_SERVICE._replace(persistence_timeout=1, persistence_engine="gone")),
        (
            "virtual service tcp 192.0.2.1:80: changing it: the kernel has no scheduler rr: load module ip_vs_rr, or has no "
            "persistence engine gone (ip_vs_pe_gone)"
        ),
    ),
    (
        SetService(WEB_SERVICE._replace(key=ServiceKey("ipv6", "", "", 0, 7), netmask=128)),
        "virtual service fwmark 7 (ipv6): changing it: there is no such virtual service",
    ),
    (
        DeleteService(ServiceKey("ipv6", "udp", "fd00::1", 53, 0)),
        "virtual service udp [fd00::1]:53: deleting it: there is no such virtual service",
    ),
    (AddDestination(WEB, ONE), "virtual service tcp 192.0.2.1:80: adding destination 10.0.0.1:8080: it exists already"),
    (
        AddDestination(WEB._replace(port=81), ONE),
        "virtual service tcp 192.0.2.1:81: adding destination 10.0.0.1:8080: there is no such virtual service",
    ),
    (
        SetDestination(WEB, ONE._replace(port=9)),
        "virtual service tcp 192.0.2.1:80: changing destination 10.0.0.1:9: there is no such destination",
    ),
    (
        SetDestination(WEB, ONE._replace(lower_threshold=2, upper_threshold=1)),
        (
            "virtual service tcp 192.0.2.1:80: changing destination 10.0.0.1:8080: lower_threshold is above upper_threshold, or "
            "weight is negative"
        ),
    ),
    (
        DeleteDestination(WEB, ("10.0.0.9", 9)),
        "virtual service tcp 192.0.2.1:80: deleting destination 10.0.0.9:9: there is no such destination",
    ),
    (
        AddDestination(WEB, ONE._replace(address="224.0.0.1")),
        (
            "virtual service tcp 192.0.2.1:80: adding destination 224.0.0.1:8080: the kernel takes no such destination: its address "
            "must be a host's, its family the virtual service's unless it is tunnelled; and interface lo must have been up in this "
            "network namespace"
        ),
    ),
]


@pytest.mark.parametrize(("change", "words"), REFUSALS, ids=lambda value: type(value).__name__)
def test_a_refusal_in_words(host: IpvsHost, change: IpvsChange, words: str) -> None:
    host.change(AddService(WEB_SERVICE), AddDestination(WEB, ONE))
    with pytest.raises(IpvsError) as refusal:
        host.change(change)
    assert str(refusal.value) == words
    assert refusal.value.made == []


@pytest.mark.parametrize("at", [0, 1, 63, 64, 65, 129, 199])
def test_what_was_made_beside_a_refused_change_is_told(host: IpvsHost, at: int) -> None:
    """Those behind it in its block too, so that they can be taken back."""
    adding: list[IpvsChange] = [AddDestination(WEB, ONE._replace(port=port)) for port in range(1, 201)]
    host.change(AddService(WEB_SERVICE), adding[at])
    with pytest.raises(IpvsError, match=rf"10\.0\.0\.1:{at + 1}: it exists already") as refusal:
        host.change(*adding)
    made = refusal.value.made
    assert made[:at] == adding[:at]
    assert adding[at] not in made
    assert len(host.saved()) == 2 + len(made) < 202
    host.change(*plan_virtual_services({}, {}).undo(made))
    assert host.saved() == sorted([service_line(WEB_SERVICE), destination_line(WEB, adding[at].destination)])  # type: ignore[union-attr]


def test_a_whole_block_of_refusals_is_no_more_than_the_socket_holds(host: IpvsHost) -> None:
    with pytest.raises(
        IpvsError, match=r"192\.0\.2\.1:80: adding destination 10\.0\.0\.1:1: there is no such virtual service"
    ) as refusal:
        host.change(*(AddDestination(WEB, ONE._replace(port=port)) for port in range(1, 500)))
    assert refusal.value.made == []


def test_a_fresh_namespace_whose_lo_is_down_takes_no_destination(host: IpvsHost) -> None:
    host.namespace.delete()
    subprocess.run(["ip", "netns", "add", host.namespace.name], check=True)
    host.change(AddService(WEB_SERVICE))
    with pytest.raises(IpvsError, match="interface lo must have been up"):
        host.change(AddDestination(WEB, ONE))


def test_timeouts(host: IpvsHost) -> None:
    assert host.inside(lambda ipvs: ipvs.timeouts()) == Timeouts(900, 120, 300)
    host.inside(lambda ipvs: ipvs.set_timeouts(Timeouts(1000, 0, 50)))
    assert host.inside(lambda ipvs: ipvs.timeouts()) == Timeouts(1000, 120, 50)
    assert host.ipvsadm("-L", "--timeout").split()[-3:] == ["1000", "120", "50"]
    with pytest.raises(IpvsError, match="setting timeouts to 4294967295 0 0: Invalid argument"):
        host.inside(lambda ipvs: ipvs.set_timeouts(Timeouts(2**32 - 1, 0, 0)))


def probe(host: IpvsHost, *prefix: str) -> str:
    """What a managed host's Python says when it is to reach IPVS."""
    code = (
        "from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.ipvs import Ipvs, IpvsError\n"
        "try:\n    Ipvs()\nexcept IpvsError as error:\n    print(error)\n"
    )
    env: dict[str, Any] = {"PYTHONPATH": library_path(), "PYTHONDONTWRITEBYTECODE": "1"}
    return host.namespace.run(*prefix, MANAGED_HOST_PYTHON, "-c", code, env=env).stdout.strip()


def test_without_the_right_ipvs_is_not_reached(host: IpvsHost) -> None:
    assert probe(host) == ""
    without = probe(host, "setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
    assert without == (
        "IPVS cannot be read over netlink: not permitted: CAP_NET_ADMIN is needed in the user namespace that the host began with"
    )
