# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``layer4-service-proxy``: what a node was asked for and what stands of it, for people on the node. Changes nothing.

Runs without Ansible. Systemd's units call the same file with ``boot`` in front, which is `boot_restore.main`.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from .._dataplane.health_record import read_failed
from .._health.state import failed_lines
from .._kernel.link import LinkError, own_addresses
from .._kernel.route import RouteError, Routes
from .._model import addresses as ip
from .._model.messages import printable
from . import announce, announcing, asked, boot_generations
from .boot_facilities import Host
from .boot_generations import DIRECTORY, BootError, Generation
from .boot_restore import Restorer
from .boot_units import HEALTH, TIMER, UNIT

_ERRORS = (*announce.ERRORS, BootError, LinkError, RouteError)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit: 0, 1 where something is not as it should be, 2 for wrong arguments."""
    given = _parser().parse_args(arguments)
    try:
        raise SystemExit(given.run(given))
    except _ERRORS as error:
        _complain(error)
    except BrokenPipeError:
        sys.stderr.close()
    raise SystemExit(1)


def _parser() -> ArgumentParser:
    parser = ArgumentParser("layer4-service-proxy", description="Services of this node. Reads, and changes nothing.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Any, text: str) -> ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    add("status", _status, "What the node was last asked for, and whether it stands.")
    add("services", _services, "Services with their addresses and backends.")
    tracing = add("trace", _trace, "What a connection would meet.")
    tracing.add_argument("source", metavar="FROM", help="an address, node or localhost")
    tracing.add_argument("destination", metavar="TO", help="an address")
    tracing.add_argument("port", metavar="PORT", type=int)
    tracing.add_argument("--protocol", default="tcp", choices=("tcp", "udp", "sctp"))
    add("generations", _generations, "What the node was asked for before.")
    comparing = add("diff", _diff, "What differs between two generations, by default the last two.")
    comparing.add_argument("old", metavar="OLD", type=int, nargs="?")
    comparing.add_argument("new", metavar="NEW", type=int, nargs="?")
    return parser


def _current() -> Generation:
    found = boot_generations.current(DIRECTORY)
    if found is None:
        raise BootError("this node has no services: nothing is kept in " + str(DIRECTORY))
    return found


def _status(dummy: Namespace) -> int:
    generation, host = _current(), Host()
    wanted = generation.asked()
    services = asked.services_of(wanted)
    restorer = Restorer(generation, host)
    broken, gone = generation.broken(), restorer.gone()
    _say(f"generation  {generation.number} of {_date(generation)}")
    _say(f"dataplane   {asked.settings_of(wanted).dataplane}")
    _say(f"services    {len(services)} with {sum(len(one.get('backends') or []) for one in services)} backends")
    _say(f"drained     {', '.join(asked.drained(wanted)) or 'none'}")
    _say(f"at boot     {_unit(host, UNIT)}")
    _say(f"watch       {_unit(host, TIMER)}")
    if asked.asks_for_checks(wanted):
        failed = failed_lines(read_failed())
        _say(f"checks      {_unit(host, HEALTH)}, {len(failed) or 'none'} failed")
        _say(*(f"  {line}" for line in failed))
    problems = [*broken.values(), *(f"{name} does not stand" for name in gone)]
    problems += [line for line in restorer.failures if line.partition(": ")[0] not in broken]
    _say(f"stands      {'yes' if not problems else 'no'}")
    _say(*(f"  {line}" for line in problems))
    return 1 if problems else 0


def _unit(host: Host, name: str) -> str:
    """The state of a unit in systemd's words."""
    path = host.find("systemctl")
    return host.run([path, "is-active", name])[1].strip() or "not installed" if path else "no systemd"


def _services(dummy: Namespace) -> int:
    _say(*asked.service_lines(_current().asked()))
    return 0


def _trace(given: Namespace) -> int:
    from .._dataplane.offline import trace_services  # pylint: disable=import-outside-toplevel  # compiled only for this

    wanted = _current().asked()
    settings = asked.settings_of(wanted)
    node, own = settings.node, own_addresses(Host())
    if not node.get("addresses"):
        node["addresses"] = list(announcing.without_held(own))
    connection = {"from": given.source, "to": given.destination, "port": given.port, "protocol": given.protocol}
    options = {**connection, "node": node, "dataplane": settings.dataplane}
    found = trace_services(asked.effective_services(wanted), options)
    announced = announce.tell_announced(ip.canonical_address(given.destination), wanted, own)
    _say(*_trace_lines(found, _links_to([one["address"] for one in found["backends"]]), announced))
    return 0


def _links_to(addresses: Sequence[str]) -> dict[str, str]:
    """By address, the link through which the node reaches it, as the kernel tells: of an overlay, of a bridge or of the network."""
    with Routes() as routes:
        ways = {address: routes.way(address) for address in addresses}
    return {address: f"through {way.device}" if way else "without a route" for address, way in ways.items()}


def _trace_lines(found: Mapping[str, Any], links: Mapping[str, str], announced: str) -> list[str]:
    lines = [f"{one['table']} {one['chain']}  {one['chance']:.4f}  {one['rule']}" for one in found["rules"]]
    lines += [f"announced  {announced}"] if announced else []
    lines.append(f"verdict  {found['verdict']}")
    source = {True: "masqueraded", False: "client's own"}
    for one in found["backends"]:
        address = f"[{one['address']}]" if ":" in one["address"] else one["address"]
        lines.append(
            f"backend  {address}:{one['port']}  {one['chance']:.4f}  source {source.get(one['snat'], one['snat'])}  "
            f"{links[one['address']]}"
        )
    return lines


def _generations(dummy: Namespace) -> int:
    current = _current().number
    for number in boot_generations.numbers(DIRECTORY):
        try:
            generation = boot_generations.load(DIRECTORY, number)
            wanted = generation.asked()
            told = (
                f"{_date(generation)}  {asked.settings_of(wanted).dataplane}  {len(asked.services_of(wanted))} services"
            )
        except _ERRORS as error:
            told = str(error)
        _say(f"{'*' if number == current else ' '} {number:>4}  {told}")
    return 0


def _date(generation: Generation) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(generation.directory.stat().st_mtime))


def _diff(given: Namespace) -> int:
    current = _current().number
    new = given.new or current
    earlier = [number for number in boot_generations.numbers(DIRECTORY) if number < new]
    if given.old is None and not earlier:
        raise BootError(f"generation {new} is the only one")
    old = given.old or earlier[-1]
    before, after = (boot_generations.asked_of(DIRECTORY, number) for number in (old, new))
    _say(*asked.difference(before, after))
    return 0


def _say(*lines: str) -> None:
    """Whatever a file or a tool has in it, no line writes to the terminal by control characters."""
    sys.stdout.writelines(f"{printable(line)}\n" for line in lines)


def _complain(error: Exception) -> None:
    sys.stderr.writelines(f"{printable(line)}\n" for line in str(error).split("\n"))
