# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A jump of ours overtakes what drops by default, and nothing else."""

from __future__ import annotations

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables.shared_chains import hook_jumps
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.netfilter.names import Layout
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


UFW_INPUT = {
    "ufw-before-input": [
        "-i lo -j ACCEPT",
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-m conntrack --ctstate INVALID -j ufw-logging-deny",
        "-m conntrack --ctstate INVALID -j DROP",
        "-p icmp -m icmp --icmp-type 8 -j ACCEPT",
        "-p udp -m udp --sport 67 --dport 68 -j ACCEPT",
        "-j ufw-not-local",
        "-d 224.0.0.251/32 -p udp -m udp --dport 5353 -j ACCEPT",
        "-j ufw-user-input",
    ],
    "ufw-not-local": [
        "-m addrtype --dst-type LOCAL -j RETURN",
        "-m addrtype --dst-type MULTICAST -j RETURN",
        "-m addrtype --dst-type BROADCAST -j RETURN",
        "-m limit --limit 3/min --limit-burst 10 -j ufw-logging-deny",
        "-j DROP",
    ],
    "ufw-logging-deny": [
        "-m conntrack --ctstate INVALID -m limit --limit 3/min --limit-burst 10 -j RETURN",
        '-m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "[UFW BLOCK] "',
    ],
    "ufw-user-input": [
        "-s 192.0.2.66/32 -j DROP",
        "-p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -m recent --set --name DEFAULT --mask 255.255.255.255 --rsource",
        "-p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -m recent --update --seconds 30 --hitcount 6 -j ufw-user-limit",
        "-p tcp -m tcp --dport 22 -j ufw-user-limit-accept",
        "-p tcp -m tcp --dport 25 -j REJECT --reject-with tcp-reset",
    ],
    "ufw-user-limit": ["-j REJECT --reject-with icmp-port-unreachable"],
    "ufw-user-limit-accept": ["-j ACCEPT"],
    "ufw-after-input": ["-p udp -m udp --dport 137 -j ufw-skip-to-policy-input"],
    "ufw-skip-to-policy-input": ["-j DROP"],
    "ufw-reject-input": ["-j REJECT --reject-with icmp-port-unreachable"],
    "ufw-track-input": [],
}
FIREWALLD_INPUT = [
    "-m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT",
    "-i lo -j ACCEPT",
    "-j INPUT_direct",
    "-j INPUT_ZONES",
    "-m conntrack --ctstate INVALID -j DROP",
    "-j REJECT --reject-with icmp-host-prohibited",
]
FIREWALLD = {
    "INPUT_direct": [],
    "INPUT_ZONES": ["-i eth0 -g IN_public", "-g IN_public"],
    "IN_public": ["-j IN_public_deny", "-j IN_public_allow"],
    "IN_public_deny": ["-s 192.0.2.66/32 -j DROP", "-p tcp -m tcp --dport 25 -j DROP"],
    "IN_public_allow": ["-p tcp -m tcp --dport 22 -m conntrack --ctstate NEW,UNTRACKED -j ACCEPT"],
}
LIBVIRT_INPUT = {"LIBVIRT_INP": [f"-i virbr0 -p {one} -m {one} --dport 53 -j ACCEPT" for one in ("udp", "tcp")]}
TAILSCALE_INPUT = {
    "ts-input": [
        "-s 100.101.102.103/32 -i lo -j ACCEPT",
        "-s 100.115.92.0/23 ! -i tailscale0 -j RETURN",
        "-s 100.64.0.0/10 ! -i tailscale0 -j DROP",
        "-i tailscale0 -j ACCEPT",
        "-p udp -m udp --dport 41641 -j ACCEPT",
    ]
}
FAIL2BAN_INPUT = {
    **FAIL2BAN,
    "f2b-recidive": ["-s 192.0.2.66/32 -j DROP", "-j RETURN"],
    "f2b-web": ["-m set --match-set f2b-web src -j REJECT --reject-with icmp-port-unreachable", "-j RETURN"],
}


