# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How much of a node a run of the iptables dataplane has to look at: everything, or what differs from what a run left."""

from __future__ import annotations

import hashlib
import pkgutil
import re
from functools import partial
from types import MappingProxyType
from typing import (
    AbstractSet,
    Any,
    Callable,
    Collection,
    Dict,
    Iterator,
    Mapping,
    NamedTuple,
    Optional,
    Protocol,
    Sequence,
    Set,
    Union,
)

from .dataplane.rules import Layout
from .dataplane.shared_chains import masquerade_chains
from .families import FamilyPlans
from .kernel.legacy_tables import fingerprint
from .kernel.memory import Edits, Left, LegacyMemory, NftMemory
from .kernel.xtables import COMMANDS, Xtables, XtablesError
from .payload import digest_of, unpack
from .plan import memory as memories
from .plan.memory import Brief, Difference, Known, Memory
from .ruleset import Observed
from .service import InvalidServices, Node
from .services_request import Request

_COMPILER = ("chances", "dispatch", "iptables", "pools", "rules", "shared_chains")
TABLES = ("filter", "nat")
ListChain = Callable[[str, str], Optional[Sequence[str]]]
_NO_RULE = re.compile(r"^(?:#|\*|COMMIT$).*\n| \[\d+:\d+\]$", re.MULTILINE)
"""Comments, the frame of a table, and the counters of chains."""
_MOST_CHAINS = 400
"""Reading so many chains one by one takes as long as reading some thousand services whole."""


class Records(Protocol):
    """What a run leaves for the next."""

    def repeated(self) -> Optional[Brief]:
        """What the last run left in short, if it was asked for the same and no rule has changed since."""

    @property
    def state(self) -> str:
        """A text that the host's rules have only as long as nobody changes one; empty where it is not known."""

    def recall(self) -> Optional[Memory]:
        """What the last run left, if no rule has changed since."""

    def watch(self) -> None:
        """Look at the rules, before `recall`, so that `keep` can tell what else than its edits has changed them."""

    def list_chain(self, family: str, chain: str) -> Optional[Sequence[str]]:
        """The rules of a chain of table nat, since `watch`; None where there is no such chain."""

    def prepare(self, memory: Memory) -> Optional[Left]:
        """What `keep` leaves of this memory; None where it is not worth it."""

    def keep(self, left: Optional[Left], edits: Edits) -> None:
        """Leave this, if since `recall` nothing but these edits has changed rules."""

    def forget(self) -> None:
        """Leave nothing."""


class HostRecords:
    """Those of a host. request: a digest of all that is asked for.

    list_chain: the rules of a chain of table nat, by its family and name.
    """

    def __init__(self, memory: Union[NftMemory, LegacyMemory], request: str, list_chain: ListChain) -> None:
        self._memory = memory
        self._request, self.list_chain = request, list_chain
        self._left: Optional[Left] = None

    def repeated(self) -> Optional[Brief]:
        """What the last run left in short, if it was asked for the same and no rule has changed since."""
        if self._memory.brief().get("request") != self._request:
            return None
        left = self._memory.recall()
        return memories.brief_from_plain(left.brief) if left else None

    @property
    def state(self) -> str:
        """A text that the host's rules have only as long as nobody changes one; empty where it is not known."""
        try:
            return self._memory.state
        except OSError:
            return ""

    def recall(self) -> Optional[Memory]:
        left = self._memory.recall()
        memory = memories.from_json(left.whole) if left else None
        self._left = left if memory else None
        return memory

    def watch(self) -> None:
        self._memory.watch()

    def prepare(self, memory: Memory) -> Optional[Left]:
        if not memory.services:
            return None
        return Left({"request": self._request, **memories.brief(memory)._asdict()}, memories.to_json(memory))

    def keep(self, left: Optional[Left], edits: Edits) -> None:
        if left is None:
            self.forget()
        elif edits.transactions or left != self._left:
            self._memory.keep(left, edits)

    def forget(self) -> None:
        self._memory.forget()


class Scope(NamedTuple):
    """What a run looks at. services: as users write them, or with names alone; gone: names of further services that go.

    unchanged: those that stay but whose flows are judged nevertheless. similar: of those asked for
    that stay, some of each kind, for warnings. samples: the same of all that stay.
    observed: None for all that the kernel holds. written: services as users write them, to be remembered.
    """

    services: Sequence[Any]
    exclusive: bool
    written: Sequence[Any]
    gone: AbstractSet[str] = frozenset()
    unchanged: Sequence[Any] = ()
    observed: Optional[Dict[str, Observed]] = None
    kept: Mapping[str, Known] = MappingProxyType({})
    similar: Sequence[Any] = ()
    samples: Sequence[Any] = ()

    @property
    def backends(self) -> Set[str]:
        """Addresses of backends of services that are not looked at."""
        return {address for known in self.kept.values() for address in known.backends}

    @property
    def sets(self) -> Set[str]:
        """ipsets of services that are not looked at."""
        return {name for known in self.kept.values() for name in known.sets}

    def record(self, settings: str, held: Mapping[str, Observed], layout: Layout) -> Memory:
        """What is worth remembering of the run that ends in this state."""
        samples = memories.samples([*self.samples, *self.written])
        return memories.remember(settings, self.written, held, layout, self.kept, samples)


