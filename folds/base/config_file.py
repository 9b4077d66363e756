"""Reads `kit.toml` and writes settings as commented TOML; its keys are those of the settings classes."""

from __future__ import annotations

import difflib
import math
import tomllib
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from cyclopts import Parameter

from folds.base.errors import UserError, visible

TOP = "top"  # the settings that stand outside all tables
LARGE = 1 << 63  # TOML's own limit of whole numbers
SHOWN = 100  # characters of a wrong value in a message
RUN = "run"  # [run.NAME]: settings of one run that differ from [train]


@dataclass(frozen=True)
class KitToml:
    """What a settings file says: its `sections` by name, `top` among them, and the tables of `runs` by name."""

    path: Path
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def flat(self) -> dict[str, Any]:
        """All keys but those of runs, by name: names are unique over the sections, and a test says so."""
        return {key: value for section in self.sections.values() for key, value in section.items()}


def read_kit_toml(path: Path, *, sections: Mapping[str, type], required: bool) -> KitToml:
    """Read and check a settings file. An absent one is empty, unless it is required.

    sections  the settings class of each section; keys of `top` stand outside all tables, [run.NAME] is as [train]
    Raises UserError for a syntax error, an unknown section or key (with the nearest known one), or a wrong type.
    """
    try:
        stored = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as err:
        if not required:
            return KitToml(path)
        raise UserError(f"the settings file {path} does not exist", hint=f"`python run.py settings > {path}`") from err
    except ValueError as err:  # TOMLDecodeError, UnicodeDecodeError, and a number of more than 4,300 digits
        raise UserError(f"{path} is not TOML: {err}", hint="`python run.py settings` prints a file that is") from err
    except (OSError, RecursionError) as err:
        raise UserError(f"{path} cannot be read: {err}", hint="`--config FILE`") from err
    top, names = _hints(sections[TOP]), [name for name in sections if name != TOP]
    _refuse_unknown(path, stored, known=[*top, *names, RUN], where="")
    tables = {TOP: {key: value for key, value in stored.items() if key in top}}
    tables |= {name: _as_table(path, stored.get(name, {}), where=name) for name in names}
    runs = _as_table(path, stored.get(RUN, {}), where=RUN)
    for name, table in tables.items():
        _check(path, table, sections[name], where="" if name == TOP else f"[{name}] ")
    for name, table in runs.items():
        _check(path, table, sections["train"], where=f"[{RUN}.{name}] ")
    return KitToml(path, tables, runs)


def to_toml(
    values: Iterable[tuple[str, Any]],
    *,
    origin: Mapping[str, str],
    runs: Mapping[str, Mapping[str, Any]],
    elsewhere: Mapping[str, str],
    remarks: Iterable[str],
) -> str:
    """Settings as TOML: help as a comment, then the value and where it came from; what is not given is commented out.

    values     pairs of section name and settings object
    origin     by key: "default", "kit.toml", "flag"
    runs       the `[run.NAME]` tables, which are repeated as they came
    elsewhere  by key: where a value comes from that is not given
    remarks    lines for the end, as comments
    """
    blocks = []
    for section, settings in values:
        lines = [f"[{section}]"] if section != TOP else []
        for one in fields(settings):
            value = getattr(settings, one.name)
            setting = f"# {one.name} =" if value is None else f"{one.name} = {toml_value(value)}"
            source = elsewhere.get(one.name, origin[one.name]) if value is None else origin[one.name]
            lines.append(f"# {_help(type(settings), one.name)}\n{setting}  # from {visible(source)}")
        blocks.append("\n".join(lines))
    for name, table in runs.items():
        keys = [f"{key} = {toml_value(value)}" for key, value in table.items()]
        blocks.append("\n".join([f"[{RUN}.{_toml_string(name)}]", *keys]))
    if comments := [f"# {visible(remark)}" for remark in remarks]:
        blocks.append("\n".join(comments))
    return "\n\n".join(blocks) + "\n"


def _as_table(path: Path, value: Any, *, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or (where == RUN and not all(isinstance(table, dict) for table in value.values())):
        example = f"[{where}.NAME]" if where == RUN else f"[{where}]"
        raise UserError(f"{path}: `{where}` is a table, not a value", hint=f"write `{example}` on a line of its own")
    return value


def _refuse_unknown(path: Path, table: Mapping[str, Any], *, known: list[str], where: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key.replace("-", "_"), known, n=1)
            raise UserError(
                f"{path}: {where}there is no setting `{key[:SHOWN]}`",
                hint=f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known)}",
            )


def _check(path: Path, table: Mapping[str, Any], settings: type, *, where: str) -> None:
    """Refuse unknown keys and wrong types.

    cyclopts checks limits and choices; but it reads text, where 2.5 passes for an int and "3" for a number.
    """
    _refuse_unknown(path, table, known=list(_hints(settings)), where=where)
    for key, value in table.items():
        annotation = _hints(settings)[key]
        if not _fits(value, annotation):
            raise UserError(
                f"{path}: {where}{key} = {_shown(value)} is not {_type_name(annotation)}",
                hint=f"`python run.py settings` shows `{key}`",
            )


def _fits(value: Any, annotation: Any) -> bool:
    if annotation is float:
        return (type(value) is float and math.isfinite(value)) or _fits(value, int)
    if annotation is int:
        return type(value) is int and abs(value) < LARGE
    if annotation is bool:
        return type(value) is bool
    if annotation in (str, Path):
        return isinstance(value, str) and "\0" not in value
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is tuple:
        return isinstance(value, list) and all(_fits(one, inner[0]) for one in value)
    if origin is Literal:
        return value in inner
    return any(_fits(value, one) for one in inner if one is not type(None))  # X | None


def _shown(value: Any) -> str:
    """The value for a message, cut where it is long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # tables in tables in tables; a number of more than 4,300 digits
        return "what stands there"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _type_name(annotation: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path in quotes"}
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is tuple:
        return "a list of texts"
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}" if len(inner) > 1 else f"`{inner[0]}`"
    if origin in (Union, types.UnionType):
        return " or ".join(_type_name(one) for one in inner if one is not type(None))
    return names[annotation]


@cache
def _hints(settings: type, *, include_extras: bool = False) -> dict[str, Any]:
    """The type of each field, plain or with its Annotated."""
    return get_type_hints(settings, include_extras=include_extras)


def _help(settings: type, name: str) -> str:
    annotation = _hints(settings, include_extras=True)[name]
    parameters = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return next((one.help for one in parameters if isinstance(one, Parameter) and one.help), name)


def toml_value(value: Any) -> str:
    """A value as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, str | Path):
        return _toml_string(str(value))
    return repr(value)


def _toml_string(text: str) -> str:
    """A basic string; TOML wants control characters escaped."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(one if one.isprintable() else f"\\U{ord(one):08x}" for one in escaped) + '"'
