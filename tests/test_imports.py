"""Which room may know which, what the command line may not load, and whether types fit."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from conftest import ROOT


def test_imports_go_one_way():
    checked = subprocess.run(
        ["lint-imports"], cwd=ROOT, env=_path_of_this_python(), check=False, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_what_is_imported_is_declared():
    """A package that only another one brings along is gone with that one's next version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = {_name(each) for each in [*project["dependencies"], *extras["radiomics"], *extras["gpu"]]}
    owners = packages_distributions()
    undeclared = {}
    for path in (ROOT / "msrim").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for module in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"msrim"}:
                # Of an extra that is not installed here nobody knows the owner.
                if module in owners and not declared & {_name(owner) for owner in owners[module]}:
                    undeclared[module] = path.name
    assert undeclared == {}


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")


def test_types_fit():
    checked = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["segment", "--help"], ["--version"]], ids=" ".join)
def test_help_loads_nothing_heavy(arguments):
    code = (
        "import sys\nfrom msrim.cli.main import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit as end: assert not end.code\n"
        "print(sorted({'torch', 'ants', 'nipype', 'numpy', 'SimpleITK'} & set(sys.modules)), file=sys.stderr)"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout
    assert shown.stderr.strip() == "[]"


def test_importing_msrim_loads_nothing_heavy():
    code = (
        "import sys\nbefore = set(sys.modules)\nimport msrim\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - sys.stdlib_module_names))\n"
        "msrim.segment, msrim.rim_classify, msrim.longitudinal, msrim.MsrimError\n"
        "heavy = 'torch numpy pandas scipy nibabel SimpleITK ants nipype numba typer rich'.split()\n"
        "print(sorted(set(heavy) & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout.splitlines() == ["['msrim']", "[]"]


def test_a_program_that_imports_msrim_keeps_its_environment_and_asks_no_server():
    """Nipype asks about its version when an interactive Python, as this one is, imports it."""
    code = (
        # scikit-learn sets variables of its own.
        "import os, sys, sklearn\nbefore, asked = dict(os.environ), []\n"
        "sys.addaudithook(lambda event, _: asked.append(event) if event == 'socket.getaddrinfo' else None)\n"
        "import msrim.api, msrim.models.inference, msrim.workflows.train, msrim.workflows.cohort.participants\n"
        "from msrim.workflows.run import cached_call\ncached_call('step', os.getcwd)\n"
        "print({name for name in before | os.environ if before.get(name) != os.environ.get(name)}, asked)"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("NIPYPE_NO_ET", "NO_ET")}
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert shown.stdout.splitlines()[-1] == "set() []"


def test_listing_models_does_not_load_torch():
    code = (
        "import sys\nfrom msrim.cli.main import app\n"
        "try: app(['models'])\nexcept SystemExit as end: assert not end.code\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stderr.strip() == "False"


def test_the_viewer_loads_nothing_that_computes():
    """A page is waited for: `msrim view` has to start at once."""
    code = (
        "import sys\nimport msrim.workflows.view.server\n"
        "print(sorted({'torch', 'ants', 'nipype', 'sklearn', 'numba'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == "[]"


def _path_of_this_python() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
