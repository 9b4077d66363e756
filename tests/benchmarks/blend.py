"""Measures the blender on made-up members: `python -m tests.benchmarks.blend`.

88,220 images x 103 classes, members of 85 to 90% top-1 with correlated errors (`tests.benchmarks.synthetic`), read from
disk. Every figure is taken several times; the least and the median stand side by side, since neighbours only add time.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cyclopts
import numpy as np
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from ensemble.blend.evidence import Evidence, gather_evidence
from ensemble.blend.make_blend import make_blend
from ensemble.members.members import Members, load_members
from ensemble.settings import BlendSettings
from ensemble.weights.metric import Metric
from ensemble.weights.objective import Reduction
from ensemble.weights.search import Search
from folds.base.workspace import Workspace
from tests.benchmarks.record import peak_mb, record
from tests.benchmarks.synthetic import World, make_world

FULL, CLASSES, MEMBERS = 88_220, 103, (3, 9, 15)
GROWTH = (10_000, 88_220, 1_000_000)
METRIC = Metric("top-k-error", 3)
console = Console(width=140)


def main(
    *,
    growth: Annotated[
        bool, cyclopts.Parameter(help="also 10,000 and 1,000,000 images; 4 GB of disk for a while")
    ] = False,
    rivals: Annotated[str | None, cyclopts.Parameter(help="a Python that has autogluon.core and hillclimbers")] = None,
    seed: int = 0,
    folder: Annotated[
        Path | None, cyclopts.Parameter(help="where to make the members; a temporary folder by default")
    ] = None,
) -> None:
    """Measure the blender, print the table of goals, and append everything to results.jsonl."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=folder) as temporary, threadpool_limits(1):
        work = made_up(Path(temporary) / "full", FULL, max(MEMBERS), seed=seed)
        figures["evaluation"] = {str(m): measure_evaluation(work, m) for m in MEMBERS}
        figures["whole"] = {str(m): whole_blend(work, m, seed=seed) for m in MEMBERS}
        figures["fits"] = measure_fits(work, seed=seed)
        figures["rivals"] = measure_rivals(work, Path(temporary) / "rivals", python=rivals or sys.executable)
        (work.root / "done").touch()
        show_goals(figures)
        if growth:
            figures["growth"] = {f"{n:,}": growth_at(Path(temporary) / str(n), n, seed=seed) for n in GROWTH}
            show_growth(figures["growth"])
    record("blend", figures, seed=seed)


def made_up(folder: Path, n: int, n_members: int, *, seed: int) -> Workspace:
    """A work folder with n images and members m00, m01, .., written one at a time."""
    work = Workspace(folder)
    make_world(work, World(n, 500, CLASSES, 5, seed=seed), members=n_members)
    return work


def names(n_members: int) -> tuple[str, ...]:
    return tuple(f"m{member:02d}" for member in range(n_members))


