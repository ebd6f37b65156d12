# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""nat_chain on a real kernel: its chain, its jumps, what it predicts, and what it does when something fails."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nat_host import NatHost, script
from warm_runner import run_ansible_playbook

from lab.traffic import Servers, connect
from module_runner import library_path

RULES = ["-p tcp --dport http -j RETURN", "-m comment --comment 'a b' -j MARK --set-mark 0x4000"]
SETTLED = [
    "-p tcp -m tcp --dport 80 -j RETURN",
    '-m comment --comment "a b" -j MARK --set-xmark 0x4000/0xffffffff',
]


@pytest.fixture(params=["nft", "legacy"])
def host(request: pytest.FixtureRequest) -> Iterator[NatHost]:
    with NatHost(legacy=request.param == "legacy") as made:
        yield made


def predicted(host: NatHost, **options: Any) -> dict[str, Any]:
    """Check mode touches nothing and predicts what the real run then does; after that there is nothing to do."""
    before = host.state()
    predicted = host.apply(check=True, **options)
    assert host.state() == before
    real = host.apply(**options)
    assert (predicted["changed"], predicted["diff"]) == (real["changed"], real["diff"])
    after = host.state()
    assert (before != after) == real["changed"]
    again = host.apply(**options)
    assert not again["changed"], again["diff"]
    assert host.state() == after
    return real


def jumps(*given: dict[str, str] | str) -> list[dict[str, str]]:
    return [{"from": one} if isinstance(one, str) else one for one in given]


def test_chain_and_jumps_come_change_and_go(host: NatHost) -> None:
    untouched = host.saved()
    made = predicted(host, chain="WEB", rules=RULES, jumps=jumps("PREROUTING", "OUTPUT"))
    assert made["diff"]["before"] == ""
    assert made["diff"]["after"].splitlines() == [
        "# iptables",
        "*nat",
        ":WEB - [0:0]",
        "-A OUTPUT -j WEB",
        "-A PREROUTING -j WEB",
        *("-A WEB " + rule for rule in SETTLED),
        "COMMIT",
    ]
    assert host.rules("WEB") == SETTLED
    changed = predicted(host, chain="WEB", rules=[RULES[1], "-j RETURN"], jumps=jumps("OUTPUT"))
    assert changed["diff"] == {
        "before": f"# iptables\n*nat\n-A PREROUTING -j WEB\n-A WEB {SETTLED[0]}\nCOMMIT\n",
        "after": "# iptables\n*nat\n-A WEB -j RETURN\nCOMMIT\n",
    }
    predicted(host, chain="WEB", state="absent")
    assert host.saved() == untouched


def test_what_is_not_given_stays(host: NatHost) -> None:
    predicted(host, chain="WEB", rules=RULES, jumps=jumps("OUTPUT"))
    predicted(host, chain="WEB", jumps=jumps("PREROUTING"))
    assert host.rules("WEB") == SETTLED
    predicted(host, chain="WEB", rules=["-j RETURN"])
    assert (host.rules("PREROUTING"), host.rules("OUTPUT")) == (["-j WEB"], [])
    assert not predicted(host, chain="WEB")["changed"]


def test_empty_lists_empty(host: NatHost) -> None:
    predicted(host, chain="WEB", rules=RULES, jumps=jumps("OUTPUT"))
    predicted(host, chain="WEB", rules=[], jumps=[])
    assert (host.chains(), host.rules("WEB"), host.rules("OUTPUT")) == (["WEB"], [], [])


def test_a_new_chain_without_rules_is_empty(host: NatHost) -> None:
    assert predicted(host, chain="WEB")["diff"]["after"] == "# iptables\n*nat\n:WEB - [0:0]\nCOMMIT\n"
    assert host.chains() == ["WEB"]


def test_order_of_rules_counts(host: NatHost) -> None:
    predicted(host, chain="WEB", rules=["-p tcp", "-p udp", "-p sctp"])
    assert predicted(host, chain="WEB", rules=["-p sctp", "-p tcp", "-p udp"])["changed"]
    assert host.rules("WEB") == ["-p sctp", "-p tcp", "-p udp"]


