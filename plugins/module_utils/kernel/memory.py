# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run leaves for the next one on the same host, and whether the kernel's rules are still those that it left.

It is only ever a shortcut: whatever is missing, cannot be read or is not certain is as if nothing had been left.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from pathlib import Path
from typing import Any, Optional

from .netlink import NetlinkError, NetlinkSocket, attributes

DIRECTORY = Path("/run/layer4-service-proxy")
_NETLINK_NETFILTER = 12
_GET_GENERATION = 10 << 8 | 16
"""NFT_MSG_GETGEN (``nf_tables.h``)."""
_GENERATION_ID = 1
_SO_NETNS_COOKIE = 71
"""Linux 5.14: a number that no other network namespace ever had since boot; an inode's number is given again."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class NftMemory:
    """What is left for this network namespace, as long as nobody changes any of its nftables, those of iptables included.

    The kernel counts changes of the rule set, by whomever, and neither traffic nor reading (``nft_base_seq``).
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._seen: Optional[int] = None

    def recall(self) -> Optional[Any]:
        """What was left; None where the rule set is another since then."""
        try:
            self._seen = generation()
            left = json.loads(self._path().read_text("utf-8"))
            return left["content"] if left["generation"] == self._seen else None
        except (OSError, NetlinkError, ValueError, KeyError, TypeError):
            return None

    def keep(self, content: Any, transactions: int) -> None:
        """Leave this, if since `recall` nothing but so many transactions has changed the rule set."""
        try:
            now = generation()
            if self._seen is None or now != self._seen + transactions:
                self.forget()
                return
            self._write(json.dumps({"generation": now, "content": content}, separators=(",", ":")))
        except (OSError, NetlinkError):
            return

    def forget(self) -> None:
        """Leave nothing."""
        try:
            self._path().unlink()
        except OSError:
            return

    def _path(self) -> Path:
        """Of this namespace since this boot. Raises OSError where the kernel does not tell one from another."""
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as any_socket:
            (cookie,) = struct.unpack("=Q", any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))
        return DIRECTORY / ("%s-%d-%s.json" % (_BOOT.read_text().strip(), cookie, self._name))

    def _write(self, text: str) -> None:
        DIRECTORY.mkdir(mode=0o700, exist_ok=True)
        path = self._path()
        new = path.with_suffix(".new")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        new.replace(path)


def generation() -> int:
    """The number of this network namespace's rule set. Raises OSError or NetlinkError where there is no nftables."""
    netlink = NetlinkSocket(_NETLINK_NETFILTER)
    try:
        answers = list(netlink.request(_GET_GENERATION, 0, struct.pack("!BBH", 0, 0, 0)))
    finally:
        netlink.close()
    return int.from_bytes(attributes(answers[0][4:])[_GENERATION_ID], "big")
