"""Measures how often the expected score's interval holds: `python -m tests.benchmarks.expected`.

Made-up competitions, half of them with strong members, each blended by the kit as a whole: candidates, choice, nested
choice. N training images in five folds; a member has a network per fold, whose noise of its own goes when
the five are averaged. The test images are N per private part, 2 to 20 parts, and their labels are known: `coverage` is
the share of the parts whose error lies in the interval, `off` the fresh error less the expected one, as a share of the
first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np

from ensemble.blend.apply import apply_blend
from ensemble.blend.make_blend import BlendResult, make_blend
from ensemble.settings import BlendSettings, MetricName
from folds.base.workspace import Workspace, read_json, write_json
from tests.benchmarks.measure import finish, show
from tests.synthetic import World, make_folds, member_log_probs, write_fold

SIZES = {500: 8, 2_000: 3, 8_000: 1}  # training images, and private parts of as many test images
MEMBERS, CLASSES, FOLDS = 6, 20, 5
MARGINS = 3.0, 4.5  # of weak and of strong members: top-3 errors of the blend around 0.10 and 0.02
FOLD_NOISE = 1.0  # standard deviation of a network's own noise on its log-probabilities


def main(
    *,
    worlds: int = 200,
    metric: MetricName = "top-k-error",
    log: Path | None = None,
    processes: int = 1,
    record: bool = True,
) -> None:
    """Measure, print the table, and append the figures to results.jsonl; `--log FILE` goes on where it was stopped."""
    made = made_worlds(worlds, metric, log=log, processes=processes)
    sizes = {n: summary(of_size) for n, of_size in made.items()}
    rows = [
        (
            f"{n:,}",
            f"{of['fresh']:.4f}",
            f"{of['off'][0]:+.1%} +- {of['off'][1]:.1%}",
            f"{of['coverage'][0]:.1%} +- {of['coverage'][1]:.1%}",
            f"{of['below']:.1%}, {of['above']:.1%}",
            f"{of['gain'][0]:.1%}, {of['gain'][1]:.1%}",
        )
        for n, of in sizes.items()
    ]
    heads = ("images", "fresh", "off", "coverage", "below, above", "gain: expected, true")
    show(f"expected {metric}, {worlds} worlds each", heads, rows)
    finish("expected", {"worlds": worlds, "metric": metric, "sizes": sizes}, keep=record)


def made_worlds(
    worlds: int, metric: MetricName, *, log: Path | None, processes: int
) -> dict[int, list[dict[str, Any]]]:
    """Each world's figures by size, made seed after seed, so that all sizes grow alike; what the log has is kept."""
    wanted = {f"{metric}, {n}, seed {seed}": (n, seed) for seed in range(worlds) for n in SIZES}
    made = read_json(log, hint="") if log is not None and log.is_file() else {}
    ahead = {key: one for key, one in wanted.items() if key not in made}
    with ProcessPoolExecutor(processes) as pool:
        worked = pool.map(partial(one_world, metric), *np.reshape(list(ahead.values()), (-1, 2)).T.tolist())
        for key, figures in zip(ahead, worked, strict=True):
            made[key] = figures
            if log is not None:
                write_json(log, made)
    return {n: [made[key] for key, (own, _) in wanted.items() if own == n] for n in SIZES}


def summary(made: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the worlds, with their standard errors where two numbers stand."""

    def mean(values: Sequence[float]) -> tuple[float, float]:
        return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))

    fresh = float(np.mean([one["fresh"] for one in made]))
    off = mean([one["fresh"] - one["expected"] for one in made])
    return {
        "fresh": fresh,
        "off": (off[0] / fresh, off[1] / fresh),
        "coverage": mean([one["inside"] for one in made]),
        "below": float(np.mean([one["below"] for one in made])),
        "above": float(np.mean([one["above"] for one in made])),
        "gain": (float(np.mean([one["gain"] for one in made])), float(np.mean([one["true_gain"] for one in made]))),
        "kept": {name: sum(one["kept"] == name for one in made) for name in sorted({one["kept"] for one in made})},
    }


def one_world(metric: MetricName, n: int, seed: int) -> dict[str, Any]:
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
    """The kept blend's interval against each private part. networks (M, K, T, C)"""
    metric, recipe = made.metric, made.kept.fits.whole

    def losses(scores: np.ndarray) -> np.ndarray:
        return metric.outcomes(recipe.probs(scores) if metric.name == "log-loss" else scores, target)

    fresh = losses(apply_blend(workspace, made.blend).scores)
    of_parts = [float(part.mean()) for part in np.array_split(fresh, parts)]
    single = np.mean([losses(recipe.scores(networks[:, fold])).mean() for fold in range(networks.shape[1])])
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
    }


if __name__ == "__main__":
    cyclopts.run(main)
