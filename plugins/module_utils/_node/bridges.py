# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bridges with backends: which they are, their modes now and at boot, and the rules that forward inside of them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .._kernel.link import addresses
from .._kernel.process import Runner
from .._model import addresses as ip
from .._model.fields import quoted
from . import bridge_modes
from .bridge_modes import DATA, Links, Mode, set_mode, wanted_modes
from .change import Change, NodeError, lines, printable
from .files import File, plan_files, read_text
from .settings import Bridge, Settings
from .units import Unit, quoted_word

SCRIPT = "/usr/local/sbin/layer4-service-proxy-bridges"
UDEV_RULES = "/etc/udev/rules.d/80-layer4-service-proxy.rules"
UNIT = "layer4-service-proxy-hairpin.service"
_UDEV_TEXT = f"""\
# Role layer4.service_proxy.bridge
ACTION=="add", SUBSYSTEM=="net", TAG+="systemd", ENV{{SYSTEMD_WANTS}}+="{UNIT}"
"""
_LONGEST_NAME = 15
"""IFNAMSIZ without the end of the string."""
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:@-")
_NO_POLICY: dict[str, list[str]] = {"promiscuous": [], "bridges": [], "ports": []}


class ModePlan(NamedTuple):
    """What becomes of the modes of bridges and ports."""

    policy: dict[str, list[str]]
    """What the script is to set."""
    theirs: list[Mode]
    """Wanted modes that were on before, and stay when they are no longer wanted."""
    end: list[Mode]
    """Modes of ours that are no longer wanted."""
    begin: list[Mode]
    """Wanted modes that are off."""


def is_safe_name(name: str) -> bool:
    """Return whether rules can name a link of this name exactly: in iptables ``+`` at the end matches all that begins so."""
    return 0 < len(name) <= _LONGEST_NAME and _SAFE.issuperset(name) and not name.startswith("-")


def local_bridges(settings: Settings, links: Links, runner: Runner) -> list[str]:
    """Return the bridges that have an address inside of the local networks. Raises LinkError."""
    if not settings.local_cidrs or not links.ports:
        return []
    found = addresses(runner)
    networks = [ip.canonical_network(cidr) for cidr in settings.local_cidrs]
    return [
        name
        for name in links.ports
        if any(ip.contains(network, address) for network in networks for address in found.get(name, ()))
    ]


def refuse_wrong_bridges(settings: Settings, links: Links, host: str) -> None:
    """Raise NodeError for bridges and ports that are given and do not exist, or that no rule can name."""
    given = (settings.given_bridges or []) if settings.is_present else []
    for one in given:
        if not is_safe_name(one.name):
            raise NodeError(
                f"service_proxy_bridges: name is {quoted(one.name)}: must be 1 to {_LONGEST_NAME} letters, digits and _.:@-"
            )
    ports = {port for found in links.ports.values() for port in found}
    missing = [one.name for one in given if one.name not in links.ports]
    missing += [port for one in given if one.mode != "none" for port in one.ports if port not in ports]
    if missing:
        names = ", ".join(map(printable, missing))
        raise NodeError(f"service_proxy_bridges: {host} has no bridge or bridge port named {names}")


def wanted_bridges(settings: Settings, local: Sequence[str]) -> list[Bridge]:
    """Return the bridges that are given, or those of local networks whose names rules can say."""
    if not settings.is_present:
        return []
    given = settings.given_bridges
    return [Bridge(name, "hairpin", ()) for name in local if is_safe_name(name)] if given is None else given


def unnamable(settings: Settings, local: Sequence[str]) -> list[str]:
    """Return the bridges of local networks that are left alone because of their names."""
    if settings.given_bridges is not None or not settings.is_present:
        return []
    return [printable(name) for name in local if not is_safe_name(name)]


def policy_of(bridges: Sequence[Bridge]) -> dict[str, list[str]]:
    """Return what `bridge_modes` is to set.

    Promiscuous bridges get the hairpin mode, too: the frames that such a bridge takes for the host itself are no longer tracked
    (Linux 6.9 and the stable kernels since April 2024, commit 751de2012eaf), so that the promiscuous mode alone masquerades nothing.
    """
    changed = [one for one in bridges if one.mode != "none"]
    return {
        "promiscuous": [one.name for one in changed if one.mode == "promiscuous"],
        "bridges": [one.name for one in changed if not one.ports],
        "ports": [port for one in changed for port in one.ports],
    }


