"""Writes anything into kit.toml and types any flags: the answer is settings, or one sentence."""

import tomllib
from dataclasses import fields
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import run
from tests.faults.whole import count

SECTIONS = {one.name: [each.name for each in fields(one.default)] for one in fields(run.Every)}
TABLES = [name for name in SECTIONS if name != "top"]
KEYS = sorted({key for keys in SECTIONS.values() for key in keys})
NUMBERS = st.one_of(
    st.integers(-3, 300),
    st.integers(),
    st.floats(),
    st.sampled_from([2**31, 2**32, 2**63 - 1, 2**63, -(2**63), 10**30, 1e-320, 1e308, 0.5, 1.0, 3e-4]),
)
ODD = ["find", "oof", "auto", "cpu", "centre", "a,b", "", " ", "../x", "/", "a=b", "-1", "--help", "nan", "1e5"]
TEXTS = st.text(max_size=12) | st.sampled_from(ODD)
SCALARS = st.one_of(NUMBERS, TEXTS, st.booleans(), st.just(date(2024, 2, 29)), st.just(datetime(2024, 2, 29, 1, 2)))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2), max_leaves=4
)
ODD_KEYS = TEXTS | st.sampled_from([*KEYS, *(key.replace("_", "-") for key in KEYS), *TABLES, "run", "top", "trian"])


def known(section: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(SECTIONS[section]), VALUES, max_size=2)


def fitting(section: str) -> st.SearchStrategy[dict[str, Any]]:
    """Keys with values of the type of their defaults, so that more than errors is tried."""
    kinds = {bool: st.booleans(), int: st.integers(0, 64), float: st.floats(0, 1), str: TEXTS}
    kinds[tuple] = st.lists(TEXTS, max_size=3)
    defaults = vars(getattr(run.Every(), section))
    keys = {key: kinds.get(type(value), TEXTS | st.integers(16, 64)) for key, value in defaults.items()}
    return st.lists(st.sampled_from(sorted(keys)), max_size=2, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: keys[name] for name in names})
    )


RUNS = st.dictionaries(TEXTS, fitting("train") | VALUES, max_size=2)
ODD_TABLES = {name: known(name) | st.dictionaries(ODD_KEYS, VALUES, max_size=1) for name in TABLES}
DOCUMENTS = st.one_of(
    st.dictionaries(ODD_KEYS, VALUES, max_size=3),
    st.fixed_dictionaries({}, optional=ODD_TABLES),
    st.fixed_dictionaries({}, optional={name: fitting(name) for name in TABLES}),
    st.builds(lambda top, runs: {**top, "run": runs}, fitting("top"), RUNS),
    fitting("top") | known("top"),
)
WHOLE = '[train]\nepochs = 3\nbackbone = ["resnet18"]\n[run."a b"]\nlr = 1e-3 # how\n[blend]\ntrials = 32\n'


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        plain = [one if one.isprintable() and one not in '"\\' else f"\\U{ord(one):08x}" for one in value]
        return f'"{"".join(plain)}"'
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, date) else repr(value)


def written(document: dict[str, Any]) -> str:
    """A document as TOML, tables of the first level as tables."""
    plain = [f"{toml(key)} = {toml(value)}" for key, value in document.items() if not isinstance(value, dict)]
    tables = [
        "\n".join([f"[{toml(key)}]", *(f"{toml(name)} = {toml(one)}" for name, one in value.items())])
        for key, value in document.items()
        if isinstance(value, dict)
    ]
    return "\n".join([*plain, *tables]) + "\n"


def hold_to_promise(typed, path: Path, content: bytes) -> None:
    """Settings that read back as themselves and exit code 0; or one sentence, perhaps a hint, and exit code 2."""
    count("settings files")
    path.write_bytes(content)
    first = typed("settings", "--config", path, code=None)
    if first.code == 2:
        refuses_well(first)
        return
    path.write_text(first.out, encoding="utf-8")
    again = typed("settings", "--config", path)
    assert first.code == 0
    assert first.err == again.err == ""
    assert tomllib.loads(again.out) == tomllib.loads(first.out)


def refuses_well(said) -> None:
    first, *rest = said.err.splitlines()
    assert (said.code, said.out) == (2, "")
    assert first.startswith("error: "), said.err
    assert len(rest) <= 1, said.err
    assert all(line.startswith("hint: ") for line in rest), said.err


def quickly(examples: int) -> settings:
    unchecked = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=unchecked
    )


@quickly(4)
@given(DOCUMENTS)
def test_any_document_is_settings_or_one_sentence(typed, tmp_path, document):
    hold_to_promise(typed, tmp_path / "kit.toml", written(document).encode())


