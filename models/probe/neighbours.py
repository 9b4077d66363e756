"""Nearest neighbours and class prototypes: a memory of training images' features in which others are looked up.

Sources: neighbours weighted by exp(similarity / temperature) as in Wu et al. 2018 and DINO (Caron et al. 2021); a
memory of the training set itself as in RAC (Long et al., CVPR 2022).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from folds.split.assign import Folds
from models.probe.heads import FeatureRows, inner_splits, thinned

COUNTS = (5, 10, 20, 50, 100)
TEMPERATURES = (0.01, 0.015, 0.02, 0.03, 0.045, 0.07, 0.1)
SHARES = (0.05, 0.25, 0.5, 0.75, 1.0)  # none of 0: a class without a neighbour needs a probability too
# Neighbours bring the class prior with them. Prototypes on Caltech-101, log loss without and with it: 0.323 and 0.277;
# on 12 images of each class 0.385 and 0.386.
PRIORS = (0.0, 0.5, 1.0)
BLOCK_VALUES = 1 << 25  # similarities that are in memory at once: 128 MB


@dataclass(frozen=True)
class Choice:
    """How neighbours vote: the `count` nearest, each with weight exp(cosine / temperature).

    share  of the class prototypes, whose softmax at the same temperature is mixed with the votes; 1: prototypes alone
    prior  exponent of the class prior by which the prototypes' softmax is multiplied
    """

    count: int
    temperature: float
    share: float
    prior: float


GRID = tuple(Choice(*one) for one in product(COUNTS, TEMPERATURES, SHARES, PRIORS))


class Memory:
    """Training images as unit vectors, after the spread inside the classes was made alike in all directions.

    The features are centred and whitened by the covariance inside the classes, to which the mean variance is added on
    the diagonal (of each stage of each backbone its own). The last stage of tf_efficientnet_lite0 at 224 pixels, 1,224
    images of 102 classes, log loss of 100 neighbours and of prototypes: 0.483 and 0.385; whitened without regard to
    classes 0.644 and 0.431, each feature divided by its deviation 0.572 and 0.442, as they are 0.563 and 0.421.
    """

    def __init__(self, features: Tensor, target: Tensor, *, n_classes: int, widths: Sequence[int] = ()) -> None:
        """features (M, D) float32, changed in place; target (M,) int64 in [0, n_classes), some perhaps absent.

        widths  how many of the D features each stage of each backbone has
        """
        self.target = target.to(features.device)
        count = torch.bincount(self.target, minlength=n_classes).to(features)
        self.is_present, self.prior = count > 0, count / len(features)
        self.mean = features.mean(0)
        features -= self.mean
        # The Cholesky factor, (D, D) lower, of the covariance inside the classes plus the mean variance
        sums = _class_sums(features, self.target, n_classes)
        covariance = (features.T @ features - sums.T @ (sums / count.clamp_min(1)[:, None])) / len(features)
        variance = covariance.diagonal().clamp_min(0).split(list(widths or [features.shape[1]]))
        ridge = torch.cat([torch.full_like(one, float(one.mean()) or 1.0) for one in variance])
        self.factor = torch.linalg.cholesky(covariance + torch.diag(ridge))
        self.images = self._unit(features)  # (M, D)
        self.prototypes = torch.nn.functional.normalize(_class_sums(self.images, self.target, n_classes))  # (C, D)

    def log_probs(self, features: Tensor, choice: Choice) -> Tensor:
        """(n, C) float32 from (n, D) float32 on the memory's device."""
        found = features.new_empty(len(features), len(self.prototypes))
        for rows, seen in self._blocks(features):
            similarity, target = self._nearest(seen, choice.count)
            weight = _weights(similarity, choice.temperature)
            votes = torch.zeros_like(found[rows]).scatter_add_(1, target, weight) / weight.sum(1, keepdim=True)
            alone = self._of_prototypes(seen, choice.temperature, choice.prior)
            found[rows] = torch.logaddexp((votes * (1 - choice.share)).log(), alone + math.log(choice.share))
        return found

    def losses(self, features: Tensor, target: Tensor) -> np.ndarray:
        """The summed loss of images, in nats, under each choice of GRID; classes that are unknown here are left out."""
        target = target.to(features.device)
        is_known = self.is_present[target]
        features, target = features[is_known], target[is_known]
        losses = np.zeros(len(GRID))
        for rows, seen in self._blocks(features):
            similarity, voters = self._nearest(seen, max(COUNTS))
            is_right, truth = (voters == target[rows, None]).float(), target[rows, None]
            alone = {
                (t, prior): self._of_prototypes(seen, t, prior).gather(1, truth)[:, 0].exp()
                for t, prior in product(TEMPERATURES, PRIORS)
            }
            votes = {}
            for count, t in product(COUNTS, TEMPERATURES):
                weight = _weights(similarity[:, :count], t)
                votes[count, t] = (weight * is_right[:, :count]).sum(1) / weight.sum(1)
            for i, one in enumerate(GRID):
                own = (1 - one.share) * votes[one.count, one.temperature]
                own = own + one.share * alone[one.temperature, one.prior]
                losses[i] -= float(own.clamp_min(torch.finfo(own.dtype).tiny).log().sum())
        return losses

    def _blocks(self, features: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Rows, and these images as unit vectors, so few at a time that their similarities fit into memory."""
        size = max(1, BLOCK_VALUES // len(self.images))
        for start in range(0, len(features), size):
            rows = slice(start, min(start + size, len(features)))
            yield rows, self._unit(features[rows] - self.mean)

    def _nearest(self, seen: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Cosines of the nearest images, falling, and their classes. (n, count) each, or fewer where there are."""
        similarity, place = (seen @ self.images.T).topk(min(count, len(self.images)), dim=1)
        return similarity, self.target[place]

    def _of_prototypes(self, seen: Tensor, temperature: float, prior: float) -> Tensor:
        """Log-probabilities, (n, C). A class that no image has gets the probability of half an image."""
        logits = seen @ self.prototypes.T / temperature + prior * self.prior.clamp_min(1e-9).log()
        sums = logits[:, self.is_present].logsumexp(1, keepdim=True)
        return torch.where(self.is_present, logits, sums - math.log(2 * len(self.images))).log_softmax(1)

    def _unit(self, centred: Tensor) -> Tensor:
        white = torch.linalg.solve_triangular(self.factor.T, centred, upper=True, left=False)
        return torch.nn.functional.normalize(white)


def choose(features: FeatureRows, folds: Folds, fold: int) -> Choice:
    """The choice of least loss inside the training part of a fold, whose own images have no say.

    features  of training images, by their rows in the folds
    """
    losses = np.zeros(len(GRID))
    for split in inner_splits(folds.fold, folds.group, n_folds=folds.n_folds):
        if fold in split.valid:
            rows = thinned(split.valid[fold])
            losses += recall(features, folds, split.train).losses(features(rows), torch.from_numpy(folds.target[rows]))
    return GRID[int(np.argmin(losses))]


def recall(features: FeatureRows, folds: Folds, rows: np.ndarray) -> Memory:
    """The memory of these rows of the folds."""
    target = torch.from_numpy(folds.target[rows])
    return Memory(features(rows), target, n_classes=len(folds.classes), widths=features.widths)


def _weights(similarity: Tensor, temperature: float) -> Tensor:
    """(n, count): 1 for the nearest."""
    return ((similarity - similarity[:, :1]) / temperature).exp()


def _class_sums(features: Tensor, target: Tensor, n_classes: int) -> Tensor:
    """(C, D): a product with memberships, since adding by index has no fixed order on a GPU."""
    member = torch.nn.functional.one_hot(target, n_classes).to(features)
    return member.T @ features
