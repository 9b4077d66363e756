"""Tells whether the test images look like the training images, by the features that `probe` has kept of both.

A classifier is fitted to tell one set from the other, and scored on images that it has not seen: an AUC of 0.5 where
the sets look alike, 1 where every test image is recognised. Sources: Lopez-Paz, Oquab 2017 (classifier two-sample
tests); LeDell, Petersen, van der Laan 2015 (the interval of a cross-validated AUC), summed over groups of copies as
Obuchowski 1997 does.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from folds.base.errors import UserError
from folds.base.interval import wilson_interval
from folds.base.workspace import Workspace, digest, read_json, write_bytes
from folds.manifest.manifest import read_manifest, read_manifest_bytes, usable_rows

SEED = 0  # of the images that are drawn, and of the folds
MOST_IMAGES = 10_000  # of each set, drawn at random: the AUC is then known to 0.01, and the fits take seconds
DIRECTIONS = 256  # principal components: at 1,280 features all give the same AUC within 0.02, in 7 times the time
IMAGES_A_DIRECTION = 4  # at least: whitened, images in as many directions as there are images are all equally far apart
STRENGTH = 1e-3  # inverse of the penalty on squared weights, of components scaled to variance 1
N_FOLDS = 5
FAR = 0.6  # an AUC from which the sets differ so much that a score may: 2 * 0.6 - 1 is a fifth of the test images
LEAST_IMAGES = 10  # of each set: below, nothing is said
LEAST_EFFECTIVE = 100  # images that the weighted training images must amount to
LARGEST_ODDS = 10.0  # natural logarithm: e^10 training images for one test image

Auc: TypeAlias = tuple[float, float, float]  # and the 95% interval


@dataclass(frozen=True)
class Likeness:
    """How well test images can be told from training images. auc: 0.5 alike, 1 apart; low, high its 95% interval.

    An AUC below 0.5 comes of a split by class: where a fold has many test images of a class, the others have few of it.

    train_id, test_id (n,) str            the images that were compared, each in the order of the manifest
    train_odds, test_odds (n,) float64    log-odds of being a test image, by a classifier that has not seen the image
    features                              the backbone whose features were compared
    """

    auc: float
    low: float
    high: float
    train_id: np.ndarray = field(repr=False)
    train_odds: np.ndarray = field(repr=False)
    test_id: np.ndarray = field(repr=False)
    test_odds: np.ndarray = field(repr=False)
    features: str

    @property
    def is_far(self) -> bool:
        """The sets differ beyond chance, and enough that a score may be another one."""
        return is_far((self.auc, self.low, self.high))

    def weighted_rate(self, outcomes: np.ndarray) -> WeightedRate:
        """A rate over training images, weighted so that they look like the test images. outcomes (n,) in [0, 1].

        Source: Sugiyama, Krauledat, Mueller 2007 (importance-weighted cross-validation).
        """
        from sklearn.linear_model import LogisticRegression

        odds = np.concatenate([self.train_odds, self.test_odds])[:, None]
        is_test = np.arange(len(odds)) >= len(self.train_odds)
        # Penalised fits give odds that are too small, fits to few images ones that are too large (Platt 1999).
        slope = float(LogisticRegression(C=np.inf, class_weight="balanced").fit(odds, is_test).coef_[0, 0])
        weight = np.exp(np.clip(max(slope, 0.0) * self.train_odds, -LARGEST_ODDS, LARGEST_ODDS))
        rate = float(np.clip(weight @ outcomes / weight.sum(), 0, 1))
        effective = float(weight.sum() ** 2 / (weight**2).sum())  # Kish 1965
        return WeightedRate(float(outcomes.mean()), rate, *wilson_interval(rate, effective), effective)


@dataclass(frozen=True)
class WeightedRate:
    """A rate of training images: plain, and weighted to look like the test images, with the latter's 95% interval.

    effective  how many images the weighted ones amount to
    """

    plain: float
    weighted: float
    low: float
    high: float
    effective: float

    @property
    def is_known(self) -> bool:
        """Enough training images look like test images."""
        return self.effective >= LEAST_EFFECTIVE


def is_far(auc: Auc) -> bool:
    """Whether sets with this AUC differ beyond chance, and by so much that it matters."""
    return auc[1] > 0.5 and auc[0] >= FAR


def measure_likeness(workspace: Workspace) -> Likeness | None:
    """Compare the images by the widest features that are kept of both sets.

    None where there is no manifest, no features of both sets, or too few images. What was measured of the same features
    lies in `work/ensemble/likeness.npz`: `blend`, `submit` and `report` ask.
    """
    if not workspace.manifest.is_file():
        return None
    manifest = read_manifest(workspace)
    sets = [usable_rows(manifest, split=split) for split in ("train", "test")]
    kept = next(kept_features(workspace, sets), None) if min(map(len, sets)) >= LEAST_IMAGES else None
    if kept is None:
        return None
    digests = tuple(one.head["digest"] for one in kept)
    constants = (SEED, MOST_IMAGES, DIRECTIONS, STRENGTH, N_FOLDS, version("scikit-learn"))
    made_of = digest(repr([digests, digest(read_manifest_bytes(workspace)), constants]).encode())
    stored = workspace.ensemble / "likeness.npz"
    likeness = _stored(stored, made_of)
    if likeness is None and (likeness := _measured(kept, sets)) is not None:
        buffer = io.BytesIO()
        np.savez(buffer, made_of=made_of, **{field.name: getattr(likeness, field.name) for field in fields(Likeness)})
        write_bytes(stored, buffer.getvalue())
    return likeness


def _stored(path: Path, made_of: str) -> Likeness | None:
    """What was measured of the same; None where nothing was, or the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            values = [arrays[field.name] for field in fields(Likeness)]
            is_same = str(arrays["made_of"]) == made_of
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile):
        return None
    return Likeness(*(value if value.ndim else value.item() for value in values)) if is_same else None