def timed(work: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Seconds: the least and the median of so many repeats, after one that does not count."""
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return {"least": min(seconds), "median": statistics.median(seconds)}


def measure_evaluation(work: Workspace, n_members: int) -> dict[str, Any]:
    """Reduction, evaluation and search in memory, against an argsort of the blended matrix in the same run."""
    members = load_members(work, names(n_members))
    evidence = gather_evidence(members, METRIC)
    reduction = evidence.objective
    assert isinstance(reduction, Reduction)
    weights = np.random.default_rng(1).dirichlet(np.ones(n_members), size=16)
    search = Search(members.names, 1000, "cma", 16, 0)
    figures = {
        "build_s": timed(lambda: gather_evidence(members, METRIC), 3),
        "build_peak_share": peak_share(members),
        "table_mb": (reduction.rival.nbytes + reduction.true.nbytes + reduction.lower.nbytes) / 1e6,
        "undecided": len(reduction.layout.row) / len(members.rows),
        "single_s": timed(lambda: reduction.losses(weights[:1]), 200),
        "batch_s_per_vector": {key: value / 16 for key, value in timed(lambda: reduction.losses(weights), 60).items()},
        "trials_1000_s": timed(lambda: search.best_of_trials(evidence, 1), 3),
        "trials_misses": round(reduction.losses(search.best_of_trials(evidence, 1)[None])[0] * len(members.rows)),
    }
    return {**figures, **argsort_figures(members, reduction, weights)}


def argsort_figures(members: Members, reduction: Reduction, weights: np.ndarray) -> dict[str, Any]:
    """Blending and sorting everything for one weight vector; and how many images differ from the reduction's answer."""
    probs = members.stacked(slice(0, len(members.rows)))  # (M, N, C): this is what the reduction does without
    target = members.rows.target
    blended = np.tensordot(weights[0].astype(np.float32), probs, 1)
    whole = timed(lambda: np.argsort(-np.tensordot(weights[0].astype(np.float32), probs, 1), axis=1), 3)
    alone = timed(lambda: np.argsort(-blended, axis=1), 3)
    differ = 0
    for one in weights[:4]:
        exact = sum(weight * member.astype(np.float64) for weight, member in zip(one, probs, strict=True))
        top = np.argsort(-exact, axis=1, kind="stable")[:, :3]
        differ += int(((top != target[:, None]).all(axis=1) != (reduction.outcomes(one) == 1)).sum())
    return {"argsort_s": alone, "blend_and_argsort_s": whole, "images_that_differ": differ}


def peak_share(members: Members) -> float:
    """Peak memory of building the reduction, less its table, in units of one member's (N, C) float32 array."""
    tracemalloc.start()
    reduction = gather_evidence(members, METRIC).objective
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(reduction, Reduction)
    table = reduction.rival.nbytes + reduction.true.nbytes + reduction.lower.nbytes
    return (peak - table) / (4 * len(members.rows) * len(members.rows.classes))


def whole_blend(work: Workspace, n_members: int, *, seed: int) -> dict[str, Any]:
    """`blend` with all candidates and five-fold cross-fitting, from disk, in a process of its own."""
    (work.ensemble / "study.db").unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.benchmarks.blend", "--one", str(work.root), str(n_members), str(seed)]
    made = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    return json.loads(made.stdout.splitlines()[-1])


def one_blend(root: str, n_members: str, seed: str) -> None:
    """Make one blend and print its figures: what `whole_blend` starts."""
    start = time.perf_counter()
    result = make_blend(Workspace(Path(root)), BlendSettings(), seed=int(seed), members=names(int(n_members)))
    scores = {one.candidate.name: [one.in_sample, one.crossfit, one.behind_error] for one in result.scores}
    seconds, peak = time.perf_counter() - start, peak_mb()
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "kept": result.blend.candidate, "scores": scores}))


def measure_fits(work: Workspace, *, seed: int) -> dict[str, Any]:
    """One fit of all images, reading and reducing included: what one fit of another tool stands beside."""
    members = load_members(work, names(max(MEMBERS)))
    search = Search(members.names, None, "cma", 16, seed)
    fits: dict[str, Callable[[Evidence], np.ndarray]] = {
        "greedy": lambda evidence: evidence.greedy,
        "search": lambda evidence: search.weights(evidence, 1),
    }
    return {name: timed(lambda fit=fit: fit(gather_evidence(members, METRIC)), 3) for name, fit in fits.items()}


def measure_rivals(work: Workspace, folder: Path, *, python: str) -> dict[str, Any]:
    """The other tools on the same members and folds; each says why it was skipped, if it was."""
    members = load_members(work, names(max(MEMBERS)))
    folder.mkdir(parents=True)
    np.save(folder / "probs.npy", members.stacked(slice(0, len(members.rows))))
    np.save(folder / "target.npy", members.rows.target)
    np.save(folder / "fold.npy", members.rows.fold)
    script = Path(__file__).with_name("rivals.py")
    figures = {}
    for name in ("autogluon", "hillclimbers"):
        made = subprocess.run([python, script, name, folder], capture_output=True, text=True)
        last = made.stdout.splitlines()[-1:] or [json.dumps({"skipped": (made.stderr.splitlines() or ["?"])[-1]})]
        figures[name] = json.loads(last[0])
    (folder / "probs.npy").unlink()
    return figures


def growth_at(folder: Path, n: int, *, seed: int) -> dict[str, Any]:
    """Building, one batch and the whole blend of 9 members for n images."""
    work = made_up(folder, n, 9, seed=seed)
    members = load_members(work)
    evidence = gather_evidence(members, METRIC)
    weights = np.random.default_rng(1).dirichlet(np.ones(9), size=16)
    figures = {
        "build_s": timed(lambda: gather_evidence(members, METRIC), 1)["least"],
        "batch_s_per_vector": timed(lambda: evidence.objective.losses(weights), 10)["least"] / 16,
        **whole_blend(work, 9, seed=seed),
    }
    for path in sorted(work.models.glob("*/*/*.npz")):
        path.unlink()
    return figures


