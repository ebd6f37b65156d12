# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""`python -m lab.vm COMMAND`, from the checkout, as root, with the Python of the project's environment."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from pyroute2 import NetlinkError

from .accelerator import accelerator
from .checkout import copy_in, inside
from .command import CONSOLE, Hardware
from .image import DEFAULT_SUITE, PYTHON_OF_SUITE, image, recipe
from .machine import Machine, MachineError
from .snapshot import snapshot
from .standing import put_up, standing, take_down
from .standing_bed import put_up_bed, take_down_bed, way_in
from .suite import run_tests


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.vm", description="Virtual machines with Debian's kernel.")
    commands = parser.add_subparsers(dest="command", required=True)
    suites = argparse.ArgumentParser(add_help=False)
    suites.add_argument(
        "--suite", choices=sorted(PYTHON_OF_SUITE), default=DEFAULT_SUITE, help="of Debian (%(default)s)"
    )
    command = commands.add_parser("test", parents=[suites], help="pytest inside of fresh machines")
    command.add_argument("--machines", type=int, default=1, help="deal the files out to so many (%(default)s)")
    command.add_argument("--option", action="append", default=[], help="of pytest, as in --option=-x")
    command.add_argument("paths", nargs="*", default=["tests/virtual"], help="files or directories (tests/virtual)")
    commands.add_parser("up", parents=[suites], help="leave a machine standing, unless one stands")
    commands.add_parser("down", help="end the machine that stands")
    commands.add_parser("ssh", help="a shell on the machine that stands")
    command = commands.add_parser("run", help="a command there, in a copy of the work tree as it is now")
    command.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    command = commands.add_parser(
        "bed-up", parents=[suites], help="leave a machine standing, with namespaces on the LAN of its eth1"
    )
    command.add_argument("name", help="of the machine; its namespaces begin with it")
    command.add_argument("hosts", nargs="*", metavar="HOST=ADDRESS/LENGTH[,ADDRESS/LENGTH]")
    command = commands.add_parser("bed-down", help="end such a machine, and remove its namespaces")
    command.add_argument("name")
    return parser


def main() -> int:
    chosen = arguments().parse_args()
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    if os.geteuid() != 0:
        arguments().error("images and namespaces take root")
    try:
        return run(chosen)
    except (MachineError, NetlinkError, FileExistsError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
    except subprocess.CalledProcessError as error:
        print(error, error.stderr or "", sep="\n", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted; the machines of this run have ended", file=sys.stderr)
    return 1


def run(chosen: argparse.Namespace) -> int:
    """Carry out one command; its exit status."""
    if chosen.command == "down":
        print("ended" if take_down() else "no machine stands")
        return 0
    if chosen.command.startswith("bed-"):
        return _bed(chosen)
    if chosen.command == "test":
        return run_tests(
            image(recipe(chosen.suite)), Hardware(accelerator()), chosen.paths, chosen.option, chosen.machines
        )
    machine = standing() or _new(getattr(chosen, "suite", DEFAULT_SUITE))
    if chosen.command == "ssh":
        return subprocess.run(machine.ssh.command(), check=False).returncode
    if chosen.command == "run":
        return _run_inside(machine, chosen.argv[1:] if chosen.argv[:1] == ["--"] else chosen.argv)
    print(f"A machine stands. SSH: port {machine.ssh.port}; console: {machine.directory / CONSOLE}")
    return 0


def _run_inside(machine: Machine, argv: Sequence[str]) -> int:
    directory = copy_in(machine.ssh)
    try:
        return subprocess.run(machine.ssh.command(*inside(directory, argv)), check=False).returncode
    finally:
        machine.ssh.run("rm", "-rf", directory)


def _bed(chosen: argparse.Namespace) -> int:
    if chosen.command == "bed-down":
        print("ended" if take_down_bed(chosen.name) else "no such bed stands")
        return 0
    pairs = [word.partition("=") for word in chosen.hosts]
    hosts = {host: addresses.split(",") for host, _equals, addresses in pairs}
    made = put_up_bed(chosen.name, chosen.suite, hosts)
    print(f"{'A bed stands' if made else 'The bed stands already'}. Ansible's variables: {way_in(chosen.name)}")
    return 0


def _new(suite: str) -> Machine:
    made, hardware = image(recipe(suite)), Hardware(accelerator())
    return put_up(made, hardware, snapshot(made, hardware))


if __name__ == "__main__":
    sys.exit(main())
