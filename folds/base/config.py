"""Lets cyclopts read kit.toml: a setting's value is its default, then the file's, then the flag's."""

from __future__ import annotations

import os
import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cyclopts import App, Argument, ArgumentCollection, Parameter
from cyclopts.config import Dict

from folds.base.config_file import KitToml, read_kit_toml

FLAT = Parameter(name="*")  # the fields of a settings class are flags of their own
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
