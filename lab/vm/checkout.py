# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The work tree inside a machine, as it is now, and commands that run in it with the test tools."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .ssh import Ssh
from .store import CHECKOUT

COPY_SECONDS = 60.0

# br_netfilter is loaded by nobody but a person or a role, the other two by whoever needs them; namespaces show the
# sysctls of loaded modules only. For its 1 GiB the kernel tracks 8192 connections, and tests have 10,000. Modules of the
# collection are compiled once, and not by every process that runs one.
UNPACK = r"""
set -eu
modprobe -a br_netfilter ip_vs nf_conntrack_netlink
sysctl -q -w net.netfilter.nf_conntrack_max=65536
directory=$(mktemp -d /tmp/checkout-XXXXXX)
tar -x -C "$directory"
mkdir -p "$directory/.cache/collections/ansible_collections/layer4"
ln -s "$directory" "$directory/.cache/collections/ansible_collections/layer4/service_proxy"
/usr/bin/python3 -m compileall -q "$directory/plugins"
echo "$directory"
"""
INSIDE = r"""
directory=$1
shift
cd "$directory" || exit
export PATH=/opt/tests/bin:$PATH ANSIBLE_COLLECTIONS_PATH=$directory/.cache/collections
export LC_ALL=C.UTF-8 NO_COLOR=1 ANSIBLE_NOCOLOR=1 PYTHONUNBUFFERED=1 L4_WARM=1
exec "$@"
"""


def copy_in(ssh: Ssh) -> str:
    """Copy the project's files, as they are in the work tree, into a new directory of the machine; its path there."""
    done = subprocess.run(
        ssh.command("sh", "-c", UNPACK), input=archive(CHECKOUT), capture_output=True, check=True, timeout=COPY_SECONDS
    )
    return done.stdout.decode().strip()


def inside(directory: str, argv: Sequence[str]) -> list[str]:
    """A command of the machine that runs another one in such a directory."""
    return ["sh", "-c", INSIDE, "inside", directory, *argv]


def archive(checkout: Path) -> bytes:
    """What git tracks, and what is new and not ignored, as tar."""
    listing = ["git", "-C", str(checkout), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in sorted({name for name in names.split("\0") if name}):
            with suppress(FileNotFoundError):
                tar.add(checkout / name, name, recursive=False, filter=_as_root)
    return packed.getvalue()


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member
