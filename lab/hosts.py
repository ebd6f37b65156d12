# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hosts: network namespaces that can be configured like a machine without changing the one they live on.

A host has, besides its network, a mount namespace in which what it writes to /etc, /var and the like goes to memory
and /run and /tmp are its own, and a host name. Both are saved as files in its view directory, which is what the
connection plugin's option `view` takes; nothing needs to keep running.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from .namespaces import Namespace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

VIEWS_DIRECTORY = Path("/run/layer4-views")

# Arguments: the host's name and its view.
# What the new mount namespace inherits of /run goes first: copies of other hosts' mounts would keep them alive.
FURNISH = r"""
set -eu
name=$1 view=$2
for directory in /etc /home /opt /root /srv /usr /var; do
    if [ ! -d "$directory" ] || [ -L "$directory" ]; then continue; fi
    mkdir -p "$view/written$directory" "$view/work$directory"
    mount -t overlay -o "lowerdir=$directory,upperdir=$view/written$directory,workdir=$view/work$directory" \
        overlay "$directory"
done
awk '$5 ~ /^\/run\// {print $5}' /proc/self/mountinfo | sort -r | while read -r inherited; do
    umount -l "$inherited" 2> /dev/null || true # another host that comes or goes may have been quicker
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -m 1777 /run/lock
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t sysfs sysfs /sys
hostname "$name"
echo "$name" > /etc/hostname
echo "127.0.1.1 $name" >> /etc/hosts
"""


class Host(Namespace):
    """A namespace with a view of its own; `hostname` is what it calls itself, by default the namespace's name."""

    def __init__(self, name: str, hostname: str = "") -> None:
        super().__init__(name)
        self.hostname = hostname or name

    @property
    def view(self) -> Path:
        return VIEWS_DIRECTORY / self.name

    def create(self) -> Self:
        """Make the namespace and its view; FileExistsError if the name is taken. Nothing is left behind if that fails."""
        super().create()
        try:
            self._furnish()
        except BaseException:
            self.delete()
            raise
        return self

    def delete(self) -> None:
        """End what runs here and remove namespace, view and all that was written; harmless when there is none."""
        super().delete()
        for saved in (self.view / "mnt", self.view / "uts", self.view):
            if os.path.ismount(saved):
                _command("umount", "-l", str(saved))
        if self.view.exists():
            self.view.rmdir()

    def _furnish(self) -> None:
        """The view's own mount is private: a mount namespace cannot be saved where mounts propagate."""
        self.view.mkdir(parents=True)
        _command("mount", "-t", "tmpfs", "-o", "mode=700", "layer4-view", str(self.view))
        _command("mount", "--make-private", str(self.view))
        for saved in ("mnt", "uts"):
            (self.view / saved).touch()
        _command(
            *("nsenter", f"--net={self.path}", "unshare", f"--mount={self.view}/mnt", f"--uts={self.view}/uts"),
            *("sh", "-c", FURNISH, "furnish", self.hostname, str(self.view)),
        )

    def _inside(self, argv: Sequence[str]) -> list[str]:
        view = self.view
        return ["nsenter", f"--net={self.path}", f"--mount={view}/mnt", f"--uts={view}/uts", "--", *argv]


def _command(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, text=True)