@pytest.mark.parametrize("table", ["filter", "mangle", "raw"])
def test_other_tables(host: NatHost, table: str) -> None:
    predicted(host, chain="WEB", table=table, rules=["-p tcp --dport http"], jumps=jumps("OUTPUT"))
    assert host.rules("OUTPUT", table) == ["-j WEB"]
    predicted(host, chain="WEB", table=table, state="absent")
    assert host.chains(table) == []


def test_drift_by_hand_is_repaired(host: NatHost) -> None:
    wanted: dict[str, Any] = {"chain": "WEB", "rules": RULES, "jumps": jumps("OUTPUT")}
    host.apply(**wanted)
    for by_hand in (
        "-A WEB -j ACCEPT",
        "-D WEB 1",
        "-F WEB",
        "-F OUTPUT",
        "-I OUTPUT -p udp -j WEB",
        "-A INPUT -j WEB",
    ):
        host.iptables("-t", "nat", *by_hand.split())
        assert predicted(host, **wanted)["changed"], by_hand
        assert (host.rules("WEB"), host.rules("OUTPUT"), host.rules("INPUT")) == (SETTLED, ["-j WEB"], [])


# jumps


def test_a_changed_match_replaces_the_jump(host: NatHost) -> None:
    predicted(host, chain="WEB", jumps=jumps({"from": "OUTPUT", "match": "-p tcp", "comment": "one"}))
    predicted(host, chain="WEB", jumps=jumps({"from": "OUTPUT", "match": "-p udp", "comment": "one"}))
    assert host.rules("OUTPUT") == ["-p udp -m comment --comment one -j WEB"]


def test_repeated_jumps_become_one(host: NatHost) -> None:
    predicted(host, chain="WEB", jumps=jumps("OUTPUT"))
    host.iptables("-t", "nat", "-A", "OUTPUT", "-p", "udp", "-j", "RETURN")
    host.iptables("-t", "nat", "-A", "OUTPUT", "-j", "WEB")
    predicted(host, chain="WEB", jumps=jumps("OUTPUT"))
    assert host.rules("OUTPUT") == ["-p udp -j RETURN", "-j WEB"]


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("first", ["-j WEB", "-p udp -j RETURN", "-p tcp -j RETURN"]),
        ("last", ["-p udp -j RETURN", "-p tcp -j RETURN", "-j WEB"]),
    ],
)
def test_position_among_rules_of_others(host: NatHost, position: str, expected: list[str]) -> None:
    for protocol in ("udp", "tcp"):
        host.iptables("-t", "nat", "-A", "OUTPUT", "-p", protocol, "-j", "RETURN")
    wanted = jumps({"from": "OUTPUT", "position": position})
    predicted(host, chain="WEB", jumps=wanted)
    assert host.rules("OUTPUT") == expected
    host.iptables("-t", "nat", "-D", "OUTPUT", "-j", "WEB")
    host.iptables("-t", "nat", "-I", "OUTPUT", "2", "-j", "WEB")
    assert predicted(host, chain="WEB", jumps=wanted)["changed"]
    assert host.rules("OUTPUT") == expected


@pytest.mark.parametrize("position", ["first", "last"])
@pytest.mark.parametrize("other", ["DOCKER", "KUBE-SERVICES", "site_hook"])
def test_two_that_want_the_same_place_do_not_fight(host: NatHost, position: str, other: str) -> None:
    wanted = jumps({"from": "OUTPUT", "position": position})
    host.apply(chain="WEB", jumps=wanted)
    host.apply(chain=other, jumps=wanted)
    both = host.rules("OUTPUT")
    assert sorted(both) == sorted(["-j WEB", "-j " + other])
    for chain in ("WEB", other, "WEB"):
        assert not predicted(host, chain=chain, jumps=wanted)["changed"]
    assert host.rules("OUTPUT") == both


def test_a_target_in_capitals_is_no_chain(host: NatHost) -> None:
    host.iptables("-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE")
    host.iptables("-t", "nat", "-N", "WEB")
    host.iptables("-t", "nat", "-A", "POSTROUTING", "-j", "WEB")
    assert predicted(host, chain="WEB", jumps=jumps({"from": "POSTROUTING", "position": "first"}))["changed"]
    assert host.rules("POSTROUTING") == ["-j WEB", "-j MASQUERADE"]


