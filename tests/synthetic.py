"""Makes up competitions for the blender: a work folder with members whose errors are correlated.

An image's logits are a margin for its true class, noise that all members share (hard images are hard for everybody),
and noise of each member's own. With the default numbers 103 classes give members of 85 to 90% top-1, as fine-tuned
networks have, some too sure of themselves and some not sure enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ensemble.members.oof_file import file_digest
from folds.base.workspace import Workspace, write_json
from folds.manifest.manifest import class_order
from folds.split.assign import Folds, load_folds, store_folds
from models.predict.predictions import Predictions, save_predictions

PIECE = 4096
RIVALS = 3  # classes that look like an image's own


@dataclass(frozen=True)
class World:
    """A made-up competition: N training and T test images of C classes, in K folds."""

    n: int
    n_test: int
    n_classes: int = 103
    n_folds: int = 5
    seed: int = 0
    margin: float = 8.5
    shared: float = 0.9  # standard deviation of the noise that all members share
    own: float = 0.6  # and of each member's own, times a factor of 0.85 to 1.2

    @property
    def test_id(self) -> np.ndarray:
        """The ids of the test images, (T,) str"""
        return np.array([f"{number:07d}" for number in range(self.n_test)])

    def targets(self, part: int) -> np.ndarray:
        """True classes of the training (0) or test (1) images, with a long tail: frequency ~ rank^-0.7. (n,) int64"""
        share = np.arange(1, self.n_classes + 1) ** -0.7
        rng = np.random.default_rng([self.seed, part])
        size = self.n if part == 0 else self.n_test
        drawn = rng.choice(self.n_classes, size=size, p=share / share.sum())
        drawn[: min(size, self.n_classes)] = np.arange(self.n_classes)[:size]  # no class is empty
        return drawn.astype(np.int64)


def make_folds(workspace: Workspace, world: World) -> Folds:
    """Store folds without looking at pictures: fold = place modulo K."""
    target = world.targets(0)
    labels = [f"c{number:03d}" for number in range(world.n_classes)]
    assert class_order(labels) == tuple(labels)
    ids = [f"train/{number:07d}.jpg" for number in range(world.n)]
    rng = np.random.default_rng([world.seed, 2])
    table = pd.DataFrame(
        {
            "image_id": ids,
            "path": ids,
            "label": np.array(labels)[target],
            "target": target,
            "fold": rng.permutation(world.n) % world.n_folds,
            "group": np.arange(world.n),
        }
    )
    store_folds(workspace, table, seed=world.seed)
    return load_folds(workspace)


def member_log_probs(
    world: World, target: np.ndarray, *, part: int, member: int, margin: float | None = None
) -> np.ndarray:
    """One member's log-probabilities. (n, C) float32, the same whatever the order in which members are made."""
    return np.concatenate(list(_pieces(world, target, part=part, member=member, margin=margin)))


def write_member(
    workspace: Workspace, world: World, folds: Folds, name: str, oof: np.ndarray, test: np.ndarray, *, seed: int = 0
) -> None:
    """Store a member as `train` would. oof (N, C), test (T, C): log-probabilities; T is the world's n_test."""
    for fold in range(folds.n_folds):
        rows = folds.fold == fold
        write_fold(workspace, folds, name, fold, folds.image_id[rows], oof[rows], world.test_id, test, seed=seed)


def write_fold(
    workspace: Workspace,
    folds: Folds,
    name: str,
    fold: int,
    oof_id: np.ndarray,
    oof: np.ndarray,
    test_id: np.ndarray,
    test: np.ndarray,
    *,
    seed: int = 0,
    classes: tuple[str, ...] | None = None,
    settings: dict | None = None,
    views: tuple[str, ...] = ("centre", "mirror", "wide"),
) -> Path:
    """Store one fold's predictions and its done.json. oof (n, C) or (n, V, C) log-probabilities."""
    folder = workspace.fold(name, fold)
    for file, ids, values in (("oof.npz", oof_id, oof), ("test.npz", test_id, test)):
        values = values[:, None] if values.ndim == 2 else values
        known = np.array(classes or folds.classes)
        save_predictions(
            folder / file, Predictions(ids, known, np.array(views[: values.shape[1]]), values, folds.digest)
        )
    write_json(folder / "settings.json", {"run": name, "seed": seed, "settings": settings or {"name": name}})
    files = {file: file_digest(folder / file) for file in ("oof.npz", "test.npz")}
    done = {"run": name, "backbone": name, "fold": fold, "n_folds": folds.n_folds, "folds_digest": folds.digest}
    done |= {"views": list(views[: 1 if oof.ndim == 2 else oof.shape[1]]), "seed": seed, "seconds": 0.0}
    write_json(folder / "done.json", {**done, "oof_top3_error": 0.0, "files": files})
    return folder


def make_world(workspace: Workspace, world: World, *, members: int) -> Folds:
    """The whole work folder: folds, and members named m00, m01, .."""
    folds = make_folds(workspace, world)
    test_target = world.targets(1)
    for member in range(members):
        oof = member_log_probs(world, folds.target, part=0, member=member)
        test = member_log_probs(world, test_target, part=1, member=member)
        write_member(workspace, world, folds, f"m{member:02d}", oof, test)
    return folds


def _pieces(world: World, target: np.ndarray, *, part: int, member: int, margin: float | None) -> Iterator[np.ndarray]:
    character = np.random.default_rng([world.seed, 3, member])
    skill, own, sharpness = character.uniform(0.94, 1.06), character.uniform(0.85, 1.2), character.uniform(1.2, 2.6)
    for start in range(0, len(target), PIECE):
        truth = target[start : start + PIECE]
        common = np.random.default_rng([world.seed, 4, part, start])
        single = np.random.default_rng([world.seed, 5, part, start, member])
        logits = world.shared * common.standard_normal((len(truth), world.n_classes), np.float32)
        hardness = common.lognormal(0.0, 0.45, len(truth))
        rivals = (truth[:, None] + common.integers(1, 6, (len(truth), RIVALS))) % world.n_classes
        alike = world.margin * common.beta(1.2, 2.5, rivals.shape)
        logits += world.own * own * single.standard_normal(logits.shape, np.float32)
        np.put_along_axis(logits, rivals, np.take_along_axis(logits, rivals, axis=1) + alike, axis=1)
        logits[np.arange(len(truth)), truth] += (world.margin if margin is None else margin) * skill * hardness
        logits *= sharpness
        logits -= logits.max(axis=1, keepdims=True)
        yield (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
