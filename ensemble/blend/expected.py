"""Says what score the test images will get: the expected loss, its 95% interval, and what the interval is made of.

It differs from the cross-fitted loss of the out-of-fold images for three reasons. They are a sample (`rate_points`),
the test images are another (`predictive_interval`), and of each run one network predicts an out-of-fold image, the mean
of all a test image: `averaging_gain`. docs/expected.md has the formulas, their assumptions and how often they hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ensemble.members.members import Member, Members
from ensemble.members.run import Run, is_added
from ensemble.members.training_rows import Rows
from ensemble.weights.metric import LEAST_PROB, Metric
from ensemble.weights.recipe import Recipe, softmax
from folds.base.errors import UserError, counted
from folds.base.interval import (
    WITHIN_95,
    agreeing_images,
    effective_images,
    paired_difference,
    predictive_interval,
    rate_points,
)
from folds.base.workspace import Workspace
from folds.manifest.manifest import read_manifest, test_ids, usable_rows
from models.runs import KNN, PROBE

MOST_CELLS = 250_000  # test images x classes that the gain is measured on: 2,427 images of 103 classes
# The gain's standard error as a share of it: true gains were 0.8 to 1.7 times those expected, of log loss 0.8 to 1.1.
GAIN_SPREAD = {"top-k-error": 0.5, "accuracy": 0.5, "map": 0.5, "log-loss": 0.2}
NORMAL_FIFTHS = np.array([-1.28, -0.52, 0.0, 0.52, 1.28])  # the middles of five equally likely parts
LEAST_GAIN, MOST_GAIN = 0.005, 0.9  # less would be shown as 0%, and may be rounding
TEMPERATURES = (0.5, 2.0)  # fitted ones were 0.65 to 0.87; of one error on 700 images the fit would go anywhere


@dataclass(frozen=True)
class ScoredImages:
    """The test images that are scored, as far as they are known before.

    group    (T,) int of the readable ones: images with one number are copies
    guessed  unreadable ones, which get the most frequent classes
    share    of them that the private score is of
    """

    group: np.ndarray
    guessed: int
    share: float

    def __len__(self) -> int:
        """How many images the private score is of."""
        return round(self.share * (len(self.group) + self.guessed))


@dataclass(frozen=True)
class Gain:
    """What is gained where test images are predicted by more networks than out-of-fold images are.

    share: of the loss, in [0, 1]; 0 where it is left out, and `why_not` says why in one clause
    one, all: networks that predict an out-of-fold image, and a test image
    spread: standard deviation of the log loss of an image by all networks over that by one; 1 for other metrics
    """

    share: float
    one: int = 0
    all: int = 0
    why_not: str = ""
    spread: float = 1.0


@dataclass(frozen=True)
class ExpectedScore:
    """The distribution of a loss on the private test images. Errors are standard errors of `mean`.

    Without test images the interval is that of the loss on images without number.
    """

    mean: float
    low: float  # 95%
    high: float
    oof: float  # the nested cross-fitted loss, of one network of each run
    oof_images: float  # independent ones that tell as much
    oof_error: float
    test_images: int
    test_error: float
    gain: float  # the share of the loss that averaging networks takes off
    gain_error: float
    oof_networks: int  # that predict an out-of-fold image, of all members in use
    test_networks: int  # and a test image
    why_no_gain: str
    guessed: int  # unreadable test images


def expected_score(
    metric: Metric, outcomes: np.ndarray, rows: Rows, *, scored: ScoredImages, gain: Gain
) -> ExpectedScore:
    """The distribution of the loss on the test images. outcomes (N,): nested, each image's own loss."""
    group, oof = rows.group, float(outcomes.mean())
    copies = agreeing_images(scored.group) / len(scored.group) if len(scored.group) else 1.0
    trials, guess = copies * len(scored), _guess_loss(metric, rows.target)
    gain_error = GAIN_SPREAD[metric.name] * gain.share * oof
    guessed = scored.guessed / (len(scored.group) + scored.guessed) if guess is not None and len(scored) else 0.0
    mean = (1 - guessed) * oof * (1 - gain.share) + guessed * (guess or 0.0)
    if metric.name == "log-loss":
        images = agreeing_images(group)
        single = paired_difference(outcomes, np.zeros(len(outcomes)), group).standard_error
        oof_error = single * (1 - gain.share)
        test_error = single * gain.spread * float(np.sqrt(images / trials)) if trials else 0.0
        errors = float(np.sqrt(oof_error**2 + test_error**2 + gain_error**2))
        # A mean of losses that have a long tail upwards is nearer to normal in its logarithm.
        reach = np.exp(WITHIN_95 * errors / mean) if mean else 1.0
        low, high = float(mean / reach), float(mean * reach)
    else:
        images = effective_images(outcomes, group)
        trials *= _trials_per_image(outcomes)
        known = rate_points(min(max(oof, 0.0), 1.0), images)
        kept = 1 - np.clip(gain.share * (1 + GAIN_SPREAD[metric.name] * NORMAL_FIFTHS), 0, MOST_GAIN)
        rates = (1 - guessed) * np.outer(kept, known).ravel() + guessed * (guess or 0.0)
        oof_error = float(known.std()) * (1 - guessed) * (1 - gain.share)
        test_error = float(np.sqrt((rates * (1 - rates)).mean() / trials)) if trials else 0.0
        ends = predictive_interval(rates, max(round(trials), 1)) if trials else np.quantile(rates, (0.025, 0.975))
        low, high = min(float(ends[0]), mean), max(float(ends[1]), mean)
    return ExpectedScore(
        mean=mean,
        low=low,
        high=high,
        oof=oof,
        oof_images=float(images),
        oof_error=oof_error,
        test_images=len(scored),
        test_error=test_error,
        gain=gain.share,
        gain_error=gain_error,
        oof_networks=gain.one,
        test_networks=gain.all,
        why_no_gain=gain.why_not,
        guessed=scored.guessed if guess is not None else 0,
    )


