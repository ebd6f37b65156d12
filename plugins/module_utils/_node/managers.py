# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What keeps network managers from taking the device of virtual IPs for one of theirs, which a match of all names makes it."""

from __future__ import annotations

import os

from .change import Change
from .files import File, plan_files
from .settings import Settings

_FILES = {
    "/etc/systemd/network/05-layer4-service-proxy.network": """\
# Role layer4.service_proxy.node
[Match]
Name=l4-ipvs0

[Link]
Unmanaged=yes
""",
    "/etc/NetworkManager/conf.d/layer4-service-proxy.conf": """\
# Role layer4.service_proxy.node
[keyfile]
unmanaged-devices+=interface-name:l4-ipvs0
""",
}


def manager_change(settings: Settings) -> Change:
    """Return the change of the files of those network managers that the node has. Raises NodeError."""
    is_needed = settings.is_present and settings.is_ipvs
    return plan_files(
        "network managers",
        {
            path: File(text) if is_needed and os.path.isdir(os.path.dirname(path)) else None
            for path, text in _FILES.items()
        },
    )
