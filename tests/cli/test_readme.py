"""Types the console lines of the README and of docs/ in a copy of the checkout, and compares what they print."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [README, *(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md")))]
BLOCKS = re.findall(r"```console\n(.*?)```", "\n".join(PAGES), flags=re.DOTALL)
LEFT_BEHIND = shutil.ignore_patterns(".git", ".venv", "work", ".*cache*", "__pycache__", "results.jsonl")


def without_numbers(line: str) -> str:
    """Numbers differ between machines, and the columns that they fill: a number is `#`, white space is one blank."""
    return re.sub(r"\s+", " ", re.sub(r"[0-9][0-9a-f.,:]*", "#", line)).strip()


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What every console line printed, by command, typed in the order of the pages."""
    copy = tmp_path_factory.mktemp("readme") / "foldblend"
    shutil.copytree(ROOT, copy, ignore=LEFT_BEHIND)
    output = {}
    for command in re.findall(r"^\$ (.*)$", "\n".join(BLOCKS), flags=re.MULTILINE):
        words = shlex.split(command)
        assert words[:2] == ["python", "run.py"], command
        done = subprocess.run([sys.executable, *words[1:]], cwd=copy, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        output[command] = done.stdout
    return output


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0])
def test_a_console_block_shows_what_its_command_prints(block, printed):
    command, *shown = block.splitlines()
    lines = {without_numbers(line) for line in printed[command.removeprefix("$ ")].splitlines()}
    assert [line for line in shown if line.strip() not in ("", "...") and without_numbers(line) not in lines] == []


def test_the_demo_scores_at_most_one_percent_on_the_labels_that_it_kept_aside(printed):
    error = re.search(r"on the true labels of .*top-3 error ([0-9.]+) \(", printed["python run.py demo"])
    assert float(error[1]) <= 0.01


def test_the_readme_has_the_two_commands_of_a_newcomer():
    assert "python -m venv .venv && . .venv/bin/activate && pip install -e . && python run.py demo\n" in README
    assert "python -m venv .venv && . .venv/bin/activate && pip install -e '.[dev]' && pytest\n" in README


def test_the_readme_is_short_and_every_page_that_it_names_is_there():
    assert len(README.splitlines()) < 200
    pages = set(re.findall(r"\]\((docs/[a-z-]+\.md)\)", README))
    assert pages == {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
