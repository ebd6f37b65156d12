# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Health checks: what users write, what checks have found, and which backends are out by it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane import service_run
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.interface import Summary
from ansible_collections.layer4.service_proxy.plugins.module_utils._health.checks import (
    Probe,
    ask_for_checks,
    backends_out,
    probes,
    without_failed,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._health.state import (
    DamagedState,
    Health,
    out_line,
    parse,
    text_of,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.health_check import HealthCheck
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.request import Request
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import (
    InvalidServices,
    Service,
    parse_node,
    parse_services,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.boot import BootState

NODE = parse_node({"name": "n1"})
DEFAULT = HealthCheck("tcp", None, "/", ((200, 399),), 5, 2, 2, 3, 0)


def service(check: Any, backends: int = 4, name: str = "web", **first: Any) -> Service:
    listed: list[dict[str, Any]] = [{"address": f"10.0.0.{i + 1}", "port": 8080} for i in range(backends)]
    listed[0].update(first)
    vip = f"10.96.0.{len(name)}"
    raw = {"name": name, "vip": vip, "port": 80, "backends": listed, "health_check": check}
    return parse_services([raw], NODE)[0]


def failing(one: Service, count: int) -> set[Probe]:
    return set(sorted(probes([one]))[:count])


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({}, DEFAULT),
        ({"type": None}, DEFAULT),
        (
            {"type": "http", "status": [404, "200-204"], "path": "/up?x=1"},
            DEFAULT._replace(type="http", status=((200, 204), (404, 404)), path="/up?x=1"),
        ),
        ({"status": 200}, DEFAULT._replace(status=((200, 200),))),
        ({"port": "9000"}, DEFAULT._replace(port=9000)),
        ({"panic_threshold": None}, DEFAULT._replace(panic_threshold=None)),
        ({"panic_threshold": 50}, DEFAULT._replace(panic_threshold=50)),
    ],
)
def test_a_check_as_written(written: Any, expected: HealthCheck) -> None:
    assert service(written).health_check == expected


def test_a_service_without_a_check() -> None:
    assert service(None).health_check is None
    assert (probes([service(None)]), backends_out(service(None), failing(service({}), 1))) == (set(), [])


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("tcp", 'health_check is "tcp": must be a dict with the keys type, port,'),
        ({"type": "icmp"}, 'health_check.type is "icmp": must be one of tcp, http, https'),
        ({"prot": 1}, "health_check.prot is 1: must be left out: allowed are type, port,"),
        ({"path": "/a\r\nHost: b"}, "must be a path of printable ASCII"),
        ({"path": "up"}, 'health_check.path is "up": must be a path'),
        ({"status": [200, "399-200"]}, 'health_check.status[1] is "399-200": must be a status from 100 to 599'),
        ({"status": True}, "must be a status"),
        ({"status": []}, "must be a list with at least one item"),
        ({"status": [600]}, "health_check.status[0] is 600: must be a status"),
        ({"interval": 0}, "health_check.interval is 0: must be an integer from 1 to 3600"),
        ({"timeout": 3601}, "must be an integer from 1 to 3600"),
        ({"rise": 0}, "health_check.rise is 0"),
        ({"fall": 101}, "must be an integer from 1 to 100"),
        ({"panic_threshold": 101}, "health_check.panic_threshold is 101: must be an integer from 0 to 100"),
    ],
)
def test_a_wrong_check_is_one_line(written: Any, told: str) -> None:
    with pytest.raises(InvalidServices) as raised:
        service(written)
    (line,) = raised.value.problems
    assert told in line
    assert line.startswith('service "web": ')


def test_an_endpoint_is_checked_once_for_all_services_with_the_same_check() -> None:
    same = [service({"panic_threshold": 10}), service({}, name="other")]
    assert len(probes(same)) == 4
    assert len(probes([*same, service({"rise": 5}, name="third-one")])) == 8
    assert len(probes([service({"path": "/a"}), service({"path": "/b"}, name="other")])) == 4
    assert len(probes([service({"port": 1}, backends=1)])) == 1
    assert next(iter(probes([service({"port": 1}, backends=1)]))).port == 1


