# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """What the modules support: those that change a node, and (info) those that only look."""

    DOCUMENTATION = r"""
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: linux
"""

    INFO = r"""
attributes:
  check_mode:
    support: full
    details: Nothing is ever changed.
  diff_mode:
    support: N/A
    details: There is nothing that could differ.
  platform:
    platforms: linux
"""
