# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The xtables facility, the settling of spellings, and the plan of one chain, over a fake host."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.iptables import (
    Rule,
    Xtables,
    XtablesError,
    parse_save,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.iptables_canonical import (
    NoScratchError,
    settle,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.process import ModuleRunner
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables import (
    ChainKey,
    Desired,
    Jump,
    Observed,
    Rules,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.iptables_text import (
    clean_message,
    refusal,
    rule_at,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.iptables import ChainPlan, plan
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.iptables_steps import FamilyPlans
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.chain.plan import plan_chains
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.chain.request import (
    InvalidChainError,
    parse_chain,
)
from ansible_collections.layer4.service_proxy.tests.unit.fake_xtables import FakeHost

HTTP, HTTP_SAVED = "-p tcp --dport http", "-p tcp -m tcp --dport 80"

WARNING = "# Warning: iptables-legacy tables present, use iptables-legacy to see them\n"
HELP = "Try `iptables-restore -h' or 'iptables-restore --help' for more information.\n"
RESTORE_TEXT = "*nat\n:WEB - [0:0]\n-D OUTPUT -j WEB\n-A WEB -p tcp\n-A WEB -p udp\n-I OUTPUT 1 -j WEB\nCOMMIT\n"


@pytest.fixture
def host() -> FakeHost:
    return FakeHost({HTTP: HTTP_SAVED, HTTP + " -j WEB": HTTP_SAVED + " -j WEB"})


@pytest.fixture
def xtables(host: FakeHost) -> Xtables:
    return Xtables(host, "ipv4")


def commands(host: FakeHost) -> list[str]:
    return [" ".join(argv) for argv, _stdin in host.calls]


# tools


def test_one_multi_call_program_does_everything(host: FakeHost) -> None:
    assert Xtables(host, "ipv6").tool("-save") == ["/fake/xtables-nft-multi", "ip6tables-save"]


def test_a_script_is_used_with_its_neighbours(host: FakeHost) -> None:
    host.find = lambda tool: "/wrapped/" + tool  # type: ignore[method-assign]
    assert Xtables(host, "ipv4").tool("-restore") == ["/wrapped/iptables-restore"]


def test_links_lead_to_the_program_of_iptables(host: FakeHost, tmp_path: Path) -> None:
    program = tmp_path / "xtables-legacy-multi"
    program.touch()
    (tmp_path / "iptables").symlink_to(program)
    host.find = lambda tool: str(tmp_path / tool)  # type: ignore[method-assign]
    assert Xtables(host, "ipv4").tool("-save") == [str(program), "iptables-save"]


def test_a_missing_tool(host: FakeHost) -> None:
    host.missing.add("ip6tables")
    with pytest.raises(XtablesError, match=r"^ip6tables: is not installed on this host$"):
        Xtables(host, "ipv6").save("nat")


@pytest.mark.parametrize(("wait", "options"), [(10, "-w 10 "), (0, "")])
def test_waiting_for_the_lock(host: FakeHost, wait: int, options: str) -> None:
    Xtables(host, "ipv4", wait).list_chain("nat", "OUTPUT")
    assert commands(host) == [f"/fake/xtables-nft-multi iptables {options}-t nat -S OUTPUT"]


def test_a_tool_that_closes_its_input_early_keeps_its_words(tmp_path: Path) -> None:
    tool = tmp_path / "refuses"
    tool.write_text("#!/bin/sh\necho 'Bad argument' >&2\nexit 2\n")
    tool.chmod(0o755)
    assert ModuleRunner(object()).run([str(tool)], "-A X\n" * 100_000) == (2, "", "Bad argument\n")


def test_tools_speak_english() -> None:
    program = "import os; print(os.environ['LC_ALL'], os.environ['LANGUAGE'])"
    assert ModuleRunner(object()).run([sys.executable, "-c", program]) == (0, "C C\n", "")


# reading


def test_listing(host: FakeHost, xtables: Xtables) -> None:
    host.tables["nat"]["WEB"] = ["-p tcp", "-j RETURN"]
    assert xtables.list_chain("nat", "WEB") == ["-p tcp", "-j RETURN"]
    assert xtables.list_chain("nat", "INPUT") == []
    assert xtables.list_chain("nat", "NONE") is None
    assert parse_save(xtables.save("nat"))["WEB"] == ["-p tcp", "-j RETURN"]


class Incompatible(FakeHost):
    """iptables-nft 1.8.9, which calls a chain incompatible that it cannot read, or that is not there."""

    def run(self, argv: Any, stdin: str = "") -> tuple[int, str, str]:
        if argv[-2] == "-S":
            return (
                1,
                "",
                f"iptables v1.8.9 (nf_tables): chain `{argv[-1]}' in table `nat' is incompatible, use 'nft' tool.\n",
            )
        return super().run(argv, stdin)


@pytest.mark.parametrize("missing", [set(), {"nft"}])
def test_an_incompatible_chain_is_told_from_one_that_is_not_there(missing: set[str]) -> None:
    host = Incompatible()
    host.missing = missing
    host.tables["nat"]["ODD"] = []
    assert Xtables(host, "ipv4").list_chain("nat", "NONE") is None
    with pytest.raises(XtablesError, match="iptables: chain `ODD' in table `nat' is incompatible, use 'nft' tool"):
        Xtables(host, "ipv4").list_chain("nat", "ODD")


def test_parse_save() -> None:
    comment = '-m comment --comment "a\nb" -j RETURN'
    chains = ":OUTPUT ACCEPT [0:0]\n:WEB - [0:0]\n"
    saved = f"# Generated\n*nat\n{chains}-A OUTPUT -j WEB\n-A WEB {comment}\n-A WEB\nCOMMIT\n# Completed\n"
    assert parse_save(saved) == {"OUTPUT": ["-j WEB"], "WEB": [comment, ""]}
    assert parse_save("-P OUTPUT ACCEPT\n-A OUTPUT -j WEB\n") == {"OUTPUT": ["-j WEB"]}
    assert parse_save("-N WEB\n") == {"WEB": []}


# errors


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (2, None),
        (3, Rule("nat", "OUTPUT", None, "-j WEB")),
        (4, Rule("nat", "WEB", 1, "-p tcp")),
        (5, Rule("nat", "WEB", 2, "-p udp")),
        (6, Rule("nat", "OUTPUT", None, "1 -j WEB")),
        (7, None),
        (0, None),
    ],
)
def test_rule_at(line: int, rule: Rule | None) -> None:
    assert rule_at(RESTORE_TEXT, line) == rule


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        (
            "iptables-restore v1.8.9 (nf_tables): invalid port/service `99999' specified\nError occurred at line: 5\n"
            + HELP,
            "iptables: table nat, chain WEB, rule 2 (-p udp): invalid port/service `99999' specified",
        ),
        (
            WARNING
            + "iptables-restore v1.8.9 (nf_tables): \nline 4: RULE_APPEND failed (Invalid argument): rule in chain WEB\n",
            "iptables: table nat, chain WEB, rule 1 (-p tcp): line 4: RULE_APPEND failed (Invalid argument): rule in chain WEB",
        ),
        ("iptables-restore: line 7 failed\n", "iptables: line 7 failed"),
        (
            "Bad argument `b'\nError occurred at line: 3\n",
            "iptables: table nat, chain OUTPUT, rule (-j WEB): Bad argument `b'",
        ),
        ("", "iptables: failed without a message"),
    ],
)
def test_refusal(stderr: str, message: str) -> None:
    assert str(refusal("iptables", RESTORE_TEXT, stderr)) == message


