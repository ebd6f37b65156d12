# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The checker's parts that need no network: when checks are made, what an attempt does with a connection, which unit runs it."""

from __future__ import annotations

import errno
import ssl
from collections.abc import Sequence
from select import EPOLLIN, EPOLLOUT
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ansible_collections.layer4.service_proxy.plugins.module_utils._checker import attempt as attempts
from ansible_collections.layer4.service_proxy.plugins.module_utils._checker import daemon, prober
from ansible_collections.layer4.service_proxy.plugins.module_utils._checker.attempt import OwnFault, attempt, request
from ansible_collections.layer4.service_proxy.plugins.module_utils._dataplane.run import RunError
from ansible_collections.layer4.service_proxy.plugins.module_utils._health.checks import Out, Probe
from ansible_collections.layer4.service_proxy.plugins.module_utils._health.schedule import Schedule
from ansible_collections.layer4.service_proxy.plugins.module_utils._model.service import Backend
from ansible_collections.layer4.service_proxy.plugins.module_utils._node.boot_units import (
    ANNOUNCE,
    FLIP,
    FLIPPED,
    HEALTH,
    wanted_units,
)

TCP = Probe("10.0.0.1", 80, "tcp", "", (), 10, 2, 2, 3)
HTTP = TCP._replace(type="http", path="/up?x=1", status=((200, 299), (404, 404)))
HTTPS = HTTP._replace(type="https")
OTHER = TCP._replace(port=81)


class _Random:
    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self) -> float:
        return self.value


def test_checks_begin_spread_over_their_interval_and_come_up_to_a_tenth_early() -> None:
    chance = _Random(0.5)
    schedule = Schedule(chance)
    schedule.keep([TCP], 100.0)
    assert (schedule.due(104.9, 9), schedule.wait(103.0)) == ([], 2.0)
    assert schedule.due(105.0, 9) == [TCP]
    assert schedule.due(200.0, 9) == [], "it is under way"
    chance.value = 1.0
    schedule.done(TCP, 105.0, 105.5)
    assert schedule.wait(105.5) == pytest.approx(8.5)
    chance.value = 0.0
    assert schedule.due(114.0, 9) == [TCP]
    schedule.done(TCP, 114.0, 130.0)
    assert schedule.wait(130.0) == 0.0, "an interval that is shorter than a check begins when it ends"


def test_more_than_there_is_room_for_wait_in_their_order() -> None:
    schedule = Schedule(_Random(0.0))
    schedule.keep([OTHER], 1.0)
    schedule.keep([OTHER, TCP], 2.0)
    assert [schedule.due(3.0, 1), schedule.due(3.0, 1), schedule.due(3.0, 1)] == [[OTHER], [TCP], []]
    assert schedule.wait(3.0) == float("inf")


def test_other_services_leave_checks_that_stay_as_they_are() -> None:
    schedule = Schedule(_Random(0.5))
    schedule.keep([TCP, OTHER], 0.0)
    schedule.keep([TCP], 3.0)
    assert (len(schedule), OTHER in schedule) == (1, False)
    assert schedule.due(5.0, 9) == [TCP]
    schedule.keep([], 5.0)
    schedule.done(TCP, 5.0, 5.5)
    assert (len(schedule), schedule.wait(6.0)) == (0, float("inf"))
    schedule.keep([TCP], 6.0)
    schedule.keep([], 7.0)
    schedule.keep([TCP], 8.0)
    assert schedule.wait(8.0) == 5.0, "one time for a check, however often it has come and gone"
    assert schedule.due(99.0, 9) == [TCP]


class _Connection:
    """A socket that answers as it is told: bytes, or an exception. codes: of one call of connect after another."""

    def __init__(self, *answers: Any, codes: Sequence[int] = (errno.EINPROGRESS, 0), sends: Sequence[Any] = ()) -> None:
        self.answers, self.codes, self.sends = list(answers), list(codes), list(sends)
        self.sent = b""
        self.asked = 0
        self.is_closed = False

    def connect_ex(self, _to: Any) -> int:
        return self.codes.pop(0)

    def send(self, data: bytes) -> int:
        next_one = self.sends.pop(0) if self.sends else len(data)
        if isinstance(next_one, Exception):
            raise next_one
        self.sent += data[:next_one]
        return int(next_one)

    def recv(self, most: int) -> bytes:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        self.asked += 1
        return bytes(answer[:most])

    def do_handshake(self) -> None:
        self.recv(0)

    def wrap_socket(self, connection: Any, **_options: Any) -> Any:
        return connection

    def close(self) -> None:
        self.is_closed = True


def _made(probe: Probe, connection: Any) -> tuple[list[int], str | None]:
    """The events that were waited for, and the result."""
    one, events = attempt(probe, connection), []
    while True:
        try:
            events.append(next(one))
        except StopIteration as stop:
            assert connection.is_closed
            return events, stop.value


