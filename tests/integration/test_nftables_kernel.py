# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernel's nftables by `_kernel.nftables`, with nft(8) as the judge: written, read and listed exactly, at once or not at all."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator

import pytest
from nft_host import NftHost

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.nftables import Nftables
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.nftables_digest import digest_of
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables import (
    Chain,
    Element,
    Hook,
    Mapped,
    Nat,
    Numgen,
    Rule,
    Set,
    SetHeader,
    Table,
    Update,
    Verdict,
    VerdictMap,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_changes import (
    AddChain,
    AddElements,
    AddTable,
    DeleteChain,
    NftChange,
    NftChangedError,
    NftRefusedError,
    ReplaceRules,
    TableId,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_rule_text import rule_text
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_text import table_text
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_types import number
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.nftables import Tables, plan_tables
from ansible_collections.layer4.service_proxy.tests.unit.nftables_samples import (
    address,
    affinity_fields,
    many,
    match,
    service_fields,
    service_key,
    table,
    table_id,
)

FAMILIES = ("ip", "ip6")
IP = table_id("ip")


@pytest.fixture
def host() -> Iterator[NftHost]:
    with NftHost() as made:
        yield made


def listed(text: str) -> list[str]:
    """Return what nft(8) lists without what packets and time change, elements a line each and in order."""
    text = re.sub(r" packets \d+ bytes \d+| expires [0-9a-z]+", "", text).replace(" counter comment", " comment")
    text = re.sub(r"elements = {(.*?) }\n", lambda found: _elements(found.group(1)), text, flags=re.DOTALL)
    return [line.strip() for line in text.splitlines() if line.strip()]


def _elements(text: str) -> str:
    return "elements\n" + "\n".join(sorted(part.strip() for part in text.split(","))) + "\n"


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_is_read_again(host: NftHost, family: str) -> None:
    one = table_id(family)
    host.converge({one: table(family)}, {})
    held = host.read(one)
    assert held == {one: table(family)}
    assert not plan_tables({one: table(family)}, held).changed
    host.converge({}, held)
    assert host.read(one) == {}
    assert host.nft("list", "ruleset") == ""


@pytest.mark.parametrize("family", FAMILIES)
def test_nft_lists_it_in_our_words(host: NftHost, family: str) -> None:
    host.converge({table_id(family): table(family)}, {})
    text = host.nft("list", "ruleset")
    assert listed(text) == listed(table_text(table(family)))
    assert json.loads(host.nft("--json", "list", "ruleset"))


@pytest.mark.parametrize("family", FAMILIES)
def test_nft_takes_the_text_back(host: NftHost, family: str) -> None:
    """nft before 1.1 gives up on its own when a rule puts elements with two IPv6 addresses in their key; that rule is left out."""
    wanted = table(family)
    if family == "ip6":
        every = wanted.chains["every-statement"]
        kept = tuple(rule for rule in every.rules if not isinstance(rule.statements[0], Update))
        wanted.chains["every-statement"] = every._replace(rules=kept)
    host.nft("-f", "-", text=table_text(wanted))
    held = host.read(table_id(family))
    assert held == {table_id(family): wanted}


def test_the_lines_of_a_plan_are_commands(host: NftHost) -> None:
    host.nft("-f", "-", text=plan_tables({IP: table("ip")}, {}).after())
    assert host.read(IP) == {IP: table("ip")._replace(comment="")}


def web(backend: str = "192.0.2.1") -> Tables:
    """One service with two backends and clients that come back."""
    service, client = service_fields("ip"), affinity_fields("ip")
    chosen = Numgen("random", 2)
    key = service_key("10.0.0.1", "tcp", 80)
    backends = {
        number(slot) + key: Element(address(one) + b"\0\x50\0\0") for slot, one in enumerate((backend, "192.0.2.2"))
    }
    sets = {
        "services": Set(
            SetHeader(("ipv4_addr", "inet_proto", "inet_service"), ("verdict",)),
            {key: Element(Verdict("goto", "slots-2"), "web")},
        ),
        "backends": Set(SetHeader((chosen, *service), ("ip daddr", "th dport")), backends),
        "clients": Set(SetHeader(client, ("ip daddr", "th dport"), ("dynamic", "timeout"), 1000, 60_000), {}),
    }
    chains = {
        "slots-2": Chain((Rule((Nat("dnat", Mapped((chosen, *service), "backends"), True),)),)),
        "nat-output": Chain((Rule((VerdictMap(service, "services"),)),), Hook("nat", "output", -100)),
    }
    return {IP: Table("ip", IP.name, sets, chains, {})}


OURS = "ip l4-service-proxy"
DRIFT = [
    [f"delete element {OURS} services {{ 10.0.0.1 . tcp . 80 }}"],
    [f"add element {OURS} services {{ 10.0.0.9 . tcp . 80 : drop }}"],
    [f"add element {OURS} services {{ 10.0.0.9 . udp . 80 : goto slots-2 }}"],
    [f"add element {OURS} services {{ * : drop }}"],
    [
        f"delete element {OURS} services {{ 10.0.0.1 . tcp . 80 }}",
        f"add element {OURS} services {{ 10.0.0.1 . tcp . 80 : drop }}",
    ],
    [f"add rule {OURS} nat-output counter accept"],
    [f"insert rule {OURS} slots-2 tcp dport 80 drop"],
    [f"insert rule {OURS} slots-2 ip ttl 5 log limit rate 5/second drop"],
    [f"flush chain {OURS} slots-2"],
    [f"flush chain {OURS} nat-output", f"delete chain {OURS} nat-output"],
    [f"add chain {OURS} stranger {{ type filter hook input priority 0; policy drop; }}"],
    [f"add chain {OURS} led-to", f"add rule {OURS} slots-2 jump led-to"],
    [f"add chain {OURS} led-to", f"add element {OURS} services {{ 10.0.0.9 . tcp . 80 : goto led-to }}"],
    [
        f"add set {OURS} blocked {{ type ipv4_addr; flags interval; elements = {{ 10.0.0.0/8 }}; }}",
        f"add rule {OURS} nat-output ip saddr @blocked drop",
    ],
    [f"add rule {OURS} nat-output ip saddr {{ 10.0.0.1, 10.0.0.2 }} drop"],
    [
        f"delete map {OURS} clients",
        f"add map {OURS} clients {{ type ipv4_addr : ipv4_addr; flags dynamic,timeout; timeout 1m; size 9; }}",
    ],
    [f"add table {OURS} {{ flags dormant; }}"],
    [f"delete table {OURS}"],
    ["flush ruleset"],
]


@pytest.mark.parametrize("commands", DRIFT, ids=["; ".join(commands) for commands in DRIFT])
def test_drift_is_found_and_repaired(host: NftHost, commands: list[str]) -> None:
    host.converge(web(), {})
    before = digest(host)
    host.nft("-f", "-", text="\n".join(commands))
    held = host.read(IP)
    assert plan_tables(web(), held).changed
    assert digest(host) != before
    host.converge(web(), held)
    assert host.read(IP) == web()


def digest(host: NftHost) -> str:
    return host.within(lambda nft: digest_of(nft, [IP]))[0]


def test_a_digest_stays_while_packets_and_others_change_what_is_theirs(host: NftHost) -> None:
    host.converge(web(), {})
    before = host.within(lambda nft: digest_of(nft, [IP]))
    host.nft("add", "element", "ip", IP.name, "clients", "{ 10.9.9.9 . 10.0.0.1 . tcp . 80 : 192.0.2.1 . 80 }")
    host.nft("add", "table", "ip", "somebodys")
    host.nft("add", "chain", "ip", "somebodys", "input", "{ type filter hook input priority 0; }")
    after = host.within(lambda nft: digest_of(nft, [IP]))
    assert (after[0], after[1] - before[1]) == (before[0], 3)


def test_elements_that_packets_made_stay(host: NftHost) -> None:
    host.converge(web(), {})
    host.nft("add", "element", "ip", IP.name, "clients", "{ 10.9.9.9 . 10.0.0.1 . tcp . 80 : 192.0.2.1 . 80 }")
    host.converge(web("192.0.2.7"), host.read(IP))
    assert host.read(IP) == web("192.0.2.7")
    header = web()[IP].sets["clients"].header
    assert len(host.within(lambda nft: nft.elements(IP, "clients", header))) == 1


def test_counters_of_elements_are_read_and_kept(host: NftHost) -> None:
    header = SetHeader(("ipv4_addr",), counter=True)
    wanted = {IP: Table("ip", IP.name, {"counted": Set(header, {address("127.0.0.1"): Element()})}, {}, {})}
    host.converge(wanted, {})
    text = "table ip l4-service-proxy { chain out { type filter hook output priority 0; ip daddr @counted; }; }"
    host.nft("-f", "-", text=text)
    host.namespace.run("ping", "-c", "1", "-W", "1", "127.0.0.1")
    counted = host.within(lambda nft: nft.counters(IP, "counted", header))
    assert counted[address("127.0.0.1")].packets >= 1
    more = {
        IP: wanted[IP]._replace(
            sets={"counted": Set(header, {address(one): Element() for one in ("127.0.0.1", "127.0.0.2")})}
        )
    }
    host.apply(plan_tables(more, wanted).changes)
    assert (
        host.within(lambda nft: nft.counters(IP, "counted", header))[address("127.0.0.1")]
        == counted[address("127.0.0.1")]
    )


REFUSED: list[tuple[list[NftChange], str]] = [
    ([AddChain(IP, "slots-2", Chain())], 'adding chain "slots-2" of table ip l4-service-proxy: it is there already'),
    ([DeleteChain(IP, "slots-2")], 'deleting chain "slots-2" of table ip l4-service-proxy: it is in use'),
    (
        [DeleteChain(IP, "none")],
        'deleting chain "none" of table ip l4-service-proxy: it, or what it names, is not there',
    ),
    (
        [
            ReplaceRules(
                IP,
                "slots-2",
                (),
                (Rule((match("ip daddr", "10.0.0.1"), Verdict("accept"))), Rule((Verdict("goto", "none"),))),
            )
        ],
        'adding rule "goto none" of chain "slots-2" of table ip l4-service-proxy: it, or what it names, is not there',
    ),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[text for _changes, text in REFUSED])
def test_a_refused_transaction_changes_nothing_and_says_what(
    host: NftHost, changes: list[NftChange], message: str
) -> None:
    host.converge(web(), {})
    more = AddElements(
        IP,
        "services",
        web()[IP].sets["services"].header,
        {service_key("10.0.0.7", "tcp", 80): Element(Verdict("drop"))},
    )
    with pytest.raises(NftRefusedError, match=re.escape(message)):
        host.apply([more, *changes])
    assert host.read(IP) == web()


def test_a_refused_element_is_named(host: NftHost) -> None:
    host.converge(web(), {})
    header = web()[IP].sets["services"].header
    new = {service_key(f"10.1.0.{last}", "tcp", 80): Element(Verdict("drop")) for last in range(1, 50)}
    there = {service_key("10.0.0.1", "tcp", 80): Element(Verdict("drop"))}
    with pytest.raises(NftRefusedError) as refused:
        host.apply([AddElements(IP, "services", header, {**new, **there})])
    assert str(refused.value) == (
        'nftables: adding element 10.0.0.1 . tcp . 80 of map "services" of table ip l4-service-proxy: it is there already'
    )
    assert host.read(IP) == web()


def test_a_change_of_another_meanwhile_is_noticed(host: NftHost) -> None:
    held, generation = host.within(lambda nft: nft.tables([IP]))
    host.nft("add", "table", "ip", "somebodys")
    with pytest.raises(NftChangedError):
        host.apply(plan_tables(web(), held).changes, generation)
    assert host.read(IP) == {}
    host.apply(plan_tables(web(), held).changes, host.within(Nftables.generation))
    assert host.read(IP) == web()


def test_tables_are_read_of_one_generation(host: NftHost) -> None:
    """Another changes both tables at once, again and again; never are they read out of step."""
    pair = [TableId("ip", "one"), TableId("ip", "two")]
    done = threading.Event()

    def change() -> None:
        with Nftables() as nft:
            for step in range(60):
                header = SetHeader(("ipv4_addr",), comment=str(step))
                wanted = {one: Table("ip", one.name, {"set": Set(header, {})}, {}, {}) for one in pair}
                nft.apply(plan_tables(wanted, nft.tables(pair)[0]).changes)
        done.set()

    changer = threading.Thread(target=lambda: host.namespace.call(change))
    changer.start()
    read = 0
    while not done.is_set() or not read:
        try:
            held = host.read(*pair)
        except NftChangedError:
            continue
        read += 1
        assert len({one.sets["set"].header for one in held.values()}) <= 1
    changer.join()


def test_ten_thousand_services_are_one_transaction_each_way(host: NftHost) -> None:
    wanted = many(10_000)
    host.apply(plan_tables(wanted, {}).changes)
    held, generation = host.within(lambda nft: nft.tables([IP]))
    assert held == wanted
    assert generation == 2
    fewer = many(9_999)
    host.apply(plan_tables(fewer, held).changes)
    assert host.read(IP) == fewer


def test_a_small_send_buffer_takes_several_transactions(host: NftHost) -> None:
    wanted = many(2_000)
    transactions = plan_tables(wanted, {}).transactions(200_000)
    assert len(transactions) > 5
    for transaction in transactions:
        host.apply(transaction)
    assert host.read(IP) == wanted
    for transaction in plan_tables(many(10), wanted).transactions(200_000):
        host.apply(transaction)
    assert host.read(IP) == many(10)


def test_a_table_that_is_there_is_taken_over(host: NftHost) -> None:
    host.nft("add", "table", "ip", IP.name)
    host.converge(web(), host.read(IP))
    assert host.read(IP) == web()


def test_rule_with_what_we_do_not_write_is_shown(host: NftHost) -> None:
    host.converge(web(), {})
    host.nft("add", "rule", "ip", IP.name, "slots-2", "limit", "rate", "5/second", "drop")
    last = host.read(IP)[IP].chains["slots-2"].rules[-1]
    assert re.fullmatch(r"\[ limit [0-9a-f]+ \] drop", rule_text(last))


def test_adding_a_table_twice_is_no_error(host: NftHost) -> None:
    host.apply([AddTable(IP), AddTable(IP)])
    assert host.read(IP) == {IP: Table("ip", IP.name, {}, {}, {})}
