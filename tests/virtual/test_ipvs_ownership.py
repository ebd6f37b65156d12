# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What of IPVS is ours: foreign virtual services, lost records, runs that fail or were killed, and removal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from boot_host import keep, restore, state_of
from network import ADDRESSES, IPV4, IPV6, LOCAL_CIDRS, Network, backends, balancer_ip, external_ip, vip

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.ipvs.cache import Record, decode_record
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.records import RecordFile
from lab.namespaces import Namespace

FOREIGN = (
    "-A -t 192.0.2.1:9 -s rr\n-A -f 7 -s lc\n-A -u 10.96.0.1:9999 -s wlc\n-a -t 192.0.2.1:9 -r 10.0.1.11:9 -m -w 5\n"
)


def _everything(**options: Any) -> list[dict[str, Any]]:
    both = backends("b11", "b12", family=IPV4) + backends("b11", family=IPV6)
    web = {"name": "web", "vip": [vip(1, IPV4), vip(1, IPV6)], "port": 80, "backends": both, "node_port": 30080}
    guarded = {"load_balancer_ips": [balancer_ip(2, IPV4)], "source_ranges": ["192.0.2.0/24"]}
    dns = {"name": "dns", "port": 53, "protocol": "udp", "external_ips": [external_ip(2, IPV4)], **guarded}
    return [{**web, **options}, {**dns, "backends": backends("b11")}, {"name": "none", "vip": vip(3, IPV4), "port": 80}]


def _held(node: Namespace) -> str:
    """All that a run may change."""
    text = "".join(node.run(tool, "-Sn").stdout for tool in ("ipvsadm",)) + node.run("ipset", "save").stdout
    text += "".join(node.run(f"{tool}-save").stdout for tool in ("iptables", "ip6tables"))
    text += "".join(line.partition(": ")[2] + "\n" for line in node.ip("-oneline", "address", "show").splitlines())
    dropped = ("#", ":")
    kept = [line for line in text.splitlines() if not line.startswith(dropped) and "link" not in line]
    return "\n".join(sorted(line.split(" hashsize")[0] for line in kept))


def _flush(node: Namespace) -> None:
    """As a boot leaves it, sysctls aside."""
    for tool in ("iptables", "ip6tables"):
        node.run(
            f"{tool}-restore", input="".join(f"*{table}\nCOMMIT\n" for table in ("filter", "mangle", "nat", "raw"))
        )
    node.run("ipset", "destroy")
    node.run("ipvsadm", "-C")
    node.ip("link", "delete", "l4-ipvs0")


def _forget(network: Network) -> Namespace:
    network.applied([], state="absent")
    return network.hosts["node1"]


def test_a_second_run_changes_nothing_and_a_check_predicts_the_first(network: Network) -> None:
    node = _forget(network)
    before = _held(node)
    predicted = network.apply(_everything(), check=True)
    assert _held(node) == before
    first = network.applied(_everything())
    assert first["diff"] == predicted["diff"]
    assert first["added"] == ["dns", "none", "web"]
    second = network.applied(_everything())
    assert (second["changed"], second["diff"]) == (False, {"before": "", "after": ""})


def test_what_is_read_back_with_ipvsadm_is_what_the_diff_said(network: Network) -> None:
    node = _forget(network)
    after = network.applied(_everything())["diff"]["after"]
    said = after.partition("# ipvsadm\n")[2].partition("# ip -batch\n")[0]
    assert sorted(node.run("ipvsadm", "-Sn").stdout.splitlines()) == sorted(said.splitlines())
    batch = [line.split() for line in after.partition("# ip -batch\n")[2].splitlines() if line.startswith("address")]
    shown = node.ip("-oneline", "address", "show", "dev", "l4-ipvs0")
    assert {words[2] for words in batch} == {line.split()[3] for line in shown.splitlines()}


def test_what_is_kept_for_boot_is_all_that_a_run_makes(network: Network, tmp_path: Path) -> None:
    node = _forget(network)
    direct = {"name": "direct", "vip": vip(4, IPV4), "port": 80, "forward_method": "direct"}
    wanted = [*_everything(), {**direct, "backends": backends("b11", "b12", port=80)}]
    network.applied(wanted)
    before = _held(node)
    own = [*ADDRESSES["node1"].values(), *ADDRESSES["bridge1"].values()]
    keep(tmp_path, 1, state_of(wanted, {"name": "node1", "local_cidrs": LOCAL_CIDRS, "addresses": own}, "ipvs"))
    _flush(node)
    assert restore(node, tmp_path).returncode == 0
    assert _held(node) == before
    assert network.applied(wanted)["changed"] is False


