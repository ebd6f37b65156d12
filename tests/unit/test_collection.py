# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The parts of the collection agree with each other."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
NAME = "layer4.service_proxy"
MODULE_UTILS = CHECKOUT / "plugins" / "module_utils"
MODULES = sorted(path.stem for path in (CHECKOUT / "plugins" / "modules").glob("[a-z]*.py"))
PLUGINS = sorted(
    path.stem for kind in ("connection", "filter", "lookup") for path in (CHECKOUT / "plugins" / kind).glob("[a-z]*.py")
)
ROLES = sorted(path.parent.parent.name for path in CHECKOUT.glob("roles/*/meta/main.yml"))
# Packages that only some parts of module_utils may use: what touches the system, and what carries policy.
SYSTEM = {"fcntl", "os", "pathlib", "pyroute2", "shutil", "socket", "subprocess", "tempfile"}
LICENCE = tuple(Path(__file__).read_text().splitlines()[:3])


def load(path: str) -> Any:
    return yaml.safe_load((CHECKOUT / path).read_text())


@cache
def documentation() -> Any:
    """ansible-doc's view of the modules, with documentation fragments resolved."""
    names = [f"{NAME}.{module}" for module in MODULES]
    return json.loads(ansible_doc("--type", "module", "--json", *names))


def ansible_doc(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "ansible", "doc", *arguments], capture_output=True, text=True, check=True
    ).stdout


def test_ansible_finds_this_checkout_and_no_other_copy() -> None:
    listed = [line.split() for line in ansible_doc("--type", "module", "--list_files", NAME).splitlines()]
    assert {name: os.path.realpath(path) for name, path in listed} == {
        f"{NAME}.{module}": str(CHECKOUT / "plugins" / "modules" / f"{module}.py") for module in MODULES
    }


def test_action_group_lists_all_modules() -> None:
    assert sorted(load("meta/runtime.yml")["action_groups"]["service_proxy"]) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_module_supports_check_mode_and_diff_in_full(module: str) -> None:
    attributes = documentation()[f"{NAME}.{module}"]["doc"]["attributes"]
    assert attributes["check_mode"]["support"] == "full"
    assert attributes["diff_mode"]["support"] == ("N/A" if module.endswith("_info") else "full")


@pytest.mark.parametrize("module", MODULES)
def test_module_has_a_test_on_a_real_kernel(module: str) -> None:
    files = [path for kind in ("integration", "virtual") for path in (CHECKOUT / "tests" / kind).glob("*.py")]
    tests = [path.name for path in files if f'"{module}"' in path.read_text()]
    assert tests, f"no file in tests/integration or tests/virtual runs {module}"


def test_a_changelog_fragment_tells_of_every_module_plugin_and_role() -> None:
    fragments = "".join(path.read_text() for path in (CHECKOUT / "changelogs" / "fragments").glob("*.yml"))
    assert [name for name in [*MODULES, *PLUGINS, *ROLES] if name not in fragments] == []


def test_the_readme_tells_of_every_module_plugin_and_role() -> None:
    readme = (CHECKOUT / "README.md").read_text()
    assert [
        name for name in [*MODULES, *PLUGINS, *ROLES] if f"`{name}`" not in readme and f"{NAME}.{name}`" not in readme
    ] == []


def test_every_python_file_carries_the_licence() -> None:
    files = [
        path for top in ("lab", "plugins", "tests") for path in (CHECKOUT / top).rglob("*.py") if path.stat().st_size
    ]
    assert [str(path) for path in files if not _licensed(path)] == []


def _licensed(path: Path) -> bool:
    comments = tuple(line for line in path.read_text().splitlines()[:8] if line.startswith("#"))
    return comments[-3:] == LICENCE


LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 300, 40
DOCUMENTATION = {"DOCUMENTATION", "EXAMPLES", "RETURN"}


def test_no_file_and_no_function_of_the_plugins_is_long() -> None:
    """Each can be read at once. Documentation of modules and plugins is not counted."""
    trees = {path: ast.parse(path.read_text()) for path in (CHECKOUT / "plugins").rglob("*.py")}
    functions = [
        f"{path.name}: {node.name}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and _lines_of(node) > LINES_OF_A_FUNCTION
    ]
    assert functions == []
    assert [str(path) for path, tree in trees.items() if _lines_of_code(path, tree) > LINES_OF_A_FILE] == []