@dataclass(frozen=True)
class KeptFeatures:
    """Features of all images of a set by one backbone under one view; head: what `probe` recorded of the file."""

    path: Path
    head: dict[str, Any]

    @property
    def tag(self) -> str:
        return self.head["facts"]["tag"]

    @property
    def rank(self) -> tuple[int, bool, str]:
        return self.head["shape"][1], self.head["facts"]["view"] == "centre", self.tag

    def load(self) -> np.ndarray:
        """(n, D) float16, memory-mapped."""
        return np.load(self.path, mmap_mode="r", allow_pickle=False)

    def is_whole(self) -> bool:
        """Whether the file holds the features that its head describes."""
        try:
            features = self.load()
            return list(features.shape) == self.head["shape"] and digest(features.data.cast("B")) == self.head["digest"]
        except (OSError, ValueError, EOFError, TypeError):
            return False


def kept_features(workspace: Workspace, sets: Sequence[pd.DataFrame]) -> Iterator[tuple[KeptFeatures, KeptFeatures]]:
    """The features that were made of these very images, of both sets by one backbone under one view; widest first.

    A file that is damaged is passed over.
    """
    images = [digest("\n".join([*rows["split"], *rows["image_id"]]).encode()) for rows in sets]
    manifest, kept = digest(read_manifest_bytes(workspace)), {own: dict[str, KeptFeatures]() for own in images}
    for path in sorted(workspace.features.glob("*.json")):
        try:
            head = read_json(path, hint="")
            facts = dict(head["facts"])
        except (UserError, KeyError, TypeError):
            continue
        own, is_trained = facts.pop("images", None), facts.get("is_trained")  # which knows its training images apart
        if own in kept and facts.get("manifest") == manifest and not is_trained:
            kept[own][json.dumps(facts, sort_keys=True)] = KeptFeatures(path.with_suffix(".npy"), head)
    trains, tests = (kept[own] for own in images)
    pairs = [(trains[asked], tests[asked]) for asked in trains if asked in tests]
    for pair in sorted(pairs, key=lambda pair: pair[0].rank, reverse=True):
        if all(one.is_whole() for one in pair):
            yield pair


def _measured(kept: Sequence[KeptFeatures], sets: Sequence[pd.DataFrame]) -> Likeness | None:
    """The likeness of two sets, or of MOST_IMAGES of each; None where too few groups of copies make no folds."""
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng([SEED, 43])
    drawn = [
        table if len(table) <= MOST_IMAGES else table.iloc[np.sort(rng.choice(len(table), MOST_IMAGES, replace=False))]
        for table in sets
    ]
    features = [one.load()[table.index] for one, table in zip(kept, drawn, strict=True)]
    both = pd.concat(drawn)
    group, is_test = both["group"].to_numpy(), (both["split"] == "test").to_numpy()
    fold = deal_groups(group, is_test, rng)
    if fold is None:
        return None
    with threadpool_limits(1):
        parts = principal_parts(np.concatenate(features))
        odds = crossfit_odds(parts, is_test, fold)
    interval = crossfit_auc(odds, is_test, fold, group, noise=fit_noise(parts, is_test, fold))
    train_id, test_id = (table["image_id"].to_numpy(dtype=str) for table in drawn)
    return Likeness(*interval, train_id, odds[~is_test], test_id, odds[is_test], kept[0].tag)