def test_clean_message_of_a_missing_right() -> None:
    said = "iptables v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)\n"
    assert clean_message(said) == "Could not fetch rule set generation id: Permission denied (you must be root)"


# settling


def test_settle(host: FakeHost, xtables: Xtables) -> None:
    assert settle(xtables, "nat", {"WEB": [HTTP], "OUTPUT": ["-j WEB"]}) == {"WEB": [HTTP_SAVED], "OUTPUT": ["-j WEB"]}
    (argv, text) = host.calls[-1]
    assert argv[:3] == ["/fake/unshare", "-n", "sh"]
    assert text == f"*nat\n:OUTPUT ACCEPT [0:0]\n:WEB - [0:0]\n-A WEB {HTTP}\n-A OUTPUT -j WEB\nCOMMIT\n"
    assert "WEB" not in host.tables["nat"]


def test_settle_knows_the_chains_and_sets_that_exist(host: FakeHost, xtables: Xtables) -> None:
    host.tables["nat"]["THERE"] = ["-j RETURN"]
    host.sets["known"] = "create known hash:ip family inet hashsize 1048576 maxelem 65536 bucketsize 12 initval 0x1\n"
    rules = ["-j THERE", "-g GONE", "-j ACCEPT", "-m set --match-set known src", "-m set --match-set unknown src"]
    settle(xtables, "nat", {"WEB": rules})
    (argv, text) = host.calls[-1]
    assert text.startswith("*nat\n:THERE - [0:0]\n:WEB - [0:0]\n-A WEB -j THERE\n")
    assert argv[-2:] == ["scratch", "create known hash:ip family inet maxelem 65536 bucketsize 12"]