def test_jumps_from_a_chain_that_is_not_built_in(host: NatHost) -> None:
    host.iptables("-t", "filter", "-N", "DOCKER-USER")
    host.iptables("-t", "filter", "-A", "DOCKER-USER", "-j", "RETURN")
    wanted: dict[str, Any] = {
        "chain": "GUARD",
        "table": "filter",
        "jumps": jumps({"from": "DOCKER-USER", "position": "first"}),
    }
    predicted(host, **wanted, rules=["-p tcp -j DROP"])
    assert host.rules("DOCKER-USER", "filter") == ["-j GUARD", "-j RETURN"]
    assert "DOCKER-USER leads to it" in host.run(chain="GUARD", table="filter", state="absent")["msg"]
    predicted(host, **wanted, state="absent")
    assert host.rules("DOCKER-USER", "filter") == ["-j RETURN"]


# both families


def test_both_families(host: NatHost) -> None:
    made = predicted(host, chain="WEB", ip_version="both", rules=RULES, jumps=jumps("OUTPUT"))
    assert [line for line in made["diff"]["after"].splitlines() if line.startswith("#")] == [
        "# iptables",
        "# ip6tables",
    ]
    assert host.rules("WEB") == host.rules("WEB", family="ip6tables") == SETTLED
    predicted(host, chain="WEB", ip_version="ipv6", state="absent")
    assert (host.chains(), host.chains(family="ip6tables")) == (["WEB"], [])
    assert predicted(host, chain="WEB", ip_version="both", state="absent")["diff"]["before"].startswith("# iptables\n")


def failing_ip6tables(host: NatHost, directory: Path) -> str:
    """A PATH directory whose ip6tables-restore fails when it is to change the host's rules."""
    multi = shutil.which("xtables-legacy-multi" if host.legacy else "xtables-nft-multi", path="/usr/sbin:/sbin") or ""
    directory.joinpath("iptables").symlink_to(multi)
    script(directory, "ip6tables", f'exec {multi} ip6tables "$@"')
    script(directory, "ip6tables-save", f'exec {multi} ip6tables-save "$@"')
    test_only = (
        "case \"$*\" in *--noflush*--test*) ;; *--noflush*) echo 'ip6tables-restore: line 2 failed' >&2; exit 1;; esac"
    )
    script(directory, "ip6tables-restore", test_only, f'exec {multi} ip6tables-restore "$@"')
    return str(directory)


@pytest.mark.parametrize("change", [{"rules": ["-j RETURN"]}, {"rules": [], "jumps": []}, {"state": "absent"}])
def test_first_family_is_put_back_when_the_second_fails(host: NatHost, tmp_path: Path, change: dict[str, Any]) -> None:
    host.apply(
        chain="WEB", ip_version="both", rules=RULES, jumps=jumps("OUTPUT", {"from": "PREROUTING", "match": "-p tcp"})
    )
    before = host.saved()
    broken = failing_ip6tables(host, tmp_path)
    result = host.run(chain="WEB", ip_version="both", path_prefix=broken, **change)
    assert result["msg"].startswith("ip6tables: ")
    assert host.saved() == before


# what the host lacks


def test_without_the_right_to_make_namespaces_a_user_namespace_serves(host: NatHost, tmp_path: Path) -> None:
    python = script(
        tmp_path, "python", 'exec setpriv --bounding-set -sys_admin --inh-caps -sys_admin /usr/bin/python3 "$@"'
    )
    options: dict[str, Any] = {"chain": "WEB", "rules": RULES, "interpreter": str(python)}
    assert host.run(**options)["changed"]
    again = host.run(**options)
    assert not again["changed"]
    assert "warnings" not in again


