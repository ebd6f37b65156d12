# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lab is built once, taken down whole, and its demonstration passes, fails and cleans up as it says."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from lab.build import CHECKOUT, SWITCH, Lab, remove
from lab.hosts import VIEWS_DIRECTORY, Host
from lab.namespaces import NETNS_DIRECTORY, Namespace
from lab.playbook import play
from lab.proof import prove
from lab.topology import copy_inventory

PREFIX = f"l4l{os.getpid()}{os.environ.get('PYTEST_XDIST_WORKER', '')}"
CONNECTIONS = 2000


def left(prefix: str = PREFIX) -> list[Path]:
    """Namespaces and views of labs with this prefix."""
    return [path for directory in (NETNS_DIRECTORY, VIEWS_DIRECTORY) for path in directory.glob(f"{prefix}*")]


def has_ended(process: int, seconds: float = 5.0) -> bool:
    """Whether a process ends within this time. One that only waits for its parent's notice has ended."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].startswith("Z"):
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def kept_on_the_machine() -> set[Path]:
    """What the roles would have written if a node's files were this machine's."""
    places = ("/etc/sysctl.d", "/etc/modules-load.d", "/etc/systemd", "/usr/local", "/var/lib")
    found = {path for place in places for path in Path(place).glob("**/*layer4*")}
    return {path for path in found if not path.is_relative_to("/var/lib/containers")}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(copy_inventory(tmp_path / "inventory", PREFIX))
    yield made
    made.down()
    assert not left()


def test_up_builds_once_and_down_removes_all(lab: Lab) -> None:
    lab.up()
    (servers,) = lab.switch.processes()
    lab.up()
    assert lab.switch.processes() == [servers]
    lab.down()
    assert not left()
    assert has_ended(servers)
    assert PREFIX not in Path("/proc/self/mountinfo").read_text()


def test_the_servers_hold_no_stream_of_who_built_the_lab(lab: Lab) -> None:
    """`make lab | tail` ends."""
    program = f"from pathlib import Path; from lab.build import Lab; Lab(Path({str(lab.inventory)!r})).up()"
    built = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, check=True, timeout=60)
    assert built.stdout + built.stderr == b""
    assert lab.standing()


def test_what_a_killed_run_left_is_replaced(lab: Lab) -> None:
    """Some namespaces stand, one of them with a process in it, one as a host with a view; the servers do not run."""
    Namespace(f"{PREFIX}-{SWITCH}").create()
    Host(f"{PREFIX}-node1").create()
    process = Namespace(f"{PREFIX}-web1").create().start("sleep", "1000")
    assert not lab.standing()
    lab.up()
    assert lab.standing()
    assert process.wait(5) != 0


def test_a_lab_that_cannot_be_built_leaves_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.build.sys.executable", "/bin/false")
    with pytest.raises(subprocess.CalledProcessError):
        lab.up()
    assert not left()


def test_the_inventory_converges_and_the_proof_notices_what_is_wrong(lab: Lab) -> None:
    lab.up()
    done = play(lab.inventory, shown=False)
    assert done.code == 0, done.output
    assert all(done.changed.values())
    printed = io.StringIO()
    console = Console(file=printed, width=140)
    assert prove(lab, console, CONNECTIONS) == 0, printed.getvalue()
    node = lab.namespace("node1")
    node.run("iptables", "-t", "nat", "-I", "POSTROUTING", "-s", "10.77.1.11", "-p", "udp", "-j", "MASQUERADE")
    assert prove(lab, console, CONNECTIONS) == 1
    assert "web4 sees 192.168.77.11, not 10.77.1.11" in " ".join(printed.getvalue().split())


def demonstration(prefix: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lab", "demo", "--prefix", prefix, "--connections", str(CONNECTIONS)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )


def test_the_demonstration_passes_and_leaves_nothing() -> None:
    before = kept_on_the_machine()
    process = demonstration(f"{PREFIX}d")
    output, _nothing = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert "All as expected" in output
    assert "\x1b" not in output
    assert not left(f"{PREFIX}d")
    assert kept_on_the_machine() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demonstration_that_is_stopped_leaves_nothing(number: signal.Signals) -> None:
    """SIGINT goes to all that runs in the terminal, SIGTERM to the demonstration alone."""
    process = demonstration(f"{PREFIX}d")
    assert process.stdout is not None
    with process, process.stdout:
        for line in process.stdout:
            if line.startswith("PLAY"):
                break
        assert left(f"{PREFIX}d")
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        rest = process.stdout.read()
    assert process.returncode != 0
    assert "Traceback" not in rest
    assert not left(f"{PREFIX}d")


def test_a_second_demonstration_does_not_disturb_the_first(lab: Lab) -> None:
    lab.up()
    process = demonstration(PREFIX)
    output, _nothing = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "another demonstration is running" in output
    assert lab.standing()


def test_remove_takes_only_its_own() -> None:
    with Namespace(f"{PREFIX}x-node1") as other:
        remove(PREFIX)
        assert other.exists()