@pytest.mark.parametrize(
    ("threshold", "failed", "out"),
    [(0, 1, 1), (0, 3, 3), (0, 4, 0), (50, 1, 1), (50, 2, 0), (49, 2, 2), (None, 4, 4), (100, 0, 0), (100, 1, 0)],
)
def test_the_panic_threshold(threshold: int | None, failed: int, out: int) -> None:
    one = service({"panic_threshold": threshold})
    assert len(backends_out(one, failing(one, failed))) == out


@pytest.mark.parametrize("apart", [{"ready": False}, {"weight": 0}])
def test_backends_without_new_connections_are_no_share(apart: dict[str, Any]) -> None:
    one = service({"panic_threshold": 50}, backends=3, **apart)
    assert backends_out(one, failing(one, 1)) == []
    assert backends_out(one, failing(one, 2)) == []  # one of two that count: half of them is not above 50 %


def written(check: Any = None, protocol: str = "tcp", **first: Any) -> dict[str, Any]:
    """A service with two backends, as users write it."""
    listed = [{"address": "10.0.0.1", "port": "8080", **first}, {"address": "10.0.0.2", "node": "n1"}]
    return {
        "name": "web",
        "vip": "10.96.0.1",
        "port": 80,
        "protocol": protocol,
        "backends": listed,
        "health_check": check,
    }


def of(raw: dict[str, Any], *addresses: str) -> set[Probe]:
    (one,) = parse_services([raw], NODE)
    return {probe for probe in probes([one]) if probe.address in addresses}


@pytest.mark.parametrize(
    ("protocol", "unused"),
    [("tcp", {"weight": 0}), ("sctp", {"weight": 0}), ("udp", {"ready": False, "serving": False})],
)
def test_failed_backends_take_nothing_new_and_only_udp_loses_what_it_has(protocol: str, unused: dict[str, Any]) -> None:
    raw, other = written({}, protocol), {"name": "other"}
    before = json.dumps(raw)
    (left, as_it_was), out = without_failed([raw, other], of(raw, "10.0.0.1"), NODE)
    assert left == {**raw, "backends": [{**raw["backends"][0], **unused}, raw["backends"][1]]}
    assert [(one.service, one.backend.address, one.backend.port) for one in out] == [("web", "10.0.0.1", 8080)]
    assert as_it_was is other
    assert json.dumps(raw) == before


def test_other_spellings_and_default_ports_are_the_same_backend() -> None:
    raw = written({"type": "http"})
    raw["backends"] = [{"address": "FD00:0::2"}, {"address": "10.0.0.2", "weight": "2"}]
    raw["vip"] = ["10.96.0.1", "fd96::1"]
    (left,), dummy = without_failed([raw], of(raw, "fd00::2"), NODE)
    assert [one.get("weight") for one in left["backends"]] == [0, "2"]


@pytest.mark.parametrize("drained", [{"weight": 0}, {"ready": False}])
def test_a_drained_backend_stays_as_it_is(drained: dict[str, Any]) -> None:
    raw = written({"panic_threshold": None}, **drained)
    (left,), out = without_failed([raw], of(raw, "10.0.0.1"), NODE)
    assert (left is raw, out) == (True, [])


@pytest.mark.parametrize(
    "raw",
    [
        1,
        {},
        written(None),
        {**written({}), "port": 0},
        {**written({}), "backends": 1},
        {**written({}), "backends": [1]},
    ],
)
def test_what_is_wrong_or_not_checked_is_left_for_others(raw: Any) -> None:
    (left,), out = without_failed([raw], of(written({}), "10.0.0.1"), NODE)
    assert (left is raw, out) == (True, [])


def test_a_backend_that_is_out_is_one_line() -> None:
    raw = written({"port": 9})
    dummy, (out,) = without_failed([raw], of(raw, "10.0.0.1"), NODE)
    assert out_line(out, "refused") == "web: 10.0.0.1:8080 is out: tcp check to port 9: refused"


def test_what_another_check_found_is_nothing_to_this_one() -> None:
    assert backends_out(service({"path": "/b", "type": "http"}), failing(service({}), 2)) == []


def test_fall_and_rise() -> None:
    (probe,) = probes([service({"rise": 2, "fall": 3}, backends=1)])
    health = Health()
    results = ["x", "x", None, "x", "x", "refused", "x", None, "x", None, None]
    assert [health.record(probe, one) for one in results] == [i in (5, 10) for i in range(11)]
    assert health.failed == {}


