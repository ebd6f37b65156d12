# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The file in which a run of the iptables dataplane leaves what the next one need not read (`cache`).

It is the affair of this folder alone. Whatever in it is missing, damaged or not certain any more is as if there were no file:
then the kernel is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from ..._kernel.rules_state import digest_of_chains
from ..._model.payload import digest_of
from ..._model.request import Request
from ..._model.service import Node
from ..._node_checks.facts import chains_of_others
from ..._objects.iptables import ChainKey, Rules
from ..._objects.node_facts import ChainOfOthers
from ..._plan.iptables_steps import FamilyPlans
from ..interface import Host
from ..netfilter.facilities import rules_state, tables
from ..records import RecordFile
from . import cache
from .cache import CachedState, CacheHeader

RULES_VERSION = 3
"""Raised by hand whenever the compiler makes other rules of the same services, so that an older cache is not believed."""

_saved: dict[str, CachedState] = {}
"""What this process has left last, by the text of the file: the daemon of health checks need not take it apart in its next run."""


class Edits(NamedTuple):
    """How a run has changed rules."""

    transactions: int
    removed: str
    """The lines that are removed; those that are added."""
    added: str


class Store:
    """The cache of one run: what the last left, and what it leaves itself."""

    def __init__(self, host: Host, node: Node, request: Request) -> None:
        self.request = request
        self._node = node
        self._file = RecordFile(node.chain_prefix)
        self._tables = host.facility(tables)
        self._rules = host.facility(rules_state)
        self._seen = ""
        self._text = ""
        self.header: CacheHeader | None = None
        self.is_disturbed = False
        """Whether somebody else has changed rules since the last run, though perhaps nothing of ours."""
        self._foreign: Sequence[ChainOfOthers] | None = None

    @cached_property
    def settings(self) -> str:
        """A digest of all that the rules of a service depend on beside the service."""
        return cache.digest([self._node, RULES_VERSION])

    @cached_property
    def asked(self) -> str:
        """A digest of all that the run is asked for."""
        request = self.request
        return cache.digest([digest_of(request.services), request.state, request.exclusive, request.dataplane])

    @property
    def foreign_chains(self) -> Sequence[ChainOfOthers]:
        """The chains of others: as the last run saw them, if since then nobody can have changed them."""
        if self._foreign is None:
            self._foreign = chains_of_others()
        return self._foreign

    def load(self) -> bool:
        """Find whether there is a header that tells of the rules of now. To be called before anything is read."""
        self._seen = self._rules.now()
        self._text = self._file.load()
        header = cache.decode_header(self._text) if self._seen else None
        if header is None or header.settings != self.settings:
            return False
        self.is_disturbed = header.state != self._seen
        if self.is_disturbed and not self._is_same_to_us(header):
            return False
        if not self.is_disturbed and self._rules.is_nft:
            self._foreign = header.foreign_chains
        self.header = header
        return True

    def _is_same_to_us(self, header: CacheHeader) -> bool:
        """Whether none of our chains is among what others have changed."""
        known = header.digest if self._rules.is_nft else ""
        return bool(known) and known == digest_of_chains(self._node.chain_prefix, self._seen)

    def rest(self) -> CachedState | None:
        """Return all that the last run left; None where that is nothing."""
        if not self.header:
            return None
        return _saved.get(self._text) or cache.decode(self._text)

    def hooks(self) -> Mapping[str, Mapping[ChainKey, Rules]]:
        """Return the built-in chains of now. Raises XtablesError."""
        if self.header is None:
            return {}
        if not self.is_disturbed:
            return self.header.hooks
        return {
            family: {key: self._tables[family].list_chain(*key) or [] for key in chains}
            for family, chains in self.header.hooks.items()
        }

    def list_chain(self, family: str, chain: str) -> Sequence[str] | None:
        """Return the rules of a chain of table nat; None where there is none, or reading it is no less than reading all."""
        return self._tables[family].list_chain("nat", chain) if self._rules.is_nft else None

    def save(self, made: CachedState, edits: Edits) -> None:
        """Leave this for the next run, if since `load` nothing but these edits has changed rules."""
        before, self._seen = self._seen, ""
        now = self._rules.after(before, edits.transactions, edits.removed, edits.added) if made.services else ""
        if not now:
            self.forget()
            return
        known = self.header.digest if self.header else ""
        if edits.transactions or not known:
            known = digest_of_chains(self._node.chain_prefix, now) if self.is_disturbed else ""
        hooks = {family: dict(one.hooks) for family, one in made.shared.items()}
        facts = cache.all_facts(made.services.values())
        foreign = list(self.foreign_chains) if self._rules.is_nft else []
        header = CacheHeader(now, known, self.settings, self.asked, cache.has_udp(made), facts, hooks, foreign)
        self._seen = now
        text = cache.encode(header, made)
        _saved.clear()
        _saved[text] = made
        self._file.save(text)

    def touch(self) -> None:
        """Leave what `load` found for the next run, where others have changed rules but none of ours."""
        if self.header and self.is_disturbed:
            header = self.header._replace(state=self._seen, foreign_chains=list(self.foreign_chains))
            self._file.save(cache.encode_header(header) + self._text.partition("\n")[2])

    def forget(self) -> None:
        """Leave nothing."""
        self._seen = ""
        self._file.forget()


def edits(families: FamilyPlans) -> Edits:
    """Return what these plans change."""
    removed, added = ("".join(getattr(one, side) for one in families.plans.values()) for side in ("before", "after"))
    return Edits(families.transactions, removed, added)
