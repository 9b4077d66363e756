"""Runs `run.py` in processes forked from one that has its imports behind it, and kills them when told to.

`python -m tests.faults.nursery` reads one JSON line a command and answers one: `{"code": 0}`, or minus the signal.
A command may name a moment to die at: before the n-th audit event of a kind whose first argument ends in some name
(`os.rename` is raised by `os.replace` too, with the temporary file first: there the second argument counts), before
the n-th event of any kind, or after so many seconds; and another signal than SIGKILL; or a size that no file
may exceed. No hook for it is in the kit. It may have a terminal and a session of its own, as from a shell.
"""

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COUNTED = ("open", "os.rename", "os.remove", "os.link", "os.mkdir", "sqlite3.connect")


class Nursery:
    """The process that forks, and what is asked of it."""

    def __init__(self) -> None:
        words = [sys.executable, "-m", "tests.faults.nursery"]
        environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process: Any = subprocess.Popen(words, cwd=ROOT, env=environ, **pipes)

    def start(
        self, words: list[str], *, folder: Path, out: Path | str, die: dict[str, Any] | None = None, **more
    ) -> int:
        """Start a command in a folder, its output in `out`; returns its process number.

        more: `terminal`, a path of one that its stdin and stderr are; `environ`, variables to set and (None) to unset;
        `events`, a path where their number is written down at the end
        """
        return self._ask({"do": "start", "words": words, "folder": str(folder), "out": str(out), "die": die, **more})

    def wait(self, pid: int) -> int:
        """The exit code of a command, or minus the signal that killed it."""
        return self._ask({"do": "wait", "pid": pid})

    def run(self, words: str, *, folder: Path, code: int = 0, **more) -> str:
        """All that a command printed, which must end with this code."""
        out = folder / "out.txt"
        ended = self.wait(self.start(words.split(), folder=folder, out=out, **more))
        assert ended == code, f"{words} ended with {ended}, not {code}: {out.read_text()}"
        return out.read_text()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=20)

    def _ask(self, what: dict[str, Any]) -> int:
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def serve() -> None:
    """Fork a process for every command, until the input ends."""
    _import_all()
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "start":
            answer = os.fork() or _live(asked)
        else:
            status = os.waitpid(asked["pid"], 0)[1]
            answer = os.waitstatus_to_exitcode(status)
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


def _import_all() -> None:
    """What any command imports on its way: a second in each of a hundred processes, unless it is here."""
    rooms = [f"{room}.commands" for room in ("folds", "models", "ensemble", "submissions")]
    for name in ("run", *rooms, "models.jobs.plan", "ensemble.blend.make_blend", "optuna", "cmaes", "scipy.stats"):
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)


def _live(asked: dict[str, Any]) -> int:
    """The life of a forked process: the command, with its own output, until the end or the moment to die."""
    import run

    out = os.open(asked["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    given, errors = os.open(os.devnull, os.O_RDONLY), out
    if "terminal" in asked:
        os.setsid()
        given = errors = os.open(asked["terminal"], os.O_RDWR)  # the first one of a session controls it
    for here, there in ((given, 0), (out, 1), (errors, 2)):
        os.dup2(here, there)
    for name, value in asked.get("environ", {}).items():
        os.environ.pop(name, None)
        os.environ.update({name: value} if value is not None else {})
    sys.stdout, sys.stderr = open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115
    os.chdir(asked["folder"])
    events = _plan_death(asked["die"] or {})
    sys.argv[1:] = asked["words"]
    try:
        run.KIT.run_and_exit()
    except SystemExit as end:
        code = end.code
    if "events" in asked:
        Path(asked["events"]).write_text(str(len(events)))
    sys.stdout.flush()
    os._exit(code)


def _plan_death(die: dict[str, Any]) -> list[str]:
    """Returns the names of the events that are counted, as they come."""
    own, events = os.getpid(), list[str]()
    if "file_bytes" in die:  # a disk that is full after so many bytes of a file
        resource.setrlimit(resource.RLIMIT_FSIZE, (die["file_bytes"], die["file_bytes"]))
    if "seconds" in die:
        threading.Thread(target=lambda: (time.sleep(die["seconds"]), os.kill(own, signal.SIGKILL)), daemon=True).start()

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if event in COUNTED and os.getpid() == own and event == die.get("event", event):
            name = str(args[1] if event in ("os.rename", "os.link") else args[0])
            if name.endswith(die.get("name", "")):
                events.append(name)
                if len(events) == die.get("nth"):
                    os.kill(own, die.get("signal", signal.SIGKILL))

    sys.addaudithook(watch)
    return events


if __name__ == "__main__":
    serve()