def _lines_of_code(path: Path, tree: ast.Module) -> int:
    documented = [
        node
        for node in tree.body
        if isinstance(node, ast.Assign) and {ast.unparse(target) for target in node.targets} <= DOCUMENTATION
    ]
    return len(path.read_text().splitlines()) - sum(map(_lines_of, documented))


def _lines_of(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


# What each folder of module_utils may import of the others, and whether it may touch the system.
MAY_IMPORT: dict[str, set[str]] = {
    "_model": set(),
    "_objects": set(),
    "_plan": {"_objects"},
    "_kernel": {"_objects"},
    "_announce": {"_model", "_dataplane"},
    "_health": {"_model"},
}
EVERYWHERE = {"_model.addresses", "_model.messages"}
READ_ADDRESSES = {"addresses.py", "nftables_types.py"}  # by inet_pton and inet_ntop of socket, which touch no system
PURE = ("_announce", "_health", "_model", "_objects", "_plan")


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_a_folder_imports_only_what_lies_below_it(folder: str) -> None:
    folders = {path.parent.name for path in MODULE_UTILS.glob("_*/__init__.py")}
    assert {
        (path.name, name)
        for path in (MODULE_UTILS / folder).rglob("*.py")
        for name in imported(path)
        if name in folders - MAY_IMPORT[folder] - {folder}
    } == set()


def test_nothing_imports_the_checker() -> None:
    others = [path for path in MODULE_UTILS.rglob("*.py") if "_checker" not in path.parts]
    assert [path.name for path in others if "_checker" in imported(path)] == []


DATAPLANES = sorted(path.parent.name for path in MODULE_UTILS.glob("_dataplane/*/dataplane.py"))


@pytest.mark.parametrize("folder", [*DATAPLANES, "netfilter"])
def test_a_dataplane_does_not_know_its_siblings(folder: str) -> None:
    """What iptables and ipvs share is in netfilter, and nobody else imports that."""
    siblings = {*DATAPLANES, "netfilter"} - {folder} - ({"netfilter"} if folder in ("iptables", "ipvs") else set())
    assert {
        (path.name, module)
        for path in (MODULE_UTILS / "_dataplane" / folder).rglob("*.py")
        for module in _own_modules(path)
        if set(module.split(".")) & {"_dataplane"} and set(module.split(".")) & siblings
    } == set()


def test_only_the_registry_knows_the_dataplanes() -> None:
    known = {f"_dataplane.{name}." for name in (*DATAPLANES, "netfilter")}
    outside = [
        path
        for path in CHECKOUT.joinpath("plugins").rglob("*.py")
        if path.parent.name not in (*DATAPLANES, "netfilter") and path.name != "registry.py"
    ]
    assert {
        (path.name, module) for path in outside for module in _own_modules(path) if any(one in module for one in known)
    } == set()
    compared = re.compile(rf"""[!=]= ["'](?:{"|".join(DATAPLANES)})["']""")
    assert [path.name for path in outside if "_dataplane" in path.parts and compared.search(path.read_text())] == []


def _own_modules(path: Path) -> list[str]:
    """The full names of what a file imports of this collection."""
    froms = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom))
    in_utils = MODULE_UTILS in path.parents
    return [module for node in froms if in_utils or not node.level for module in _modules(node, path)]


@pytest.mark.parametrize("folder", PURE)
def test_pure_folders_do_not_touch_the_system(folder: str) -> None:
    assert {
        (path.name, name)
        for path in (MODULE_UTILS / folder).rglob("*.py")
        for name in imported(path)
        if name in SYSTEM and not (name == "socket" and path.name in READ_ADDRESSES)
    } == set()


def imported(path: Path) -> set[str]:
    """The packages that a file imports: of this collection's own, the first part below module_utils.

    Modules that every folder may import are left out.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {_own(module) for module in _modules(node, path) if not _is_for_everyone(module)}
    return names


def _is_for_everyone(module: str) -> bool:
    below = module.partition("module_utils.")[2]
    return any(below == name or below.startswith(f"{name}.") for name in EVERYWHERE)


def _modules(node: ast.ImportFrom, path: Path) -> list[str]:
    """Full names of what one `from` imports: each may be a module below the one that is named."""
    if node.level:
        package = path.relative_to(MODULE_UTILS).parts[: -node.level]
        base = ".".join(["module_utils", *package, *([node.module] if node.module else [])])
    else:
        base = node.module or ""
    return [f"{base}.{alias.name}" for alias in node.names]


def _own(module: str) -> str:
    parts = module.split(".")
    return parts[parts.index("module_utils") + 1] if "module_utils" in parts and parts[0] != "ansible" else parts[0]