@pytest.mark.parametrize(
    ("connection", "expected"),
    [
        (_Connection(), ([EPOLLOUT], None)),
        (_Connection(codes=[0]), ([], None)),
        (_Connection(codes=[errno.EINPROGRESS, errno.EALREADY, 0]), ([EPOLLOUT, EPOLLOUT], None)),
        (_Connection(codes=[errno.EINPROGRESS, errno.ECONNREFUSED]), ([EPOLLOUT], "connection refused")),
        (_Connection(codes=[errno.ENETUNREACH]), ([], "network is unreachable")),
        (_Connection(codes=[errno.EPERM]), ([], "operation not permitted")),
    ],
)
def test_a_tcp_check_connects(connection: _Connection, expected: Any) -> None:
    assert _made(TCP, connection) == expected


@pytest.mark.parametrize("code", [errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.EMFILE])
def test_what_the_node_lacks_is_no_fault_of_a_backend(code: int) -> None:
    connection: Any = _Connection(codes=[code])
    with pytest.raises(OwnFault):
        next(attempt(TCP, connection))
    assert connection.is_closed


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([b"HTTP/1.1 200 OK\r\n"], None),
        ([b"HTTP/1.0 404\n"], None),
        ([b"HT", b"TP/1.1 2", b"04 No Content\r\nX: 1\r\n"], None),
        ([b"HTTP/1.1 200 " + b"x" * 5000], None),
        ([b"HTTP/1.1 500 Oops\r\n"], "status 500"),
        ([b"HTTP/1.1 301 Moved\r\nLocation: http://10.0.0.9/\r\n"], "status 301"),
        ([b"SSH-2.0-OpenSSH\r\n"], "answer is not HTTP"),
        ([b"HTTP/1.1 2000 OK\r\n"], "answer is not HTTP"),
        ([b"HTTP/2 200\r\n"], "answer is not HTTP"),
        ([b"x" * 100] * 99, "answer is not HTTP"),
        ([b"HTTP/1.1 200", b""], "answer is not HTTP"),
        ([b""], "closed without an answer"),
        ([ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")], "connection reset by peer"),
    ],
)
def test_an_http_check_reads_a_line_and_no_more(answers: list[Any], told: str | None) -> None:
    connection = _Connection(*answers)
    assert _made(HTTP, connection)[1] == told
    assert connection.asked <= 11


def test_an_http_check_waits_where_the_socket_would_block() -> None:
    connection = _Connection(BlockingIOError(), b"HTTP/1.1 200 OK\r\n", sends=[BlockingIOError(), 3])
    assert _made(HTTP, connection) == ([EPOLLOUT, EPOLLOUT, EPOLLIN], None)
    assert connection.sent == request(HTTP)
    assert connection.sent.startswith(b"GET /up?x=1 HTTP/1.1\r\nHost: 10.0.0.1:80\r\n")
    assert b"Host: [fd00::1]:80\r\n" in request(HTTP._replace(address="fd00::1"))


