# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Check that the README has what certification asks for, and that links of the documentation lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
README = CHECKOUT / "README.md"
REPOSITORY = yaml.safe_load((CHECKOUT / "galaxy.yml").read_text())["repository"]
SECTIONS = (
    "Description",
    "Requirements",
    "Installation",
    "Use cases",
    "Testing",
    "Contributing",
    "Support",
    "Release notes",
    "License",
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PAGES = sorted(
    path.relative_to(CHECKOUT)
    for pattern in ("*.md", "docs/*.md", "lab/*.md", "molecule/*.md", "roles/*/*.md")
    for path in CHECKOUT.glob(pattern)
)


def links(page: Path) -> list[str]:
    """Return the targets of the links in a page, without their fragments."""
    return [link.partition("#")[0] for link in LINK.findall(page.read_text())]


def test_the_readme_has_the_sections_that_certification_asks_for() -> None:
    headings = re.findall(r"(?m)^## (.+)$", README.read_text())
    assert [section for section in SECTIONS if section not in headings] == []


def test_the_readme_has_no_relative_links() -> None:
    assert [link for link in links(README) if not link.startswith("https://")] == []


def test_links_of_the_readme_into_the_repository_lead_to_files() -> None:
    inside = [link.removeprefix(f"{REPOSITORY}/") for link in links(README) if link.startswith(f"{REPOSITORY}/")]
    assert [path for path in inside if path != "issues" and not (CHECKOUT / path).exists()] == []
    assert inside


@pytest.mark.parametrize("page", PAGES, ids=map(str, PAGES))
def test_relative_links_lead_to_files(page: Path) -> None:
    relative = [link for link in links(CHECKOUT / page) if link and "://" not in link]
    assert [link for link in relative if not (CHECKOUT / page.parent / link).exists()] == []


def test_each_kind_of_fault_has_tests_that_exist() -> None:
    page = (CHECKOUT / "docs" / "development.md").read_text()
    named = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", page)
    assert len(re.findall(r"(?m)^\| \d+ \| .* \| `tests/\S+::test_\w+` \|$", page)) == 21
    assert [one for one in named if not re.search(rf"(?m)^ *def {one[1]}\(", (CHECKOUT / one[0]).read_text())] == []