def expected_words(expected: ExpectedScore) -> str:
    """The expected score with its interval, as every command shows it."""
    return f"{expected.mean:.4f} ({expected.low:.4f} to {expected.high:.4f})"


def expected_sentences(metric: Metric, expected: ExpectedScore) -> list[str]:
    """The expected score with its interval, and what it is made of."""
    one = expected
    where = f"{one.test_images:,} test images" if one.test_images else "new images (there is no test set)"
    parts = [f"{one.oof:.4f} cross-fitted, +-{one.oof_error:.4f} by the out-of-fold images"]
    if one.test_images:
        parts.append(f"+-{one.test_error:.4f} by the test images")
    if one.gain:
        parts.append(
            f"-{one.gain:.0%} +-{one.gain * GAIN_SPREAD[metric.name]:.0%} as {one.test_networks} networks predict each"
            f" test image, {one.oof_networks} each out-of-fold image"
        )
    else:
        parts.append(f"no gain of averaging networks: {one.why_no_gain}")
    if one.guessed:
        images = counted(one.guessed, "unreadable test image", "unreadable test images")
        parts.append(f"{images} as errors of the most frequent classes")
    return [f"expected {metric.title} {expected_words(one)} on {where}", f"that is {'; '.join(parts)}"]


def find_scored_images(workspace: Workspace, members: Members, *, share: float) -> ScoredImages:
    """The test images of the manifest; without one those that the members predict, each a group of its own."""
    if not workspace.manifest.is_file():
        return ScoredImages(np.arange(len(members.members[0].runs[0].test_ids())), 0, share)
    wanted, usable = set(test_ids(workspace)), usable_rows(read_manifest(workspace), split="test")
    group = usable["group"].to_numpy()[usable["image_id"].isin(wanted).to_numpy()]
    return ScoredImages(group, len(wanted) - len(group), share)


def averaging_gain(metric: Metric, members: Members, recipe: Recipe, *, oof: float) -> Gain:
    """How much of the loss goes where the mean of all networks predicts an image and not one network of each run.

    No label is needed. The blend of fold k's networks and that of all networks predict the same test images. The true
    class is drawn from the second one's probabilities, sharpened or flattened until the fold blends lose as much as
    the out-of-fold images say (oof); then both losses are known. To the second order their difference is the
    ambiguity of Krogh and Vedelsby 1995, which for K alike networks is 1 - 1/K of what infinitely many gain: the power
    law of exponent 1 (Lobacheva et al. 2020). Heads of a probe, which hardly differ, and members of other tools, of
    which one file is there, count as equal on all folds.
    """
    used = [(member, weight) for member, weight in zip(members.members, recipe.weights, strict=True) if weight > 0]
    runs = [run for member, _ in used for run in member.runs]
    networks = [len(run.tests) if _has_networks(run) else 1 for run in runs]
    no_gain = partial(Gain, 0.0, len(runs), sum(networks))
    if max(networks) == 1:
        return no_gain("no member has a network per fold (probes and added members count as one)")
    in_use = replace(recipe, weights=recipe.weights[recipe.weights > 0])
    try:
        if not len(ids := runs[0].test_ids()):
            return no_gain("there are no test images")
        scores = _fold_scores(in_use, members, [member for member, _ in used], ids)
    except UserError as err:
        return no_gain(err.message)
    one, every, spread = _losses_under(metric, np.stack([recipe.probs(own) for own in scores]), scores, oof=oof)
    share = min(1 - every / one, MOST_GAIN) if one > 0 else 0.0
    if share < LEAST_GAIN:
        return no_gain("the networks agree on the test images")
    return Gain(share, len(runs), sum(networks), spread=spread)


