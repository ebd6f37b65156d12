# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run leaves for the next one on the same host, and whether the kernel's rules are still those that it left.

It is only ever a shortcut: whatever is missing, cannot be read or is not certain is as if nothing had been left.
"""

from __future__ import annotations

import json
import shlex
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Callable, NamedTuple

from .._objects.iptables_text import XtablesError
from .files import RUN_DIRECTORY, FileError, ensure_directory, write_file
from .iptables_lock import XtablesLock
from .netlink import NetlinkError, NetlinkSocket, attributes
from .nft import Nft, NftError

DIRECTORY = RUN_DIRECTORY
_NETLINK_NETFILTER = 12
_GET_GENERATION = 10 << 8 | 16
"""NFT_MSG_GETGEN (``nf_tables.h``)."""
_GENERATION_ID = 1
_SO_NETNS_COOKIE = 71
"""Linux 5.14: a number that no other network namespace ever had since boot; an inode's number is given again."""
_OLD = 30 * 24 * 3600
_MOST_CHANGES = 1 << 25
"""Characters; those of 20,000 services."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Edits(NamedTuple):
    """How a run has changed rules: in how many transactions, by how many entries more or less (`Reading`), and by tool the
    texts that it gave to iptables-restore. from_nothing: whether there were no chains of services before.
    """

    transactions: int
    entries: int
    texts: Mapping[str, str] = MappingProxyType({})
    from_nothing: bool = False


class Left(NamedTuple):
    """What a run leaves. brief: what may be all that the next run needs. whole: JSON, far longer."""

    brief: dict[str, Any]
    whole: str


class _Memory:
    """What is left under a name. seen: what tells the rules that were looked at last from all others; None where nothing does.

    is_disturbed: somebody else has changed rules since the last run, though perhaps nothing of ours.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._seen: Any = None
        self.is_disturbed = False

    @property
    def state(self) -> str:
        """A text that other rules do not have; empty where it is not known."""
        return "" if self._seen is None else _state(self._name, str(self._seen))

    def brief(self) -> dict[str, Any]:
        """Of what was left, whatever the rules are now; empty where nothing was."""
        return _read_brief(self._name)

    def renew(self, brief: dict[str, Any]) -> None:
        """What `recall` has found is as good as ever, with this for the next run to begin with."""

    def end(self) -> None:
        """Others may change rules again: nothing was changed, or it is as it was."""

    def forget(self) -> None:
        """Leave nothing; the state is no longer known."""
        self._seen = None
        self.end()
        _forget(self._name)


class NftMemory(_Memory):
    """What is left for this network namespace, as long as nobody changes what is ours in its nftables, those of iptables included.

    The kernel counts changes of the rule set, by whomever, and neither traffic nor reading (``nft_base_seq``). Where the
    number is another, a digest of what is ours tells; it takes longer than a small change does, so that none is made until
    somebody else has changed something.
    """

    _seen: int | None

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._of = ""
        self._digest = ""
        self._verified: int | None = None

    def recall(self, in_short: bool = False) -> Left | None:
        """What was left, in short without the whole; None where what is ours is not as it was then."""
        try:
            self._seen = generation()
        except (OSError, NetlinkError):
            return None
        self._of = str(self._seen)
        head = _read_head(self._name)
        self._digest = head.get("digest", "")
        self.is_disturbed = head.get("state", self._of) != self._of
        if self.is_disturbed:
            if self._verified != self._seen and (not self._digest or self._digest != self._digest_of_now()):
                return None
            self._verified = self._seen
            self._of = head["state"]
        return _read(self._name, self._of, in_short)

    def keep(self, left: Left, edits: Edits) -> None:
        """Leave this, if since `recall` nothing but these edits has changed the rule set."""
        before, self._seen = self._seen, None
        try:
            now = generation()
        except (OSError, NetlinkError):
            return
        if before is None or now != before + edits.transactions:
            _forget(self._name)
            return
        self._seen = now
        is_verified = self._of != str(before)
        if edits.transactions or (self.is_disturbed and not is_verified):
            self._digest = self._digest_of_now() if self.is_disturbed else ""
        _write(self._name, str(now), left, self._digest)
        _write_changes(self._name, self._of, str(now), edits)

    def renew(self, brief: dict[str, Any]) -> None:
        """What `recall` has found is as good as ever, with this for the next run to begin with."""
        left = _read(self._name, self._of, in_short=False)
        if left:
            _write(self._name, str(self._seen), left._replace(brief=brief), self._digest)
            _write_changes(self._name, self._of, str(self._seen), Edits(0, 0))

    def _digest_of_now(self) -> str:
        """Empty where somebody changes rules meanwhile."""
        try:
            with Nft() as nft:
                found = nft.digest(self._name + "-")
            return found if generation() == self._seen else ""
        except (OSError, NetlinkError, NftError):
            return ""


class Reading(NamedTuple):
    """The rules as they were at a moment. entries: one for each rule and two for each chain, and perhaps some that are always
    there. digest: tells one, which takes longer than the reading did. Both may raise OSError or XtablesError.
    """

    entries: int
    digest: Callable[[], str]


