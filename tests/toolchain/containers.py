# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run Molecule's scenarios on a machine that may have no container registry, and an old kind of cgroups.

With Podman and a registry none of this is needed: `molecule test` is enough. What only other machines need stands
here: Debian's packages of Podman, an image made of Debian's packages, and settings for containers where root has no
CAP_SYS_RESOURCE and cgroups are of version 1. What is run in a container is run by bin/podman, which is faster.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from paths import CACHE, CHECKOUT, LOGS
from prepare import install_packages, locked
from scenarios import EVIDENCE, IN_CONTAINERS, tested

IMAGE = CHECKOUT / "molecule" / "shared" / "image"
PACKAGE_OF_TOOL = {"podman": "podman", "runc": "runc", "mmdebstrap": "mmdebstrap"}
NETWORK_PACKAGES = ("netavark", "aardvark-dns")
SUITES = ("bookworm", "trixie")
CONTAINER_PREFIX = "l4-"
SETTINGS = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
[engine]
runtime = "runc"
[network]
network_backend = "netavark"
"""


def main(arguments: list[str]) -> int:
    with locked(CACHE / "containers.lock"):
        install_packages(missing_packages())
        if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
            settings = CACHE / "containers.conf"
            settings.write_text(SETTINGS)
            os.environ["CONTAINERS_CONF"] = str(settings)
        put_in_front()
        for suite in SUITES:
            provide_image(suite)
        return tested(arguments or IN_CONTAINERS, keep_what_nodes_logged)


def put_in_front() -> None:
    """Have all that call podman from here on call bin/podman."""
    pids = CACHE / "podman"
    pids.mkdir(exist_ok=True)
    directory = Path(__file__).parent / "bin"
    os.environ.update(L4_PODMAN=shutil.which("podman") or "podman", L4_PODMAN_PIDS=str(pids))
    os.environ["PATH"] = f"{directory}{os.pathsep}{os.environ['PATH']}"


def keep_what_nodes_logged() -> None:
    """Save journal, rules and links of every node beside the stage's own log."""
    listed = subprocess.run(
        ["podman", "ps", "--format={{.Names}}"], capture_output=True, text=True, check=True
    ).stdout.split()
    for name in (name for name in listed if name.startswith(CONTAINER_PREFIX)):
        log = LOGS / f"molecule-{name}.log"
        with log.open("w") as output:
            subprocess.run(["podman", "exec", name, "sh", "-c", EVIDENCE], stdout=output, stderr=output, check=False)
        print(f"what {name} logged: {log.relative_to(CHECKOUT)}", flush=True)


def missing_packages() -> list[str]:
    missing = [package for tool, package in PACKAGE_OF_TOOL.items() if not shutil.which(tool)]
    return [*missing, *NETWORK_PACKAGES] if "podman" in missing else missing


def provide_image(suite: str) -> None:
    """The image that molecule/shared/create.yml looks for: of a public one, or else of Debian's packages."""
    name = f"localhost/layer4-service-proxy-node:{suite}-{image_digest()}"
    if succeeds("podman", "image", "exists", name):
        return
    if succeeds("podman", "build", "--quiet", f"--build-arg=SUITE={suite}", f"--tag={name}", str(IMAGE)):
        print(f"{name}: made of a public image", flush=True)
        return
    packages = ",".join((IMAGE / "packages").read_text().split())
    settle = f'chroot "$1" sh < "{IMAGE / "settle.sh"}"'
    with tempfile.TemporaryDirectory(dir=CACHE) as directory:
        archive = Path(directory, "image.tar")
        options = ["--quiet", "--variant=minbase", f"--include={packages}", f"--customize-hook={settle}"]
        subprocess.run(["mmdebstrap", *options, suite, str(archive)], check=True)
        subprocess.run(["podman", "import", "--quiet", str(archive), name], check=True)
    print(f"{name}: made of Debian's packages", flush=True)


def image_digest() -> str:
    """What names the image: a hash of what it is made of."""
    texts = [(IMAGE / name).read_text() for name in ("Containerfile", "packages", "settle.sh")]
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:12]


def succeeds(*command: str) -> bool:
    return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
