"""Types the console lines of the README and of docs/, and compares what they print."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [README, *(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md")))]
BLOCKS = re.findall(r"```console\n(.*?)```", "\n".join(PAGES), flags=re.DOTALL)


def without_numbers(line: str) -> str:
    """Numbers differ between machines, and the columns that they fill: a number is `#`, white space is one blank."""
    return re.sub(r"\s+", " ", re.sub(r"[0-9][0-9a-f.,:]*", "#", line)).strip()


TYPED = """
import sys, run, submissions.commands
submissions.commands.__file__ = "submissions/commands.py"  # which says where examples/ lies: as if in a checkout
sys.argv[1:] = {words}
run.KIT.run_and_exit()
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory, nursery):
    """What every console line printed, by command, in the order of the pages; the demo in a quarter of its epochs."""
    folder, printed = tmp_path_factory.mktemp("readme"), {}
    settings = (ROOT / "examples/demo.toml").read_text(encoding="utf-8")
    assert settings.count("\nepochs = 16\n") == 1
    (folder / "examples").mkdir()
    (folder / "examples/demo.toml").write_text(settings.replace("\nepochs = 16\n", "\nepochs = 4\n"))
    for command in re.findall(r"^\$ (.*)$", "\n".join(BLOCKS), flags=re.MULTILINE):
        assert command.startswith("python run.py "), command
        code = TYPED.format(words=command.split()[2:])
        ended = nursery.wait(nursery.start(["-c", code], folder=folder, out=folder / "out"))
        printed[command] = (folder / "out").read_text()
        assert ended == 0, printed[command]
    return printed


def error_on_what_was_kept_aside(shown):
    return float(re.search(r"on the true labels of .*top-3 error ([0-9.]+) \(", shown)[1])


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0])
def test_a_console_block_shows_what_its_command_prints(block, printed):
    command, *shown = block.splitlines()
    lines = {without_numbers(line) for line in printed[command.removeprefix("$ ")].splitlines()}
    assert [line for line in shown if line.strip() not in ("", "...") and without_numbers(line) not in lines] == []


def test_the_demo_learns_in_a_quarter_of_its_epochs(printed):
    assert error_on_what_was_kept_aside(printed["python run.py demo"]) < 0.35  # half of chance


@pytest.mark.faults
def test_the_demo_scores_at_most_one_percent_on_the_labels_that_it_kept_aside(tmp_path):
    words = [sys.executable, ROOT / "run.py", "demo"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert error_on_what_was_kept_aside(done.stdout) <= 0.01


def test_the_readme_has_the_two_commands_of_a_newcomer():
    assert "python -m venv .venv && . .venv/bin/activate && pip install -e . && python run.py demo\n" in README
    assert "python -m venv .venv && . .venv/bin/activate && pip install -e '.[dev]' && pytest\n" in README


def test_the_readme_is_short_and_every_page_that_it_names_is_there():
    assert len(README.splitlines()) < 200
    pages = set(re.findall(r"\]\((docs/[a-z-]+\.md)\)", README))
    assert pages == {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
