"""Keeps the house in order: imports point one way, help starts fast, one name means one setting."""

import ast
import subprocess
import sys
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest

import run

ROOT = Path(run.__file__).parent
ROOMS = ["folds", "models", "ensemble", "submissions"]
HEAVY = {"torch", "torchvision", "timm"}


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports(path: Path) -> set[str]:
    """The top names of all modules that a file imports, wherever in it."""
    names = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def imported(code: str, *, among: set[str]) -> str:
    """Which of these modules some code has imported, in a process of its own."""
    code = f"{code}\nimport sys\nprint(sorted({among!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below_it_and_prints_nothing(room):
    above = set(ROOMS[ROOMS.index(room) + 1 :]) | {"run"}
    for path in (ROOT / room).rglob("*.py"):
        assert not {name.split(".")[0] for name in imports(path)} & above, path
        called = [node.func for node in nodes(path) if isinstance(node, ast.Call)]
        assert not [one for one in called if isinstance(one, ast.Name) and one.id == "print"], path


def test_only_models_imports_torch_even_by_way_of_others():
    paths = [path for room in ("folds", "ensemble", "submissions") for path in (ROOT / room).rglob("[a-z]*.py")]
    for path in paths:
        assert not {name.split(".")[0] for name in imports(path)} & HEAVY, path
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    assert imported(f"import {', '.join(modules)}", among=HEAVY) == "[]"


def test_help_imports_neither_torch_nor_optuna_nor_numpy():
    assert imported("import run; run.main(['--help'])", among={"torch", "optuna", "numpy", "pandas"}) == "[]"


def test_no_two_settings_share_a_name():
    names = [one.name for section in fields(run.Every) for one in fields(section.default)]
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)


def test_every_package_says_what_comes_in_and_what_goes_out_and_holds_a_dozen_entries():
    for init in (path for room in ROOMS for path in (ROOT / room).rglob("__init__.py")):
        tree = ast.parse(init.read_text(encoding="utf-8"))
        words = ast.get_docstring(tree) or ""
        assert len(tree.body) == 1, f"{init} holds code"
        assert "In: " in words, init
        assert "Out: " in words, init
        entries = [path for path in init.parent.iterdir() if path.name not in ("__init__.py", "__pycache__")]
        assert len(entries) <= 12, init.parent


def test_nothing_in_the_house_names_a_machine_path_or_a_package_registry():
    hosts = ["pypi" + ".org", "files.python" + "hosted", "deb." + "debian", "registry.npm" + "js"]
    below = [path for room in [*ROOMS, "tests", "examples"] for path in (ROOT / room).rglob("*.*")]
    for path in [*ROOT.glob("*.*"), *below]:
        if path.suffix in (".py", ".md", ".toml", ".jsonl"):
            text = path.read_text(encoding="utf-8")
            assert not [name for name in [*hosts, "/wo" + "rk/main", "/ro" + "ot/"] if name in text], path