@pytest.mark.parametrize(
    ("in_front", "chains", "drops"),
    [
        (
            ["-j ufw-before-logging-input", "-j ufw-before-input", "-j ufw-after-input"],
            {**UFW_INPUT, "ufw-before-logging-input": []},
            False,
        ),
        (["-j ufw-before-input", "-j ufw-reject-input", "-j ufw-track-input"], UFW_INPUT, True),
        (FIREWALLD_INPUT, FIREWALLD, True),
        (FIREWALLD_INPUT[:-1], FIREWALLD, False),
        (["-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"], {}, True),
        (["-j LIBVIRT_INP"], LIBVIRT_INPUT, False),
        (["-j ts-input"], TAILSCALE_INPUT, False),
        (
            ["-p tcp -m multiport --dports 22 -j f2b-sshd", "-p tcp -j f2b-recidive", "-p tcp -j f2b-web"],
            FAIL2BAN_INPUT,
            False,
        ),
        (["-m addrtype ! --dst-type LOCAL -j RETURN", "-j DROP"], {}, True),
    ],
)
def test_what_drops_by_default_at_input(in_front: list[str], chains: dict[str, list[str]], drops: bool) -> None:
    """There, what rules of ours are about has not been translated, and all of it is for an address of the node."""
    assert drops_by_default(in_front, chains, "INPUT") == drops


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


ROLE = "-j L4-BACKEND"


@pytest.mark.parametrize(
    ("hook", "edits"),
    [
        ([], [f"-I FORWARD 1 {ROLE}"]),
        (["-j OTHER"], [f"-I FORWARD 1 {ROLE}"]),
        ([FIREWALL, OURS, "-j OTHER"], [f"-I FORWARD 3 {ROLE}"]),
        (["-j OTHER", FIREWALL, "-j OTHER"], [f"-I FORWARD 3 {ROLE}"]),
        ([ROLE, FIREWALL, OURS], [f"-D FORWARD {ROLE}", f"-I FORWARD 3 {ROLE}"]),
        ([FIREWALL, ROLE, OURS], [f"-D FORWARD {ROLE}", f"-I FORWARD 3 {ROLE}"]),
        ([FIREWALL, OURS, ROLE], []),
        ([FIREWALL, OURS, "-j OTHER", ROLE], []),
    ],
)
def test_a_jump_behind_others_is_put_there_and_back_to_where_it_was(hook: list[str], edits: list[str]) -> None:
    chains = {("filter", "L4-BACKEND"): ["-j ACCEPT"]}
    jump = Jump("filter", "FORWARD", ROLE, behind=("L4-FIREWALL", "L4-FORWARD"))
    found = plan(Desired(dict(chains), [jump]), Observed(dict(chains), {("filter", "FORWARD"): hook}))
    assert [line for line in found.restore.splitlines() if "FORWARD" in line.split()] == edits
    back = [f"-D FORWARD {ROLE}", *([f"-I FORWARD {hook.index(ROLE) + 1} {ROLE}"] if ROLE in hook else [])]
    assert [line for line in found.undo.splitlines() if "FORWARD" in line.split()] == (back if edits else [])
    rules = found.result.hooks["filter", "FORWARD"]
    assert [rule for rule in rules if rule != ROLE] == [rule for rule in hook if rule != ROLE]
    assert not plan(Desired(dict(chains), [jump]), Observed(dict(chains), {("filter", "FORWARD"): rules})).changed


def test_jumps_behind_others_follow_those_that_are_missing_too() -> None:
    """As at boot, where all are missing but those of others."""
    chains = {("filter", name): ["-j ACCEPT"] for name in ("L4-BACKEND", "L4-BRIDGE", "L4-FIREWALL", "L4-FORWARD")}
    bridge = Jump("filter", "FORWARD", "-j L4-BRIDGE", behind=("L4-FIREWALL", "L4-FORWARD"))
    backend = Jump("filter", "FORWARD", ROLE, behind=("L4-FIREWALL", "L4-FORWARD", "L4-BRIDGE"))
    services = [Jump("filter", "FORWARD", rule, overtakes=True) for rule in (FIREWALL, OURS)]
    for jumps in ([bridge, backend, *services], [backend, bridge, *services]):
        found = plan(Desired(dict(chains), jumps), Observed(dict(chains), {("filter", "FORWARD"): ["-j OTHER"]}))
        assert found.result.hooks["filter", "FORWARD"] == [FIREWALL, OURS, "-j L4-BRIDGE", ROLE, "-j OTHER"]


def test_what_is_for_this_node_is_a_default_at_input_alone() -> None:
    for hook, overtaken in (("INPUT", True), ("FORWARD", False)):
        rules = ["-m addrtype --dst-type LOCAL -j DROP", FIREWALL]
        chains = {("filter", "L4-FIREWALL"): ["-j DROP"]}
        wanted = Desired(dict(chains), [Jump("filter", hook, FIREWALL, overtakes=True)])
        found = plan(wanted, Observed(dict(chains), {("filter", hook): rules}))
        assert found.result.hooks["filter", hook] == (rules[::-1] if overtaken else rules)


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


def test_all_jumps_of_table_filter_overtake() -> None:
    jumps = hook_jumps(Layout("L4"))
    assert [bool(one.overtakes) for one in jumps] == [one.table == "filter" for one in jumps]