def test_settle_names_the_refused_rule(host: FakeHost, xtables: Xtables) -> None:
    host.refused["-p nosuch"] = 'unknown protocol "nosuch" specified'
    with pytest.raises(XtablesError) as caught:
        settle(xtables, "nat", {"WEB": ["-p tcp", "-p nosuch"]})
    assert caught.value.rule == Rule("nat", "WEB", 2, "-p nosuch")


class CommitRefuses(FakeHost):
    """iptables-legacy: what the kernel refuses is refused at COMMIT."""

    def _unshare(self, _argv: list[str], stdin: str) -> tuple[int, str, str]:
        lines = stdin.splitlines()
        if any(line.endswith(" -j REJECT") for line in lines):
            return 1, "", f"iptables-restore: line {len(lines)} failed\n"
        return super()._unshare(_argv, stdin)


@pytest.mark.parametrize("place", range(1, 10))
def test_settle_finds_the_rule_that_the_kernel_refuses(place: int) -> None:
    rules = [f"-m mark --mark {number}" for number in range(1, 10)]
    rules[place - 1] = "-j REJECT"
    with pytest.raises(XtablesError) as caught:
        settle(Xtables(CommitRefuses(), "ipv4"), "nat", {"B": rules, "A": ["-p tcp"], "OUTPUT": ["-j B"]})
    assert caught.value.rule == Rule("nat", "B", place, "-j REJECT")
    assert caught.value.message.startswith("the kernel refuses it (line ")


def test_no_namespaces(host: FakeHost, xtables: Xtables) -> None:
    host.namespaces = False
    with pytest.raises(NoScratchError, match="no network namespace can be made on this host: unshare: unshare failed"):
        settle(xtables, "nat", {"WEB": [HTTP]})
    assert [argv[:3] for argv, _stdin in host.calls[-2:]] == [
        ["/fake/unshare", "-n", "sh"],
        ["/fake/unshare", "-n", "-r"],
    ]
    host.missing.add("unshare")
    with pytest.raises(NoScratchError, match=r"unshare .* is not installed"):
        settle(xtables, "nat", {"WEB": [HTTP]})


def test_no_ipset_tool(host: FakeHost, xtables: Xtables) -> None:
    host.missing.add("ipset")
    with pytest.raises(XtablesError, match="ipset is not installed on this host, and rules match ipsets: a, b"):
        settle(xtables, "nat", {"WEB": ["-m set --match-set b src", "-m set --match-set a src"]})


# the plan of one chain


def planned(host: FakeHost, **options: Any) -> ChainPlan:
    given: Mapping[str, Any] = {
        "table": "nat",
        "chain": "WEB",
        "ip_version": "ipv4",
        "state": "present",
        "rules": None,
        "jumps": None,
        **options,
    }
    request = parse_chain(given)
    return plan_chains([request], Xtables(host, "ipv4"), pytest.fail)


def jump(hook: str, position: str = "last", match: str = "") -> dict[str, str]:
    return {"from": hook, "match": match, "position": position, "comment": ""}


def test_planning_writes_nothing_and_applying_converges(host: FakeHost) -> None:
    untouched = {table: dict(chains) for table, chains in host.tables.items()}
    wanted = {"rules": [HTTP], "jumps": [jump("OUTPUT", match=HTTP)]}
    change = FamilyPlans({"ipv4": planned(host, **wanted)}, {"ipv4": Xtables(host, "ipv4")})
    change.test()
    assert host.tables == untouched
    change.apply()
    assert host.tables["nat"]["WEB"] == [HTTP_SAVED]
    assert host.tables["nat"]["OUTPUT"] == [HTTP_SAVED + " -j WEB"]
    assert not planned(host, **wanted).changed


def test_the_spelling_of_the_kernel_needs_no_namespace(host: FakeHost) -> None:
    host.tables["nat"].update({"WEB": [HTTP_SAVED], "OUTPUT": ["-j WEB"]})
    assert not planned(host, rules=[HTTP_SAVED], jumps=[jump("OUTPUT")]).changed
    assert not any("unshare" in command for command in commands(host))


def test_the_whole_table_is_read_only_to_remove_a_chain(host: FakeHost) -> None:
    host.tables["nat"]["WEB"] = []
    planned(host, rules=[HTTP], jumps=[jump("OUTPUT")])
    planned(host, chain="OTHER", state="absent")
    assert not any("iptables-save -t" in " ".join(argv) for argv, _stdin in host.calls if "unshare" not in argv[0])
    assert planned(host, state="absent").restore == "*nat\n:WEB - [0:0]\n-X WEB\nCOMMIT\n"