def test_an_https_check_shakes_hands_first(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = _Connection(ssl.SSLWantReadError(), ssl.SSLWantWriteError(), b"", b"HTTP/1.1 200 OK\r\n")
    monkeypatch.setattr(attempts, "_context", lambda: connection)
    assert _made(HTTPS, connection) == ([EPOLLOUT, EPOLLIN, EPOLLOUT], None)
    failing = _Connection(ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"))
    monkeypatch.setattr(attempts, "_context", lambda: failing)
    assert (_made(HTTPS, failing)[1] or "").startswith("TLS: ")


def test_certificates_are_not_verified() -> None:
    context = attempts._context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


def test_time_in_which_the_checker_does_not_run_is_no_time_of_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    times = [100.0]
    monkeypatch.setattr(prober.time, "monotonic", lambda: times[0])
    clock = prober.Clock()
    for waited, passed, counted in ((1.0, 1.1, 1.1), (1.0, 31.0, 1.0), (0.2, 0.1, 0.1)):
        before = clock.now()
        times[0] += passed
        clock.tick(waited)
        assert clock.now() - before == pytest.approx(counted)


@pytest.mark.parametrize("restore", [False, True])
def test_the_units_are_there_where_services_ask_for_checks(restore: bool) -> None:
    with_checks, without = (
        wanted_units(restore=restore, reapply=False, overlay=False, checks=checks) for checks in (True, False)
    )
    unit, announces, follows = [one for one in with_checks if one not in without]
    assert [(one.name, one.started) for one in (announces, follows)] == [(ANNOUNCE, False), (FLIP, True)]
    assert f"PathExists={FLIPPED}\n" in follows.text
    assert f"ExecStartPre=/bin/rm -f {FLIPPED}\n" in announces.text
    assert (unit.name, unit.started, unit.wanted_by) == (HEALTH, True, "multi-user.target")
    for line in (
        "Type=notify",
        "ProtectSystem=strict",
        "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW",
        "MemoryMax=1G",
    ):
        assert f"\n{line}\n" in unit.text


class _Services:
    """Two services that share TCP; OTHER is of one of them."""

    def __init__(self, events: list[Any]) -> None:
        self.events, self.given = events, 1
        self.answers: list[Any] = []
        self.users_of = {TCP: ["api", "web"], OTHER: ["web"]}
        self.stamp: Any = None

    @property
    def probes(self) -> Any:
        return self.users_of.keys()

    def current_stamp(self) -> Any:
        return self.given

    def load(self) -> None:
        self.stamp = self.given

    def users(self, found: Any) -> list[str]:
        return sorted({name for probe in found for name in self.users_of[probe]})

    def out(self, names: Any, failed: Any) -> list[Out]:
        backend = Backend("10.0.0.1", 80, 1, None, True, True, False)
        return [Out(name, backend, probe) for probe in failed for name in self.users_of[probe] if name in names]

    def converge(self, names: Any, failed: Any) -> bool:
        self.events.append(("kernel", tuple(names), dict(failed)))
        if not self.answers:
            return True
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)


class _Life:
    """A checker whose checks end as a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, found: dict[Probe, str]) -> None:
        self.events: list[Any] = []
        self.lines: list[str] = []
        self.file: Any = 1
        self.program: Any = "program"

        def write(failed: Any) -> None:
            self.events.append(("file", dict(failed)))

        monkeypatch.setattr(daemon.health_record, "path", lambda: "file")
        monkeypatch.setattr(daemon.health_record, "read_failed", lambda: found)
        monkeypatch.setattr(daemon.health_record, "write_failed", write)
        monkeypatch.setattr(daemon, "stamp_of", lambda path: self.file if path == "file" else self.program)
        monkeypatch.setattr(daemon, "Prober", lambda *_: SimpleNamespace(room=0, poll=self.poll, close=lambda: None))
        self.services = _Services(self.events)
        self.results: list[prober.Result] = []
        self.checker = daemon.Checker(cast(Any, self.services), self.lines.append)
        self.checker._load()

    def poll(self, _wait: float) -> list[prober.Result]:
        found, self.results = self.results, []
        return found

    def turn(self, *ended: tuple[Probe, str | None]) -> list[Any]:
        """What one turn does with these results."""
        self.results = [prober.Result(probe, 0.0, error) for probe, error in ended]
        self.events.clear()
        self.checker._next_try = self.checker._next_look = 0.0
        self.checker.turn()
        return list(self.events)


def test_a_flip_is_written_down_and_then_carried_out_for_the_services_concerned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    life = _Life(monkeypatch, {})
    assert [life.turn((TCP, "refused")), life.turn((TCP, "refused"))] == [[], []]
    assert life.turn((TCP, "timed out")) == [
        ("file", {TCP: "timed out"}),
        ("kernel", ("api", "web"), {TCP: "timed out"}),
    ]
    assert life.lines[-1] == "10.0.0.1:80 is out of api, web: tcp 10.0.0.1:80 failed 3 times: timed out"
    assert [life.turn((TCP, None)), life.turn()] == [[], []]
    assert life.turn((TCP, None)) == [("file", {}), ("kernel", ("api", "web"), {})]
    assert life.lines[-1] == "10.0.0.1:80 is back in api, web: tcp 10.0.0.1:80 passed 2 times"


def test_what_could_not_be_carried_out_is_tried_again_and_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    life = _Life(monkeypatch, {})
    life.services.answers = [False, RunError("nft: busy"), RunError("nft: busy"), True]
    for _check in range(2):
        life.turn((OTHER, "refused"))
    told = len(life.lines)
    assert [len(life.turn((OTHER, "refused"))), *(len(life.turn()) for _again in range(4))] == [2, 1, 1, 1, 0]
    assert life.lines[told:] == [
        "web: the kernel is not changed yet: nft: busy",
        "10.0.0.1:80 is out of web: tcp 10.0.0.1:81 failed 3 times: refused",
    ]


def test_the_next_checker_goes_on_from_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = TCP._replace(address="10.0.0.9")
    life = _Life(monkeypatch, {TCP: "refused", gone: "refused"})
    assert life.turn() == [("file", {TCP: "refused"}), ("kernel", ("api", "web"), {TCP: "refused"})]
    assert not any("is out" in line for line in life.lines)
    assert life.turn() == []


def test_what_is_lost_or_flushed_is_brought_back(monkeypatch: pytest.MonkeyPatch) -> None:
    life = _Life(monkeypatch, {TCP: "refused"})
    life.turn()
    life.file = 2
    assert life.turn() == []
    assert life.turn() == [("file", {TCP: "refused"}), ("kernel", ("api", "web"), {TCP: "refused"})]
    life.checker._restored = "an earlier one"
    life.turn()
    assert life.turn() == [("kernel", ("api", "web"), {TCP: "refused"})]


def test_other_services_are_taken_over_without_forgetting(monkeypatch: pytest.MonkeyPatch) -> None:
    life = _Life(monkeypatch, {TCP: "refused", OTHER: "refused"})
    life.turn()
    life.services.users_of = {TCP: ["api"]}
    life.services.given = 2
    life.turn()
    assert life.lines[-1] == "1 checks, 1 failed"
    assert life.turn((OTHER, None)) == [("file", {TCP: "refused"})]


def test_a_new_program_ends_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    life = _Life(monkeypatch, {})
    life.program = None
    life.turn()
    assert not life.checker.is_stopping, "it is being replaced, or its unit is about to go"
    life.program = "another"
    life.turn()
    assert life.checker.is_stopping
