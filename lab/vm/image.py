# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images of Debian for virtual machines: kernel, initial RAM disk and root file system, made of Debian's packages.

An image also holds the project's test tools, in the versions of the environment that makes it, and keys of its own for
SSH, so that neither keys nor known hosts of the user are touched.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from .store import LOGS, STORE, made_once

DEFAULT_SUITE = "bookworm"
PYTHON_OF_SUITE = {"bookworm": "3.11", "trixie": "3.13"}
TOOLS = ("ansible-core", "hypothesis", "jmespath", "pip", "pyroute2", "pytest", "pytest-xdist", "PyYAML")
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "udev", "kmod", "procps", "initramfs-tools", "zstd", "busybox"),
    *("openssh-server", "sudo", "python3", "python3-apt", "ca-certificates"),
    *("iproute2", "iputils-ping", "iptables", "ipset", "nftables", "ipvsadm", "conntrack", "tcpdump"),
    "linux-image-cloud-amd64",
)
KERNEL, INITIAL, ROOT = "vmlinuz", "initrd.img", "root.ext4"
KEY, KNOWN_HOSTS, HOST_ALIAS = "id_ed25519", "known_hosts", "layer4-lab-machine"
MARK = "/etc/layer4-lab-machine"
ROOT_SIZE = "3G"

BEFORE_PACKAGES = r"""
set -eu
mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"
echo MODULES=list > "$1/etc/initramfs-tools/conf.d/lab"
printf '%s\n' virtio_pci virtio_blk ext4 > "$1/usr/share/initramfs-tools/modules.d/lab"
"""

# eth0 is the user's way in, through the emulator; eth1 is left to whoever tests with it.
AFTER_PACKAGES = r"""
set -eu
here=$(dirname "$0")
cd "$1"
echo machine > etc/hostname
printf '127.0.0.1 localhost\n::1 localhost\n' > etc/hosts
echo 'nameserver 10.0.2.3' > etc/resolv.conf
touch .@MARK@
mkdir -p etc/systemd/network
printf '%s\n' '[Match]' Name=eth0 '[Network]' Address=10.0.2.15/24 Gateway=10.0.2.2 LinkLocalAddressing=no IPv6AcceptRA=no \
    > etc/systemd/network/10-eth0.network
rm -f etc/ssh/ssh_host_*
install -m 600 "$here/host_key" etc/ssh/ssh_host_ed25519_key
install -m 644 "$here/host_key.pub" etc/ssh/ssh_host_ed25519_key.pub
install -d -m 700 root/.ssh
install -m 600 "$here/@KEY@.pub" root/.ssh/authorized_keys
printf '%s\n' 'PermitRootLogin prohibit-password' 'UseDNS no' 'MaxStartups 100' > etc/ssh/sshd_config.d/lab.conf
systemctl --root=. enable systemd-networkd ssh
systemctl --root=. mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer systemd-timesyncd.service
cp -r "$here/wheels" tmp/wheels
chroot . python3 -m venv --without-pip /opt/tests
chroot . sh -c '/opt/tests/bin/python "$(echo /tmp/wheels/pip-*.whl)/pip" install --quiet --no-index --find-links /tmp/wheels \
    --root-user-action ignore @TOOLS@'
rm -rf tmp/wheels etc/apt/apt.conf.d/99mmdebstrap
cp boot/vmlinuz-* "$here/@KERNEL@"
cp boot/initrd.img-* "$here/@INITIAL@"
rm -f boot/initrd.img-*
"""


@dataclass(frozen=True)
class Recipe:
    """All that decides what an image holds, apart from what Debian's mirrors offer on the day."""

    suite: str
    packages: Sequence[str] = PACKAGES
    tools: Sequence[str] = ()
    before: str = BEFORE_PACKAGES
    after: str = AFTER_PACKAGES
    size: str = ROOT_SIZE

    def key(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Image:
    """A directory with what a machine boots from."""

    directory: Path

    def __truediv__(self, name: str) -> Path:
        return self.directory / name


def recipe(suite: str) -> Recipe:
    """What is wanted now: the test tools in the versions of the environment that runs this; KeyError for a suite."""
    PYTHON_OF_SUITE[suite]
    return Recipe(suite, tools=tuple(f"{name}=={version(name)}" for name in TOOLS))


def image(wanted: Recipe) -> Image:
    """The image of a recipe, made now if it is missing (root; half a minute); CalledProcessError names a log."""
    directory = STORE / f"{wanted.suite}-{wanted.key()}"
    return Image(made_once(directory, lambda fresh: build(wanted, fresh)))


def build(wanted: Recipe, directory: Path) -> None:
    LOGS.mkdir(parents=True, exist_ok=True)
    with open(LOGS / f"vm-image-{wanted.suite}.log", "w") as log:

        def run(*argv: str) -> None:
            subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)

        for key in (KEY, "host_key"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", HOST_ALIAS, "-f", str(directory / key))
        (directory / KNOWN_HOSTS).write_text(f"{HOST_ALIAS} {(directory / 'host_key.pub').read_text()}")
        run(*_download(wanted, directory / "wheels"))
        run(*_debootstrap(wanted, directory))
        root = directory / "root"
        run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", str(root), str(directory / ROOT), wanted.size)
        for made in (root, directory / "wheels"):
            shutil.rmtree(made)


def _download(wanted: Recipe, wheels: Path) -> list[str]:
    """The test tools as wheels for the suite's Python, not for the one that runs this."""
    target = ["--only-binary=:all:", "--python-version", PYTHON_OF_SUITE[wanted.suite]]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    return [*pip, "download", *target, "--dest", str(wheels), *wanted.tools]


def _debootstrap(wanted: Recipe, directory: Path) -> list[str]:
    before, after, settings = directory / "before.sh", directory / "after.sh", directory / "apt.conf"
    before.write_text("#!/bin/sh" + wanted.before)
    words = {"MARK": MARK, "KEY": KEY, "KERNEL": KERNEL, "INITIAL": INITIAL, "TOOLS": " ".join(wanted.tools)}
    after.write_text("#!/bin/sh" + re.sub("@([A-Z]+)@", lambda word: words[word[1]], wanted.after))
    settings.write_text(_apt_settings())
    for script in (before, after):
        script.chmod(0o755)
    return [
        *(
            "mmdebstrap",
            "--mode=root",
            "--variant=minbase",
            "--format=directory",
            f"--include={','.join(wanted.packages)}",
        ),
        *(f"--aptopt={settings}", f"--essential-hook={before}", f"--customize-hook={after}"),
        *(wanted.suite, str(directory / "root")),
    ]


def _apt_settings() -> str:
    """How this machine's apt gets at the archive (a proxy, for example), without the lists that only it keeps."""
    dumped = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=True).stdout
    return "".join(line + "\n" for line in dumped.splitlines() if not line.startswith("Acquire::IndexTargets"))
