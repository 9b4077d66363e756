"""Measures the blend on made-up members: `python -m tests.benchmarks.blend`.

88,220 images x 103 classes, members of 85 to 90% top-1 with correlated errors (`tests.synthetic`), read from
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
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cyclopts
import numpy as np
from threadpoolctl import threadpool_limits

from ensemble.blend.candidates import fit_data
from ensemble.blend.make_blend import make_blend
from ensemble.members.members import load_members
from ensemble.settings import BlendSettings
from ensemble.weights.metric import Metric
from ensemble.weights.reduction import Reduction
from ensemble.weights.search import Search
from folds.base.workspace import Workspace
from tests.benchmarks.measure import finish, in_own_process, peak_mb, show
from tests.synthetic import World, make_world

IMAGES, CLASSES, MEMBERS = 88_220, 103, (3, 9, 15)
METRIC = Metric("top-k-error", 3)


def main(
    *,
    rivals: Annotated[str | None, cyclopts.Parameter(help="a Python that has autogluon.core and hillclimbers")] = None,
    seed: int = 0,
    folder: Annotated[Path | None, cyclopts.Parameter(help="where to make the members")] = None,
    keep: Annotated[bool, cyclopts.Parameter(help="append the figures to results.jsonl")] = True,
) -> None:
    """Measure the blend and print goals beside what was measured."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary, threadpool_limits(1):
        work = Workspace(Path(temporary) / "work")
        make_world(work, World(IMAGES, 500, CLASSES, 5, seed=seed), members=max(MEMBERS))
        figures: dict[str, Any] = measure_fits(work, Path(temporary), seed=seed)
        figures["whole"] = {m: whole_blend(work, m, seed=seed) for m in MEMBERS}
        figures["rivals"] = measure_rivals(Path(temporary), python=rivals or sys.executable)
    show_goals(figures)
    finish("blend", figures, keep=keep, seed=seed)


def names(n_members: int) -> tuple[str, ...]:
    return tuple(f"m{member:02d}" for member in range(n_members))


def timed(work: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Seconds: the least and the median of so many repeats, after one that does not count."""
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds), statistics.median(seconds)


def measure_fits(work: Workspace, folder: Path, *, seed: int) -> dict[str, Any]:
    """Reduction, evaluation and fits of 15 members, against a sort of the blended matrix in the same run."""
    members = load_members(work)
    probs, target = members.stacked(slice(0, len(members.rows))), members.rows.target  # (M, N, C)
    for name, array in (("probs", probs), ("target", target), ("fold", members.rows.fold)):  # for the rivals
        np.save(folder / f"{name}.npy", array)
    data = fit_data(members, METRIC)
    reduction = data.objective
    assert isinstance(reduction, Reduction)
    weights = np.random.default_rng(1).dirichlet(np.ones(len(members)), size=16)
    search = Search(members.names, BlendSettings(), seed)

    def top3(one: np.ndarray) -> np.ndarray:
        blended = np.zeros(probs.shape[1:])
        for weight, member in zip(one, probs, strict=True):
            blended += weight * member
        return np.argsort(-blended, axis=1, kind="stable")[:, :3]

    missed = [(top3(one) != target[:, None]).all(axis=1) for one in weights[:4]]
    return {
        "single_s": timed(lambda: reduction.losses(weights[:1]), 200),
        "batch_s_per_vector": [seconds / 16 for seconds in timed(lambda: reduction.losses(weights), 60)],
        "blend_and_sort_s": timed(lambda: top3(weights[0]), 2),
        "images_that_differ": sum(
            int((one != reduction.outcomes(vector)).sum()) for one, vector in zip(missed, weights[:4], strict=True)
        ),
        "build_s": timed(lambda: fit_data(members, METRIC), 3),
        "table_mb": (reduction.rival.nbytes + reduction.true.nbytes + reduction.lower.nbytes) / 1e6,
        "undecided": reduction.undecided,
        "greedy_s": timed(lambda: fit_data(members, METRIC).greedy, 2),
        "search_s": timed(lambda: search.weights(fit_data(members, METRIC), 1), 2),
        "search_misses": round(reduction.losses(search.weights(data, 1)[None])[0] * len(members.rows)),
    }


def whole_blend(work: Workspace, n_members: int, *, seed: int) -> dict[str, Any]:
    """`blend` with all candidates and five-fold cross-fitting, from disk, in a process of its own."""
    return in_own_process("blend", str(work.root), str(n_members), str(seed))


def one_blend(root: str, n_members: str, seed: str) -> None:
    """Make one blend and print its figures: what `whole_blend` starts."""
    start = time.perf_counter()
    result = make_blend(Workspace(Path(root)), BlendSettings(members=names(int(n_members))), seed=int(seed))
    seconds, scores = time.perf_counter() - start, {one.candidate.name: one.crossfit for one in result.scores}
    cost = {"seconds": seconds, "cpu_seconds": time.process_time(), "peak_mb": peak_mb()}
    print(json.dumps({**cost, "kept": result.blend.candidate, "crossfit": scores}))


def measure_rivals(folder: Path, *, python: str) -> dict[str, Any]:
    """The other tools on the same members and folds; each says why it was skipped, if it was."""
    script, figures = Path(__file__).with_name("rivals.py"), {}
    for name in ("autogluon", "hillclimbers"):
        made = subprocess.run([python, script, name, folder], capture_output=True, text=True)
        last = made.stdout.splitlines()[-1:] or [json.dumps({"skipped": (made.stderr.splitlines() or ["?"])[-1]})]
        figures[name] = json.loads(last[0])
    return figures


def show_goals(figures: dict[str, Any]) -> None:
    """Goals beside what was measured, each candidate's cross-fitted score, and the other tools."""
    whole, (sort, _) = figures["whole"][15], figures["blend_and_sort_s"]
    rows = [
        ("one evaluation", "0.35 ms", "{:.3f} ({:.3f}) ms".format(*(1e3 * one for one in figures["single_s"]))),
        ("in batches of 16", "", "{:.3f} ({:.3f}) ms".format(*(1e3 * one for one in figures["batch_s_per_vector"]))),
        ("faster than blending and sorting", "200 times", f"{sort / figures['single_s'][0]:,.0f} times"),
        ("images that differ from a stable sort", "0", f"{figures['images_that_differ']}"),
        ("building the reduction", "1 s", "{:.2f} ({:.2f}) s".format(*figures["build_s"])),
        ("its table", "8 MB", f"{figures['table_mb']:.1f} MB"),
        ("one greedy fit", "", "{:.2f} ({:.2f}) s".format(*figures["greedy_s"])),
        ("one search", "", "{:.2f} ({:.2f}) s".format(*figures["search_s"]) + f", {figures['search_misses']} misses"),
        ("whole blend, processor time", "15 s", f"{whole['cpu_seconds']:.1f} s"),
        ("its peak memory", "1,000 MB", f"{whole['peak_mb']:,.0f} MB"),
    ]
    show(f"15 members x {IMAGES:,} images x {CLASSES} classes: least (median)", ("figure", "goal", "measured"), rows)
    scores = {m: figures["whole"][m]["crossfit"] for m in MEMBERS}
    cells = [(name, *(f"{scores[m][name]:.5f}" for m in MEMBERS)) for name in scores[15]]
    cells += [(name, "", "", f"{rival.get('crossfit', rival)}") for name, rival in figures["rivals"].items()]
    show("cross-fitted top-3 error", ("candidate", *(f"M = {m}" for m in MEMBERS)), cells)


if __name__ == "__main__":
    one_blend(*sys.argv[2:]) if sys.argv[1:2] == ["--one"] else cyclopts.run(main)