def _has_networks(run: Run) -> bool:
    """Whether its test predictions are of networks trained on the folds, whose mean is the prediction."""
    return not is_added(run.root) and run.settings.get("kind") not in (PROBE, KNN)


def _fold_scores(recipe: Recipe, members: Members, used: Sequence[Member], ids: np.ndarray) -> np.ndarray:
    """The blend's scores of some test images: of each fold's networks, and of all of them. (folds + 1, n, C)"""
    n_classes = len(members.rows.classes)
    ids = ids[:: max(-(-len(ids) * n_classes // MOST_CELLS), 1)]
    folds = [f"fold{number}" for number in members.rows.folds]
    stacked = recipe.scores(_network_probs(member, folds, ids) for member in used)
    return stacked.reshape(len(folds) + 1, len(ids), n_classes)


def _network_probs(member: Member, folds: Sequence[str], image_id: np.ndarray) -> np.ndarray:
    """Fold after fold its networks' mean over the runs, then the mean of all. ((folds + 1) n, C) float32"""
    of_fold: list[list[np.ndarray]] = [[] for _ in folds]
    every: list[np.ndarray] = []
    for run in member.runs:
        probs = {
            path.parent.name: np.concatenate([piece for _, piece in run.test_probs(path, image_id, some=True)])
            for path in run.tests
        }
        every += probs.values()
        mean = np.mean(list(probs.values()), axis=0)
        for own, fold in zip(of_fold, folds, strict=True):
            own.append(probs[fold] if _has_networks(run) else mean)
    return np.concatenate([np.mean(own, axis=0) for own in (*of_fold, every)])


def _losses_under(metric: Metric, probs: np.ndarray, scores: np.ndarray, *, oof: float) -> tuple[float, float, float]:
    """The mean loss of the fold blends, that of all networks, and (of log loss) the ratio of their standard deviations.

    probs, scores (folds + 1, n, C), the last of all, from which at some temperature the true class is drawn.
    """
    steps = metric.steps(probs.shape[2])
    values = -np.log(np.maximum(probs, LEAST_PROB)) if steps is None else 1 - steps[:-1]
    places = None if steps is None else np.argsort(-scores, axis=2, kind="stable")[:, :, : len(steps) - 1]
    logs = np.log(np.maximum(probs[-1], LEAST_PROB))
    logs -= logs.max(axis=1, keepdims=True)

    def losses(truth: np.ndarray) -> np.ndarray:
        if places is None:
            return (truth * values).sum(axis=2).mean(axis=1)
        return np.array([1 - (np.take_along_axis(truth, own, axis=1) @ values).mean() for own in places])

    low, high = TEMPERATURES
    for _ in range(20):  # until the fold blends lose `oof`: halved 20 times, the interval is narrower than 1e-5
        middle = float(np.sqrt(low * high))
        truth = softmax(logs / middle)  # (n, C)
        found = losses(truth)
        low, high = (low, middle) if found[:-1].mean() > oof else (middle, high)
    spread = 1.0
    if places is None:
        variances = np.array([(truth * own**2).sum(axis=1).mean() for own in values]) - found**2
        spread = float(np.sqrt(variances[-1] / variances[:-1].mean()))
    return float(found[:-1].mean()), float(found[-1]), spread


def _guess_loss(metric: Metric, target: np.ndarray) -> float | None:
    """The loss of an image that gets the most frequent classes; None for log loss, which no CSV is scored by."""
    frequency = np.sort(np.bincount(target))[::-1] / len(target)
    steps = metric.steps(len(frequency))
    return None if steps is None else float(1 - (1 - steps[:-1]) @ frequency[: len(steps) - 1])


def _trials_per_image(outcomes: np.ndarray) -> float:
    """How many yes-or-no outcomes tell a rate as well as one of these, which may be fractions; 1 for an error."""
    rate, variance = float(outcomes.mean()), float(np.var(outcomes))
    return rate * (1 - rate) / variance if variance > 0 and 0 < rate < 1 else 1.0
