# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The compiled rules, followed packet by packet, do what the semantics ask, in every combination."""

from __future__ import annotations

from typing import Any

import pytest
from agreement import agree, met
from matrix import FAMILIES, SETTINGS, Kind, Question, kinds, node, questions

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.iptables.compile import compile_services
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.ipvs.compile import (
    bound_addresses,
    compile_frontends,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.ipvs.rules import wanted_chains
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.ipvs.sets import wanted_sets
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.ipvs.trace import trace_ipvs
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.netfilter.walk import trace
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.packet import Packet
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import parse_node, parse_services
from ansible_collections.layer4.service_proxy.tests.unit.sampling import some


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_combination_meets_what_the_semantics_say(family: str, settings: str) -> None:
    raw_node = node(settings)
    parsed = parse_node(raw_node)
    for kind in some(kinds(family, settings)):
        service = kind.service(1)
        state = compile_services(parse_services([service], parsed), parsed)[family]
        for question in questions(kind):
            wanted = question.expected(service, raw_node, family)
            found = trace(state, packet(kind, question, service, parsed.addresses))
            assert agree(found, wanted), (kind, question, wanted, met(found), found.steps)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_combination_meets_what_the_semantics_say_of_ipvs(family: str, settings: str) -> None:
    raw_node = node(settings, "ipvs")
    parsed = parse_node(raw_node)
    for kind in some(kinds(family, settings)):
        service = kind.service(1)
        frontends = compile_frontends(parse_services([service], parsed), parsed)
        state, sets = wanted_chains(frontends, parsed)[family], wanted_sets(frontends, parsed)
        own = (*parsed.addresses, *bound_addresses(frontends.values(), parsed))
        for question in questions(kind, "ipvs"):
            wanted = question.expected(service, raw_node, family, "ipvs")
            asked = packet(kind, question, service, own)
            if question.source == "node1" and asked.destination in own:
                asked = asked._replace(source=asked.destination)
            found = trace_ipvs(state, frontends, sets, asked)
            assert agree(found, wanted), (kind, question, wanted, met(found), found.steps)


def packet(kind: Kind, question: Question, service: dict[str, Any], addresses: tuple[str, ...]) -> Packet:
    destination, port = question.destination(service, kind.family)
    return Packet(question.origin(kind.family), destination, service["protocol"], port, addresses)
