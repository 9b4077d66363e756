"""Measures how often the expected score's interval holds, and what each rule of choice costs: `python -m
tests.benchmarks.expected`.

Made-up competitions, half of them with strong members, each blended by the kit as a whole: candidates, choice, nested
choice. N training images in five folds; a member has a network per fold, whose noise of its own goes when
the five are averaged. The test images are N per private part, 2 to 20 parts, and their labels are known: `coverage` is
the share of the parts whose error lies in the interval, `off` the fresh error less the expected one, as a share of the
first. The rules choose among the same candidates, and their fresh errors are compared world by world.

`--work DIR` does the same with the out-of-fold rows of a work folder: half of the groups are blended, the others are
the test images. No network is averaged there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
import pandas as pd

from ensemble.blend.apply import apply_blend
from ensemble.blend.cross_fit import Score, best_or_equal
from ensemble.blend.make_blend import BlendResult, make_blend
from ensemble.members.members import Members, load_members
from ensemble.settings import BlendSettings, MetricName
from folds.base.workspace import Workspace, read_json, write_json
from folds.split.assign import load_folds, store_folds
from tests.benchmarks.measure import finish, show
from tests.benchmarks.synthetic import World, make_folds, member_log_probs, write_fold

SIZES = {500: 8, 2_000: 3, 8_000: 1}  # training images, and private parts of as many test images
MEMBERS, CLASSES, FOLDS = 6, 20, 5
MARGINS = 3.0, 4.5  # of weak and of strong members: top-3 errors of the blend around 0.10 and 0.02
FOLD_NOISE = 1.0  # standard deviation of a network's own noise on its log-probabilities


def _within(scores: Sequence[Score], errors: float) -> Score:
    """The first candidate within so many standard errors of the best, an image more or less not counted."""
    return next(one for one in scores if one.behind - 1 / len(one.outcomes) <= errors * one.behind_error)


def _best(scores: Sequence[Score]) -> Score:
    return min(scores, key=lambda one: one.crossfit)


RULES: dict[str, Callable[[Sequence[Score]], Score]] = {
    "one standard error": partial(_within, errors=1.0),
    "half of one": partial(_within, errors=0.5),
    "equal within one, else the best": best_or_equal,
    "the best cross-fitted": _best,
}


def main(
    *,
    worlds: int = 200,
    metric: MetricName = "top-k-error",
    work: Path | None = None,
    log: Path | None = None,
    processes: int = 1,
    record: bool = True,
) -> None:
    """Measure, print the tables, and append the figures to results.jsonl; `--log FILE` goes on where it was stopped."""
    names = [str(n) for n in SIZES] if work is None else [work.name]
    made = made_worlds(names, worlds, metric, work=work, log=log, processes=processes)
    figures: dict[str, Any] = {"worlds": worlds, "metric": metric}
    figures["sizes"] = {name: summary(of_size) for name, of_size in made.items()}
    rows = [
        (
            name,
            f"{of['fresh']:.4f}",
            f"{of['off'][0]:+.1%} +- {of['off'][1]:.1%}",
            f"{of['coverage'][0]:.1%} +- {of['coverage'][1]:.1%}",
            f"{of['below']:.1%}, {of['above']:.1%}",
            f"{of['gain'][0]:.1%}, {of['gain'][1]:.1%}",
        )
        for name, of in figures["sizes"].items()
    ]
    heads = ("images", "fresh", "off", "coverage", "below, above", "gain: expected, true")
    show(f"expected {metric}, {worlds} worlds each", heads, rows)
    cells = [
        (rule, *(f"{of['rules'][rule][0]:+.2%} +- {of['rules'][rule][1]:.2%}" for of in figures["sizes"].values()))
        for rule in RULES
    ]
    show("fresh loss of each rule less that of the best cross-fitted, of the latter", ("rule", *names), cells)
    finish("expected", figures, keep=record)


def made_worlds(
    names: Sequence[str], worlds: int, metric: MetricName, *, work: Path | None, log: Path | None, processes: int
) -> dict[str, list[dict[str, Any]]]:
    """Each world's figures by size, made seed after seed, so that all sizes grow alike; what the log has is kept."""
    wanted = {f"{metric}, {name}, seed {seed}": (name, seed) for seed in range(worlds) for name in names}
    made = read_json(log, hint="") if log is not None and log.is_file() else {}
    ahead = {key: one for key, one in wanted.items() if key not in made}
    with ProcessPoolExecutor(processes) as pool:
        for key, figures in zip(ahead, pool.map(partial(one_of, work, metric), ahead.values()), strict=True):
            made[key] = figures
            if log is not None:
                write_json(log, made)
    return {name: [made[key] for key, (own, _) in wanted.items() if own == name] for name in names}


def one_of(work: Path | None, metric: MetricName, name_and_seed: tuple[str, int]) -> dict[str, Any]:
    name, seed = name_and_seed
    return one_half(work, metric, seed) if work else one_world(int(name), metric, seed)