def test_a_chain_in_use_cannot_go(host: FakeHost) -> None:
    host.tables["nat"].update({"WEB": [], "USER": ["-p tcp -g WEB"]})
    with pytest.raises(InvalidChainError, match="chain WEB cannot be removed from table nat: USER leads to it"):
        planned(host, state="absent")
    assert planned(host, state="absent", jumps=[jump("USER")]).changed


@pytest.mark.parametrize("position", ["first", "last"])
def test_a_jump_stays_among_jumps_to_chains(host: FakeHost, position: str) -> None:
    host.tables["nat"].update({"WEB": [], "DOCKER": [], "OUTPUT": ["-j DOCKER", "-j WEB", "-j DOCKER"]})
    assert not planned(host, jumps=[jump("OUTPUT", position)]).changed
    host.tables["nat"]["OUTPUT"] = ["-j MASQUERADE", "-j WEB", "-j MASQUERADE"]
    assert planned(host, jumps=[jump("OUTPUT", position)]).changed
    host.tables["nat"]["OUTPUT"] = ["-p tcp", "-j WEB", "-p tcp"]
    assert planned(host, jumps=[jump("OUTPUT", position)]).changed


def test_second_family_fails(host: FakeHost) -> None:
    other = FakeHost()
    other.refused["-p tcp"] = "no"
    plans = {"ipv4": planned(host, rules=["-p tcp"]), "ipv6": planned(host, rules=["-p tcp"])}
    change = FamilyPlans(plans, {"ipv4": Xtables(host, "ipv4"), "ipv6": Xtables(other, "ipv6")})
    with pytest.raises(XtablesError, match=r"^ip6tables: table nat, chain WEB, rule 1 \(-p tcp\): no$"):
        change.apply()
    assert "WEB" not in host.tables["nat"]
    assert (
        change.diff["after"]
        == "# iptables\n*nat\n:WEB - [0:0]\n-A WEB -p tcp\nCOMMIT\n# ip6tables\n*nat\n:WEB - [0:0]\n-A WEB -p tcp\nCOMMIT\n"
    )


# the removal of thousands of chains


def _many() -> tuple[Desired, Observed]:
    """Chains that lead from one to the next, with a jump to the first, and what a kernel holds once they are there."""
    names = [f"L4-{number:04}" for number in range(1200)]
    chains: dict[ChainKey, Rules] = {("nat", name): [f"-j {after}"] for name, after in zip(names, names[1:])}
    chains.update({("nat", names[-1]): ["-j RETURN"], ("filter", "L4-FORWARD"): ["-j ACCEPT"]})
    state = Desired(chains, [Jump("nat", "OUTPUT", f"-j {names[0]}")])
    return state, plan(state, Observed({}, {("nat", "OUTPUT"): []})).result


def test_many_chains_are_removed_in_blocks_once_nothing_leads_to_them(host: FakeHost, xtables: Xtables) -> None:
    state, held = _many()
    before = copy.deepcopy(host.tables)
    xtables.restore(plan(state, Observed({}, {("nat", "OUTPUT"): []})).restore)
    host.calls.clear()
    FamilyPlans({"ipv4": plan(Desired(), held)}, {"ipv4": xtables}).apply()
    assert host.tables == before
    (dummy, first), (_argv, then) = host.calls
    assert first == "*filter\nCOMMIT\n*nat\n-D OUTPUT -j L4-0000\nCOMMIT\n"
    assert max(block.count("\n") for block in then.split("COMMIT\n")) <= 502
    assert then.rstrip().splitlines()[-2] == "-X L4-0000"
    assert plan(Desired(), Observed({key: held.chains[key] for key in list(held.chains)[:900]})).stages is None


def test_what_was_removed_in_blocks_is_put_back(
    host: FakeHost, xtables: Xtables, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, held = _many()
    xtables.restore(plan(state, Observed({}, {("nat", "OUTPUT"): []})).restore)
    before = copy.deepcopy(host.tables)
    restore = host._restore

    def fail(text: str, test: bool) -> Any:
        """Block by block, as iptables-restore does; the third fails."""
        for number, block in enumerate(text.split("COMMIT\n")[:-1]):
            if "-I OUTPUT" not in text and number == 4:
                return 4, "", "CHAIN_DEL failed (Device or resource busy)\n"
            restore(block + "COMMIT\n", test)
        return 0, "", ""

    monkeypatch.setattr(host, "_restore", fail)
    with pytest.raises(XtablesError, match="CHAIN_DEL failed"):
        FamilyPlans({"ipv4": plan(Desired(), held)}, {"ipv4": xtables}).apply()
    assert host.tables == before