def test_without_any_namespace_the_spelling_of_iptables_save_serves(tmp_path: Path) -> None:
    script(tmp_path, "unshare", "echo 'unshare: unshare failed: Operation not permitted' >&2", "exit 1")
    with NatHost(legacy=False) as host:
        spelled = host.run(chain="WEB", rules=RULES, path_prefix=str(tmp_path))
        assert spelled["changed"]
        assert "no network namespace can be made on this host: unshare: unshare failed" in str(spelled["warnings"])
        assert host.rules("WEB") == SETTLED
        assert host.run(chain="WEB", rules=RULES, path_prefix=str(tmp_path))["changed"]
        settled = host.run(chain="WEB", rules=SETTLED, path_prefix=str(tmp_path))
        assert not settled["changed"]
        assert "warnings" not in settled
        before = host.state()
        wrong = host.run(chain="WEB", rules=["-p tcp --dport 99999"], path_prefix=str(tmp_path))
        assert "rule 1 (-p tcp --dport 99999): invalid port/service" in wrong["msg"]
        assert host.state() == before


def test_a_missing_tool_is_named(tmp_path: Path) -> None:
    python = script(
        tmp_path,
        "python",
        f'PATH={tmp_path} exec /usr/bin/unshare -m /bin/sh -c \'/bin/mount -t tmpfs none /usr/sbin && exec /usr/bin/python3 "$@"\' sh "$@"',
    )
    with NatHost(legacy=False) as host:
        result = host.run(chain="WEB", interpreter=str(python))
        assert result["msg"] == "iptables: is not installed on this host"


def test_the_lock_is_waited_for_as_long_as_asked(tmp_path: Path) -> None:
    lock = tmp_path / "xtables.lock"
    python = script(tmp_path, "python", f'XTABLES_LOCKFILE={lock} exec /usr/bin/python3 "$@"')
    with NatHost(legacy=True) as host, lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        result = host.run(chain="WEB", wait=1, interpreter=str(python))
        assert "Another app is currently holding the xtables lock" in result["msg"]
        fcntl.flock(held, fcntl.LOCK_UN)
        assert host.run(chain="WEB", wait=0, interpreter=str(python))["changed"]


def test_reading_on_nft_leaves_legacy_tables_alone() -> None:
    with NatHost(legacy=False) as host:
        host.apply(chain="WEB", rules=RULES, jumps=jumps("OUTPUT"))
        assert host.namespace.run("cat", "/proc/net/ip_tables_names").stdout == ""


# as users use it


def test_packets_take_the_chain(host: NatHost) -> None:
    host.namespace.ip("address", "add", "192.0.2.10/32", "dev", "lo")
    with Servers() as servers:
        servers.serve(host.namespace, "web", "127.0.0.1", 8080, "tcp", keep_open=False)
        assert connect(host.namespace, "192.0.2.10", 80, timeout=2.0).answered == 0
        host.apply(
            chain="WEB",
            rules=["-p tcp --dport http -j DNAT --to-destination 127.0.0.1:8080"],
            jumps=jumps({"from": "OUTPUT", "match": "-d 192.0.2.10"}),
        )
        assert connect(host.namespace, "192.0.2.10", 80, count=20).backends == {"web": 20}
        host.apply(chain="WEB", state="absent")
        assert connect(host.namespace, "192.0.2.10", 80, timeout=2.0).answered == 0


