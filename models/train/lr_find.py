"""A run's peak learning rate: the one that is set, or one found by a short training at rising rates."""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from folds.base.errors import UserError
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace, read_json, write_bytes, write_json
from folds.pixels.store import PixelStore
from folds.split.assign import Folds
from models.train.fold import make_trainer
from models.train.trainer import FoldTrainer, Job

LOWEST, HIGHEST = 1e-6, 1.0  # AdamW's useful rates lie well inside
STEPS = 100
MEMORY = 0.9  # of the running mean of the loss, over about ten steps
DIVERGED = 1.5  # times the lowest smoothed loss: from there on the sweep shows nothing
LEAST_LOW = 1e-5  # the loss under a fitted head that is lowest below this rate is chance
TRUSTED_STEPS = 10  # before so many, the running mean is of too few losses


@dataclass(frozen=True)
class Sweep:
    """A finished sweep. rates (n,) float64, losses (n,) smoothed, in nats; suggested is the rate to train with.

    steepest   where the smoothed loss falls fastest against the logarithm of the rate    lowest  where it is lowest
    is_probed  whether the head came fitted
    """

    rates: np.ndarray
    losses: np.ndarray
    steepest: float
    lowest: float
    is_probed: bool = False

    @property
    def suggested(self) -> float:
        """The geometric mean of the steepest rate and a tenth of the lowest, since each alone is noisy.

        A fitted head knows the training images from the start: the loss hardly falls, and where it falls fastest is
        chance. tf_efficientnet_lite0 on 1,000 images of Caltech-101 at 128 pixels: steepest 1e-6, lowest 3e-4, and of
        the rates 3e-5, 1e-4 and 3e-4 the first was the best at 224. So there it is a tenth of the lowest.
        """
        return self.lowest / 10 if self.is_probed else float(np.sqrt(self.steepest * self.lowest / 10))


def found_rate(workspace: Workspace, job: Job, folds: Folds, store: PixelStore, *, track: Track) -> float:
    """The peak rate from the run's `lr-find.json`, made where it is absent or of other settings."""
    path = workspace.models / job.plan.name / "lr-find.json"
    stored = read_json(path, hint=f"remove {path}") if path.is_file() else {}
    if stored.get("of") == _without_rate(job):
        return float(stored["suggested"])
    return find_rate(workspace, job, folds, store, track=track)[0].suggested


def find_rate(workspace: Workspace, job: Job, folds: Folds, store: PixelStore, *, track: Track) -> tuple[Sweep, Path]:
    """Sweep the rates on a job's training part, write `lr-find.json` into the run's folder, and a plot beside it."""
    found = sweep(make_trainer(workspace, job, folds, store, lr=1.0, track=track), track=track)
    path = workspace.models / job.plan.name / "lr-find.json"
    _draw(path.with_suffix(".png"), found, title=f"{job.plan.name}, fold {job.fold}: {job.backbone.tag}")
    curve = {"rates": found.rates.tolist(), "losses": found.losses.tolist()}
    marks = {"suggested": found.suggested, "steepest": found.steepest, "lowest": found.lowest}
    write_json(path, {"of": _without_rate(job), "fold": job.fold, **marks, **curve})
    return found, path.with_suffix(".png")


def _without_rate(job: Job) -> dict[str, object]:
    """What a sweep depends on: everything but the rate, which is what it finds."""
    settings = {key: value for key, value in job.settings_json["settings"].items() if key != "lr"}
    return {**job.settings_json, "settings": settings}


def sweep(trainer: FoldTrainer, *, steps: int = STEPS, track: Track = silently) -> Sweep:
    """Train at rates from 1e-6 to 1, each step at a higher one; stop at divergence. The network is spoilt by then.

    Raises UserError where no rate makes the loss fall. Source: Smith 2017 (LR range test), fastai's `lr_find`.
    """
    stepper, rates, losses = trainer.stepper, np.geomspace(LOWEST, HIGHEST, steps), list[float]()
    n_epochs = trainer.settings.epochs
    batches = itertools.chain.from_iterable(trainer.batches(epoch % n_epochs) for epoch in itertools.count())
    stepper.train_mode()
    for rate, batch in track(zip(rates, batches, strict=False), what="rates", total=steps, unit="steps"):
        for group in stepper.optimiser.param_groups:
            group["lr"] = rate * group["lr_scale"]
        loss = float(stepper.accumulate(*batch))
        stepper.move()
        smooth = smoothed(np.array([*losses, loss]))
        if not np.isfinite(loss) or (len(losses) >= TRUSTED_STEPS and smooth[-1] > DIVERGED * smooth[:-1].min()):
            break
        losses.append(loss)
    return judge_sweep(rates[: len(losses)], np.array(losses), is_probed=trainer.is_probed)


def judge_sweep(rates: np.ndarray, losses: np.ndarray, *, is_probed: bool = False) -> Sweep:
    """Smooth the losses and pick the rates. rates, losses (n,). Raises UserError where the loss never falls."""
    if not len(losses):
        raise UserError(f"the loss is not finite even at a rate of {LOWEST:.0e}", hint="`--precision fp32`")
    smooth = smoothed(losses)
    first = TRUSTED_STEPS if len(losses) > 2 * TRUSTED_STEPS else 0
    bottom = first + int(np.argmin(smooth[first:]))
    if is_probed and rates[bottom] < LEAST_LOW:
        raise UserError(
            f"the sweep shows no rate: the fitted head knows the training images, and the loss is lowest at "
            f"{rates[bottom]:.1e}, where nothing is learned yet",
            hint="leave out `--lr`",
        )
    if bottom < first + 2 or smooth[bottom] >= smooth[first]:
        raise UserError(f"the loss falls at no rate from {rates[0]:.0e} to {rates[-1]:.0e}", hint="leave out `--lr`")
    slope = np.gradient(smooth[first : bottom + 1], np.log(rates[first : bottom + 1]))
    return Sweep(rates, smooth, float(rates[first + int(np.argmin(slope))]), float(rates[bottom]), is_probed)


def smoothed(losses: np.ndarray) -> np.ndarray:
    """The running mean of the losses, corrected for its start as Adam's is. (n,) -> (n,)"""
    return pd.Series(losses).ewm(alpha=1 - MEMORY).mean().to_numpy()


def _draw(path: Path, sweep: Sweep, *, title: str) -> None:
    """The loss over the rate, and the rates that it suggests: a PNG of 1,200 x 750 pixels."""
    from matplotlib.figure import Figure  # half a second that training at a known rate does not need

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.plot(sweep.rates, sweep.losses, color="#1f4e79", linewidth=2)
    marks = (("steepest", sweep.steepest, ":"), ("lowest", sweep.lowest, "--"), ("suggested", sweep.suggested, "-"))
    for name, rate, style in marks:
        colour = "#c0392b" if name == "suggested" else "#7f8c8d"
        axes.axvline(rate, color=colour, linestyle=style, label=f"{name} {rate:.1e}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss, nats (running mean)", title=title)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())
