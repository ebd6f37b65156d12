# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How much of a node a run of the iptables dataplane has to look at: everything, or what differs from what a run left."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence, Set
from functools import partial
from types import MappingProxyType
from typing import (
    Any,
    Callable,
    NamedTuple,
    Optional,
    Protocol,
)

from ..._kernel.iptables import Xtables, XtablesError
from ..._kernel.iptables_lock import XtablesLock
from ..._kernel.legacy_tables import read_table
from ..._kernel.state_file import Edits, Left, LegacyMemory, NftMemory, Reading
from ..._model.payload import digest_of, unpack
from ..._model.request import Request
from ..._model.service import InvalidServices, Node, parse_services
from ..._objects.iptables import COMMANDS, Observed
from ..._objects.node_facts import BaseChain, ChainOfOthers, NftRule
from ..._plan.iptables_steps import FamilyPlans
from ..netfilter.names import Layout
from ..netfilter.shared_chains import masquerade_chains
from . import cache as memories
from .cache import Brief, Difference, Known, Memory
from .compile import compile_service, families

RULES_VERSION = 1
"""Raised by hand whenever the compiler makes other rules of the same services, so that an older cache is not believed."""
TABLES = ("filter", "nat")
ListChain = Callable[[str, str, str], Optional[Sequence[str]]]
_COUNTERS = re.compile(r"^#.*\n| \[\d+:\d+\]$", re.MULTILINE)
"""Of chains in what ``iptables-save`` says, and its comments."""
_MOST_CHAINS = 400
"""Reading so many chains one by one takes as long as reading some thousand services whole."""


class Records(Protocol):
    """What a run leaves for the next."""

    def chains_of_others(self, look: Callable[[], Sequence[ChainOfOthers]]) -> Sequence[ChainOfOthers]:
        """As the last run saw them, if since then nobody can have changed them, and otherwise as looked for now."""

    def repeated(self) -> Brief | None:
        """What the last run left in short, if it was asked for the same and no rule has changed since."""

    @property
    def state(self) -> str:
        """A text that the host's rules have only as long as nobody changes one; empty where it is not known."""

    def recall(self) -> Memory | None:
        """What the last run left, if no rule has changed since. Until `keep` or `end` others wait for the lock of iptables-legacy."""

    def list_chain(self, family: str, chain: str) -> Sequence[str] | None:
        """The rules of a chain of table nat; None where there is none, or reading it is no less than reading all."""

    def end(self) -> None:
        """Nothing was changed, or it is as it was."""

    def prepare(self, memory: Memory) -> Left | None:
        """What `keep` leaves of this memory; None where it is not worth it."""

    def keep(self, left: Left | None, edits: Edits) -> None:
        """Leave this, if since `recall` nothing but these edits has changed rules."""

    def forget(self) -> None:
        """Leave nothing."""


