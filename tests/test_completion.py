"""Asks real shells what they would complete; those that are not installed are skipped."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import run
from folds.completion import NAME, completion_script

SCRIPT = Path(run.__file__).resolve()
ASK_BASH = """
COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); COMPREPLY=()
{function}; printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def completed(words, *, function):
    """What bash proposes for the last of the words."""
    script = completion_script(
        run.app.generate_completion(prog_name=NAME, shell="bash"), "bash", python=Path(sys.executable), script=SCRIPT
    )
    asked = script + ASK_BASH.format(words=" ".join(map(str, words)), function=function)
    done = subprocess.run(["bash", "-c", asked], cwd=SCRIPT.parent, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_commands_and_flags_are_completed_behind_python_run_py():
    assert completed(["python", "run.py", "expl"], function="_foldblend_python") == ["explain"]
    assert completed(["python", SCRIPT, "train", "--tens"], function="_foldblend_python") == ["--tensorboard"]
    assert completed(["python", "run.py", "train", "--precision", "bf"], function="_foldblend_python") == ["bf16"]
    assert completed(["foldblend", "sta"], function="_foldblend") == ["status"]


def test_another_script_of_that_name_is_left_to_pythons_own_completion(tmp_path):
    (tmp_path / "run.py").write_text("")
    assert completed(["python", tmp_path / "run.py", "expl"], function="_foldblend_python") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_what_is_printed_is_a_script_of_that_shell(shell, capsys):
    assert run.main(["completion", shell]) == 0
    out = capsys.readouterr().out
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-n"], input=out, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