def test_the_reason_is_the_deciding_one() -> None:
    (probe,) = probes([service({"fall": 2}, backends=1)])
    health = Health()
    for error in ("timeout", "refused", "timeout"):
        health.record(probe, error)
    assert health.failed == {probe: "refused"}


def test_a_changed_check_begins_anew_for_itself_alone() -> None:
    kept, changed = sorted(probes([service({"fall": 1}, backends=2)]))
    health = Health({kept: "x", changed: "x"})
    health.keep({kept, changed._replace(fall=2)})
    assert health.failed == {kept: "x"}


def test_counts_of_a_check_that_is_gone_are_forgotten() -> None:
    (probe,) = probes([service({"fall": 2}, backends=1)])
    health = Health()
    health.record(probe, "x")
    health.keep([])
    assert not health.record(probe, "x")


def test_one_state_has_one_text_that_is_read_back() -> None:
    first, second = sorted(probes([service({"type": "http", "status": [200, "300-301"]}, backends=2)]))
    text = text_of({first: "refused", second: "a\nb"})
    assert text == text_of({second: "a\nb", first: "refused"})
    assert parse(text) == {first: "refused", second: "a\nb"}
    assert text.count("\n") == 1
    assert parse(text_of({})) == {}


def damaged() -> list[str]:
    (probe,) = probes([service({"type": "http"}, backends=1)])
    good = json.loads(text_of({probe: "x"}))
    entry = good["failed"][0]
    others = [
        entry[:-1],
        [*entry[:4], [[1]], *entry[5:]],
        [*entry[:4], [1], *entry[5:]],
        ["a", True, *entry[2:]],
        {},
        1,
    ]
    return ["", "{", "[]", "[" * 100000, '{"version": 2, "failed": []}', '{"version": 1}'] + [
        json.dumps({**good, "failed": [one]}) for one in others
    ]


@pytest.mark.parametrize("text", damaged())
def test_a_damaged_text_is_no_state(text: str) -> None:
    with pytest.raises(DamagedState):
        parse(text)


@pytest.mark.parametrize("entry", [1, ["10.0.0.1", 80, "tcp", "", [1], 1, 1, 1, 1, "refused"]])
def test_a_damaged_entry_is_called_so(entry: Any) -> None:
    with pytest.raises(DamagedState, match=r"^an entry is damaged$"):
        parse(json.dumps({"version": 1, "failed": [entry]}))


class _Run:
    """A run that does nothing."""

    changed, diff, warnings, summary = False, {"before": "", "after": ""}, (), Summary([], [], [])

    def apply(self) -> None:
        """Nothing."""

    def clean_up(self) -> int:
        return 0

    def boot_state(self) -> BootState:
        return BootState()


@pytest.mark.parametrize("failed", [set(), {"10.0.0.1"}])
def test_what_is_kept_for_boot_is_not_what_checks_have_left(failed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    raw, asked = written({}), []

    def plan_run(request: Request, *_rest: Any) -> _Run:
        asked.append(request)
        return _Run()

    monkeypatch.setattr(service_run, "plan_run", plan_run)
    monkeypatch.setattr(service_run, "read_failed", lambda: dict.fromkeys(of(raw, *failed), "refused"))
    module: Any = SimpleNamespace(check_mode=False, warn=None)
    settings = {"name": "n1", "addresses": ["192.0.2.1"]}
    done = service_run.converge_services(module, Request("present", [raw], True, "iptables"), settings, {})
    weights = [one.get("weight", 1) for one in asked[0].services[0]["backends"]]
    assert weights == ([0, 1] if failed else [1, 1])
    assert done.result["unhealthy"] == (["web: 10.0.0.1:8080 is out: tcp check: refused"] if failed else [])
    assert (done.boot_state() is None) == bool(failed)
    service_run.converge_services(module, Request("absent", [{"name": "web"}], False, "iptables"), settings, {})
    assert asked[1].services == [{"name": "web"}]


@pytest.mark.parametrize(
    ("raw", "asked"),
    [
        ([], False),
        ([{"name": "a"}], False),
        ([{"health_check": None}], False),
        ([{"name": "a"}, {"health_check": {}}], True),
    ],
)
def test_checks_are_asked_for_by_any_service(raw: list[Any], asked: bool) -> None:
    assert ask_for_checks(raw) == asked
