# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keepalived and BIRD as a host has them: where their files are, whether they run, how they check, read and are told to read them."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import NamedTuple

from .._announce.main_file import MainFile
from .._announce.settings import BGP, VRRP
from .._kernel.process import Runner
from .change import NodeError
from .units import has_systemd

_BIRD_MINIMAL = """\
log syslog all;
router id {router_id};
protocol device {{
}}
"""
_ENABLED = ("enabled", "enabled-runtime", "static", "alias", "generated")


class Daemon(NamedTuple):
    """A daemon of the distribution's, and its files."""

    method: str
    """Of announcing."""
    tool: str
    unit: str
    main: MainFile

    def test(self, path: str, runner: Runner) -> str:
        """Return what the daemon has against a main file, in one line; empty if nothing."""
        options = ["-p", "-c", path] if self.method == BGP else ["--config-test", f"--use-file={path}"]
        code, out, err = runner.run([self._path(runner), *options])
        return _first_line(out + err) or f"exit code {code}" if code else ""

    def _path(self, runner: Runner) -> str:
        return runner.find(self.tool) or self.tool


class Running(NamedTuple):
    """Whether a daemon runs, and is started at boot."""

    active: bool
    enabled: bool


def keepalived() -> Daemon:
    """Return keepalived of this host."""
    own = "/etc/keepalived/layer4-service-proxy.conf"
    return Daemon(
        VRRP,
        "keepalived",
        "keepalived.service",
        MainFile("/etc/keepalived/keepalived.conf", own, f"include {own}", ""),
    )


def bird(router_id: str) -> Daemon:
    """Return BIRD of this host. router_id: for a main file of ours."""
    path = "/etc/bird.conf" if os.path.exists("/etc/bird.conf") else "/etc/bird/bird.conf"
    own = "/etc/bird/layer4-service-proxy.conf"
    minimal = _BIRD_MINIMAL.format(router_id=router_id)
    return Daemon(BGP, "bird", "bird.service", MainFile(path, own, f'include "{own}";', minimal))


def observe(daemon: Daemon, runner: Runner) -> Running:
    """Return how the daemon is now; without systemd, by which alone it is started, whether it can be told to read its files."""
    if not has_systemd():
        return Running(_is_alive(daemon, runner), False)
    active = runner.run(["systemctl", "is-active", daemon.unit])[1].strip() in ("active", "activating", "reloading")
    return Running(active, runner.run(["systemctl", "is-enabled", daemon.unit])[1].strip() in _ENABLED)


def in_use(now: Running) -> Running:
    """Return how a daemon is to be that we use."""
    return Running(True, True) if has_systemd() else now


def left(now: Running, before: Running, has_files: bool) -> Running:
    """Return how a daemon is to be that we no longer use. before: as it was found; has_files: whether it has others than ours to read."""
    if not has_systemd():
        return now
    return Running(now.active and before.active and has_files, now.enabled and before.enabled)


def reload(daemon: Daemon, runner: Runner) -> None:
    """Have a daemon that runs read its files again. Raises NodeError."""
    if has_systemd():
        _do(["systemctl", "reload", daemon.unit], runner)
    elif daemon.method == BGP:
        _do([runner.find("birdc") or "birdc", "configure"], runner)
    else:
        number = _process_of_keepalived()
        with suppress(ProcessLookupError):
            if number:  # 0 would be this process and its relatives
                os.kill(number, signal.SIGHUP)


def make(daemon: Daemon, now: Running, wanted: Running, runner: Runner) -> None:
    """Start or stop a daemon, and have it started at boot or not. Raises NodeError."""
    if now.enabled != wanted.enabled:
        _do(["systemctl", "enable" if wanted.enabled else "disable", "--quiet", daemon.unit], runner)
    if now.active != wanted.active:
        _do(["systemctl", "start" if wanted.active else "stop", daemon.unit], runner)


def _is_alive(daemon: Daemon, runner: Runner) -> bool:
    if daemon.method == BGP:
        return runner.run([runner.find("birdc") or "birdc", "show", "status"])[0] == 0
    return bool(_process_of_keepalived())


def _process_of_keepalived() -> int:
    """Return the number of its process by the file that it writes, 0 where there is none."""
    with suppress(OSError, ValueError):
        with open("/run/keepalived.pid", encoding="ascii") as file:
            number = int(file.read())
        with open(f"/proc/{number}/comm", encoding="ascii") as file:
            return number if file.read().strip() == "keepalived" else 0
    return 0


def _do(command: list[str], runner: Runner) -> None:
    code, out, err = runner.run(command)
    if code:
        raise NodeError(f"{' '.join(command)}: {' '.join((err or out).split()) or f'exit code {code}'}")


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.split("\n") if line.strip()), "")
