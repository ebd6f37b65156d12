# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The way from one state of nftables to another, against a fake that refuses what the kernel refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables import (
    VERDICT,
    Chain,
    Counter,
    Element,
    Elements,
    Flowtable,
    Hook,
    Rule,
    Set,
    SetHeader,
    Statement,
    Table,
    Verdict,
    VerdictMap,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.nftables_changes import (
    AddElements,
    DeleteChain,
    NftChangedError,
    NftRefusedError,
    TableId,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.nftables import NftPlan, plan_tables
from ansible_collections.layer4.service_proxy.tests.unit.fake_nftables import FakeNftables
from ansible_collections.layer4.service_proxy.tests.unit.nftables_samples import address, table, table_id

IP = table_id("ip")
Tables = dict[TableId, Table]
MAPS, CHAINS = ("map-a", "map-b"), ("chain-a", "chain-b", "chain-c")
ADDRESSES = [address(f"10.0.0.{number}") for number in range(1, 7)]


@st.composite
def states(draw: st.DrawFn) -> Tables:
    """A table whose maps lead to its chains, and whose base chain has rules that look into maps; or none."""
    if draw(st.integers(0, 9)) == 0:
        return {}
    chains = draw(st.sets(st.sampled_from(CHAINS)))
    verdicts = [Verdict("drop"), Verdict("accept"), *(Verdict("goto", name) for name in sorted(chains))]
    elements = st.dictionaries(
        st.sampled_from(ADDRESSES),
        st.builds(Element, st.sampled_from(verdicts), st.sampled_from(["", "web"]), st.just(0)),
    )
    maps = draw(st.dictionaries(st.sampled_from(MAPS), elements))
    comments = st.sampled_from(["", "other"])
    sets = {name: Set(_header(draw(comments)), found) for name, found in sorted(maps.items())}
    known: dict[str, Chain] = {name: Chain((Rule((Counter(),)),)) for name in sorted(chains)}
    rules = draw(st.lists(st.sampled_from(_rules(list(sets), sorted(chains))), max_size=4))
    known["base"] = Chain(tuple(rules), Hook("filter", "forward", draw(st.sampled_from([0, 5]))))
    return {IP: Table("ip", IP.name, sets, known, {})}


def _header(comment: str) -> SetHeader:
    return SetHeader(("ipv4_addr",), ("verdict",), comment=comment)


def _rules(maps: list[str], chains: list[str]) -> list[Rule]:
    statements: list[Statement] = [VerdictMap(("ip daddr",), name) for name in maps]
    statements += [Verdict("jump", name) for name in chains]
    return [Rule((one,)) for one in [*statements, Counter()]]


def apply(plan: NftPlan, nft: FakeNftables) -> None:
    for transaction in plan.transactions(nft.send_limit()):
        nft.apply(transaction)


@given(wanted=states(), held=states())
def test_a_plan_leads_to_what_is_wanted_and_back(wanted: Tables, held: Tables) -> None:
    nft = FakeNftables(held)
    plan = plan_tables(wanted, held)
    apply(plan, nft)
    assert nft.tables([IP])[0] == wanted
    apply(plan.undo(), nft)
    assert nft.tables([IP])[0] == held


@given(wanted=states(), held=states())
def test_a_plan_is_empty_exactly_where_nothing_differs(wanted: Tables, held: Tables) -> None:
    plan = plan_tables(wanted, held)
    assert plan.changed == (wanted != held)
    assert bool(plan.before() or plan.after()) == plan.changed
    assert not plan_tables(wanted, wanted).changed


@given(wanted=states(), held=states())
def test_several_transactions_lead_to_the_same(wanted: Tables, held: Tables) -> None:
    nft = FakeNftables(held, limit=1)
    apply(plan_tables(wanted, held), nft)
    assert nft.tables([IP])[0] == wanted


def test_everything_there_is_can_be_made_and_removed() -> None:
    for family in ("ip", "ip6"):
        one = table_id(family)
        nft = FakeNftables()
        plan = plan_tables({one: table(family)}, {})
        apply(plan, nft)
        assert nft.tables([one])[0] == {one: table(family)}
        assert nft.transactions == 1
        apply(plan.undo(), nft)
        assert nft.tables([one])[0] == {}


def simple(elements: Elements, chains: tuple[str, ...] = ("chain-a", "chain-b")) -> Tables:
    known = {name: Chain() for name in chains}
    known["base"] = Chain((Rule((VerdictMap(("ip daddr",), "services"),)),), Hook("filter", "forward", 0))
    return {IP: Table("ip", IP.name, {"services": Set(_header(""), elements)}, known, {})}


def test_one_changed_element_is_one_transaction_that_names_no_other() -> None:
    elements = {key: Element(Verdict("goto", "chain-a")) for key in ADDRESSES}
    wanted = simple({**elements, ADDRESSES[0]: Element(Verdict("goto", "chain-b"))})
    plan = plan_tables(wanted, simple(elements))
    assert [type(change).__name__ for change in plan.changes] == ["DeleteElements", "AddElements"]
    assert all(list(change.elements) == [ADDRESSES[0]] for change in plan.changes if isinstance(change, AddElements))
    assert plan.before() == "add element ip l4-service-proxy services { 10.0.0.1 : goto chain-a }\n"
    assert plan.after() == "add element ip l4-service-proxy services { 10.0.0.1 : goto chain-b }\n"


def test_a_chain_that_elements_led_to_goes_in_a_second_transaction() -> None:
    held = simple({ADDRESSES[0]: Element(Verdict("goto", "chain-a"))})
    plan = plan_tables(simple({}, ("chain-b",)), held)
    assert plan.cleanup == [DeleteChain(IP, "chain-a")]
    nft = FakeNftables(held)
    with pytest.raises(NftRefusedError, match="in use"):
        nft.apply([*plan.changes, *plan.cleanup])
    apply(plan, nft)
    assert nft.tables([IP])[0] == simple({}, ("chain-b",))


def test_the_way_back_from_before_the_cleanup_leads_to_what_was_there() -> None:
    wanted, held = simple({}, ("chain-b",)), simple({ADDRESSES[0]: Element(Verdict("goto", "chain-a"))})
    other = {table_id("ip6"): table("ip6")}
    plan = plan_tables({**wanted, **other}, {**held, **other})
    nft = FakeNftables({**held, **other})
    assert [one.name for one in plan.cleanup if isinstance(one, DeleteChain)] == ["chain-a"]
    nft.apply(plan.changes)
    apply(plan.undo_before_cleanup(), nft)
    assert nft.tables([IP, table_id("ip6")])[0] == {**held, **other}


def test_in_several_transactions_what_is_led_to_is_there_before() -> None:
    data = SetHeader(("ipv4_addr",), ("ipv4_addr",))
    elements = {key: Element(key) for key in ADDRESSES}
    services = Set(_header(""), {key: Element(Verdict("goto", "chain-a")) for key in ADDRESSES})
    whole = simple({})[IP]
    wanted = {IP: whole._replace(sets={"services": services, "backends": Set(data, elements)})}
    nft = FakeNftables(limit=1)
    apply(plan_tables(wanted, {}), nft)
    assert len(nft.states) > 2 * len(ADDRESSES)
    for state in nft.states:
        sets = state[IP].sets
        if sets["services"].elements:
            assert len(sets["backends"].elements) == len(ADDRESSES)
    assert [("base" in state[IP].chains) for state in nft.states] == [False] * (len(nft.states) - 1) + [True]


def test_in_several_transactions_what_is_led_to_goes_after() -> None:
    backends = Set(SetHeader(("ipv4_addr",), ("ipv4_addr",)), {key: Element(key) for key in ADDRESSES})
    services = {key: Element(Verdict("goto", "chain-a")) for key in ADDRESSES}
    held, wanted = (
        {IP: whole._replace(sets={**whole.sets, "backends": one})}
        for whole, one in ((simple(services)[IP], backends), (simple({})[IP], backends._replace(elements={})))
    )
    nft = FakeNftables(held, limit=1)
    apply(plan_tables(wanted, held), nft)
    assert nft.tables([IP])[0] == wanted
    for state in nft.states:
        sets = state[IP].sets
        assert not sets["services"].elements or len(sets["backends"].elements) == len(ADDRESSES)


def test_elements_that_packets_made_are_neither_compared_nor_removed() -> None:
    header = SetHeader(("ipv4_addr",), flags=("dynamic", "timeout"), size=10, timeout=1000)
    wanted = {IP: Table("ip", IP.name, {"clients": Set(header, {})}, {}, {})}
    held = {IP: Table("ip", IP.name, {"clients": Set(header, {ADDRESSES[0]: Element()})}, {}, {})}
    assert not plan_tables(wanted, held).changed
    assert plan_tables(wanted, held).before() == ""


def test_rules_in_another_order_are_a_difference() -> None:
    hook = Hook("filter", "forward", 0)
    first, second = Rule((Counter(),)), Rule((Verdict("accept"),))
    wanted = {IP: Table("ip", IP.name, {}, {"base": Chain((first, second), hook)}, {})}
    held = {IP: Table("ip", IP.name, {}, {"base": Chain((second, first), hook)}, {})}
    plan = plan_tables(wanted, held)
    start = "add rule ip l4-service-proxy base"
    assert plan.before() == f"{start} accept\n{start} counter\n"
    assert plan.after() == f"{start} counter\n{start} accept\n"


def test_a_transaction_on_another_generation_is_refused() -> None:
    nft = FakeNftables()
    _held, generation = nft.tables([IP])
    nft.apply(plan_tables(simple({}), {}).changes)
    with pytest.raises(NftChangedError):
        nft.apply(plan_tables({}, simple({})).changes, generation)


def test_the_lines_are_whole_commands() -> None:
    text = plan_tables({IP: table("ip")}, {}).after()
    assert text.startswith(
        "add table ip l4-service-proxy\nadd map ip l4-service-proxy addresses { type ipv4_addr : ipv4_addr; }\n"
    )
    assert "add chain ip l4-service-proxy every-statement\n" in text
    assert (
        "add chain ip l4-service-proxy filter-forward { type filter hook forward priority filter - 5; policy drop; }\n"
        in text
    )


def test_a_flow_table_is_a_line() -> None:
    wanted = {IP: Table("ip", "l4-service-proxy", {}, {}, {"offloaded": Flowtable(0, ("eth0", "eth1"))})}
    assert plan_tables(wanted, {}).after() == (
        "add table ip l4-service-proxy\n"
        "add flowtable ip l4-service-proxy offloaded { hook ingress priority filter; devices = { eth0, eth1 }; }\n"
    )


def test_a_flow_table_that_nobody_wants_goes() -> None:
    bare = Table("ip", "l4-service-proxy", {}, {}, {})
    held = {IP: bare._replace(flowtables={"offloaded": Flowtable(0, ("eth0",))})}
    nft = FakeNftables(held)
    apply(plan_tables({IP: bare}, held), nft)
    assert nft.tables([IP])[0] == {IP: bare}


def test_a_table_that_somebody_made_dormant_is_made_to_work() -> None:
    wanted = simple({})
    held = {IP: wanted[IP]._replace(is_dormant=True)}
    nft = FakeNftables(held)
    plan = plan_tables(wanted, held)
    assert (plan.before(), plan.after()) == (
        "add table ip l4-service-proxy { flags dormant; }\n",
        "add table ip l4-service-proxy\n",
    )
    apply(plan, nft)
    assert nft.tables([IP])[0] == wanted


@pytest.mark.parametrize(
    ("data", "element", "is_one"), [((), Element(), True), ((VERDICT,), Element(Verdict("drop")), False)]
)
def test_elements_without_a_verdict_take_less_of_a_transaction(
    data: tuple[str, ...], element: Element, is_one: bool
) -> None:
    keys = [address(f"10.0.0.{last}") for last in range(100)]
    held = Set(SetHeader(("ipv4_addr",), data), dict.fromkeys(keys, element))
    plan = plan_tables({IP: Table("ip", IP.name, {"held": held}, {}, {})}, {})
    assert (len(plan.transactions(25_000)) == 1) == is_one
