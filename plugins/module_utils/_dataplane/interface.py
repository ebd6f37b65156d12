# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The contract between a run and a dataplane.

A dataplane is a folder whose ``dataplane.py`` has a class that does what `Dataplane` says, and one line in `registry`.
`run` calls it in this order: ``compile``, ``observe``, ``plan``, and then the steps of the plan, unless in check mode. A switch from
one dataplane to another is the same in all directions: the new one's ``prepare`` and ``activate``, then what both ``retire``.
No two dataplanes share a chain, set, device or table, so that they can stand side by side meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Callable, NamedTuple, Protocol, TypeVar

from .._kernel.process import Runner
from .._model.conflicts import BackendOf, Claim
from .._model.request import Request
from .._model.service import Node, Service
from .._model.service_facts import ServiceFacts
from .._objects.boot import BootState
from .._objects.conntrack import Flow
from .._objects.node_facts import ChainOfOthers
from .._plan.transaction import Step
from .packet import Packet, Trace

Facility = TypeVar("Facility")


class Tracking(Protocol):
    """What is needed of connection tracking (`_kernel.conntrack.Conntrack`). Everything may raise ConntrackError."""

    def probe(self) -> None:
        """Raise ConntrackError where entries cannot be read."""

    def flows(self, protocols: Iterable[str]) -> list[Flow]:
        """Return the entries that have one of these protocols."""

    def delete(self, flow: Flow) -> bool:
        """Remove an entry; False when it had ended already."""


class Host(Protocol):
    """The node on which a run is made. Nothing is opened before it is asked for."""

    @property
    def check_mode(self) -> bool:
        """Whether nothing may be changed, caches included."""

    @property
    def runner(self) -> Runner:
        """What runs the tools of this host."""

    @property
    def tracking(self) -> Tracking:
        """Its connection tracking."""

    def facility(self, opened: Callable[[Host], Facility]) -> Facility:
        """Return what ``opened(host)`` returns: made when it is asked for first, and the same from then on.

        ``opened`` is a function of the dataplane's ``host.py``; unit tests hand in a fake for each such function.
        """


class Summary(NamedTuple):
    """What becomes of services: their names, sorted."""

    added: list[str]
    updated: list[str]
    removed: list[str]


class Observation(NamedTuple):
    """What a node holds in a dataplane, and what is to be done about it."""

    request: Request
    """What is left to do: the request itself, or a narrower one with the same effect, where a cache of the dataplane's own tells
    that the rest is so already. A narrower one is not exclusive: ``services`` are those that differ, as users write them,
    ``removed`` the names of others that have to be removed, ``unchanged`` those over UDP that stay but whose flows are judged.
    """
    state: Any
    """The dataplane's own: what its ``claims``, ``warnings`` and ``plan`` read."""
    facts: ServiceFacts = ServiceFacts()
    """Of the services that are in no part of ``request`` any more, because they are as asked for."""
    foreign_chains: Sequence[ChainOfOthers] | None = None
    """Base chains of nftables that others made, if observing has told them; None: `run` reads them."""


class Plan(Protocol):
    """What differs in a dataplane. Pure until a step is applied. Texts may be made when they are asked for first."""

    @property
    def summary(self) -> Summary:
        """What becomes of which service."""

    @property
    def changed(self) -> bool:
        """Whether anything differs; then, and only then, there is a diff. Steps beyond that change no facility (a cache)."""

    @property
    def diff(self) -> dict[str, str]:
        """The lines that are removed (``before``) and added (``after``) in the tools' own formats, sorted, each part under a
        line ``# TOOL``.
        """

    def prepare(self) -> list[Step]:
        """What may stand beside another dataplane, and carries nothing yet."""

    def activate(self) -> list[Step]:
        """From the end of these steps on this dataplane carries new connections."""

    def retire(self) -> list[Step]:
        """What is removed last, once nothing leads to it any more. A plan without any service left has all its steps here."""


