# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The list of drained backends that a node keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._node import given
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.change import NodeError


@pytest.fixture
def drained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "drained"
    monkeypatch.setattr(given, "DRAINED", str(path))
    return path


def test_any_name_is_read_back_as_it_was_kept(drained: Path) -> None:
    names = [
        "10.0.0.1",
        "[fd00::1]:80",
        "two\nlines",
        "\u2028",
        "\r",
        '"quoted"',
        '"',
        "\\",
        "\udc80",
        "n\u00f6de",
        "[",
        " ",
    ]
    drained.write_text("".join(given.to_line(name) + "\n" for name in names))
    assert given.read_drained() == names
    assert drained.read_text().splitlines()[:2] == names[:2]


def test_a_list_that_cannot_be_understood_is_an_error(drained: Path) -> None:
    drained.write_text('10.0.0.1\n"two\nlines"\n')
    with pytest.raises(NodeError, match="cannot be understood"):
        given.read_drained()