def records_of(tables: Mapping[str, Xtables], prefix: str, request: str) -> Optional[Records]:
    """Those of this host; None where nothing tells whether rules have changed."""
    try:
        if all(tool.is_nft for tool in tables.values()):
            return HostRecords(
                NftMemory(prefix), request, lambda family, chain: tables[family].list_chain("nat", chain)
            )
        if all(tool.is_legacy for tool in tables.values()):
            memory = LegacyMemory(prefix, partial(_fingerprint, tables), partial(_texts, tables))
            return HostRecords(memory, request, lambda family, chain: memory.list_chain(family + " nat", chain))
    except XtablesError:
        pass
    return None


def _fingerprint(tables: Mapping[str, Xtables]) -> str:
    """Of the tables of both families, in the cheapest way that this host has. Raises XtablesError."""
    try:
        return " ".join(fingerprint(family, table) for family in tables for table in TABLES)
    except OSError:
        return hashlib.sha256("\0".join(_texts(tables).values()).encode("utf-8", "surrogateescape")).hexdigest()


def _texts(tables: Mapping[str, Xtables]) -> Dict[str, str]:
    """What the tables of both families hold, by family and table. Raises XtablesError."""
    return {
        "%s %s" % (family, table): _rules_alone(tool.save(table)) for family, tool in tables.items() for table in TABLES
    }


def _rules_alone(text: str) -> str:
    """Chains and rules of one table. Counters are those of chains, whose lines stand in front of all rules."""
    chains, first, rules = text.partition("\n-A ")
    if not first:
        return _NO_RULE.sub("", text)
    return _NO_RULE.sub("", chains + "\n") + first[1:] + rules.rpartition("COMMIT\n")[0]


def edits(families: FamilyPlans) -> Edits:
    """What these plans change; lines in the words of `_texts`."""
    gone = [line for family, one in families.plans.items() for line in _diff_lines(family, one.before)]
    come = [line for family, one in families.plans.items() for line in _diff_lines(family, one.after)]
    texts = {COMMANDS[family]: one.restore for family, one in families.plans.items() if one.changed}
    return Edits(families.transactions, gone, come, texts)


def _diff_lines(family: str, text: str) -> Iterator[str]:
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line != "COMMIT":
            yield "%s %s %s" % (family, table, line if line[:1] == "-" else _NO_RULE.sub("", line))


def request_digest(request: Request, payload: Mapping[str, str]) -> str:
    """Of all that a task asks for, whether its services came as they are or as one text."""
    services = payload["digest"] if payload else digest_of(request.services)
    return memories.digest([services, request.state, request.exclusive, request.dataplane])


def services_of(request: Request, payload: Mapping[str, str]) -> Sequence[Any]:
    """The services as users write them, however they came. Raises InvalidServices for what the controller never sends."""
    try:
        return unpack(payload["body"]) if payload else request.services
    except ValueError as error:
        raise InvalidServices(["payload: %s" % error]) from error


def settings_digest(node: Node) -> str:
    """Of all that the rules of a service depend on beside the service: the node's settings, and the compiler itself."""
    package = __package__ or ""
    code = [pkgutil.get_data(package + ".dataplane", name + ".py") or b"" for name in _COMPILER]
    return memories.digest([node, [part.decode() for part in code]])


def whole_scope(state: str, services: Sequence[Any], exclusive: bool) -> Scope:
    return Scope(services, exclusive, services if state == "present" else [])


def partial_scope(
    state: str,
    services: Sequence[Any],
    exclusive: bool,
    memory: Memory,
    node: Node,
    families: Collection[str],
    records: Records,
) -> Optional[Scope]:
    """The part of a node that differs from what a run left; None where the whole is no more work, or is needed."""
    found = memories.difference(memory, state, services, exclusive)
    if found is None or not found.kept or set(memory.shared) != set(families) or _keeps_chains(memory, node):
        return None
    observed = _observed(found, memory, records)
    if observed is None:
        return None
    udp = [raw for raw in services if raw.get("protocol") == "udp" and raw["name"] in found.kept]
    samples = [raw for raw in memory.samples if raw["name"] in found.kept]
    asked = {raw["name"] for raw in services}
    return Scope(
        services=found.changed if state == "present" else [{"name": name} for name in found.gone],
        exclusive=False,
        written=found.changed,
        gone=found.gone,
        unchanged=udp,
        observed=observed,
        kept=found.kept,
        similar=[raw for raw in samples if state == "present" and raw["name"] in asked],
        samples=samples,
    )


def _keeps_chains(memory: Memory, node: Node) -> bool:
    """Whether a service is left from other settings of the node, and needs a chain that those of now do not make."""
    layout = Layout(node.chain_prefix)
    key = ("nat", layout.shared("MARK-NONLOCAL"))
    return any(
        key in one.chains and key not in masquerade_chains(layout, node, family)
        for family, one in memory.shared.items()
    )


def _observed(found: Difference, memory: Memory, records: Records) -> Optional[Dict[str, Observed]]:
    """The chains that serve all, and those of the services that differ; None when they are many, or one is not there."""
    known = [memory.services[name] for name in found.names if name in memory.services]
    wanted = [(family, chain) for one in known for family, chains in one.chains.items() for chain in chains]
    if len(wanted) + len(found.changed) > _MOST_CHAINS:
        return None
    observed = {family: Observed(dict(one.chains), dict(one.hooks)) for family, one in memory.shared.items()}
    for family, chain in wanted:
        rules = records.list_chain(family, chain)
        if rules is None:
            return None
        observed[family].chains["nat", chain] = rules
    return observed