@pytest.mark.faults
@quickly(1500)
@given(DOCUMENTS)
def test_any_of_many_documents_is_settings_or_one_sentence(typed, tmp_path, document):
    hold_to_promise(typed, tmp_path / "kit.toml", written(document).encode())


@quickly(4)
@given(st.binary(max_size=60), st.integers(0, len(WHOLE)), st.integers(0, len(WHOLE)))
def test_any_bytes_are_settings_or_one_sentence(typed, tmp_path, noise, start, stop):
    for content in (noise, WHOLE[:start].encode() + noise[:3] + WHOLE[stop:].encode()):
        hold_to_promise(typed, tmp_path / "kit.toml", content)


@quickly(10)
@given(
    st.lists(st.tuples(st.sampled_from(KEYS) | TEXTS, NUMBERS.map(str) | TEXTS), max_size=3),
    st.sampled_from([" ", "="]),
)
def test_any_flags_are_settings_or_one_sentence(typed, tmp_path, pairs, sign):
    count("command lines")
    words = [word for key, value in pairs for word in f"--{key.replace('_', '-')}{sign}{value}".split(" ", 1)]
    words = [word.replace("\0", "") for word in words if word not in ("--help", "-h")]
    (tmp_path / "empty.toml").touch()
    said = typed("settings", "--config", tmp_path / "empty.toml", *words, code=None)
    if said.code == 2:
        refuses_well(said)
    else:
        assert (said.code, said.err) == (0, "")
        tomllib.loads(said.out)


COMMANDS = {
    "prepare": (["prepare", "nowhere"], [one.name for one in fields(run.PrepareSettings)]),
    "split": (["split"], [one.name for one in fields(run.SplitSettings)]),
    "train": (["train"], [*(one.name for one in fields(run.TrainSettings)), "views", "fold", "run"]),
    "add": (["add", "friend"], [one.name for one in fields(run.AddSettings)]),
    "blend": (["blend"], [one.name for one in (*fields(run.BlendSettings), *fields(run.FileSettings))]),
    "submit": (["submit"], ["blend", "run", "csv_name", "match_test"]),
    "check": (["check", "nowhere.csv"], ["seed"]),
    "score": (["score", "nowhere.csv"], ["labels"]),
}


@pytest.mark.parametrize("command", COMMANDS)
@quickly(3)
@given(data=st.data())
def test_any_flags_of_a_command_without_its_work_folder_are_one_sentence(typed, tmp_path, command, data):
    count("command lines")
    words, names = COMMANDS[command]
    flags = data.draw(st.lists(st.tuples(st.sampled_from(names), NUMBERS.map(str) | TEXTS | st.just(".")), max_size=2))
    typed_flags = [f"--{name.replace('_', '-')}={value}".replace("\0", "") for name, value in flags]
    refuses_well(typed(*words, "--work", tmp_path / "work", *typed_flags, code=2))


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("[train]\nepochs" + ".a" * 3000 + " = 1\n", "[train] epochs = what stands there is not a whole number"),
        ("seed = 0x" + "f" * 5000 + "\n", "seed = what stands there is not a whole number"),
        ("[run.a]\nepochs = 0x" + "f" * 5000 + "\n", "[run.a] epochs = what stands there is not a whole number"),
        ("seed = " + "9" * 5000 + "\n", "is not TOML: Exceeds the limit (4300 digits)"),
        ("seed = 4294967296\n", 'Invalid value "4294967296" for [seed]'),
        ('work = "\\u0000"\n', "work = '\\x00' is not a path in quotes"),
        ("[train]\nhead_lr_scale = inf\n", "[train] head_lr_scale = inf is not a number"),
        ("[run.a]\nepochs = 0\n", 'Invalid value "0" for [epochs'),
        ('[submit]\ncsv_name = "../../x"\n', 'Invalid value "../../x" for [csv_name]'),
        ("a = " + "[" * 100_000, "cannot be read"),
        ('"two\\nlines" = 1\n', "there is no setting `two\\nlines`"),
    ],
)
def test_what_ended_in_a_traceback_or_later_than_need_be_is_one_sentence(typed, content, error):
    count("settings files")
    Path("kit.toml").write_text(content)
    said = typed("settings", "--config", "kit.toml", code=2)
    refuses_well(said)
    assert error in said.err


def test_a_settings_file_of_any_name_can_be_said(typed):
    count("settings files")
    Path("two\nlines.toml").write_text("seed = 3\n")
    assert tomllib.loads(typed("settings", "--config", "two\nlines.toml").out)["seed"] == 3
