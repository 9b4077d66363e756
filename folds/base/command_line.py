"""The command line: flags and kit.toml in; results, complaints and the next command out.

A setting's value is its default, then the file's, then the flag's.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeAlias, TypeVar, get_type_hints

from cyclopts import App, ArgumentCollection, CycloptsError, MissingArgumentError, Parameter
from cyclopts.config import Dict

from folds.base.config_file import RUN, TOP, KitToml, read_kit_toml, toml_value
from folds.base.errors import Complaint, Next, UserError, visible
from folds.base.signals import GO_ON, Stopped, stoppable
from folds.base.workspace import Workspace
from folds.settings import at_least

if TYPE_CHECKING:
    from folds.base.terminal import Screen

Shown: TypeAlias = Iterable[Any]  # what a command shows, as it comes: renderables of rich, a Complaint, the Next
KIT_TOML = Path("kit.toml")
Config = Annotated[Path, Parameter(group="everywhere", help="settings file, read if it exists")]
S = TypeVar("S")
# A command in a sentence, and its arguments; `settings` and `infer` know no work folder.
TYPED = re.compile(r"`(python run\.py (?!settings|infer)\w[\w-]*)([^`]*)`")


@Parameter(name="*", group="everywhere")
@dataclass(frozen=True)
class Top:
    """The settings outside all tables of kit.toml."""

    work: Annotated[Path, Parameter(help="the work folder; everything is written below it")] = Path("work")
    seed: Annotated[int, at_least(0, at_most=2**32 - 1, help="of folds, training and blend")] = 0

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.work)


@dataclass(frozen=True)
class Place(Top):
    """The flags of every command."""

    config: Config = KIT_TOML


class Room:
    """The commands of a room, imported when the first is called: `--help` does not wait for torch and numpy."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, command: str) -> Any:
        return getattr(import_module(f"{self.name}.commands"), command)