class Presence(Protocol):
    """The part of a dataplane that is asked in runs of others (`registry.presence`)."""

    @property
    def name(self) -> str:
        """Its name, as users write it."""

    @property
    def uses_iptables(self) -> bool:
        """Whether the rules of the roles bridge and backend are iptables' with this dataplane; otherwise they are nftables'."""

    @property
    def takes_input(self) -> bool:
        """Whether connections to services come to the node's own hook input, untranslated, as those to its own programs do."""

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What reading or changing its facilities raises; each text is one line for the user."""

    def in_use(self, host: Host, node: Node) -> bool:
        """Tell whether anything of this dataplane is on the host, without needing its tools, and at no cost worth mentioning.

        Raises one of ``errors`` where that cannot be told: could not read is never nothing there.
        """


class Dataplane(Presence, Protocol):
    """One way to carry packets. Desired and observed state are of types of its own, which nobody else looks into."""

    def problems(self, services: Sequence[Service], node: Node) -> list[str]:
        """Return what this dataplane cannot do, one line each that begins with ``service "NAME": `` or ``node: ``. Pure."""

    def compile(self, services: Sequence[Service], node: Node) -> Any:
        """Return the wanted state of these services alone. Pure."""

    def bound_addresses(self, services: Sequence[Service], node: Node) -> Collection[str]:
        """Return the addresses of services that the node itself has in this dataplane, beside its own. Pure."""

    def observe(self, host: Host, node: Node, request: Request) -> Observation:
        """Look at what the kernel holds. The long part of it may wait until `claims`, `warnings` or `plan` needs it, so that a
        request that is wrong is told of first. Raises one of ``errors``.
        """

    def claims(
        self,
        observed: Observation,
        node: Node,
        at: Collection[str | None] | None = None,
        of: Collection[str] | None = None,
    ) -> Mapping[str, Sequence[Claim]]:
        """Return what the services that the node has have taken for themselves, by address family, read back from its kernel.

        at: only claims of these addresses, None among them for node ports. of: only those of these services. Without either all.
        Conflicts, the clean-up of UDP flows and switches of dataplane ask for it. May read what `observe` has left to be read.
        """

    def backends(self, observed: Observation, node: Node, at: Collection[tuple[str, str, int]]) -> Iterable[BackendOf]:
        """Return which of these protocols, addresses and ports are backends of services that the node has, read back like `claims`.

        Asked where the request is not exclusive. Of services that it names, nobody wants to know.
        """

    def warnings(self, host: Host, observed: Observation, node: Node, families: Collection[str]) -> list[str]:
        """Return what is in the way of services though it is not ours to change, one line each.

        Asked in every run that has services present, also in one that changes nothing. families: those in which they answer.
        """

    def plan(self, host: Host, node: Node, desired: Any, observed: Observation) -> Plan:
        """Compare both states. Where ``observed.request.dataplane`` is another, that one takes over what this one had.

        With ``observed.request`` not exclusive, services that it does not name are kept to the letter.

        desired: what ``observed.request.services`` compile to; nothing with state absent. Raises one of ``errors``, also where the host
        has no means for a family that has services, and InvalidServices where an object of somebody else is in the way.
        """

    def review(self, desired: Any, node: Node, families: Sequence[str]) -> str:
        """Return for people what a plan adds to a node that has nothing: its diff ``after``, without settings of the kernel. Pure.

        families: only of these address families; of a single one, if a single tool takes all of it, without the line ``# TOOL``.
        """

    def render(self, desired: Any, node: Node) -> BootState:
        """Return what brings this state back after a boot. Pure. `_node.boot` makes files of it, in the tools' own formats."""

    def edited(self, before: BootState, desired: Any, names: Collection[str], node: Node) -> BootState | None:
        """Return what `render` gives where services of these names are as compiled, or gone, and others as in ``before``.

        None where that takes all services. ``before`` has nothing but rules. Pure.
        """

    def trace(self, desired: Any, node: Node, packet: Packet) -> Trace:
        """Follow the first packet of a connection. packet: its local addresses include `bound_addresses`. Pure."""

    def info(self, host: Host, node: Node) -> dict[str, Any]:
        """Return ``services`` (dicts, by name), ``counts`` (numbers by what is counted) and ``unreadable`` (one line by tool)."""