def test_virtual_services_of_others_stay(network: Network) -> None:
    node = _forget(network)
    node.run("ipvsadm", "-R", input=FOREIGN)
    try:
        foreign = node.run("ipvsadm", "-Sn").stdout
        network.applied(_everything())
        network.applied(_everything(scheduler="rr")[:1])
        assert set(foreign.splitlines()) < set(node.run("ipvsadm", "-Sn").stdout.splitlines())
        network.applied([], state="absent")
        assert node.run("ipvsadm", "-Sn").stdout == foreign
    finally:
        node.run("ipvsadm", "-C")


def test_an_address_of_another_tools_virtual_service_is_refused(network: Network) -> None:
    node = _forget(network)
    node.run("ipvsadm", "-R", input="-A -t 10.96.0.1:80 -s rr\n-A -t 192.0.2.1:30080 -s rr\n")
    try:
        before = _held(node)
        refused = network.apply(_everything())
        assert refused["failed"]
        assert [line.split(" is taken")[0] for line in refused["msg"].splitlines()] == [
            'service "web": vip 10.96.0.1:80/tcp',
            'service "web": node_port 192.0.2.1:30080/tcp',
        ]
        assert _held(node) == before
    finally:
        node.run("ipvsadm", "-C")


def _record(node: Namespace) -> Record | None:
    return node.call(lambda: decode_record(RecordFile("ipvs").load()))


def test_each_run_leaves_what_the_next_one_believes(network: Network) -> None:
    """The first run, one of a backend that goes (an entry of a set, too), one of a weight, and one that finds all as it is."""
    node = _forget(network)
    node.call(lambda: RecordFile("ipvs").forget())
    weights = [{**one, "weight": 3} for one in backends("b12", family=IPV4)]
    seen = set()
    for services in (_everything(), _everything(backends=backends("b12", family=IPV4)), _everything(backends=weights)):
        assert network.applied(services)["changed"]
        record = _record(node)
        assert record is not None
        seen.add(record.fingerprint)
        assert not network.applied(services)["changed"]
        assert _record(node) == record
    assert len(seen) == 3
    node.run(
        "ipvsadm", "-e", "-t", "10.96.0.1:80", "-r", f"{weights[0]['address']}:{weights[0]['port']}", "-m", "-w", "9"
    )
    assert network.applied(_everything(backends=weights))["changed"]
    again = _record(node)
    assert again is not None
    assert again.fingerprint in seen


@pytest.mark.parametrize("lost", ["the entries", "a set's entries", "the rules", "the addresses", "the device"])
def test_what_somebody_took_away_is_put_back(network: Network, lost: str) -> None:
    node = _forget(network)
    network.applied(_everything())
    whole = _held(node)
    commands = {
        "the entries": [["ipset", "flush"]],
        "a set's entries": [["ipset", "flush", "L4-VIP"], ["ipset", "flush", "L4-LOOP-BACK"]],
        "the rules": [["iptables", "-t", "nat", "-F"], ["iptables", "-F", "L4-NEW"]],
        "the addresses": [["ip", "address", "flush", "dev", "l4-ipvs0"]],
        "the device": [["ip", "link", "delete", "l4-ipvs0"]],
    }
    for argv in commands[lost]:
        node.run(*argv)
    assert _held(node) != whole
    assert network.applied(_everything())["changed"]
    assert _held(node) == whole
    assert network.ask("client", vip(1, IPV4), 80, count=10).answered == 10


def test_a_run_by_name_leaves_the_other_services_alone(network: Network) -> None:
    node = _forget(network)
    network.applied(_everything())
    whole = _held(node)
    changed = network.applied(_everything(scheduler="sh")[:1], exclusive=False)
    assert changed["updated"] == ["web"]
    assert not any("dns" in line for part in changed["diff"].values() for line in part.splitlines())
    removed = network.applied([{"name": "web"}], state="absent", exclusive=False)
    assert (removed["removed"], "10.96.0.1" in _held(node)) == (["web"], False)
    network.applied(_everything()[:1], exclusive=False)
    assert _held(node) == whole


