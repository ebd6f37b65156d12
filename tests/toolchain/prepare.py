# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring what development and the tests need: system packages, a virtual environment, the collection's place in a path.

Runs on a machine's own Python, with the standard library only, and does nothing when everything is there. Packages
are installed by apt, as root, and only those whose tool is missing. `prepare.py demo` brings what the lab's demonstration
needs, and no more.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from paths import CACHE, CHECKOUT, COLLECTION, HOME, LAB_VENV, LOGS, VENV

CONTROLLER_PYTHON = (3, 11)
COMPLETE = "complete"
SYSTEM_PATH = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
PACKAGE_OF_TOOL = {
    "bird": "bird2",
    "bridge": "iproute2",
    "conntrack": "conntrack",
    "git": "git",
    "ip": "iproute2",
    "ip6tables-legacy": "iptables",
    "ipset": "ipset",
    "iptables": "iptables",
    "keepalived": "keepalived",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "modprobe": "kmod",
    "nft": "nftables",
    "nsenter": "util-linux",
    "ping": "iputils-ping",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "setpriv": "util-linux",
    "shellcheck": "shellcheck",
    "ssh": "openssh-client",
    "sysctl": "procps",
    "tcpdump": "tcpdump",
    "zstd": "zstd",
}
UNITS_OF_PACKAGE = {"bird2": ("bird.service",), "keepalived": ("keepalived.service",)}
"""Of daemons that tests start in hosts of the lab, and that are not to run on this machine."""
POLICY = Path("/usr/sbin/policy-rc.d")
NOTHING_STARTS = "#!/bin/sh\n# While layer4.service_proxy installs packages for its tests.\nexit 101\n"
TOOLS_OF_THE_LAB = ("conntrack", "ip", "ipset", "iptables", "modprobe", "nft", "nsenter", "sysctl")


def main(use: str = "dev") -> None:
    python = controller_python()
    LOGS.mkdir(parents=True, exist_ok=True)
    with locked(CACHE / "prepare.lock"):
        install_packages(missing_packages(python, TOOLS_OF_THE_LAB if use == "demo" else PACKAGE_OF_TOOL))
        COLLECTION.parent.mkdir(parents=True, exist_ok=True)
        point(COLLECTION, CHECKOUT)
        everything = environment_of(python, CHECKOUT / "requirements-dev.txt")
        if use == "demo" and not (everything / COMPLETE).exists():
            point(LAB_VENV, virtual_environment(python, CHECKOUT / "requirements-demo.txt"))
            return
        virtual_environment(python, CHECKOUT / "requirements-dev.txt")
        point(LAB_VENV, everything)
        point(VENV, everything)
        private_home()


def controller_python() -> str:
    """The interpreter for ansible-core: this one if it is new enough, else the newest of the system's that is."""
    if sys.version_info >= CONTROLLER_PYTHON:
        return sys.executable
    for minor in range(15, CONTROLLER_PYTHON[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found and subprocess.run([found, "-c", ""], check=False).returncode == 0:
            return found
    sys.exit("ansible-core 2.19 needs Python 3.11 or newer on the machine that runs it")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock, so that two runs in one checkout do not build the same thing at the same time."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def missing_packages(python: str, tools: Iterable[str]) -> list[str]:
    packages = {PACKAGE_OF_TOOL[tool] for tool in tools if not shutil.which(tool, path=SYSTEM_PATH)}
    if subprocess.run([python, "-c", "import ensurepip, venv"], stderr=subprocess.DEVNULL, check=False).returncode:
        packages.add("python3-venv")
    return sorted(packages)


def install_packages(packages: Sequence[str]) -> None:
    if not packages:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit(f"missing packages: {' '.join(packages)}. Install them, or run this as root on Debian or Ubuntu.")
    say(f"installing {' '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with nothing_starts():
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
            logged(["apt-get", "--quiet=2", *command], environment)
    units = [unit for package in packages for unit in UNITS_OF_PACKAGE.get(package, ())]
    if units and shutil.which("systemctl"):
        logged(["systemctl", "disable", *units])


@contextmanager
def nothing_starts() -> Iterator[None]:
    """Have packages that are installed start no service, by invoke-rc.d's policy; a policy that is there is put back."""
    kept = POLICY.with_name(f"{POLICY.name}.layer4-service-proxy")
    if (
        POLICY.exists() and not kept.exists() and POLICY.read_bytes() != NOTHING_STARTS.encode()
    ):  # ours, if a run was killed
        POLICY.rename(kept)
    POLICY.write_text(NOTHING_STARTS)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
        if kept.exists():
            kept.rename(POLICY)


def environment_of(python: str, requirements: Path) -> Path:
    """Return where a virtual environment with these requirements is or is to be; its name carries their hash."""
    texts = [path.read_bytes() for path in sorted(CHECKOUT.glob("requirements-*.txt"))]
    version = subprocess.run([python, "-VV"], capture_output=True, check=True).stdout
    digest = hashlib.sha256(b"\0".join([version, requirements.name.encode(), *texts])).hexdigest()[:12]
    return CACHE / f"venv-{digest}"


def virtual_environment(python: str, requirements: Path) -> Path:
    """Return a virtual environment with these requirements, made where it is missing."""
    environment = environment_of(python, requirements)
    if not (environment / COMPLETE).exists():
        say(f"making {environment.relative_to(CHECKOUT)} of {requirements.name} for {Path(python).name}")
        subprocess.run([python, "-m", "venv", "--clear", str(environment)], check=True)
        install = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-compile"]
        logged([*install, "--disable-pip-version-check", "--requirement", str(requirements)])
        (environment / COMPLETE).touch()
    return environment


def point(link: Path, target: Path) -> None:
    """Make `link` a symbolic link to `target`, in one step."""
    wanted = os.path.relpath(target, link.parent)
    if link.is_symlink() and os.readlink(link) == wanted:
        return
    fresh = link.with_name(f"{link.name}.{os.getpid()}")
    fresh.symlink_to(wanted)
    fresh.replace(link)


def private_home() -> None:
    """Make the tools' home directory, with the user's pip settings: a mirror that the user needs is needed there too."""
    settings = HOME / ".config" / "pip"
    settings.parent.mkdir(parents=True, exist_ok=True)
    own = Path.home() / ".config" / "pip"
    if own.is_dir() and own.resolve() != settings.resolve():
        point(settings, own)


def logged(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Run a command with its output in a log; end here, with that output, if it fails."""
    log = LOGS / f"setup-{Path(command[0]).name}.log"
    with log.open("wb") as output:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
        )
    if done.returncode:
        sys.stderr.write(log.read_text(errors="replace")[-4000:])
        sys.exit(f"setup failed: {' '.join(command)} (exit {done.returncode}); log: {log}")


def say(message: str) -> None:
    print(f"setup: {message}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