def show_goals(figures: dict[str, Any]) -> None:
    """The issue's table: goal beside what was measured."""
    big, whole, rivals = figures["evaluation"]["15"], figures["whole"]["15"], figures["rivals"]
    faster = big["blend_and_argsort_s"]["least"] / big["batch_s_per_vector"]["least"]
    alone = big["argsort_s"]["least"] / big["batch_s_per_vector"]["least"]
    table = Table(title=f"{FULL:,} images x {CLASSES} classes; least (median) of several runs, one BLAS thread")
    for heading in ("figure, M = 15", "goal", "measured"):
        table.add_column(heading)
    table.add_row("one evaluation", "0.35 ms", ms(big["single_s"]))
    table.add_row("in batches of 16", "0.12 ms", ms(big["batch_s_per_vector"]))
    table.add_row(
        "faster than blending and argsort (argsort alone)", "200 times", f"{faster:,.0f} ({alone:,.0f}) times"
    )
    table.add_row("images that differ from a stable sort", "0", str(big["images_that_differ"]))
    table.add_row("building the reduction", "1 s", f"{big['build_s']['least']:.2f} ({big['build_s']['median']:.2f}) s")
    table.add_row("its table", "8 MB", f"{big['table_mb']:.1f} MB")
    table.add_row("peak memory of building, less the table", "1.5 members", f"{big['build_peak_share']:.2f} members")
    trials = big["trials_1000_s"]
    table.add_row("1,000 Optuna trials", "1.5 s", f"{trials['least']:.2f} ({trials['median']:.2f}) s")
    table.add_row("whole blend from disk", "15 s, 1,000 MB", f"{whole['seconds']:.1f} s, {whole['peak_mb']:,.0f} MB")
    for name, seconds in figures["fits"].items():
        table.add_row(f"one fit of `{name}` from disk", "", f"{seconds['least']:.2f} ({seconds['median']:.2f}) s")
    console.print(table)
    show_scores(figures)
    for name, rival in rivals.items():
        if "skipped" in rival:
            console.print(f"{name} was not compared: {rival['skipped']}")
        else:
            console.print(
                f"{name}: cross-fitted {rival['crossfit']:.5f}, in-sample {rival['in_sample']:.5f}, one fit"
                f" {rival['seconds']:.1f} s, {rival['peak_mb']:,.0f} MB; one fit of `search` here"
                f" {figures['fits']['search']['least']:.2f} s"
            )


def show_scores(figures: dict[str, Any]) -> None:
    """Every candidate, in-sample and cross-fitted, for each number of members."""
    table = Table(title="top-3 error: in-sample / cross-fitted")
    table.add_column("candidate")
    for m in MEMBERS:
        table.add_column(f"M = {m}")
    for name in figures["whole"]["15"]["scores"]:
        cells = []
        for m in MEMBERS:
            made = figures["whole"][str(m)]
            mark = " *" if made["kept"] == name else ""
            cells.append(f"{made['scores'][name][0]:.5f} / {made['scores'][name][1]:.5f}{mark}")
        table.add_row(name, *cells)
    table.add_row(
        "seconds, MB",
        *(f"{figures['whole'][str(m)]['seconds']:.1f}, {figures['whole'][str(m)]['peak_mb']:,.0f}" for m in MEMBERS),
    )
    console.print(table)


def show_growth(growth: dict[str, Any]) -> None:
    """Time by number of images, M = 9."""
    table = Table(title="growth, M = 9")
    for heading in ("images", "build, s", "ms per vector", "whole blend, s", "s per 100,000", "peak, MB", "kept"):
        table.add_column(heading, justify="right")
    for n, made in growth.items():
        per = made["seconds"] / int(n.replace(",", "")) * 1e5
        cells = [
            f"{made['build_s']:.2f}",
            f"{made['batch_s_per_vector'] * 1e3:.3f}",
            f"{made['seconds']:.1f}",
            f"{per:.1f}",
        ]
        table.add_row(n, *cells, f"{made['peak_mb']:,.0f}", made["kept"])
    console.print(table)


def ms(seconds: dict[str, float]) -> str:
    return f"{seconds['least'] * 1e3:.3f} ({seconds['median'] * 1e3:.3f}) ms"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one_blend(*sys.argv[2:])
    else:
        cyclopts.run(main)
