# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What becomes of a task's services on the controller: of a long list one text, templated only where there are templates."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.plugins.action import ActionBase

from ansible_collections.layer4.service_proxy.plugins.action.vip_service import ActionModule
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.payload import Payload, pack, unpack

pytestmark = pytest.mark.skipif(
    not hasattr(ActionBase, "finalize_task_arg"), reason="ansible-core before 2.19 templates arguments without asking"
)


class FakeTemplar:
    """Counts what it templates; of a variable's name in braces, the variable with ``{{ one }}`` in it made 1."""

    def __init__(self, services: Any) -> None:
        self.available_variables = {"mine": services}
        self.templated = 0

    def template(self, value: Any) -> Any:
        self.templated += 1
        if isinstance(value, list):
            return [{**one, "name": one["name"].replace("{{ one }}", "1")} for one in value]
        return self.template(self.available_variables["mine"])


def _services(many: int, name: str = "s%d") -> list[dict[str, Any]]:
    return [{"name": (name % number) if "%" in name else name, "port": 80} for number in range(many)]


def _finalized(value: Any, services: Any) -> tuple[Any, int]:
    templar = FakeTemplar(services)
    return ActionModule.finalize_task_arg("services", value, templar, None), templar.templated


def test_a_long_list_is_one_text_and_is_not_templated() -> None:
    services = _services(200)
    for value in ("{{ mine }}", services):
        found, templated = _finalized(value, services)
        assert isinstance(found, Payload)
        assert (unpack(found.body), templated) == (services, 0)


@pytest.mark.parametrize("name", ["s{{ one }}", "{% if x %}", "{# none #}"])
def test_a_template_anywhere_is_templated_before(name: str) -> None:
    services = [*_services(200), {"name": name, "port": 80}]
    found, templated = _finalized("{{ mine }}", services)
    assert isinstance(found, Payload)
    assert templated
    assert unpack(found.body)[-1]["name"] == name.replace("{{ one }}", "1")


def test_an_expression_is_templated_and_packed() -> None:
    services = _services(200)
    found, templated = _finalized("{{ mine | sort }}", services)
    assert isinstance(found, Payload)
    assert templated


def test_a_short_list_and_what_json_does_not_know_stay_as_they_are() -> None:
    for services in (_services(199), [*_services(200), {"name": "s", "port": date(2026, 1, 1)}]):
        found, templated = _finalized("{{ mine }}", services)
        assert (found, bool(templated)) == (services, True)


class Sending(ActionModule):
    """An action that keeps what it would send."""

    def __init__(self, services: Any) -> None:
        self._task: Any = SimpleNamespace(args={"services": services, "exclusive": True}, async_val=0)
        self.sent: list[Mapping[str, Any]] = []

    def _execute_module(self, **how: Any) -> dict[str, Any]:
        self.sent.append(how["module_args"])
        return {"changed": False}


def test_services_are_sent_once_as_one_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ActionModule.__bases__[0], "run", lambda *_arguments: {})
    packed = pack(_services(200))
    action = Sending(packed)
    assert action.run(task_vars={"inventory_hostname": "node1"}) == {"changed": False}
    assert action.sent == [{"exclusive": True, "node": {"name": "node1"}, "payload": packed._asdict()}]