class CommandLine:
    """Runs and prints commands. cyclopts calls it for each, once it knows the flags, to have kit.toml read.

    every  a class with one field per section, each a settings class; the section `top` holds the keys outside tables
    """

    def __init__(self, every: type, *, help: str) -> None:
        self.app = App(
            name="run.py",
            help=help,
            config=self,
            result_action="return_value",
            version_flags=(),
            suppress_keyboard_interrupt=False,
        )
        self.every = every
        self.sections: dict[str, type] = {one.name: type(one.default) for one in fields(every)}
        self.toml = KitToml(KIT_TOML)
        self.typed: dict[str, str] = {}  # each flag of the last command as it was typed, by the setting's name
        self.same_place = ""  # the flags that lead another command to the same work folder and settings
        self.relative_place = ""  # the same, with no absolute path in it

    @cached_property
    def screen(self) -> Screen:
        from folds.base.terminal import Screen  # rich takes a tenth of a second

        return Screen()

    def command(self, place: int, *, name: str | None = None) -> Callable[[Callable[..., Shown]], Callable[..., Shown]]:
        """Register a function as a command, at a place of the list that `--help` shows.

        A settings class among its keywords needs no default in the signature: it is that of its fields.
        """

        def register(function: Callable[..., Shown]) -> Callable[..., Shown]:
            for one, hint in get_type_hints(function).items():
                if isinstance(hint, type) and is_dataclass(hint):
                    with suppress(TypeError):  # one of its fields has no default
                        function.__kwdefaults__ = {**(function.__kwdefaults__ or {}), one: hint()}
            return self.app.command(function, name=name, sort_key=place)

        return register

    def main(self, words: Sequence[str] | None = None) -> int:
        """Run a command. Returns the exit code: 0 done, 2 a mistake that the user can mend, 130 Ctrl-C, 143 SIGTERM."""
        try:
            with stoppable():
                then = self.run(words)
        except UserError as err:
            self._complain(err.message, err.hint)
            return 2
        except Stopped as stop:
            self.screen.close()
            self._complain("; ".join([stop.sentence, *getattr(stop, "__notes__", ())]), GO_ON)
            return stop.exit_code
        if then is not None:
            self.screen.show(f"next: python run.py {then}{self.same_place}")
        return 0

    def run(self, words: Sequence[str] | None) -> str | None:
        """Run a command and print what it shows. Returns the next command; UserError where the words make no sense."""
        try:
            shown = self.app(words, exit_on_error=False, print_error=False)
        except CycloptsError as err:
            message, _, near = str(err).partition(" Did you mean ")
            message = re.sub(r"^Unused Tokens: \[(.*)\]", r"\1 is neither a flag nor the value of one", message)
            if isinstance(err, MissingArgumentError) and err.argument is not None:
                name = err.argument.name if err.argument.index is None else err.argument.name.lstrip("-").upper()
                is_typed = name in (sys.argv if words is None else words)
                message = f"{name} needs a value" if is_typed else f"`{' '.join(err.command_chain or ())}` needs {name}"
            message = message.rstrip(".").replace(". Must", ": it must").replace(". Choose", ": choose")
            hint = (
                f"did you mean {near.split('?')[0]}?"
                if near
                else f"`{' '.join(['python run.py', *(err.command_chain or ()), '--help'])}`"
            )
            raise UserError(message, hint=hint) from err
        then = None
        for part in shown or ():  # `--help` shows nothing here
            if isinstance(part, Complaint):
                sys.stderr.write(part.trace or "")
                self._complain(part.message, part.hint, is_error=part.is_error)
            elif isinstance(part, Next):
                then = part.command
            else:
                self.screen.show(self.placed(part) if isinstance(part, str) else part)
        return then

    def placed(self, text: str) -> str:
        """A text whose commands find the same work folder and settings."""
        return TYPED.sub(lambda found: f"`{found[1]}{self.same_place}{found[2]}`", text)

    def typed_but(self, *left_out: str) -> list[str]:
        """The flags of the last command as they were typed, without these and those of the work folder."""
        return [text for name, text in self.typed.items() if name not in ("work", "config", *left_out)]

    def run_and_exit(self) -> NoReturn:
        """Run what was typed, and end the process."""
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a name may not fit the terminal
        code = self.main()
        if code > 128:  # at once: torch's threads may be inside a call, and abort at a normal end
            with suppress(OSError):  # a closed pipe
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
        sys.exit(code)

    def _complain(self, message: str, hint: str | None, *, is_error: bool = True) -> None:
        """Say what is wrong and what to type, with the flags that find the same work folder."""
        word, style = ("error", "red") if is_error else ("warning", "yellow")
        self.screen.complain(f"{word}: {visible(message)}", style=style)
        if hint:
            self.screen.complain(f"hint: {visible(self.placed(hint))}")

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        known = {argument.field_info.name: argument for argument in arguments}
        self.typed = {}
        for name, tokens in ((name, argument.tokens) for name, argument in known.items() if argument.tokens):
            words = (f"{one.keyword or ''} {shlex.quote(one.value) if one.value else ''}".strip() for one in tokens)
            self.typed[name] = " ".join(words)  # such as `--fold 0 --fold 2` or `--no-mirror`
        places = {name: known[name].tokens[-1].value for name in ("work", "config") if name in self.typed}
        self.same_place, self.relative_place = (
            "".join(f" --{name} {shlex.quote(form(place))}" for name, place in places.items())
            for form in (str, os.path.relpath)
        )
        path = Path(places.get("config", KIT_TOML))
        self.toml = read_kit_toml(path, sections=self.sections, required="config" in places)
        if self.toml.flat:  # a wrong value is refused, whatever the command
            self.in_file()
        for name in self.toml.runs:
            self._of_run(name)
        values = {name: value for name, value in self.toml.flat.items() if name in known}
        # An app without commands: cyclopts passes over keys that are called like a command, and `views` is one.
        Dict(values, source=str(path), use_commands_as_keys=False)(App(), commands, arguments)

    def origin(self, name: str) -> str:
        """Where the value of a setting came from in the last command: a flag, the file, or its default."""
        return "flag" if name in self.typed else str(self.toml.path) if name in self.toml.flat else "default"

    def to_toml(self, every: Any, *, elsewhere: Mapping[str, str], remarks: Iterable[str]) -> str:
        """Settings as TOML: help as a comment, the value, where it came from; what is not given is commented out.

        elsewhere  by key: where a value comes from that is not given     remarks  lines for the end, as comments
        """
        blocks = []
        for section, kind in self.sections.items():
            lines = [f"[{section}]"] if section != TOP else []
            hints = get_type_hints(kind, include_extras=True)
            for one in fields(kind):
                value, source = getattr(getattr(every, section), one.name), self.origin(one.name)
                setting = f"{one.name} = {toml_value(value)}"
                if value is None:
                    setting, source = f"# {one.name} =", elsewhere.get(one.name, source)
                words = next(each.help for each in hints[one.name].__metadata__ if each.help)
                lines.append(f"# {words}\n{setting}  # from {visible(source)}")
            blocks.append("\n".join(lines))
        for name, table in self.toml.runs.items():
            keys = [f"{key} = {toml_value(value)}" for key, value in table.items()]
            blocks.append("\n".join([f"[{RUN}.{toml_value(name)}]", *keys]))
        blocks.append("\n".join(f"# {visible(remark)}" for remark in remarks))
        return "\n\n".join(filter(None, blocks)) + "\n"

    def in_file(self) -> Any:
        """All settings as the file has them, the flags left aside."""
        return _parse(self.toml.flat, self.every, source=str(self.toml.path))

    def run_settings(self, train: S) -> dict[str, S]:
        """The settings of each `[run.NAME]`: default, [train], its own table, then the flags.

        train  the `train` settings of the last command; a backbone among its flags puts the tables aside
        """
        if "backbone" in self.typed:
            return {}
        flags = {one.name: getattr(train, one.name) for one in fields(train) if one.name in self.typed}  # type: ignore[arg-type]
        return {name: replace(self._of_run(name), **flags) for name in self.toml.runs}

    def _of_run(self, name: str) -> Any:
        """The `train` settings of `[run.NAME]` without the flags."""
        values = {**self.toml.sections["train"], **self.toml.runs[name]}
        return _parse(values, self.sections["train"], source=f"[run.{name}] of {self.toml.path}")


def _parse(values: dict[str, Any], settings: type, *, source: str) -> Any:
    """The settings, with these values in place of their defaults; cyclopts refuses what is out of range."""
    parser = App(config=Dict(values, source=source, use_commands_as_keys=False), result_action="return_value")

    def collect(*, found: Any = settings()) -> Any:  # noqa: B008
        return found

    collect.__annotations__["found"] = settings
    parser.default(collect)
    return parser([], exit_on_error=False, print_error=False)
