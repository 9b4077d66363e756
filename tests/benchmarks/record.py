"""Writes down what a benchmark measured, and on what: nothing measured counts without its machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.jsonl"
PACKAGES = ("numpy", "scipy", "pandas", "optuna", "scikit-learn", "pillow", "torch", "torchvision", "timm")


def machine(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Processor, cores, memory, accelerator, versions, commit, date and how busy the machine is."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "accelerator": _accelerator(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: found for name in packages if (found := _version(name)) is not None},
    }


def machine_line(facts: Mapping[str, Any]) -> str:
    """The machine in one line."""
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    accelerator = f", {facts['accelerator']}" if facts["accelerator"] else ""
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gib']} GiB{accelerator}, load {facts['load']};"
        f" Python {facts['python']}, {versions}; commit {facts['commit']}, {facts['date']}"
    )


def record(benchmark: str, figures: Mapping[str, Any], *, seed: int | None = None) -> dict[str, Any]:
    """Print the machine's line and append figures and machine to `results.jsonl`. Returns the line that was written."""
    facts = machine()
    print(machine_line(facts))
    line = {"benchmark": benchmark, "seed": seed, **facts, "figures": dict(figures)}
    with open(RESULTS, "a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return line


def peak_mb() -> float:
    """The most memory that this process ever held; `getrusage` would tell that of the process that started it."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1000


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _output(*command: str) -> str:
    """What a command prints, empty where it is not there or fails."""
    try:
        return subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _commit() -> str:
    head = _output("git", "rev-parse", "--short=10", "HEAD")
    return (head or "unknown") + ("+changes" if _output("git", "status", "--porcelain", "--untracked-files=no") else "")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _accelerator() -> str | None:
    return _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").replace("\n", ", ") or None