def test_a_run_by_name_refuses_what_another_service_has_taken(network: Network) -> None:
    _forget(network)
    network.applied(_everything())
    thief = {"name": "thief", "port": 80, "vip": vip(1, IPV4), "backends": backends("b12")}
    refused = network.apply([thief], exclusive=False)
    assert refused["failed"]
    assert refused["msg"].startswith('service "thief": vip 10.96.0.1:80/tcp is taken already by vip of service "web"')


@pytest.mark.semantics(18)
def test_a_removed_service_leaves_nothing(network: Network, family: str) -> None:
    node = _forget(network)
    before = _held(node)
    network.applied(_everything())
    network.applied([{"name": name} for name in ("web", "dns", "none")], state="absent", exclusive=False)
    assert _held(node) == before
    assert network.ask("client", vip(1, family), 80, timeout=1.5).answered == 0


def test_if_ipvs_refuses_everything_is_put_back(network: Network) -> None:
    """Its kernel has no scheduler twos; it is asked for in the middle of a run that also removes a service."""
    node = _forget(network)
    network.applied(_everything())
    before = _held(node)
    changed = [{**_everything()[0], "port": 81}, {**_everything()[1], "scheduler": "twos"}]
    failed = network.apply(changed)
    if not failed.get("failed"):
        pytest.fail("this kernel has the scheduler twos: the test needs one that it does not have")
    assert "ip_vs_twos" in failed["msg"]
    assert len(failed["msg"].splitlines()) == 1
    assert _held(node) == before


@pytest.mark.semantics(28)
def test_the_settings_that_ipvs_needs_are_set(network: Network) -> None:
    node = _forget(network)
    for name in ("conntrack", "expire_nodest_conn", "expire_quiescent_template"):
        node.sysctl(f"net/ipv4/vs/{name}", 0)
    settings = {"conn_reuse_mode": 0, "tcp_timeout": 600, "udp_timeout": 100}
    result = network.applied(_everything(), node=settings)
    lines = result["diff"]["after"].splitlines()
    assert lines[:5] == [
        "# sysctl",
        "net.ipv4.vs.conn_reuse_mode = 0",
        "net.ipv4.vs.conntrack = 1",
        "net.ipv4.vs.expire_nodest_conn = 1",
        "net.ipv4.vs.expire_quiescent_template = 1",
    ]
    assert "--set 600 120 100" in lines
    assert node.run("ipvsadm", "-l", "--timeout").stdout.split(":")[1].split() == ["600", "120", "100"]
    assert not network.applied(_everything(), node=settings)["changed"]


@pytest.mark.semantics(28)
def test_direct_services_let_only_one_host_answer_for_the_address(network: Network) -> None:
    node = _forget(network)
    direct = {"name": "web", "vip": vip(1, IPV4), "port": 8080, "backends": backends("b11"), "forward_method": "direct"}
    network.applied([direct])
    read = node.run("sysctl", "-n", "net.ipv4.conf.all.arp_ignore", "net.ipv4.conf.all.arp_announce").stdout
    assert read.split() == ["1", "2"]
    for name in ("arp_ignore", "arp_announce"):
        node.sysctl(f"net/ipv4/conf/all/{name}", 0)


def test_services_are_told_as_they_are(network: Network) -> None:
    from module_runner import run_module_ok

    node = _forget(network)
    empty = run_module_ok(node, "service_proxy_info", {})["dataplanes"]["ipvs"]
    assert (empty["services"], set(empty["counts"].values())) == ([], {0})
    network.applied(_everything(scheduler="rr"))
    found = run_module_ok(node, "service_proxy_info", {})["dataplanes"]["ipvs"]
    dns, none, web = found["services"]
    assert (web["vip"], web["node_port"], web["scheduler"]) == ([vip(1, IPV4), vip(1, IPV6)], 30080, "rr")
    assert [one["address"] for one in web["backends"]] == [ADDRESSES[name][IPV4] for name in ("b11", "b12")] + [
        ADDRESSES["b11"][IPV6]
    ]
    assert (dns["external_ips"], dns["protocol"]) == ([external_ip(2, IPV4)], "udp")
    assert [refusal["reason"] for refusal in none["refusals"]] == ["no backends"]
    assert found["counts"]["services"] == 3
