# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A request narrowed to the services that are asked for differently than a run has left them (`cache`). Pure.

What is not worth it, or may be wrong with regard to services that stay, is not narrowed: then all is parsed, compiled and compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..._model import addresses as ip
from ..._model.conflicts import claims
from ..._model.payload import texts_of
from ..._model.request import Request
from ..._model.service import InvalidServices, Node, Service, parse_names, parse_services
from ..._model.service_facts import ServiceFacts, facts_in, facts_of
from ..._objects.nftables import Table
from ..._objects.nftables_changes import TableId
from .cache import Record
from .compile import compile_services
from .counts import Counts, count
from .host import TABLES
from .maps import Maps
from .numbers import first_numbers
from .tables import make_table

_NAME = re.compile(r'"name":"([^"]*)"')
"""In the line of a service; in no other string of JSON are these quotes."""
_IS_UDP = '"protocol":"udp"'
_WORTH = 4
"""If more than one of so many services differ, all are looked at."""


class Texts(NamedTuple):
    """Services as lines: those that are to be made, that go, and that stay as they are."""

    new: list[str]
    gone: list[str]
    kept: list[str]
    asked: list[str]  # of those that stay, those that the request names


class Narrowed(NamedTuple):
    """What is left to do of a request, and how the tables differ for it: of both states only what may differ, and what leads to it."""

    request: Request
    facts: ServiceFacts
    """Of services that the request names and that stay."""
    wanted: Mapping[TableId, Table]
    held: Mapping[TableId, Table]
    left: Record
    """What to leave for the next run, but for the generation and the digest of tables."""
    is_recorded: bool
    """Whether that is what the last run has left."""
    has_new_claims: bool
    """Whether services take anything that none of those that change had."""


def narrowed(record: Record, request: Request, node: Node, asked: str) -> Narrowed | None:
    """Return what differs from what a run left; None where everything is to be looked at. asked: a digest of the request."""
    try:
        texts = _texts(record, request, asked)
        if texts is None or (len(texts.new) + len(texts.gone)) * _WORTH > len(record.texts):
            return None
        new, old = (parse_services(_raw(lines), node) for lines in (texts.new, texts.gone))
        found = _narrowed(record, request, node, texts, new, old)
        if found is None:
            return None
        is_same = not texts.new and not texts.gone
        left = found.left._replace(asked=asked or (record.asked if is_same else ""))
        return found._replace(left=left, is_recorded=is_same and left.asked == record.asked)
    except (InvalidServices, TypeError):
        return None


def _texts(record: Record, request: Request, asked: str) -> Texts | None:
    if request.state == "absent":
        return None if request.exclusive else _split(record.texts, [], set(parse_names(request.services)))
    if record.asked and record.asked == asked:
        return Texts([], [], list(record.texts), list(record.texts))
    texts = texts_of(request.services)
    named = set(texts)
    known = set(record.texts)
    if len(named) != len(texts):
        return None
    new = [text for text in texts if text not in known]
    if not request.exclusive:
        found = _split(record.texts, new, _names(new))
        return found._replace(asked=[text for text in found.kept if text in named])
    gone = [text for text in record.texts if text not in named]
    kept = [text for text in record.texts if text in named]
    added = _names(new) - _names(gone)
    return None if added and added & _names(kept) else Texts(new, gone, kept, kept)


def _split(known: Iterable[str], new: list[str], names: Collection[str]) -> Texts:
    """Let those go that have one of these names."""
    found = Texts(new, [], [], [])
    for text in known:
        (found.gone if _name(text) in names else found.kept).append(text)
    return found


def _narrowed(
    record: Record, request: Request, node: Node, texts: Texts, new: list[Service], old: list[Service]
) -> Narrowed | None:
    made, had = compile_services(new, node), compile_services(old, node)
    kept = record.counts.plus(count(old, had, node), -1)
    counts = kept.plus(count(new, made, node))
    numbers = _numbers(record, new, old)
    taken = {claim[2:] for one in old for claim in claims(one)}
    fresh = [claim.address for one in new for claim in claims(one) if claim[2:] not in taken]
    if (
        numbers is None
        or counts.families() != record.counts.families()
        or _may_meet(kept, new, old, fresh, texts, node)
    ):
        return None
    wanted, held = (_tables(kept, elements, node, [*new, *old]) for elements in (made, had))
    names = frozenset(_names(texts.gone) - _names(texts.new))
    is_present = request.state == "present"
    rest = request._replace(
        services=_raw(texts.new),
        exclusive=False,
        removed=names,
        unchanged=_raw(text for text in texts.asked if _IS_UDP in text) if is_present else (),
    )
    facts = _facts(kept, texts, node) if is_present else ServiceFacts()
    left = record._replace(numbers=sorted(numbers), counts=counts, texts=[*texts.kept, *texts.new])
    return Narrowed(rest, facts, wanted, held, left, False, bool(fresh))


def _facts(kept: Counts, texts: Texts, node: Node) -> ServiceFacts:
    """Of services that stay, those that are asked for."""
    if len(texts.asked) == len(texts.kept):
        return facts_in(kept.facts)
    return facts_of(parse_services(_raw(texts.asked), node), node)


def _numbers(record: Record, new: Iterable[Service], old: Iterable[Service]) -> set[int] | None:
    """Return the numbers in use; None where two services or backends want the same."""
    added, gone = first_numbers(new), first_numbers(old)
    if added is None or gone is None:
        return None
    kept = set(record.numbers) - gone
    return None if kept & added else kept | added


def _may_meet(
    kept: Counts, new: Iterable[Service], old: Iterable[Service], fresh: Sequence[str | None], texts: Texts, node: Node
) -> bool:
    """Whether a backend may be where another service answers, one of both being a service that stays.

    fresh: the addresses at which services answer that did not, None for node ports.
    """
    known = {backend.address for one in old for backend in one.backends}
    reached = {backend.address for one in new for backend in one.backends} - known
    if reached & (kept.facts["addresses"].keys() | set(node.addresses)):
        return True
    if not fresh:
        return False
    if kept.facts["local_backend_families"]:
        return True
    of_ipv6 = any(address and ip.family_of(address) == ip.IPV6 for address in fresh)
    words = [f'"{address}"' for address in fresh if address]
    return of_ipv6 or any(f'"address":{word}' in text for text in texts.kept for word in words)


def _tables(kept: Counts, elements: Mapping[str, Maps], node: Node, services: list[Service]) -> dict[TableId, Table]:
    """The tables with these elements, and with one for all of those that stay and lead to the same."""
    found = {}
    for family in kept.families() | {family for family, one in elements.items() if one}:
        services_of = kept.kept(family)
        for name, one in elements.get(family, {}).items():
            services_of[name] = {**services_of.get(name, {}), **one}
        found[TABLES[family]] = make_table(services_of, node, family, kept.shared(family, services))
    return found


def _name(text: str) -> str:
    found = _NAME.search(text)
    return found[1] if found else ""


def _names(texts: Iterable[str]) -> set[str]:
    return set(map(_name, texts))


def _raw(texts: Iterable[str]) -> list[Any]:
    return [json.loads(text) for text in texts]
