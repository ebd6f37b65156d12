# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host for tests of ipsets: a namespace of its own, and the ipset tool as the judge of what the kernel holds."""

from __future__ import annotations

import os
import re
from itertools import count
from typing import Any

from lab.namespaces import Namespace
from module_runner import run_module, run_module_ok

_numbers = count()


class SetHost:
    """A context manager."""

    def __init__(self) -> None:
        self.namespace = Namespace(f"l4set{os.getpid()}n{next(_numbers)}")

    def __enter__(self) -> SetHost:
        self.namespace.create()
        return self

    def __exit__(self, *_error: object) -> None:
        self.namespace.delete()

    def run(self, check: bool = False, **options: Any) -> dict[str, Any]:
        """Run ipset_entry, which may fail."""
        return run_module(self.namespace, "ipset_entry", options, check=check)

    def apply(self, check: bool = False, **options: Any) -> dict[str, Any]:
        """Run ipset_entry, which is expected to succeed."""
        return run_module_ok(self.namespace, "ipset_entry", options, check=check)

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

    def ipset(self, *arguments: str, text: str | None = None) -> str:
        return self.namespace.run("ipset", *arguments, input=text).stdout

    def saved(self) -> list[str]:
        """All sets and entries without what changes by itself, sorted."""
        return sorted(_steady(line) for line in self.ipset("save").splitlines())

    def members(self, name: str) -> list[str]:
        """The elements of a set with what is kept beside them, sorted."""
        lines = self.ipset("save", name).splitlines()
        return sorted(line.split(" ", 2)[2] for line in lines if line.startswith("add "))

    def header(self, name: str) -> str:
        """What a set was created with."""
        (line,) = [line for line in self.ipset("save", name).splitlines() if line.startswith("create ")]
        return _steady(line)


def _steady(line: str) -> str:
    """A line of ``ipset save`` without what changes by itself, and what is the kernel's own choice."""
    if line.startswith("create "):
        return re.sub(r" (?:initval|bucketsize|size) \S+", "", line)
    return re.sub(r" packets \d+ bytes \d+", "", re.sub(r" timeout [1-9]\d*", "", line))
