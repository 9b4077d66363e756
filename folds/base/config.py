"""Settings: a default, then kit.toml, then a flag; cyclopts reads them, and they are written as commented TOML."""

from __future__ import annotations

import difflib
import math
import os
import shlex
import tomllib
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from cyclopts import App, Argument, ArgumentCollection, Parameter
from cyclopts.config import Dict

from folds.base.errors import UserError, visible

FLAT = Parameter(name="*")  # the fields of a settings class are flags of their own
TOP = "top"  # the settings that stand outside all tables
LARGE = 1 << 63  # TOML's own limit of whole numbers
SHOWN = 100  # characters of a wrong value in a message
RUN = "run"  # [run.NAME]: settings of one run that differ from [train]
S = TypeVar("S")


class Kit:
    """cyclopts calls this for each command, once it knows the flags; afterwards it knows where each value came from.

    every  a class with one field per section, each a settings class; the section `top` holds the keys outside tables
    """

    def __init__(self, every: type, default_path: Path) -> None:
        self.every = every
        self.default_path = default_path
        self.sections: dict[str, type] = {one.name: type(one.default) for one in fields(every)}
        self.toml = KitToml(default_path)
        self.flags: set[str] = set()
        self.same_place = ""  # the flags that lead another command to the same work folder and settings
        self.relative_place = ""  # the same, with no absolute path in it
        self.typed: dict[str, str] = {}  # each flag of the last command as it was typed, by the setting's name

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        given = {argument.field_info.name: argument for argument in arguments if argument.tokens}
        self.flags = set(given)
        self.typed = {name: _typed(argument) for name, argument in given.items()}
        places = {name: given[name].tokens[-1].value for name in ("work", "config") if name in given}
        self.same_place = "".join(f" {self.typed[name]}" for name in places)
        self.relative_place = "".join(
            f" --{name} {shlex.quote(os.path.relpath(place))}" for name, place in places.items()
        )
        path = Path(given["config"].tokens[-1].value) if "config" in given else self.default_path
        self.toml = read_kit_toml(path, sections=self.sections, required="config" in given)
        self._parse(self.toml.flat, source=str(path))  # a wrong value is refused, whatever the command
        for name in self.toml.runs:
            self._of_run(name)
        known = {argument.field_info.name for argument in arguments}
        values = {name: value for name, value in self.toml.flat.items() if name in known}
        # An app without commands: cyclopts passes over keys that are called like a command, and `views` is one.
        Dict(values, source=str(path), use_commands_as_keys=False)(App(), commands, arguments)

    def origin(self, name: str) -> str:
        """Where the value of a setting came from in the last command: a flag, the file, or its default."""
        return "flag" if name in self.flags else str(self.toml.path) if name in self.toml.flat else "default"

    def in_file(self) -> Any:
        """All settings as the file has them, the flags left aside."""
        return self._parse(self.toml.flat, source=str(self.toml.path))

    def run_settings(self, train: S) -> dict[str, S]:
        """The settings of each `[run.NAME]`: default, [train], its own table, then the flags.

        train  the `train` settings of the last command; a backbone among its flags puts the tables aside
        """
        if "backbone" in self.flags:
            return {}
        flags = {one.name: getattr(train, one.name) for one in fields(train) if one.name in self.flags}  # type: ignore[arg-type]
        return {name: replace(self._of_run(name), **flags) for name in self.toml.runs}

    def _of_run(self, name: str) -> Any:
        """The `train` settings of `[run.NAME]` without the flags."""
        values = {**self.toml.sections.get("train", {}), **self.toml.runs[name]}
        return self._parse(values, source=f"[run.{name}] of {self.toml.path}").train

    def _parse(self, values: dict[str, Any], *, source: str) -> Any:
        """All settings, with these values in place of their defaults; cyclopts refuses what is out of range."""
        parser = App(config=Dict(values, source=source, use_commands_as_keys=False), result_action="return_value")
        default = self.every()

        def collect(*, every: Any = default) -> Any:
            return every

        collect.__annotations__["every"] = Annotated[self.every, FLAT]
        parser.default(collect)
        return parser([], exit_on_error=False, print_error=False)


def _typed(argument: Argument) -> str:
    """A flag with its values, such as `--fold 0 --fold 2` or `--no-mirror`, to be typed again."""
    return " ".join(
        f"{token.keyword or ''} {shlex.quote(token.value) if token.value else ''}".strip() for token in argument.tokens
    )


@dataclass(frozen=True)
class KitToml:
    """What a settings file says: `top` keys, `sections` by name, and the tables of `runs` by name."""

    path: Path
    top: dict[str, Any] = field(default_factory=dict)
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def flat(self) -> dict[str, Any]:
        """All keys but those of runs, by name: names are unique over the sections, and a test says so."""
        return {**self.top, **{key: value for section in self.sections.values() for key, value in section.items()}}


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
    top = get_type_hints(sections[TOP])
    names = [name for name in sections if name != TOP]
    _refuse_unknown(path, stored, known=[*top, *names, RUN], where="")
    plain = {key: value for key, value in stored.items() if key in top}
    _check_types(path, plain, sections[TOP], where="")
    tables = {name: _section(path, stored.get(name, {}), sections[name], where=name) for name in names}
    runs = _as_table(path, stored.get(RUN, {}), where=RUN)
    for name, table in runs.items():
        _section(path, table, sections["train"], where=f"{RUN}.{name}")
    return KitToml(path, plain, tables, runs)


def to_toml(
    values: Iterable[tuple[str, Any]],
    *,
    origin: Mapping[str, str],
    runs: Mapping[str, Mapping[str, Any]],
    elsewhere: Mapping[str, str] = MappingProxyType({}),
    remarks: Iterable[str] = (),
) -> str:
    """Settings as TOML: help as a comment, then the value and where it came from; what is not given is commented out.

    values  pairs of section name and settings object
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


def _section(path: Path, table: Any, settings: type, *, where: str) -> dict[str, Any]:
    table = _as_table(path, table, where=where)
    _refuse_unknown(path, table, known=list(get_type_hints(settings)), where=f"[{where}] ")
    _check_types(path, table, settings, where=f"[{where}] ")
    return table


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


def _check_types(path: Path, table: Mapping[str, Any], settings: type, *, where: str) -> None:
    """cyclopts checks limits and choices; but it reads text, where 2.5 passes for an int and "3" for a number."""
    for key, value in table.items():
        annotation = get_type_hints(settings)[key]
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


def _help(settings: type, name: str) -> str:
    annotation = get_type_hints(settings, include_extras=True)[name]
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
