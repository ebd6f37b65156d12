# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command ``layer4-service-proxy``: what it says when something is wrong on the node."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._node import boot_generations, bridge_modes, command
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.boot_generations import BootError

DAMAGED = BootError("services: ends in \x1b]0;title\x07\nboth files are \x9b2J")
ESCAPED = ["services: ends in \\u001b]0;title\\u0007", "both files are \\u009b2J"]


def _fail(*dummy: Any) -> Any:
    raise DAMAGED


def test_an_error_cannot_write_to_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(boot_generations, "current", _fail)
    with pytest.raises(SystemExit) as ended:
        command.main(["services"])
    assert ended.value.code == 1
    assert capsys.readouterr() == ("", "\n".join([*ESCAPED, ""]))


def test_nor_can_a_line_of_what_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(boot_generations, "current", lambda dummy: SimpleNamespace(number=3))
    monkeypatch.setattr(boot_generations, "numbers", lambda dummy: [2])
    monkeypatch.setattr(boot_generations, "load", _fail)
    with pytest.raises(SystemExit) as ended:
        command.main(["generations"])
    assert ended.value.code == 0
    assert capsys.readouterr() == ("     2  " + "\\n".join(ESCAPED) + "\n", "")


def test_nor_can_what_the_tools_of_bridges_say(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bridge"
    tool.write_text("#!/bin/sh\nprintf 'no \\033[1m%s\\n\\377' \"$LC_ALL\" >&2; exit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(OSError) as refused:
        bridge_modes.set_mode(bridge_modes.Mode(bridge_modes.HAIRPIN, "eth0"), True)
    assert refused.value.strerror == "bridge link set hairpin: no \\x1b[1mC\\n\\udcff"