def plan_modes(policy: Mapping[str, list[str]], recorded: Mapping[str, Any], links: Links) -> ModePlan:
    """Return the difference. recorded: the policy of the last run, with the modes that were on without it (``theirs``)."""
    wanted, before = wanted_modes(dict(policy), links), wanted_modes({**_NO_POLICY, **recorded}, links)
    on = {mode for mode in {*wanted, *before} if links.has(mode)}
    were_theirs = {Mode(*mode) for mode in recorded.get("theirs", ())}
    return ModePlan(
        dict(policy),
        [mode for mode in wanted if mode in were_theirs or (mode in on and mode not in before)],
        [mode for mode in before if mode in on and mode not in wanted and mode not in were_theirs],
        [mode for mode in wanted if mode not in on],
    )


def read_record() -> dict[str, Any]:
    """Return what the last run recorded; empty where there was none. Raises NodeError where it cannot be read."""
    text = read_text(DATA)
    try:
        found = json.loads(text or "{}")
        policy = {key: [*found[key]] for key in _NO_POLICY if key in found}
        theirs = [Mode(*mode) for mode in found.get("theirs", ())]
        if not all(isinstance(name, str) for names in (*policy.values(), *theirs) for name in names):
            raise ValueError("a name is no string")
        return {**policy, "theirs": theirs}
    except (ValueError, TypeError, AttributeError) as error:
        raise NodeError(f"{DATA} is damaged ({error}): remove it") from error


def mode_change(name: str, modes: Sequence[Mode], on: bool) -> Change:
    """Return the change that sets these modes on, or off."""

    def apply() -> None:
        for mode in modes:
            try:
                set_mode(mode, on)
            except OSError as error:
                raise NodeError(f"{mode.kind} of {printable(mode.name)}: {error.strerror}") from error

    sides = [lines(f"{kind} {printable(link)} {state}" for kind, link in modes) for state in ("off", "on")]
    return Change(name, sides[not on], sides[on], apply)


def record_change(plan: ModePlan) -> Change:
    """Return the change of the data file. Written before modes are set, so that a run that is killed does not forget."""
    text = json.dumps({**plan.policy, "theirs": plan.theirs}, indent=1) + "\n"
    return plan_files("bridge modes at boot", {DATA: File(text) if is_hairpin_wanted(plan) else None})


def is_hairpin_wanted(plan: ModePlan) -> bool:
    """Return whether modes are to be set at boot."""
    return any(plan.policy[key] for key in _NO_POLICY)


def boot_files(plan: ModePlan) -> Change:
    """Return the change of the script and of the udev rule that starts it for each new link."""
    is_wanted = is_hairpin_wanted(plan)
    has_udev = os.path.isdir(os.path.dirname(UDEV_RULES))
    return plan_files(
        "bridge modes at boot",
        {
            SCRIPT: File(_script_text(), 0o755) if is_wanted else None,
            UDEV_RULES: File(_UDEV_TEXT) if is_wanted and has_udev else None,
        },
    )


def _script_text() -> str:
    """Return the source of `bridge_modes`, which Ansible has sent along."""
    source: str | None = bridge_modes.__loader__.get_source(bridge_modes.__name__)  # type: ignore[union-attr]
    if source is None:
        raise NodeError("the source of bridge_modes was not sent")
    return source


def unit() -> Unit:
    """Return the unit that sets the modes."""
    text = f"""\
# Role layer4.service_proxy.bridge. Started at boot, and by udev for each new link.
[Unit]
Description=Hairpin mode of bridge ports for layer4.service_proxy
After=network.target

[Service]
Type=oneshot
ExecStart={quoted_word(sys.executable)} -I {SCRIPT}

[Install]
WantedBy=multi-user.target
"""
    return Unit(UNIT, text, "multi-user.target", started=False)


def chain_request(settings: Settings, bridges: Sequence[Bridge]) -> dict[str, Any]:
    """Return the chain that forwards inside of bridges, as `nat_chain` takes it, in the spelling of iptables-save.

    A promiscuous bridge hands the host a second, untracked copy of frames to a service, which the host would forward once more.
    """
    copies = '-i {0} -o {0} -m physdev ! --physdev-is-bridged -m conntrack --ctstate INVALID -m comment --comment "copies" -j DROP'
    inside = '-i {0} -o {0} -m comment --comment "inside a bridge" -j ACCEPT'
    comment = f"{settings.chain_prefix} bridges"
    return {
        "chain": f"{settings.chain_prefix}-BRIDGE",
        "table": "filter",
        "ip_version": "both",
        "rules": [copies.format(one.name) for one in bridges if one.mode == "promiscuous"]
        + [inside.format(one.name) for one in bridges],
        "jumps": [{"from": "FORWARD", "match": None, "position": "first", "comment": comment}],
        "behind": settings.forward_chains,
        "state": "present" if bridges else "absent",
    }
