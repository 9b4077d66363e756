"""Compares the recipe with its rivals on the same folds: `python -m tests.benchmarks.recipe WORK --ours A,B`.

`--ours` and `--plain` name finished runs of the work folder WORK, one for each seed; `--fastai` names the OUT of each
`fastai_rival.py`, without its ending. Prints the OOF top-3 error of each way, mean and standard deviation over seeds,
the minutes of a run, and by how much ours differs from each rival on the same images: the mean over seeds, with its 95%
interval over images (copies count once).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import numpy as np

from ensemble.members.members import load_members
from folds.base.interval import paired_difference
from folds.base.metrics import true_rank
from folds.base.workspace import Workspace
from folds.settings import COMMA_LIST
from folds.split.assign import Folds, load_folds
from tests.benchmarks.measure import finish, show

Names = Annotated[tuple[str, ...], COMMA_LIST]


@dataclass(frozen=True)
class Way:
    """missed: (seeds, N) bool, in the order of folds.csv; minutes: of each seed's run over all folds."""

    missed: np.ndarray
    minutes: tuple[float, ...]

    @property
    def errors(self) -> np.ndarray:
        return self.missed.mean(axis=1)


def main(
    work: Path,
    *,
    ours: Names,
    plain: Names = (),
    fastai: Names = (),
    record: bool = True,
) -> None:
    """Compare, print the table, and append the figures to results.jsonl."""
    workspace, folds = Workspace(work), load_folds(Workspace(work))
    ways = {"this recipe": read_runs(workspace, folds, ours)}
    if plain:
        ways["plain fine-tuning"] = read_runs(workspace, folds, plain)
    if fastai:
        ways["fastai fine_tune"] = read_fastai(fastai, folds, "probs")
        ways["fastai fine_tune, tta"] = read_fastai(fastai, folds, "tta")
    figures = compare(ways, folds)
    rows = []
    for name, made in figures["ways"].items():
        deviation = f" +- {made['deviation']:.4f}" if made["deviation"] is not None else ""
        apart = "{:+.4f} ({:+.4f} to {:+.4f})".format(*made["difference"]) if made["difference"] else ""
        rows.append((name, f"{made['top3_error']:.4f}{deviation}", f"{made['minutes']:.1f}", apart))
    title = f"{figures['images']:,} images, {figures['n_folds']} folds"
    show(title, ("", "OOF top-3 error", "minutes", "this recipe less that"), rows)
    finish("recipe", figures, keep=record)


def read_runs(workspace: Workspace, folds: Folds, names: Sequence[str]) -> Way:
    """Finished runs, their views averaged as the blender does."""
    members = load_members(workspace, names, separate_seeds=True)
    place = position(folds, members.rows.image_id)
    missed = np.empty((len(members), len(place)), dtype=bool)
    for rows, probs in members.chunks():
        for seed, own in enumerate(probs):
            missed[seed, place[rows]] = true_rank(own, members.rows.target[rows]) >= 3
    return Way(missed, tuple(minutes_of(workspace, name, folds.n_folds) for name in members.names))


def minutes_of(workspace: Workspace, name: str, n_folds: int) -> float:
    done = (workspace.fold(name, fold) / "done.json" for fold in range(n_folds))
    return sum(json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in done) / 60


def read_fastai(outs: Sequence[str], folds: Folds, which: str) -> Way:
    """What `fastai_rival.py` wrote: the probabilities under the name `which`."""
    missed, minutes = [], []
    for out in outs:
        with np.load(f"{out}.npz", allow_pickle=False) as stored:
            place, probs = position(folds, stored["image_id"]), stored[which]
            assert tuple(stored["classes"].tolist()) == folds.classes, f"{out} has other classes"
        own = np.empty(len(place), dtype=bool)
        own[place] = true_rank(probs, folds.target[place]) >= 3
        figures = json.loads(Path(f"{out}.json").read_text(encoding="utf-8"))["per_fold"]
        extra = [fold["tta_seconds"] if which == "tta" else 0.0 for fold in figures]
        missed.append(own)
        minutes.append(sum(fold["seconds"] + more for fold, more in zip(figures, extra, strict=True)) / 60)
    return Way(np.stack(missed), tuple(minutes))


def position(folds: Folds, image_id: np.ndarray) -> np.ndarray:
    """Where these ids stand in folds.csv, each exactly once. (N,) int64"""
    order = np.argsort(folds.image_id, kind="stable")
    place = order[np.searchsorted(folds.image_id[order], image_id).clip(max=len(order) - 1)]
    known = len(image_id) == len(order) and (folds.image_id[place] == image_id).all()
    assert known, f"{len(image_id)} predictions are not those of the {len(order)} images"
    assert len(np.unique(place)) == len(order), "an image is predicted twice"
    return place


def compare(ways: dict[str, Way], folds: Folds) -> dict[str, Any]:
    """Errors of each way, and what the first way's are less the others' on the same images."""
    first = next(iter(ways.values()))
    figures = {}
    for name, way in ways.items():
        seeds = len(way.errors)
        apart = paired_difference(first.missed.mean(axis=0), way.missed.mean(axis=0), folds.group)
        figures[name] = {
            "seeds": seeds,
            "top3_error": float(way.errors.mean()),
            "deviation": float(way.errors.std(ddof=1)) if seeds > 1 else None,
            "each": way.errors.tolist(),
            "minutes": float(np.mean(way.minutes)),
            "difference": [apart.mean, apart.low, apart.high] if way is not first else None,
        }
    return {"images": len(folds.target), "n_folds": folds.n_folds, "folds_digest": folds.digest, "ways": figures}


if __name__ == "__main__":
    cyclopts.run(main)
