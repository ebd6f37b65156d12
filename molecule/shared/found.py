# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What tasks/note.yml has noted of a node."""

from __future__ import annotations

from difflib import unified_diff

from testinfra.host import Host


def assert_as_found(host: Host, apart_from: tuple[str, ...] = ()) -> None:
    """What the node is now is what was noted, apart from lines that begin so."""
    texts = (host.file("/var/tmp/found").content_string, host.check_output("snapshot"))
    found, now = ([line for line in text.splitlines() if not line.startswith(apart_from)] for text in texts)
    differences = list(unified_diff(found, now, lineterm="", n=0))
    assert not differences, "\n".join(differences)
