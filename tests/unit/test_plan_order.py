# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A jump of ours overtakes what drops by default, and nothing else."""

from __future__ import annotations

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables import Desired, Jump, Observed
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.iptables import plan
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.iptables_order import drops_by_default

ESTABLISHED = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
DOCKER_28 = {
    "DOCKER-USER": [],
    "DOCKER-CT": ["-o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"],
    "DOCKER": [
        "-d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT",
        "! -i docker0 -o docker0 -j DROP",
    ],
    "DOCKER-FORWARD": ["-j DOCKER-CT", "-o docker0 -j DOCKER", "-i docker0 -j ACCEPT"],
}
LIBVIRT = {
    "LIBVIRT_FWI": [
        "-d 192.168.122.0/24 -o virbr0 " + ESTABLISHED,
        "-o virbr0 -j REJECT --reject-with icmp-port-unreachable",
    ]
}
UFW = {
    "ufw-before-forward": [ESTABLISHED, "-p icmp -m icmp --icmp-type 3 -j ACCEPT", "-j ufw-user-forward"],
    "ufw-user-forward": [],
    "ufw-reject-forward": ["-j REJECT --reject-with icmp-port-unreachable"],
    "ufw-before-input": ["-i lo -j ACCEPT", "-m conntrack --ctstate INVALID -j DROP"],
}
FAIL2BAN = {"f2b-sshd": ["-s 192.0.2.66/32 -j REJECT --reject-with icmp-port-unreachable", "-j RETURN"]}
TAILSCALE = {
    "ts-forward": [
        "-i tailscale0 -j MARK --set-xmark 0x40000/0xff0000",
        "-m mark --mark 0x40000/0xff0000 -j ACCEPT",
        "-s 100.64.0.0/10 -o tailscale0 -j DROP",
    ]
}


@pytest.mark.parametrize(
    ("in_front", "chains", "drops"),
    [
        (["-j DOCKER-USER", "-j DOCKER-FORWARD"], DOCKER_28, True),
        (["-j DOCKER-USER"], DOCKER_28, False),
        (["-j LIBVIRT_FWI"], LIBVIRT, True),
        (["-j ufw-before-forward"], UFW, False),
        (["-j ufw-before-input"], UFW, False),
        (["-j ufw-before-forward", "-j ufw-reject-forward"], UFW, True),
        (["-j f2b-sshd", "-p tcp -m multiport --dports 22 -j f2b-sshd"], FAIL2BAN, False),
        (["-j ts-forward"], TAILSCALE, False),
        (["-m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT", "-j REJECT"], {}, False),
        ([ESTABLISHED, "-j REJECT"], {}, True),
        (["-m conntrack --ctstate DNAT -j ACCEPT", "-j REJECT"], {}, False),
        (["-j ACCEPT", "-j DROP"], {}, False),
        (["-j REJECT --reject-with icmp-host-prohibited"], {}, True),
        (["-i eth0 -j DROP"], {}, True),
        (["-m conntrack --ctstate NEW -j DROP"], {}, True),
        (["-m conntrack ! --ctstate RELATED,ESTABLISHED -j DROP"], {}, True),
        (["-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"], {}, False),
        (["-m conntrack --ctstate INVALID -j DROP"], {}, False),
        (["-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW -j DROP"], {}, False),
        (["-p icmp -j DROP"], {}, False),
        (["-s 192.0.2.0/24 -j DROP"], {}, False),
        (["! -s 192.0.2.0/24 -j DROP"], {}, False),
        (["-p tcp -m tcp --dport 25 -j REJECT"], {}, False),
        (["-m set --match-set banned src -j DROP"], {}, False),
        (['-m comment --comment "-j DROP" -j ACCEPT'], {}, False),
        (["-j LOG --log-prefix DROP", "-j MARK --set-xmark 0x1/0x1"], {}, False),
        (["-j unknown"], {}, True),
        (["-j one"], {"one": ["-j two"], "two": ["-j one"]}, True),
        (["-j one"], {"one": ["-j RETURN", "-j DROP"]}, False),
        (["-g one", "-j DROP"], {"one": ["-j ACCEPT"]}, False),
    ],
)
def test_what_drops_by_default(in_front: list[str], chains: dict[str, list[str]], drops: bool) -> None:
    assert drops_by_default(in_front, chains) == drops


OURS = "-m comment --comment ours -j L4-FORWARD"
FIREWALL = "-m comment --comment ours -j L4-FIREWALL"


def _edit(hook: list[str], others: dict[str, list[str]]) -> list[str]:
    jumps = [Jump("filter", "FORWARD", rule, overtakes=True) for rule in (FIREWALL, OURS)]
    chains = {("filter", "L4-FORWARD"): ["-j ACCEPT"], ("filter", "L4-FIREWALL"): ["-j DROP"]}
    held = Observed(
        dict(chains), {("filter", "FORWARD"): hook}, {("filter", name): rules for name, rules in others.items()}
    )
    found = plan(Desired(dict(chains), jumps), held)
    return list(found.result.hooks["filter", "FORWARD"])


def test_our_jumps_are_put_in_front_together_and_in_their_order() -> None:
    docker = ["-j DOCKER-USER", "-j DOCKER-FORWARD"]
    assert _edit([*docker, FIREWALL, OURS], DOCKER_28) == [FIREWALL, OURS, *docker]
    assert _edit([FIREWALL, *docker, OURS], DOCKER_28) == [FIREWALL, OURS, *docker]


def test_our_jumps_stay_behind_what_is_meant() -> None:
    for hook, chains in ((["-j f2b-sshd", FIREWALL, OURS], FAIL2BAN), (["-j DOCKER-USER", FIREWALL, OURS], DOCKER_28)):
        assert _edit(hook, chains) == hook


def test_a_rule_of_two_lines_is_deleted_by_number_and_put_back_on_one() -> None:
    """iptables-restore takes a rule for one line."""
    odd = '-m comment --comment "a\nb" -j L4-A'
    rules = [odd, "-j L4-A", odd, "-j OTHER"]
    held = Observed({("nat", "L4-A"): [odd.replace("L4-A", "RETURN")]}, {("nat", "OUTPUT"): rules})
    removal = plan(Desired(), held)
    edits = [line for line in removal.restore.splitlines() if "OUTPUT" in line]
    assert edits == ["-D OUTPUT 3", "-D OUTPUT 1", "-D OUTPUT -j L4-A"]
    assert '-I OUTPUT 1 -m comment --comment "a b" -j L4-A' in removal.undo.splitlines()
    assert '-A L4-A -m comment --comment "a b" -j RETURN' in removal.undo.splitlines()
    kept = plan(Desired({("nat", "L4-A"): []}, [Jump("nat", "OUTPUT", "-j L4-A")]), held)
    assert "OUTPUT" not in kept.restore
