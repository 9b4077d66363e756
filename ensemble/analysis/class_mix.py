"""Estimates the class mix of the test images without their labels, and weighs predictions by it.

Label shift: pictures of one class look alike in training and test, and only the shares of the classes differ. Then
p'(c|x) is proportional to p(c|x) q_c / p_c, and the test mix q has the likelihood prod_i sum_c p(c|x_i) q_c / p_c.
Sources: Saerens, Latinne, Decaestecker 2002 (its maximum by EM); Sulc, Matas 2018 (with a Dirichlet prior); Alexandari,
Kundaje, Shrikumar 2020 (the probabilities are calibrated first, by a temperature and a bias per class).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ensemble.weights.recipe import softmax
from folds.base.interval import WITHIN_95, Difference, agreeing_images
from folds.base.metrics import true_rank

LEAST_PROB = 1e-6  # below it log-probabilities are noise; the log pool adds as much
LEAST_IMAGES = 0.5  # a class without a training image counts as so many
PRIOR_IMAGES = 1.0  # per class, spread like the training images: a class that no test image shows keeps a share above 0
SHARPEST = 10.0  # times log-probabilities: where every image is a hit there is no best temperature
REPLICAS = 199
LEVEL = 0.01  # how often a test set of the same mix is called shifted
MOST_STEPS, SMALL_STEP = 300, 1e-6
N_FOLDS, DRAWS = 5, 8  # of the simulation: calibrated without each fold, tried on so many test sets


@dataclass(frozen=True)
class Predicted:
    """Predictions of n images. probs (n, C) float, rows sum to 1; group (n,) int: copies, which are drawn together."""

    probs: np.ndarray
    group: np.ndarray

    @property
    def clumping(self) -> float:
        """How many copies an image has on average, itself counted: shares vary by so much more (Kish 1965)."""
        return len(self.group) / agreeing_images(self.group)

    def draws(self, rng: np.random.Generator, *, times: int, size: int) -> np.ndarray:
        """How often each image is there when about `size` are drawn, groups with replacement. (times, n) float32"""
        _, own = np.unique(self.group, return_inverse=True)
        n = int(own.max()) + 1
        drawn = max(1, round(size * n / len(own)))
        return rng.multinomial(drawn, np.full(n, 1 / n), size=times)[:, own].astype(np.float32)


@dataclass(frozen=True)
class Calibration:
    """Probabilities proportional to exp(sharpness log p_c + bias_c), whose mean over training images is their mix.

    sharpness > 0, 1 / temperature    bias (C,) float64    train (C,) float64: shares of the training images, > 0
    """

    sharpness: float
    bias: np.ndarray
    train: np.ndarray

    def log_probs(self, probs: np.ndarray) -> np.ndarray:
        """Sharpened alone, which never changes the order of a row, up to a constant of each row. (n, C) float64"""
        return self.sharpness * np.log(np.maximum(probs, LEAST_PROB), dtype=np.float64)

    def ratios(self, probs: np.ndarray) -> np.ndarray:
        """Calibrated probabilities over the training shares: the likelihood of each class. (n, C) float32"""
        return (softmax(self.log_probs(probs) + self.bias) / self.train).astype(np.float32)


@dataclass(frozen=True)
class ClassMix:
    """The classes' shares of the training images, and of the test images as estimated; each (C,) float64, sum 1.

    low, high            95% interval of the estimate, by resampling test images (copies together)
    noise                the squared distance of such estimates from a mix that they are drawn with (`shrunk`)
    null_low, null_high  where 95 of 100 test sets of the training mix have the estimates of all classes
    is_shift             the estimate is likelier than the training mix by more than all but 1% of such test sets show
    gain                 simulated top-3 error after less before weighing by the mix; None where no shift is called
    before               simulated top-3 error without weighing
    """

    calibration: Calibration
    test: np.ndarray
    low: np.ndarray
    high: np.ndarray
    noise: float
    null_low: np.ndarray
    null_high: np.ndarray
    is_shift: bool
    gain: Difference | None
    before: float | None

    @property
    def train(self) -> np.ndarray:
        return self.calibration.train

    @property
    def most_changed(self) -> np.ndarray:
        """Class numbers, the largest change of a share first. (C,) int"""
        return np.argsort(-np.abs(self.test - self.train), kind="stable")

    @property
    def pays(self) -> bool:
        """Weighing by the mix gains more than one standard error in the simulation."""
        return self.gain is not None and self.gain.mean < -self.gain.standard_error

    def matched(self, probs: np.ndarray) -> np.ndarray:
        """Scores of images under the test mix, shrunk: log-probabilities up to a constant. (n, C) float64"""
        mix = shrunk(self.test, self.train, noise=self.noise)
        return self.calibration.log_probs(probs) + np.log(mix / self.train)


def estimate_class_mix(oof: Predicted, target: np.ndarray, test: Predicted, *, seed: int = 0) -> ClassMix:
    """The class mix of the test images, and whether it is another one than that of the training images.

    oof   out-of-fold predictions of the N training images, target (N,) int in [0, C) their classes
    test  predictions of the T test images by the same blend
    """
    rng, size = np.random.default_rng([seed, 41]), len(test.group)
    calibration = calibrate(oof.probs, target)
    train, oof_ratios, ratios = calibration.train, calibration.ratios(oof.probs), calibration.ratios(test.probs)
    null = oof.draws(rng, times=REPLICAS, size=size)
    null_mixes = likely_mixes(oof_ratios, null, train)
    wider = 1 + size / len(oof.group)  # of variances: the training shares are counted on so many images, no more
    wider *= max(1.0, test.clumping / oof.clumping)
    noise = wider * float(_distance(null_mixes, train).mean())
    again = likely_mixes(ratios, test.draws(rng, times=REPLICAS, size=size), train)
    low, high = np.quantile(again, [0.025, 0.975], axis=0)
    once = np.ones((1, size), np.float32)
    (mix,) = found = likely_mixes(ratios, once, train)
    leads, lead = wider * _lead(oof_ratios, null, null_mixes), _lead(ratios, once, found)
    is_shift = (1 + int((leads >= lead).sum())) / (REPLICAS + 1) <= LEVEL
    reach = _reach(null_mixes - train) * np.sqrt(wider)
    gain, before = None, None
    if is_shift:
        # Less far than the estimate, which noise drives away from the training mix, and farther than the best guess.
        truth = shrunk(mix, train, noise=noise, power=0.5)
        gain, before = simulated_gain(oof, target, truth, noise=noise, size=size, rng=rng)
    return ClassMix(
        calibration=calibration,
        test=mix,
        low=np.minimum(low, mix),
        high=np.maximum(high, mix),
        noise=noise,
        null_low=np.maximum(train - reach, 0),
        null_high=train + reach,
        is_shift=is_shift,
        gain=gain,
        before=before,
    )


def calibrate(probs: np.ndarray, target: np.ndarray) -> Calibration:
    """Sharpness and biases of least log loss; the biases make the mean over the images equal the shares counted.

    probs (N, C) out of fold    target (N,) int in [0, C)
    Where the means are equal, the training mix is the most likely one of the training images: no shift is found there.
    """
    from scipy.optimize import minimize

    n_classes = probs.shape[1]
    train = _counted(target, n_classes)
    log_probs = np.log(np.maximum(probs, LEAST_PROB), dtype=np.float64)
    log_probs -= log_probs.max(axis=1, keepdims=True)
    hit = float(log_probs[np.arange(len(target)), target].mean())
    scale = np.sqrt(train)  # of the biases: a class of few images is as steep as one of many then

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        bias = point[1:] / scale
        scores = point[0] * log_probs + bias
        top = scores.max(axis=1, keepdims=True)
        odds = np.exp(scores - top)
        total = odds.sum(axis=1, keepdims=True)
        odds /= total * len(target)
        value = (np.log(total) + top).mean() - point[0] * hit - train @ bias
        slope = float(np.einsum("nc,nc->", odds, log_probs)) - hit
        return float(value), np.append(slope, (odds.sum(axis=0) - train) / scale)

    start = np.append(1.0, np.zeros(n_classes))
    bounds = [(1 / SHARPEST, SHARPEST), *[(None, None)] * n_classes]
    options = {"gtol": 1e-6, "ftol": 1e-12, "maxiter": 500}
    found = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options=options).x
    return Calibration(float(found[0]), found[1:] / scale, train)


def likely_mixes(ratios: np.ndarray, weights: np.ndarray, train: np.ndarray) -> np.ndarray:
    """The most probable mixes under a Dirichlet prior around the training mix, by EM. (B, C) float64

    ratios  (n, C) float32, of `Calibration.ratios`    weights (B, n) float32: how much each image counts, B times
    """
    prior = PRIOR_IMAGES * len(train) * train
    mixes = np.tile(train, (len(weights), 1))
    active = np.arange(len(weights))
    for _ in range(MOST_STEPS):
        shares = mixes[active].astype(np.float32)
        seen = weights[active] / (shares @ ratios.T)  # (B, n)
        made = shares * (seen @ ratios) + prior
        made /= made.sum(axis=1, keepdims=True)
        moved = np.abs(made - mixes[active]).max(axis=1)
        mixes[active] = made
        active = active[moved > SMALL_STEP]
        if not len(active):
            break
    return mixes


def shrunk(mix: np.ndarray, train: np.ndarray, *, noise: float, power: float = 1.0) -> np.ndarray:
    """An estimated mix (.., C), drawn to the training mix by the share of their squared distance that is noise.

    The estimate of a mild shift is mostly noise, and lies farther from the training mix than the truth. Weighed by it,
    predictions get worse; shrunk, its expected error is least (James, Stein 1961). With a power of 1/2 it is as far off
    as the truth is expected to be.
    """
    known = 1 - noise / np.maximum(_distance(mix, train), 1e-12)
    return train + np.clip(known, 0, 1)[..., None] ** power * (mix - train)


def simulated_gain(
    oof: Predicted, target: np.ndarray, mix: np.ndarray, *, noise: float, size: int, rng: np.random.Generator
) -> tuple[Difference, float]:
    """What weighing gains on out-of-fold images weighted so that they have the mix, calibrated without their fold.

    mix (C,): the true one, with which DRAWS test sets of `size` images are drawn to be estimated. Returns the top-3
    error after less before, with its standard error by groups of copies, and the error before.
    """
    _, own = np.unique(oof.group, return_inverse=True)
    fold = rng.permutation(int(own.max()) + 1)[own] % N_FOLDS
    log_probs, ratios = np.empty(oof.probs.shape), np.empty(oof.probs.shape, np.float32)
    for k in range(N_FOLDS):
        rows, others = fold == k, fold != k
        calibration = calibrate(oof.probs[others], target[others])
        log_probs[rows], ratios[rows] = calibration.log_probs(oof.probs[rows]), calibration.ratios(oof.probs[rows])
    train = _counted(target, len(mix))
    weight = (mix / train)[target]
    weight /= weight.sum()
    drawn = rng.multinomial(size, weight, size=DRAWS).astype(np.float32)
    found = shrunk(likely_mixes(ratios, drawn, train), train, noise=noise)
    before = true_rank(log_probs, target) >= 3
    after = np.mean([true_rank(log_probs + np.log(one / train), target) >= 3 for one in found], axis=0)
    change = float(weight @ (after - before))
    off = np.bincount(own, weight * (after - before - change))
    return Difference(change, float(np.sqrt((off**2).sum())), len(target)), float(weight @ before)


def _counted(target: np.ndarray, n_classes: int) -> np.ndarray:
    counted = np.maximum(np.bincount(target, minlength=n_classes), LEAST_IMAGES)
    return counted / counted.sum()


def _distance(mixes: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Of mixes (.., C) from the training mix: the sum of the squared differences."""
    return ((mixes - train) ** 2).sum(axis=-1)


def _lead(ratios: np.ndarray, weights: np.ndarray, mixes: np.ndarray) -> np.ndarray:
    """Twice the log-likelihood of each mix less that of the training mix, whose ratios sum to 1 in each row. (B,)"""
    return 2 * np.einsum("bn,bn->b", weights, np.log(mixes @ ratios.T.astype(np.float64)))


def _reach(off: np.ndarray) -> np.ndarray:
    """How far from the training shares the estimates of all classes stay in 95 of 100 replicas. off (B, C) -> (C,)"""
    spread = np.maximum(np.sqrt((off**2).mean(axis=0)), 1e-12)
    return max(float(np.quantile(np.abs(off / spread).max(axis=1), 0.95)), WITHIN_95) * spread
