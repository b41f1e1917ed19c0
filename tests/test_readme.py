"""What the pages of the repository name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import ROOT
from typer.main import get_command

from msrim.cli.main import app

PAGES = ["README.md", "pipelines/README.md", "docker/README.md", "tests/benchmarks/README.md"]


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    page = ROOT / name
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    assert links or name == "docker/README.md"
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("name", PAGES)
def test_commands_exist_with_the_options_named_beside_them(name):
    command, text = get_command(app), (ROOT / name).read_text(encoding="utf-8")
    for words in re.findall(r"(?:^ {4}|`)msrim ([a-z][^`\n]*)", text, re.MULTILINE):
        # What follows several spaces is a remark.
        found, rest = command, words.partition("   ")[0].split()
        while rest and rest[0] in getattr(found, "commands", {}):
            found = found.commands[rest.pop(0)]
        assert found is not command, words
        options = {option for parameter in found.params for option in [*parameter.opts, *parameter.secondary_opts]}
        named = {word.split("=")[0] for word in rest if word.startswith("--")}
        assert named <= options | {"--help"}, words


def test_the_readme_begins_with_the_two_commands_of_a_clone():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^ {4}(\S+ \S+)", text, re.MULTILINE)
    assert commands[:2] == ["make demo", "make test"]


def test_where_things_are():
    """A file is named with its folder, from the root or from msrim/, or stands in that of the one before it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("## Where things are")[2].partition("\n\nGeometry")[0]
    rows = [row.split("|")[1:3] for row in table.splitlines() if row.startswith("| ")][1:]
    assert len(rows) > 5
    for subject, places in rows:
        folder = ROOT
        named = [name for name in re.findall(r"`([^`]+)`", places) if name.endswith((".py", "/"))]
        assert named, subject
        for name in named:
            path = next((each / name for each in (folder, ROOT, ROOT / "msrim") if (each / name).exists()), None)
            assert path is not None, f"{subject}: {name}"
            folder = path if path.is_dir() else path.parent