class HostRecords:
    """Those of a host. request: a digest of all that is asked for.

    list_chain: the rules of a chain, by its family, table and name; None where that is no less than reading all.
    """

    def __init__(
        self,
        memory: NftMemory | LegacyMemory,
        request: str,
        only_foretell: bool,
        list_chain: ListChain | None = None,
    ) -> None:
        self._memory = memory
        self._request, self._only_foretell, self._list_chain = request, only_foretell, list_chain
        self._chains: Sequence[ChainOfOthers] | None = None
        self._left: Left | None = None
        self._to_renew: Left | None = None

    def chains_of_others(self, look: Callable[[], Sequence[ChainOfOthers]]) -> Sequence[ChainOfOthers]:
        """As the last run saw them, if since then nobody can have changed them, and otherwise as looked for now."""
        if self._chains is None:
            self._chains = look()
        if self._to_renew and not self._only_foretell:
            self._memory.renew({**self._to_renew.brief, "chains": self._chains})
            self._to_renew = None
        return self._chains

    def repeated(self) -> Brief | None:
        """What the last run left in short, if it was asked for the same and no rule has changed since."""
        if self._memory.brief().get("request") != self._request:
            return None
        left = self._recall(in_short=True)
        return memories.brief_from_plain(left.brief) if left else None

    @property
    def state(self) -> str:
        """A text that the host's rules have only as long as nobody changes one; empty where it is not known."""
        try:
            return self._memory.state
        except OSError:
            return ""

    def recall(self) -> Memory | None:
        left = self._recall()
        memory = memories.from_json(left.whole) if left else None
        if memory and self._memory.is_disturbed:
            memory = self._with_built_in_chains_of_now(memory)
        self._left = left if memory else None
        return memory

    def _with_built_in_chains_of_now(self, memory: Memory) -> Memory | None:
        """What others have changed; None where it cannot be read."""
        list_chain = self._list_chain
        if list_chain is None:
            return None
        try:
            shared = {
                family: Observed(held.chains, {key: list_chain(family, *key) or [] for key in held.hooks})
                for family, held in memory.shared.items()
            }
        except XtablesError:
            return None
        return memory._replace(shared=shared)

    def _recall(self, in_short: bool = False) -> Left | None:
        """A kernel that counts changes of iptables' rules counts those of all nftables."""
        left = self._memory.recall(in_short)
        self._to_renew = left if self._memory.is_disturbed else None
        self._chains = _chains(left.brief.get("chains")) if left and not self._to_renew else None
        return left

    def list_chain(self, family: str, chain: str) -> Sequence[str] | None:
        return self._list_chain(family, "nat", chain) if self._list_chain else None

    def end(self) -> None:
        self._memory.end()

    def prepare(self, memory: Memory) -> Left | None:
        if not memory.services:
            return None
        chains = self._chains if isinstance(self._memory, NftMemory) else None
        brief = {"request": self._request, "chains": chains, **memories.brief(memory)._asdict()}
        return Left(brief, memories.to_json(memory))

    def keep(self, left: Left | None, edits: Edits) -> None:
        if left is None:
            self.forget()
        elif edits.transactions or left != self._left or self._memory.is_disturbed:
            self._memory.keep(left, edits)
            self._to_renew = None
        else:
            self.end()

    def forget(self) -> None:
        self._memory.forget()


def _chains(plain: Any) -> list[ChainOfOthers] | None:
    """After JSON; None for what was never made of them."""
    try:
        return [(BaseChain(*chain), [NftRule(*rule) for rule in rules]) for chain, rules in plain]
    except (TypeError, ValueError):
        return None


class Scope(NamedTuple):
    """What a run looks at. services: as users write them, or with names alone; gone: names of further services that go.

    unchanged: those that stay but whose flows are judged nevertheless. similar: of those asked for
    that stay, some of each kind, for warnings. samples: the same of all that stay.
    observed: None for all that the kernel holds. written: services as users write them, to be remembered.
    """

    services: Sequence[Any]
    exclusive: bool
    written: Sequence[Any]
    gone: Set[str] = frozenset()
    unchanged: Sequence[Any] = ()
    observed: dict[str, Observed] | None = None
    kept: Mapping[str, Known] = MappingProxyType({})
    similar: Sequence[Any] = ()
    samples: Sequence[Any] = ()

    @property
    def backends(self) -> set[str]:
        """Addresses of backends of services that are not looked at."""
        return {address for known in self.kept.values() for address in known.backends}

    @property
    def sets(self) -> set[str]:
        """ipsets of services that are not looked at."""
        return {name for known in self.kept.values() for name in known.sets}

    def record(self, settings: str, held: Mapping[str, Observed], layout: Layout) -> Memory:
        """What is worth remembering of the run that ends in this state."""
        samples = memories.samples([*self.samples, *self.written])
        return memories.remember(settings, self.written, held, layout, self.kept, samples)


def records_of(tables: Mapping[str, Xtables], prefix: str, request: str, only_foretell: bool) -> Records | None:
    """Those of this host; None where nothing tells whether rules have changed."""
    try:
        if all(tool.is_nft for tool in tables.values()):
            return HostRecords(
                NftMemory(prefix), request, only_foretell, lambda family, *key: tables[family].list_chain(*key)
            )
        if all(tool.is_legacy for tool in tables.values()):
            memory = LegacyMemory(prefix, partial(_look, tables), partial(_lock, tables, only_foretell))
            return HostRecords(memory, request, only_foretell)
    except XtablesError:
        pass
    return None


def _look(tables: Mapping[str, Xtables]) -> Reading:
    """The tables of both families, in the cheapest way that this host has. Raises XtablesError."""
    try:
        held = [read_table(family, table) for family in tables for table in TABLES]
    except OSError:
        text = "".join(_COUNTERS.sub("", tool.save(table)) for tool in tables.values() for table in TABLES)
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape"))
        return Reading(_entries(text), digest.hexdigest)
    return Reading(sum(one.length for one in held), lambda: " ".join(one.digest() for one in held))


