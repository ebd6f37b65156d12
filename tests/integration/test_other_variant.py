# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host whose iptables was switched from one variant to the other: what is ours in the tables of the former goes, too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from lab.hosts import Host
from module_runner import legacy_path, run_module_ok

NODE = {"name": "node1", "addresses": ["192.0.2.1", "2001:db8::1"]}
FOREIGN = ("-A", "FORWARD", "-p", "tcp", "-m", "tcp", "--dport", "9", "-j", "ACCEPT")


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(f"l4var{os.getpid()}") as made:
        yield made


@pytest.fixture(params=[("legacy", "nft"), ("nft", "legacy")], ids="-".join)
def variants(request: pytest.FixtureRequest) -> tuple[str, str]:
    """That of the host at first, and that of now."""
    found: tuple[str, str] = request.param
    return found


def _service(backend: str) -> dict[str, Any]:
    backends = [{"address": backend}, {"address": "fd00::11"}]
    return {"name": "web", "vip": ["10.96.0.10", "fd96::a"], "port": 80, "node_port": 30080, "backends": backends}


def _run(host: Host, variant: str, backend: str = "", check: bool = False, **options: Any) -> dict[str, Any]:
    arguments = {"services": [_service(backend)] if backend else [], "exclusive": True, "node": NODE, **options}
    path = legacy_path() if variant == "legacy" else None
    return run_module_ok(host, "vip_service", arguments, path_prefix=path, check=check)


def _saved(host: Host, variant: str) -> str:
    return "".join(host.run(f"xtables-{variant}-multi", tool + "-save").stdout for tool in ("iptables", "ip6tables"))


def test_what_the_other_variant_has_of_ours_goes_with_the_first_run(host: Host, variants: tuple[str, str]) -> None:
    before, now = variants
    _run(host, before, "10.0.0.11")
    host.run(f"xtables-{before}-multi", "iptables", *FOREIGN)
    host.run(f"xtables-{before}-multi", "iptables", "-t", "nat", "-N", "L4-BACKEND")
    host.run(f"xtables-{before}-multi", "iptables", "-t", "nat", "-A", "POSTROUTING", "-j", "L4-BACKEND")
    predicted = _run(host, now, "10.0.0.12", check=True)
    changed = _run(host, now, "10.0.0.12")
    assert changed["diff"] == predicted["diff"]
    assert f"# iptables-{before}\n" in changed["diff"]["before"]
    assert f"# ip6tables-{before}\n" in changed["diff"]["before"]
    assert "L4-" not in _saved(host, before)
    assert " ".join(FOREIGN) in _saved(host, before)
    assert "10.0.0.12" in _saved(host, now)
    assert not _run(host, now, "10.0.0.12")["changed"]


@pytest.mark.parametrize("options", [{"exclusive": True}, {"exclusive": False, "services": [{"name": "web"}]}])
def test_what_the_other_variant_has_of_ours_goes_when_services_do(
    host: Host, variants: tuple[str, str], options: dict[str, Any]
) -> None:
    before, now = variants
    _run(host, before, "10.0.0.11")
    removed = _run(host, now, state="absent", **options)
    assert removed["changed"]
    assert "L4-" not in _saved(host, before) + _saved(host, now)
    assert not _run(host, now, state="absent", **options)["changed"]


def test_an_unchanged_request_finds_what_was_left_in_the_other_variant(host: Host, variants: tuple[str, str]) -> None:
    before, now = variants
    for variant in (now, before, now):
        _run(host, variant, "10.0.0.11")
    assert "L4-" not in _saved(host, before)
    assert not _run(host, now, "10.0.0.11")["changed"]
