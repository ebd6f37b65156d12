# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""`python -m lab COMMAND`, from the checkout, as root, with the Python that has ansible-core."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from pyroute2 import NetlinkError
from rich.console import Console

from .build import CHECKOUT, Lab, remove
from .demo import Demonstration, Disappointment
from .playbook import play
from .proof import prove
from .traffic import Tally, connect

DEMO_PREFIX = "l4demo"
PIPE_WIDTH = 140

STANDING = """The lab is up. For example, as root in {checkout}:
  {python} -m lab play                    # apply the inventory: ansible-playbook -i lab/inventory playbooks/site.yml
  {python} -m lab prove                   # query every service from every machine
  {python} -m lab play --check --diff     # what would change after an edit of lab/inventory
  {python} -m lab ask client 10.96.77.10 80 --count 1000
  ip netns exec {prefix}-node1 iptables-save -t nat
  {python} -m lab down                    # remove it"""
NEXT = """Next:
  make lab                               # the same lab, left running, with commands to try
  make lab-down                          # remove it
README.md shows how to use the roles on hosts of your own; docs/ has drain, fleets and review in CI."""


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab", description="Nodes, backends and a client in namespaces.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="build the lab and leave it standing")
    commands.add_parser("down", help="remove the lab, and what a killed demonstration left")
    commands.add_parser("play", help="run site.yml on it; further arguments go to ansible-playbook")
    command = commands.add_parser("prove", help="ask every service from everywhere")
    command.add_argument("--connections", type=int, default=5000)
    command = commands.add_parser("ask", help="connect from one machine of the lab")
    command.add_argument("machine", choices=sorted(Lab().topology.machines))
    command.add_argument("address")
    command.add_argument("port", type=int)
    command.add_argument("--protocol", choices=["tcp", "udp"], default="tcp")
    command.add_argument("--count", type=int, default=1)
    command = commands.add_parser("demo", help="build a lab of its own, converge it, prove it, remove it")
    command.add_argument("--prefix", default=DEMO_PREFIX, help="of its namespaces (%(default)s)")
    command.add_argument("--connections", type=int, default=5000)
    return parser


def main() -> int:
    chosen, others = arguments().parse_known_args()
    if others and chosen.command != "play":
        arguments().error("unknown: " + " ".join(others))
    if os.geteuid() != 0:
        arguments().error("network namespaces take root")
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    try:
        return run(chosen, others, console)
    except subprocess.CalledProcessError as error:
        console.print(f"{error}\n{error.stderr or ''}", style="red", markup=False)
    except (Disappointment, NetlinkError) as error:
        console.print(f"Failed: {error}.", style="bold red", markup=False)
    except KeyboardInterrupt:
        console.print("Interrupted; what was built is removed again.")
    return 1


def run(chosen: argparse.Namespace, others: list[str], console: Console) -> int:
    """Carry out one command; its exit code."""
    lab = Lab()
    if chosen.command in ("play", "prove", "ask") and not lab.standing():
        raise Disappointment("the lab does not stand; `make lab` builds it")
    if chosen.command == "up":
        lab.up()
        python = os.path.relpath(sys.executable, CHECKOUT)
        console.print(STANDING.format(prefix=lab.topology.prefix, python=python, checkout=CHECKOUT), markup=False)
    elif chosen.command == "down":
        lab.down()
        remove(DEMO_PREFIX)
    elif chosen.command == "play":
        return play(lab.inventory, *others, colour=console.is_terminal).code
    elif chosen.command == "prove":
        return int(prove(lab, console, chosen.connections) > 0)
    elif chosen.command == "ask":
        show(
            connect(lab.namespace(chosen.machine), chosen.address, chosen.port, chosen.protocol, chosen.count), console
        )
    else:
        with tempfile.TemporaryDirectory(prefix="layer4-demo-") as directory:
            Demonstration(console, Path(directory), chosen.prefix, chosen.connections).run()
        console.print(NEXT, markup=False)
    return 0


def show(tally: Tally, console: Console) -> None:
    for (backend, source), count in sorted(tally.answers.items()):
        console.print(f"{count} from {backend}, which sees {source}")
    for kind, count in tally.failures.items():
        console.print(f"{count} {kind}")
    console.print(f"in {tally.seconds:.2f} s")


if __name__ == "__main__":
    sys.exit(main())