def _entries(text: str) -> int:
    """As `Reading` counts them, in the words of ``iptables-save``."""
    return text.count("\n-A ") + 2 * text.count("\n:")


def _lock(tables: Mapping[str, Xtables], only_foretell: bool) -> XtablesLock | None:
    return XtablesLock() if not only_foretell and all(tool.has_lock_variable for tool in tables.values()) else None


def edits(families: FamilyPlans) -> Edits:
    """What these plans change."""
    texts = {COMMANDS[family]: one.restore for family, one in families.plans.items() if one.changed}
    entries = sum(_entries(one.after) - _entries(one.before) for one in families.plans.values())
    return Edits(families.transactions, entries, texts, all(one.from_nothing for one in families.plans.values()))


def request_digest(request: Request, payload: Mapping[str, str]) -> str:
    """Of all that a task asks for, whether its services came as they are or as one text; it begins with their digest."""
    services = payload["digest"] if payload else digest_of(request.services)
    return f"{services}-{memories.digest([request.state, request.exclusive, request.dataplane])}"


def services_of(request: Request, payload: Mapping[str, str]) -> Sequence[Any]:
    """The services as users write them, however they came. Raises InvalidServices for what the controller never sends."""
    try:
        return unpack(payload["body"]) if payload else request.services
    except ValueError as error:
        raise InvalidServices([f"payload: {error}"]) from error


def settings_digest(node: Node) -> str:
    """Of all that the rules of a service depend on beside the service: the node's settings, and the compiler itself."""
    return memories.digest([node, RULES_VERSION])


def whole_scope(state: str, services: Sequence[Any], exclusive: bool) -> Scope:
    return Scope(services, exclusive, services if state == "present" else [])


def partial_scope(
    request: Request, memory: Memory, node: Node, of_host: Collection[str], records: Records
) -> Scope | None:
    """The part of a node that differs from what a run left; None where the whole is no more work, or is needed.

    of_host: its address families. Raises InvalidServices for what was written otherwise than the last run had it.
    """
    found = memories.difference(memory, request.state, request.services, request.exclusive)
    if (
        found is None
        or not (found.kept or found.changed)
        or set(memory.shared) != set(of_host)
        or _keeps_chains(memory, node)
    ):
        return None
    observed = _observed(found, memory, request.dataplane, node, records)
    if observed is None:
        return None
    is_present = request.state == "present"
    udp = [raw for raw in request.services if raw.get("protocol") == "udp" and raw["name"] in found.kept]
    samples = [raw for raw in memory.samples if raw["name"] in found.kept]
    asked = {raw["name"] for raw in request.services}
    return Scope(
        services=found.changed if is_present else [{"name": name} for name in found.gone],
        exclusive=False,
        written=found.changed,
        gone=found.gone,
        unchanged=udp,
        observed=observed,
        kept=found.kept,
        similar=[raw for raw in samples if is_present and raw["name"] in asked],
        samples=samples,
    )


def _keeps_chains(memory: Memory, node: Node) -> bool:
    """Whether a service is left from other settings of the node, and needs a chain that those of now do not make."""
    layout = Layout(node.chain_prefix)
    marks, hairpin = (("nat", layout.shared(name)) for name in ("MARK-NONLOCAL", "HAIRPIN"))
    return any(
        (marks in one.chains and marks not in masquerade_chains(layout, node, family))
        or (hairpin in one.chains and node.backend_chains)
        for family, one in memory.shared.items()
    )


def _observed(
    found: Difference, memory: Memory, dataplane: str, node: Node, records: Records
) -> dict[str, Observed] | None:
    """The chains that serve all, and those of the services that differ: what was compiled is what is held.

    None when those that have to be read are many, or one is not there.
    """
    known = [memory.services[name] for name in found.names if name in memory.services]
    unwritten = [
        (family, chain) for one in known if one.raw is None for family in one.chains for chain in one.chains[family]
    ]
    if len(unwritten) > _MOST_CHAINS:
        return None
    observed = {family: Observed(dict(one.chains), dict(one.hooks)) for family, one in memory.shared.items()}
    for service in parse_services([one.raw for one in known if one.raw is not None], dataplane, node):
        for family in families(service, node):
            observed[family].chains.update(compile_service(service, node, family).chains)
    for family, chain in unwritten:
        rules = records.list_chain(family, chain)
        if rules is None:
            return None
        observed[family].chains["nat", chain] = rules
    return observed