def summary(made: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the worlds, with their standard errors where two numbers stand."""

    def mean(values: Sequence[float]) -> tuple[float, float]:
        return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))

    fresh = float(np.mean([one["fresh"] for one in made]))
    best = np.array([one["rules"]["the best cross-fitted"] for one in made])
    off = mean([one["fresh"] - one["expected"] for one in made])
    return {
        "fresh": fresh,
        "off": (off[0] / fresh, off[1] / fresh),
        "coverage": mean([one["inside"] for one in made]),
        "below": float(np.mean([one["below"] for one in made])),
        "above": float(np.mean([one["above"] for one in made])),
        "gain": (float(np.mean([one["gain"] for one in made])), float(np.mean([one["true_gain"] for one in made]))),
        "rules": {
            rule: tuple(x / best.mean() for x in mean(np.array([one["rules"][rule] for one in made]) - best))
            for rule in RULES
        },
        "kept": {name: sum(one["kept"] == name for one in made) for name in sorted({one["kept"] for one in made})},
    }


def one_world(n: int, metric: MetricName, seed: int) -> dict[str, Any]:
    """One made-up competition: what was expected of the kept blend, and what its test images say."""
    parts, margin = SIZES[n], MARGINS[seed % 2]
    world = World(n=n, n_test=parts * n, n_classes=CLASSES, n_folds=FOLDS, margin=margin, seed=1000 * n + seed)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        networks = make_networks(workspace, world)  # (M, K, T, C)
        settings = BlendSettings(metric=metric, trials=32, private_share=1 / parts)
        made = make_blend(workspace, settings, seed=seed)
        return compared(workspace, made, networks, world.targets(1), parts=parts)


def make_networks(workspace: Workspace, world: World) -> np.ndarray:
    """A work folder whose members have unlike networks; their test probabilities. (M, K, T, C) float32"""
    folds, target = make_folds(workspace, world), world.targets(1)
    tests = []
    for member in range(MEMBERS):
        oof, test = (
            member_log_probs(world, truth, part=part, member=member)
            for part, truth in enumerate((folds.target, target))
        )
        for fold in range(world.n_folds):
            rng, rows = np.random.default_rng([world.seed, 6, member, fold]), folds.fold == fold
            own, tested = noisy(oof[rows], rng), noisy(test, rng)
            write_fold(workspace, folds, f"m{member:02d}", fold, folds.image_id[rows], own, world.test_id, tested)
            tests.append(np.exp(tested))
    return np.reshape(tests, (MEMBERS, world.n_folds, *tests[0].shape))


def noisy(log_probs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Log-probabilities with a network's own noise. (n, C) float32"""
    moved = log_probs + FOLD_NOISE * rng.standard_normal(log_probs.shape, np.float32)
    moved -= moved.max(axis=1, keepdims=True)
    return moved - np.log(np.exp(moved).sum(axis=1, keepdims=True))


def compared(
    workspace: Workspace, made: BlendResult, networks: np.ndarray, target: np.ndarray, *, parts: int
) -> dict[str, Any]:
    """The kept blend's interval against each private part; the rules' fresh losses. networks (M, K, T, C)"""
    metric, means, recipe = made.metric, networks.mean(axis=1), made.kept.fits.whole

    def losses(score: Score, probs: np.ndarray) -> np.ndarray:
        own = score.fits.whole
        scores = own.scores(probs)
        return metric.outcomes(own.probs(scores) if metric.name == "log-loss" else scores, target)

    applied = apply_blend(workspace, made.blend).scores
    fresh = metric.outcomes(recipe.probs(applied) if metric.name == "log-loss" else applied, target)
    of_parts = [float(part.mean()) for part in np.array_split(fresh, parts)]
    single = np.mean([losses(made.kept, networks[:, fold]).mean() for fold in range(networks.shape[1])])
    known = {score.candidate.name: float(losses(score, means).mean()) for score in made.scores}
    expected = made.blend.expected
    below = float(np.mean([one < expected.low - 1e-12 for one in of_parts]))
    above = float(np.mean([one > expected.high + 1e-12 for one in of_parts]))
    return {
        "fresh": float(fresh.mean()),
        "parts": of_parts,
        "expected": expected.mean,
        "interval": (expected.low, expected.high),
        "inside": 1 - below - above,
        "below": below,
        "above": above,
        "gain": expected.gain,
        "true_gain": 1 - float(fresh.mean() / single) if single else 0.0,
        "kept": made.blend.candidate,
        "rules": {rule: known[choose(made.scores).candidate.name] for rule, choose in RULES.items()},
    }


def one_half(work: Path, metric: MetricName, seed: int) -> dict[str, Any]:
    """Half of a work folder's groups blended; the out-of-fold rows of the others are the test images."""
    members = load_members(Workspace(work))
    groups = np.unique(members.rows.group)
    chosen = np.random.default_rng([seed, 1]).permutation(groups)[: len(groups) // 2]
    mine = np.isin(members.rows.group, chosen)
    probs = np.log(np.maximum(members.stacked(slice(0, len(members.rows))), 1e-30))  # (M, N, C)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        _store_half(workspace, Workspace(work), members, mine, probs)
        made = make_blend(workspace, BlendSettings(metric=metric, trials=32), seed=seed)
        order = np.argsort(members.rows.image_id[~mine])
        tests = np.exp(probs[:, ~mine][:, order])[:, None]
        return compared(workspace, made, tests, members.rows.target[~mine][order], parts=1)


def _store_half(
    workspace: Workspace, whole: Workspace, members: Members, mine: np.ndarray, log_probs: np.ndarray
) -> None:
    rows, kept = members.rows, load_folds(whole)
    ids = set(rows.image_id[mine].tolist())
    names = ("image_id", "path", "label", "target", "fold", "group")
    table = pd.DataFrame({name: getattr(kept, name) for name in names})
    table = table[table["image_id"].isin(ids)].reset_index(drop=True)
    folds = store_folds(workspace, table, seed=0)
    assert folds.classes == kept.classes, "a class is in one half only"
    for name, own in zip(members.names, log_probs, strict=True):
        for fold in range(kept.n_folds):
            place = mine & (rows.fold == fold)
            write_fold(workspace, folds, name, fold, rows.image_id[place], own[place], rows.image_id[~mine], own[~mine])


if __name__ == "__main__":
    cyclopts.run(main)
