# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of a daemon that announces, and whether it runs: compared, tested by the daemon, put in place and loaded."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from .._announce.main_file import lines_of
from .._kernel.files import RUN_DIRECTORY, ensure_directory, remove_file, replace_content, write_file
from .._kernel.process import Runner
from . import daemons
from .change import Change, NodeError, lines
from .daemons import Daemon, Running
from .files import File, plan_files, read_text

_TEST = ".layer4-service-proxy"
_UNREAD = RUN_DIRECTORY / "unread"
"""There while a daemon has not read our files as they are: a run that was killed in between is finished by the next."""


def daemon_change(daemon: Daemon, text: str | None, found: dict[str, Running], runner: Runner) -> Change:
    """Return the change of one daemon; text: of our file, None where we do not use the daemon. Raises NodeError."""
    main, own = read_foreign(daemon.main.path), read_text(daemon.main.own)
    if text is None and own is None and daemon.tool not in found and daemon.main.without(main) == main:
        return Change(daemon.tool)
    now = daemons.observe(daemon, runner)
    if text is None:
        return _leave(daemon, main, own, now, found.pop(daemon.tool, now), runner)
    found.setdefault(daemon.tool, now)
    main_after = daemon.main.included(main)
    files = _files(daemon, (main, main_after), (own, text))
    wanted, unread = daemons.in_use(now), _UNREAD.exists()

    def apply() -> None:
        if files.changed:
            _test(daemon, main_after, text, runner)
            ensure_directory(RUN_DIRECTORY)
            write_file(_UNREAD, "")
            files.apply()
        daemons.make(daemon, now, wanted, runner)
        if now.active:
            daemons.reload(daemon, runner)
        remove_file(_UNREAD)

    before = files.before + _state(daemon, now) + ("has not read its files\n" if unread else "")
    return Change(daemon.tool, before, files.after + _state(daemon, wanted), apply)


def _leave(daemon: Daemon, main: str | None, own: str | None, now: Running, before: Running, runner: Runner) -> Change:
    """Return the change that leaves a daemon as it was found."""
    main_after = daemon.main.without(main)
    files = _files(daemon, (main, main_after), (own, None))
    after = daemons.left(now, before, main_after is not None)

    def apply() -> None:
        files.apply()
        if after.active:
            daemons.reload(daemon, runner)
        daemons.make(daemon, now, after, runner)

    return Change(daemon.tool, files.before + _state(daemon, now), files.after + _state(daemon, after), apply)


def _state(daemon: Daemon, now: Running) -> str:
    return lines(f"{daemon.unit} {word}" for word, holds in zip(("active", "enabled"), now) if holds)


def _files(daemon: Daemon, main: tuple[str | None, str | None], own: tuple[str | None, str | None]) -> Change:
    """Return the change of both files: what is included is written before the line that includes it, and removed behind it."""
    ours = plan_files("", {daemon.main.own: File(own[1]) if own[1] is not None else None})
    before, after = lines_of(*main)

    def apply() -> None:
        if own[1] is not None:
            ours.apply()
        _write_main(daemon, main)
        if own[1] is None:
            ours.apply()

    heads = [f"{daemon.main.path}\n{one}" if one else "" for one in (before, after)]
    return Change("", heads[0] + ours.before, heads[1] + ours.after, apply)


def _write_main(daemon: Daemon, main: tuple[str | None, str | None]) -> None:
    before, after = main
    path = Path(daemon.main.path)
    with suppress(FileNotFoundError):
        _refuse_links_of_others(daemon.main.path)
    if before is not None and after is not None and before != after:
        replace_content(Path(os.path.realpath(path)), after)
    elif after is None and before is not None:
        remove_file(path)
    elif before is None and after is not None:
        write_file(path, after, 0o644)


def _refuse_links_of_others(path: str) -> None:
    """A daemon's user may own the directory of its files, and point at any file of root's there. Raises NodeError and OSError."""
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode) and found.st_uid not in (0, os.geteuid()):
        raise NodeError(f"{path} is a link of user {found.st_uid}: must be root's, or a file")


def _test(daemon: Daemon, main: str, own: str, runner: Runner) -> None:
    """Have the daemon read what it is to get, before that is in its place. Raises NodeError."""
    directory = Path(os.path.dirname(daemon.main.path))
    own_path, main_path = directory / f"{_TEST}.own", directory / f"{_TEST}.main"
    tested = daemon.main.tested(main, str(own_path))
    try:
        write_file(own_path, own)
        write_file(main_path, daemon.main.tested(daemon.main.made, str(own_path)) if tested == main else tested)
        refusal = daemon.test(str(main_path), runner)
    finally:
        remove_file(main_path)
        remove_file(own_path)
    if refusal:
        raise NodeError(
            f"{daemon.tool} refuses its configuration with {daemon.main.own}, which is not put in place: {refusal}"
        )


def read_foreign(path: str) -> str | None:
    """Return the text of a file of the user's, None where there is none, through a link of root's. Raises NodeError."""
    try:
        _refuse_links_of_others(path)
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NodeError(f"{path} cannot be read: {error.strerror}") from error
