# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host for tests of virtual services: a namespace of its own, and ipvsadm as the judge of what the kernel holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import count
from typing import Any, Callable, TypeVar

from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.ipvs import Ipvs
from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipvs import IpvsChange
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.virtual_service.plan import (
    apply_virtual_service,
    plan_virtual_service,
)
from ansible_collections.layer4.service_proxy.plugins.module_utils._resource.virtual_service.request import (
    parse_request,
)
from lab.namespaces import Namespace
from module_runner import run_module, run_module_ok

Result = TypeVar("Result")
_numbers = count()
_NOT_GIVEN: dict[str, Any] = {
    **dict.fromkeys(["address", "port", "protocol", "fwmark", "family", "scheduler", "scheduler_flags"]),
    **dict.fromkeys(["persistence_timeout", "netmask", "one_packet", "destinations"]),
    "exclusive": False,
    "drain_timeout": 0,
    "state": "present",
}


class IpvsHost:
    """A context manager."""

    def __init__(self) -> None:
        self.namespace = Namespace(f"l4vs{os.getpid()}n{next(_numbers)}")

    def __enter__(self) -> IpvsHost:
        self.namespace.create()
        return self

    def __exit__(self, *_error: object) -> None:
        self.namespace.delete()

    def run(self, check: bool = False, **options: Any) -> dict[str, Any]:
        """Run ipvs_service, which may fail."""
        return run_module(self.namespace, "ipvs_service", options, check=check)

    def apply(self, check: bool = False, **options: Any) -> dict[str, Any]:
        """Run ipvs_service, which is expected to succeed."""
        return run_module_ok(self.namespace, "ipvs_service", options, check=check)

    def refused(self, **options: Any) -> list[str]:
        """The lines of the error of ipvs_service, which is the same in check mode and changes nothing."""
        before = self.saved()
        checked, result = self.run(check=True, **options), self.run(**options)
        assert result["failed"]
        assert checked["msg"] == result["msg"]
        assert self.saved() == before
        return str(result["msg"]).splitlines()

    def converge(self, **options: Any) -> dict[str, Any]:
        """Check, apply, apply again: the check predicts the diff and changes nothing, and the second run has nothing to do."""
        before = self.saved()
        predicted = self.apply(check=True, **options)
        assert self.saved() == before
        result = self.apply(**options)
        assert (predicted["changed"], predicted["diff"]) == (result["changed"], result["diff"])
        after = self.saved()
        again = self.apply(**options)
        assert not again["changed"]
        assert again["diff"] == {"before": "", "after": ""}
        assert self.saved() == after
        return result

    def diff(self, **options: Any) -> tuple[str, str]:
        """Apply as the module does, inside of this process: a test of many options has no time for a module each."""
        request = parse_request({**_NOT_GIVEN, **options})

        def converge(ipvs: Ipvs) -> tuple[str, str]:
            plan = plan_virtual_service(request, ipvs)
            apply_virtual_service(plan, request, ipvs)
            return plan.before, plan.after

        return self.inside(converge)

    def ipvsadm(self, *arguments: str, text: str | None = None) -> str:
        return self.namespace.run("ipvsadm", *arguments, input=text).stdout

    def restore(self, lines: Sequence[str]) -> None:
        self.ipvsadm("--restore", text="".join(line + "\n" for line in lines))

    def saved(self) -> list[str]:
        """All virtual services and destinations, sorted."""
        return sorted(self.ipvsadm("-Sn").splitlines())

    def thresholds(self) -> list[str]:
        """Every destination's upper and lower threshold, which ``-Sn`` leaves out, in the order of ipvsadm's list."""
        lines = [line.split() for line in self.ipvsadm("-Ln", "--thresholds").splitlines()]
        return [
            "{} {} {}".format(words[1], *words[2:4])
            for words in lines
            if words[:1] == ["->"] and words[1] != "RemoteAddress:Port"
        ]

    def inside(self, act: Callable[[Ipvs], Result]) -> Result:
        """What ``act`` makes of this host's IPVS."""

        def call() -> Result:
            with Ipvs() as ipvs:
                return act(ipvs)

        return self.namespace.call(call)

    def change(self, *changes: IpvsChange) -> None:
        self.inside(lambda ipvs: ipvs.apply(changes))
