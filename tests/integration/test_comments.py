# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A thousand comments of any characters, of others' rules and of ours: nothing lost, nothing made up, others' rules to the byte."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from nat_host import NatHost

from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables_text import parse_save
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables_words import quote, words
from lab.comments import random_comment
from module_runner import run_module_ok

COUNT = 500
"""Of each kind; with others' and ours they are a thousand."""
SERVICE = {"name": "web", "vip": "10.96.0.10", "port": 80, "backends": [{"address": "10.0.0.11"}]}


@pytest.fixture(params=["nft", "legacy"])
def host(request: pytest.FixtureRequest) -> Iterator[NatHost]:
    with NatHost(legacy=request.param == "legacy") as made:
        yield made


def append(host: NatHost, chain: str, comments: list[str], *target: str) -> None:
    """Add a rule with each comment, as others do: by arguments, which may hold line feeds."""
    program = " ".join(
        [*host._tool("iptables", ""), "-w -t nat -A", chain, "-p tcp --dport 9 -m comment --comment {}", *target]
    )
    host.namespace.run("xargs", "-0", "-I{}", "-a", "/dev/stdin", *program.split(), input="\0".join(comments))


def chains(host: NatHost) -> dict[str, list[str]]:
    """Those of table nat. Read as bytes: in text Python takes a carriage return for a line feed."""
    argv = ["ip", "netns", "exec", host.namespace.name, *host._tool("iptables", "-save"), "-t", "nat"]
    return parse_save(subprocess.run(argv, check=True, capture_output=True).stdout.decode())


def of_others(host: NatHost) -> list[str]:
    """The rules of others in table nat, as the kernel has them."""
    found = chains(host)
    return [
        rule
        for chain in ("OUTPUT", "FOREIGN")
        for rule in found[chain]
        if not rule.endswith(("-j L4-SERVICES", "-j WEB"))
    ]


def comment_of(rule: str) -> str:
    """The comment of a rule that is complete; iptables does not quote one that needs it only for its dash."""
    found = [word.text for word in words(rule)]
    assert found[-4] == "--comment"
    assert found[-2:] == ["-j", "RETURN"]
    return found[-3]


def ours(chance: random.Random) -> str:
    """A comment that a user may give: without control characters, which are refused."""
    comment = "".join(character for character in random_comment(chance) if character >= " ")
    return comment or "web"


def test_any_comment_of_others_and_of_ours_stays(host: NatHost) -> None:
    chance = random.Random(1000)
    host.iptables("-t", "nat", "-N", "FOREIGN")
    comments = [random_comment(chance) for _number in range(COUNT)]
    append(host, "FOREIGN", comments[: COUNT - 20], "-j RETURN")
    append(host, "OUTPUT", comments[COUNT - 20 :], "-j RETURN")
    foreign = of_others(host)
    assert list(map(comment_of, foreign)) == [*comments[COUNT - 20 :], *comments[: COUNT - 20]]

    texts = [ours(chance) for _number in range(COUNT)]
    own = [f"-p tcp -m comment --comment {quote(text)} -j RETURN" for text in texts]
    chain: dict[str, Any] = {"chain": "WEB", "rules": own, "jumps": [{"from": "OUTPUT"}]}
    assert host.apply(**chain)["changed"]
    assert list(map(comment_of, chains(host)["WEB"])) == texts
    assert not host.apply(**chain)["changed"]

    services = {"services": [SERVICE], "exclusive": True, "node": {"name": "node1"}}
    assert run(host, services)["changed"]
    for _time in range(2):
        host.iptables("-t", "nat", "-A", "FOREIGN", "-j", "RETURN")  # so that the kernel is read
        assert not run(host, services)["changed"]
        host.iptables("-t", "nat", "-D", "FOREIGN", "-j", "RETURN")
    gone = {"state": "absent", "exclusive": True, "node": {"name": "node1"}}
    assert run(host, gone)["changed"]
    assert not run(host, gone)["changed"]
    assert host.apply(chain="WEB", state="absent")["changed"]
    assert of_others(host) == foreign
    assert "WEB" not in host.chains()
    assert not [name for name in host.chains() if name.startswith("L4-")]


def run(host: NatHost, arguments: dict[str, Any]) -> dict[str, Any]:
    """vip_service."""
    return run_module_ok(host.namespace, "vip_service", arguments, path_prefix=host.path_prefix)


@pytest.mark.parametrize("character", ["\n", "\u2028", "\u0085", "\f", "\v", "\r", "\x1c"])
def test_what_looks_like_a_rule_of_ours_in_a_comment_of_others_is_none(host: NatHost, character: str) -> None:
    append(host, "OUTPUT", [f"note:{character}-A L4-SERVICES -j ACCEPT"], "-j RETURN")
    services = {"services": [SERVICE], "exclusive": True, "node": {"name": "node1"}}
    run(host, services)
    host.iptables("-t", "nat", "-N", "FOREIGN")
    assert not run(host, services)["changed"]
    gone = {"state": "absent", "exclusive": True, "node": {"name": "node1"}}
    run(host, gone)
    assert not run(host, gone)["changed"]


def test_a_rule_of_others_that_leads_to_our_chain_may_have_a_line_break(host: NatHost) -> None:
    """iptables-restore reads a rule from one line: it stays while its chain does, and goes with it."""
    services = {"services": [SERVICE], "exclusive": True, "node": {"name": "node1"}}
    run(host, services)
    append(host, "OUTPUT", ["two\nlines"], "-j L4-SERVICES")
    append(host, "OUTPUT", ["stays\nhere"], "-j RETURN")
    held = chains(host)["OUTPUT"]
    more = {**services, "services": [SERVICE, {**SERVICE, "name": "more", "vip": "10.96.0.11"}]}
    assert run(host, more)["changed"]
    assert not run(host, more)["changed"]
    assert chains(host)["OUTPUT"] == held
    assert run(host, {"state": "absent", "exclusive": True, "node": {"name": "node1"}})["changed"]
    assert chains(host)["OUTPUT"] == [rule for rule in held if "stays" in rule]


def test_a_table_that_iptables_cannot_read_is_refused_and_stays() -> None:
    with NatHost(legacy=False) as host:
        services = {"services": [SERVICE], "exclusive": True, "node": {"name": "node1"}}
        run(host, services)
        host.iptables("-t", "nat", "-I", "PREROUTING", "-s", "192.0.2.9")
        host.namespace.run("nft", "add rule ip nat PREROUTING ct state vmap { established : accept }")
        before = host.namespace.run("nft", "list ruleset").stdout
        for arguments in (services, {"state": "absent", "exclusive": True, "node": {"name": "node1"}}):
            with pytest.raises(AssertionError, match="Table `nat' is incompatible"):
                run(host, arguments)
        failed = host.run(chain="WEB", rules=["-j RETURN"], jumps=[{"from": "PREROUTING"}])
        assert failed["failed"]
        assert "incompatible" in failed["msg"]
        assert host.namespace.run("nft", "list ruleset").stdout == before