def deal_groups(group: np.ndarray, is_test: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """A fold per image, copies together and both sets spread evenly; None where a set has fewer than two groups."""
    _, own = np.unique(group, return_inverse=True)
    has_test = np.bincount(own, is_test) > 0
    fold = np.empty(len(has_test), np.int64)
    for side in (has_test, ~has_test):
        fold[rng.permutation(np.flatnonzero(side))] = np.arange(side.sum()) % N_FOLDS
    there = [np.isin(np.arange(N_FOLDS), fold[own[side]]).all() for side in (is_test, ~is_test)]
    return fold[own] if all(there) else None


def principal_parts(features: np.ndarray) -> np.ndarray:
    """Features (n, D) of both sets in their first principal directions, of variance 1. (n, at most DIRECTIONS) float32

    Made of all images together, since that needs no labels.
    """
    from sklearn.decomposition import PCA

    scaled = features.astype(np.float32)
    scaled -= scaled.mean(axis=0)
    scaled /= np.maximum(scaled.std(axis=0), 1e-6)
    most = min(DIRECTIONS, scaled.shape[1], len(scaled) // IMAGES_A_DIRECTION)
    parts = PCA(most, whiten=True, svd_solver="covariance_eigh").fit_transform(scaled)
    return np.nan_to_num(np.clip(parts, -1e3, 1e3))  # a direction without variance


def crossfit_odds(parts: np.ndarray, is_test: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Log-odds of being a test image, were both sets equally large, by logistic regression without the image's fold."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import PredefinedSplit, cross_val_predict

    model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=500, tol=1e-3)
    return cross_val_predict(model, parts, is_test, cv=PredefinedSplit(fold), method="decision_function")


def fit_noise(parts: np.ndarray, is_test: np.ndarray, fold: np.ndarray) -> float:
    """The share of a fit's scores that is noise of the images it was fitted to, in [0, 1]: 1 where the sets are alike.

    Of whitened images a linear classifier's direction is the difference d of the sets' means (Fisher 1936). The
    differences in a fold and in the others have independent noise, so the mean of their products is |d|^2 without it.
    """
    n = np.zeros((2, N_FOLDS, 1))
    sums = np.zeros((2, N_FOLDS, parts.shape[1]))
    np.add.at(n, (is_test.astype(int), fold), 1)
    np.add.at(sums, (is_test.astype(int), fold), parts)
    others = (sums.sum(axis=1, keepdims=True) - sums) / (n.sum(axis=1, keepdims=True) - n)
    inside, outside = np.diff(sums / n, axis=0)[0], np.diff(others, axis=0)[0]  # (N_FOLDS, D)
    fitted = float((outside**2).sum())
    return 1 - float(np.clip((inside * outside).sum() / fitted, 0, 1)) if fitted else 1.0


def crossfit_auc(odds: np.ndarray, is_test: np.ndarray, fold: np.ndarray, group: np.ndarray, *, noise: float) -> Auc:
    """The mean AUC inside the folds and its 95% interval; ties count half, copies as one draw.

    Each image's part in the AUC (a test image's share of training images below it; a training image's share of test
    images above it) is summed by group. So far the fits are taken as given. But where image i is scored by a fit that
    has seen j, j is scored by one that has seen i, and the noise of both is one product: it counts twice in the AUC,
    and once in the sum of squares. Therefore the variance is 1 + `noise` of `fit_noise` times as large. Wilson's
    interval at the n that has this variance stays inside [0, 1].
    """
    from scipy.stats import rankdata

    n_test = int(is_test.sum())
    part = np.zeros(len(odds))
    for held in np.unique(fold):
        ones, others = np.flatnonzero(is_test & (fold == held)), np.flatnonzero(~is_test & (fold == held))
        rank = rankdata(np.concatenate([odds[ones], odds[others]]))
        above = (rank[: len(ones)] - rankdata(odds[ones])) / len(others)  # (test images of the fold,)
        below = 1 - (rank[len(ones) :] - rankdata(odds[others])) / len(ones)
        part[ones] = above / n_test
        part[others] = (below - above.mean()) * len(ones) / len(others) / n_test
    auc = float(np.clip(part[is_test].sum(), 0, 1))
    part[is_test] -= auc / n_test
    _, own = np.unique(group, return_inverse=True)
    variance = (1 + noise) * float((np.bincount(own, part) ** 2).sum())
    fewer = min(n_test, len(odds) - n_test)
    effective = auc * (1 - auc) / variance if variance > 0 and 0 < auc < 1 else fewer / (1 + noise)
    return auc, *wilson_interval(auc, effective)