class LegacyMemory(_Memory):
    """What is left for a host whose kernel does not count changes, as long as nobody changes tables.

    lock: keeps others from it while a run does; None where its tools cannot be run meanwhile, which leaves nothing, or where
    nothing is going to be changed.
    """

    _seen: str | None

    def __init__(self, name: str, look: Callable[[], Reading], lock: Callable[[], XtablesLock | None]) -> None:
        super().__init__(name)
        self._look, self._find_lock = look, lock
        self._lock: XtablesLock | None = None
        self._entries = 0

    def recall(self, in_short: bool = False) -> Left | None:
        """What was left, in short without the whole; None where the tables are others since then.

        If not in short, nobody else changes tables from now on until `keep` or `end`.
        """
        try:
            if not in_short:
                self._hold()
            reading = self._look()
            self._entries, self._seen = reading.entries, reading.digest()
        except (OSError, XtablesError):
            return None
        return _read(self._name, self._seen, in_short)

    def _hold(self) -> None:
        lock = self._find_lock()
        if lock and lock.hold():
            self._lock = lock

    def end(self) -> None:
        """Others may change tables again."""
        if self._lock:
            self._lock.release()
            self._lock = None

    def keep(self, left: Left, edits: Edits) -> None:
        """Leave this, if since `recall` nothing but these edits has changed the tables."""
        seen, self._seen = self._seen, None
        state = self._since(edits) if edits.transactions else seen
        self.end()
        if seen is None or state is None:
            self.forget()
        else:
            self._seen = state
            _write(self._name, state, left)
            _write_changes(self._name, seen, state, edits)

    def _since(self, edits: Edits) -> str | None:
        """The digest of the tables as they are, if nothing but our own edits has changed those that were seen.

        Whoever edits them without asking for the lock, while it is held, will hardly leave as many entries as there should be.
        """
        if self._lock is None:
            return None
        try:
            after = self._look()
            self.end()
            return after.digest() if after.entries == self._entries + edits.entries else None
        except (OSError, XtablesError):
            return None


def was_asked_for(text: str) -> str:
    """The shell command that succeeds where a run has left something with this text in it, and that takes no Python."""
    return f"grep -qsF -- {shlex.quote(text)} {shlex.quote(str(DIRECTORY))}/*.json"


def _forget(name: str) -> None:
    try:
        for suffix in (".json", ".changes"):
            _path(name).with_suffix(suffix).unlink(missing_ok=True)
        DIRECTORY.rmdir()
    except OSError:
        return


def _state(name: str, state: str) -> str:
    return f"{_path(name).stem} {state}"


def _path(name: str) -> Path:
    """Of this namespace since this boot. Raises OSError where the kernel does not tell one from another."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as any_socket:
        (cookie,) = struct.unpack("=Q", any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))
    return DIRECTORY / (f"{_BOOT.read_text().strip()}-{cookie}-{name}.json")


def _read_brief(name: str) -> dict[str, Any]:
    found = _read_head(name).get("brief")
    return found if isinstance(found, dict) else {}


def _read_head(name: str) -> dict[str, Any]:
    """What `_write` has put in front; empty where there is nothing."""
    try:
        with open(_path(name), encoding="utf-8") as file:
            return dict(json.loads(file.readline()))
    except (OSError, ValueError, TypeError):
        return {}


def _read(name: str, state: str, in_short: bool) -> Left | None:
    try:
        with open(_path(name), encoding="utf-8") as file:
            left = json.loads(file.readline())
            if left["state"] != state:
                return None
            return Left(dict(left["brief"]), "" if in_short else file.read())
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(name: str, state: str, left: Left, digest: str = "") -> None:
    first = json.dumps({"state": state, "digest": digest, "brief": left.brief}, separators=(",", ":"))
    try:
        _write_file(_path(name), (first, "\n", left.whole))
        _forget_old()
    except (OSError, FileError):
        return


def _write_changes(name: str, before: str, after: str, edits: Edits) -> None:
    """For what keeps rules for the next boot (``rules.sh`` of the role node), which removes it then."""
    try:
        path = _path(name).with_suffix(".changes")
        how = "all" if edits.from_nothing else "some"
        parts = [f"{_state(name, before)}\n{_state(name, after)}\n{how}\n"]
        parts += [f"# {tool}\n{text}" for tool, text in edits.texts.items()]
        if sum(map(len, parts)) > _MOST_CHANGES:
            path.unlink(missing_ok=True)
        else:
            _write_file(path, parts)
    except (OSError, FileError):
        return


def _write_file(path: Path, parts: Iterable[str]) -> None:
    ensure_directory(DIRECTORY)
    write_file(path, "".join(parts))


def _forget_old() -> None:
    """Of namespaces that may be gone, which nothing tells; what one that lives on loses costs it one run that reads everything."""
    for path in DIRECTORY.glob("*.*"):
        if path.stat().st_mtime < time.time() - _OLD:
            path.unlink()


def generation() -> int:
    """The number of this network namespace's rule set. Raises OSError or NetlinkError where there is no nftables."""
    netlink = NetlinkSocket(_NETLINK_NETFILTER)
    try:
        answers = list(netlink.request(_GET_GENERATION, 0, struct.pack("!BBH", 0, 0, 0)))
    finally:
        netlink.close()
    return int.from_bytes(attributes(answers[0][4:])[_GENERATION_ID], "big")
