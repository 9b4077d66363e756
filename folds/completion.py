"""Lets shells complete commands and flags: cyclopts' script, and what it does not know of `python run.py`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal, TypeAlias

Shell: TypeAlias = Literal["bash", "zsh", "fish"]
NAME = "foldblend"  # cyclopts completes one word; `foldblend` then stands for `python run.py` of this checkout

# What follows `python run.py` is completed as if it followed `foldblend`; for any other script python's own completion
# stays. -ef: the same file, however its path is written.
BASH = """
foldblend() { {python} {script} "$@"; }
_foldblend_python() {
  if [[ $COMP_CWORD -gt 1 && ${COMP_WORDS[1]} -ef {script} ]]; then
    COMP_WORDS=(foldblend "${COMP_WORDS[@]:2}")
    COMP_CWORD=$((COMP_CWORD - 1))
    _foldblend
  fi
}
complete -o default -F _foldblend_python python python3
"""
ZSH = """
foldblend() { {python} {script} "$@"; }
_foldblend_python() {
  if (( CURRENT > 2 )) && [[ $words[2] -ef {script} ]]; then
    words=(foldblend "${(@)words[3,-1]}")
    (( CURRENT-- ))
    _cyclopts_foldblend
  else
    _python "$@"
  fi
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
compdef _cyclopts_foldblend foldblend
compdef _foldblend_python python python3
"""
FISH = """
function foldblend
    {python} {script} $argv
end
function __foldblend_python
    set -l words (commandline -opc)
    test (count $words) -ge 2; and test (realpath -- $words[2] 2>/dev/null) = {script}
end
function __foldblend_first
    __foldblend_python; and test (count (commandline -opc)) -eq 2
end
for name in python python3
{commands}
    complete -c $name -f -n __foldblend_python -a '(
        set -l words (commandline -opc)
        set -e words[1 2]
        complete -C "foldblend "(string join " " -- $words)" "(commandline -ct)
    )'
end
"""
ADDED: dict[Shell, str] = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def completion_script(generated: str, shell: Shell, *, python: Path, script: Path) -> str:
    """What a shell is to evaluate, so that it completes `foldblend` and `python run.py`.

    generated  cyclopts' script for a program called NAME
    """
    added = ADDED[shell].replace("{python}", shlex.quote(str(python))).replace("{script}", shlex.quote(str(script)))
    return f"{generated.rstrip()}\n{added.replace('{commands}', _commands(generated))}"


def _commands(generated: str) -> str:
    """Fish's lines for the commands, as they are to be offered behind `python run.py`: fish counts words by itself."""
    mine = f"complete -c {NAME} -n __fish_use_subcommand "
    lines = [line for line in generated.splitlines() if line.startswith(mine)]
    return "\n".join(f"    complete -c $name -f -n __foldblend_first {line.removeprefix(mine)}" for line in lines)