def playbook(host: NatHost, directory: Path, task: dict[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
    """One task of a real ansible-playbook, on the namespace as its host."""
    python = script(directory, "python", f'exec ip netns exec {host.namespace.name} /usr/bin/python3 "$@"')
    play = {"hosts": "localhost", "gather_facts": False, "tasks": [{"layer4.service_proxy.nat_chain": task}]}
    path = directory / "play.json"
    path.write_text(json.dumps([play]))
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": library_path(),
        "ANSIBLE_HOME": str(directory / "home"),
        "ANSIBLE_NOCOLOR": "1",
        "LC_ALL": "C.UTF-8",
    }
    arguments = ["-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={python}", *options, str(path)]
    return run_ansible_playbook(arguments, directory, environment, timeout=120)


def test_ansible_playbook_with_check_and_diff(tmp_path: Path) -> None:
    task: dict[str, Any] = {"chain": "WEB", "rules": RULES, "jumps": jumps("OUTPUT")}
    with NatHost(legacy=False) as host:
        before = host.state()
        predicted = playbook(host, tmp_path, task, "--check", "--diff")
        assert "+-A WEB " + SETTLED[0] in predicted.stdout, predicted.stdout + predicted.stderr
        assert host.state() == before
        real = playbook(host, tmp_path, task, "--diff")
        assert "changed=1" in real.stdout
        assert predicted.stdout == real.stdout
        assert "changed=0" in playbook(host, tmp_path, task).stdout
        wrong = playbook(host, tmp_path, {**task, "rules": ["-p tcp --dport 99999"]})
        assert "rule 1 (-p tcp --dport 99999): invalid port/service `99999' specified" in wrong.stdout + wrong.stderr


def test_chains_of_one_task_come_change_and_go_together(host: NatHost) -> None:
    untouched = host.saved()
    first = {"chain": "WEB-MARK", "rules": ["-j MARK --set-mark 0x4000"]}
    second = {"chain": "WEB", "rules": ["-p tcp --dport http -j WEB-MARK"], "jumps": jumps("PREROUTING")}
    forward = {"chain": "WEB", "table": "filter", "ip_version": "both", "rules": [], "jumps": jumps("FORWARD")}
    made = predicted(host, chains=[second, first, forward])
    assert made["diff"]["after"].splitlines() == [
        "# iptables",
        "*filter",
        ":WEB - [0:0]",
        "-A FORWARD -j WEB",
        "COMMIT",
        "*nat",
        ":WEB - [0:0]",
        ":WEB-MARK - [0:0]",
        "-A PREROUTING -j WEB",
        "-A WEB -p tcp -m tcp --dport 80 -j WEB-MARK",
        "-A WEB-MARK -j MARK --set-xmark 0x4000/0xffffffff",
        "COMMIT",
        "# ip6tables",
        "*filter",
        ":WEB - [0:0]",
        "-A FORWARD -j WEB",
        "COMMIT",
    ]
    changed = predicted(host, chains=[{**second, "rules": []}, {"chain": "WEB-MARK", "state": "absent"}, forward])
    assert ":WEB-MARK - [0:0]" in changed["diff"]["before"]
    predicted(
        host, chains=[{"chain": "WEB"}, {"chain": "WEB", "table": "filter", "ip_version": "both"}], state="absent"
    )
    assert host.saved() == untouched


def test_of_chains_of_one_task_all_are_set_or_none(host: NatHost) -> None:
    untouched = host.state()
    failed = host.run(
        chains=[
            {"chain": "WEB", "rules": RULES},
            {"chain": "WEB", "table": "filter", "rules": ["-j DNAT --to 1.2.3.4"]},
        ]
    )
    assert failed["failed"]
    assert "table filter, chain WEB, rule 1 (-j DNAT --to 1.2.3.4)" in failed["msg"]
    assert host.state() == untouched


def test_jumps_that_a_chain_of_several_does_not_give_stay(host: NatHost) -> None:
    host.apply(chain="WEB", rules=RULES, jumps=jumps("PREROUTING"))
    host.iptables("-t", "nat", "-A", "OUTPUT", "-j", "WEB")
    host.iptables("-t", "nat", "-A", "OUTPUT", "-j", "WEB")
    made = predicted(host, chains=[{"chain": "WEB", "rules": []}, {"chain": "MAIL", "jumps": jumps("OUTPUT")}])
    assert made["diff"]["before"] == "# iptables\n*nat\n" + "".join(f"-A WEB {rule}\n" for rule in SETTLED) + "COMMIT\n"
    assert host.rules("OUTPUT") == ["-j WEB", "-j WEB", "-j MAIL"]


@pytest.mark.parametrize(
    ("chains", "words"),
    [
        ([{"chain": "WEB"}, {"chain": "WEB"}], "chain WEB of table nat is given twice: must be given once"),
        (
            [{"chain": "WEB"}, {"chain": "MAIL", "jumps": [{"from": "WEB"}]}],
            "chain MAIL: jump from 'WEB': must be in the rules of that chain, which is given too",
        ),
        (
            [{"chain": "WEB", "state": "absent"}, {"chain": "MAIL", "rules": ["-j WEB"]}],
            "chain WEB cannot be removed from table nat: MAIL leads to it: remove that first, or name it in jumps",
        ),
    ],
)
def test_chains_of_one_task_that_contradict_each_other_are_refused(
    host: NatHost, chains: list[dict[str, Any]], words: str
) -> None:
    host.apply(chain="WEB")
    before = host.state()
    assert words in host.run(chains=chains)["msg"]
    assert host.state() == before
