# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What keeps network managers from taking devices of ours for theirs, which a match of all names makes them, and from removing our
routes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from .._objects.node_facts import SERVICE_DEVICE
from .._objects.overlay import DEVICE as OVERLAY_DEVICE
from .change import Change
from .files import File, plan_files
from .settings import Settings

_NETWORKD, _NETWORKD_SETTINGS = "/etc/systemd/network", "/etc/systemd/networkd.conf.d"
_NETWORK_MANAGER = "/etc/NetworkManager/conf.d"
_UNMANAGED = {
    f"{_NETWORKD}/05-%s.network": """\
# Role layer4.service_proxy.%s
[Match]
Name=%s

[Link]
Unmanaged=yes
""",
    f"{_NETWORK_MANAGER}/%s.conf": """\
# Role layer4.service_proxy.%s
[keyfile]
unmanaged-devices+=interface-name:%s
""",
}
_FOREIGN_ROUTES = """\
# Role layer4.service_proxy.overlay: otherwise systemd-networkd removes its routes whenever it configures their interface
[Network]
ManageForeignRoutes=no
"""


def manager_change(settings: Settings) -> Change:
    """Return the change of the files about the device of virtual IPs. Raises NodeError."""
    is_needed = settings.is_present and settings.is_ipvs
    return plan_files("network managers", _unmanaged(SERVICE_DEVICE, "layer4-service-proxy", "node", is_needed))


def overlay_change(settings: Settings) -> Change:
    """Return the change of the files about the overlay's device, or its routes. Raises NodeError."""
    mode = settings.overlay if settings.has_overlay else ""
    files = _unmanaged(OVERLAY_DEVICE, "layer4-service-proxy-overlay", "overlay", mode == "vxlan")
    keeps_routes = mode == "routes" and os.path.isdir(_NETWORKD)
    path = f"{_NETWORKD_SETTINGS}/layer4-service-proxy.conf"
    change = plan_files("network managers", {**files, path: File(_FOREIGN_ROUTES) if keeps_routes else None})

    def apply() -> None:
        change.apply()
        with suppress(OSError):  # where there is anything else in it, or it is not there
            os.rmdir(_NETWORKD_SETTINGS)

    return Change(change.name, change.before, change.after, apply)


def _unmanaged(device: str, name: str, role: str, is_needed: bool) -> Mapping[str, File | None]:
    """The files that have the managers that a node has leave a device alone."""
    paths = {path % name: text % (role, device) for path, text in _UNMANAGED.items()}
    return {
        path: File(text) if is_needed and os.path.isdir(os.path.dirname(path)) else None for path, text in paths.items()
    }
