# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What tasks/note.yml has noted of a node."""

from __future__ import annotations

from difflib import unified_diff

from testinfra.host import Host


def assert_as_found(host: Host) -> None:
    """What the node is now is what was noted."""
    found = host.file("/var/tmp/found").content_string.splitlines()
    differences = list(unified_diff(found, host.check_output("snapshot").splitlines(), lineterm="", n=0))
    assert not differences, "\n".join(differences)
