# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the roles promise about themselves: options, defaults and READMEs say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = Path(__file__).resolve().parents[2] / "roles"
NAMES = sorted(path.name for path in ROLES.iterdir() if path.is_dir())


def read(role: str, *path: str) -> Any:
    return yaml.safe_load(ROLES.joinpath(role, *path).read_text())


def options(role: str) -> dict[str, Any]:
    found: dict[str, Any] = read(role, "meta", "argument_specs.yml")["argument_specs"]["main"]["options"]
    return found


@pytest.mark.parametrize("role", NAMES)
def test_defaults_are_those_of_the_argument_specs(role: str) -> None:
    specified = {name: option.get("default") for name, option in options(role).items() if not option.get("required")}
    assert read(role, "defaults", "main.yml") == specified


@pytest.mark.parametrize("role", NAMES)
def test_the_readme_names_every_option_and_no_other(role: str) -> None:
    named = set(re.findall(r"`(service_proxy_\w+)", ROLES.joinpath(role, "README.md").read_text()))
    assert named == set(options(role))


def test_an_option_that_several_roles_have_is_the_same_in_each() -> None:
    seen: dict[str, tuple[Any, ...]] = {}
    for role in NAMES:
        for name, option in options(role).items():
            contract = (option["type"], option.get("elements"), option.get("choices"), option.get("default"))
            assert seen.setdefault(name, contract) == contract, f"{name} of role {role}"


@pytest.mark.parametrize("role", NAMES)
def test_every_option_has_the_prefix_of_the_collection(role: str) -> None:
    assert all(name.startswith("service_proxy_") for name in options(role))


def test_no_role_looks_a_template_up() -> None:
    """Each time Ansible would copy all variables of the host, thousands of services among them."""
    looking = re.compile(r"(?:lookup|query)\('(?:ansible\.builtin\.)?template'")
    assert [str(path) for path in ROLES.rglob("*.yml") if looking.search(path.read_text())] == []
