# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lab's servers: each backend answers on every address and port that a service of the inventory may send to.

`python -m lab.serve INVENTORY` prints one line when all of them listen, and runs until it is ended.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from .namespaces import Namespace
from .topology import Topology, load
from .traffic import Servers

LISTENING = "listening\n"


def ports(topology: Topology) -> set[tuple[str, int]]:
    """Protocol and port of every backend of every service."""
    return {
        (service.get("protocol", "tcp"), backend.get("port", service["port"]))
        for service in topology.services
        for backend in service["backends"]
    }


def main(inventory: Path) -> None:
    topology = load(inventory)
    with Servers() as servers:
        for backend in topology.backends.values():
            namespace = Namespace(topology.namespace_name(backend.name))
            for protocol, port in ports(topology):
                for address in backend.addresses:
                    servers.serve(namespace, backend.name, address, port, protocol)
        print(LISTENING, end="", flush=True)
        signal.pause()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
