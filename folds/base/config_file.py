"""Reads and checks `kit.toml`; its keys are those of the settings classes."""

from __future__ import annotations

import difflib
import json
import math
import tomllib
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from folds.base.errors import UserError

TOP = "top"  # the settings that stand outside all tables
RUN = "run"  # [run.NAME]: settings of one run that differ from [train]
LARGE = 1 << 63  # TOML's own limit of whole numbers
SHOWN = 100  # characters of a wrong value in a message


@dataclass(frozen=True)
class KitToml:
    """What a settings file says: `sections` by name, of which `top` stands outside all tables, and `runs` by name."""

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

    Not `cyclopts.config.Toml`: it takes 2.5 and "3" for whole numbers, passes over an unknown section, and refuses a
    byte-order mark.
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
    tables = {name: stored.pop(name, {}) for name in [*sections, RUN] if name != TOP}
    runs = tables.pop(RUN)
    if not isinstance(runs, dict):
        raise UserError(f"{path}: `{RUN}` is a table, not a value", hint=f"write `[{RUN}.NAME]` on a line of its own")
    _check(path, stored, sections[TOP], also=[*tables, RUN])
    for name, table in tables.items():
        _check(path, table, sections[name], where=name)
    for name, table in runs.items():
        _check(path, table, sections["train"], where=f"{RUN}.{name}")
    return KitToml(path, {TOP: stored, **tables}, runs)


def _check(path: Path, table: Any, settings: type, *, where: str = "", also: Iterable[str] = ()) -> None:
    """Refuse what is no table, a key that is neither a setting nor in `also`, and a value of a wrong type.

    cyclopts checks limits and choices; but it reads text, where 2.5 passes for an int and "3" for a number.
    """
    if not isinstance(table, dict):
        raise UserError(f"{path}: `{where}` is a table, not a value", hint=f"write `[{where}]` on a line of its own")
    types_of, place = get_type_hints(settings), f"{path}: [{where}] " if where else f"{path}: "
    for key in table:
        if key not in types_of:
            known = [*types_of, *also]
            near = difflib.get_close_matches(key.replace("-", "_"), known, n=1)
            raise UserError(
                f"{place}there is no setting `{key[:SHOWN]}`",
                hint=f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known)}",
            )
    for key, value in table.items():
        words, fits = _kind(types_of[key])
        if not fits(value):
            try:
                shown = repr(value)
            except (RecursionError, ValueError):  # tables in tables in tables; a number of more than 4,300 digits
                shown = "what stands there"
            shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
            hint = f"`python run.py settings` shows `{key}`"
            raise UserError(f"{place}{key} = {shown} is not {words}", hint=hint)


def _is_whole(value: Any) -> bool:
    return type(value) is int and abs(value) < LARGE


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


KINDS: Mapping[Any, tuple[str, Callable[[Any], bool]]] = {
    int: ("a whole number", _is_whole),
    float: ("a number", lambda value: _is_whole(value) or (type(value) is float and math.isfinite(value))),
    bool: ("true or false", lambda value: type(value) is bool),
    str: ("a text", _is_text),
    Path: ("a path in quotes", _is_text),
}


def _kind(annotation: Any) -> tuple[str, Callable[[Any], bool]]:
    """What a setting of this type is, in words, and whether a value of TOML is one."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is tuple:
        return "a list of texts", lambda value: isinstance(value, list) and all(map(_is_text, value))
    if origin is Literal:
        words = f"one of {', '.join(map(str, inner))}" if len(inner) > 1 else f"`{inner[0]}`"
        return words, lambda value: value in inner
    if origin in (Union, types.UnionType):
        kinds = [_kind(one) for one in inner if one is not type(None)]
        return " or ".join(words for words, _ in kinds), lambda value: any(fits(value) for _, fits in kinds)
    return KINDS[annotation]


def toml_value(value: Any) -> str:
    """A value as TOML has it, which is as JSON has it but for the character DEL."""
    return json.dumps(value, default=str, ensure_ascii=False).replace("\x7f", "\\u007f")
