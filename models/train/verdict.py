"""Whether a fold overfits, underfits, or is no better than a frozen probe of the same weights, and what to change."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from folds.base.errors import UserError
from folds.base.interval import paired_difference
from folds.base.metrics import log_loss, true_rank
from folds.base.workspace import Workspace, digest, read_json
from folds.split.assign import Folds
from models.input.sizes import train_size
from models.predict.predictions import load_predictions
from models.runs import PROBE, done_record, runs
from models.settings import TrainSettings
from models.train.trainer import Job
from models.watch.events import AgainstProbe, EpochRow, JobKey, Verdict, VerdictKind

LAST_SHARE = 0.25  # of the epochs: what they gained tells whether more of them would
STILL_GAINING = 0.04  # a relative fall of the valid loss over them; a finished cosine's last quarter gains less
LEAST_LOSS = 1e-12  # nats: where all images are right beyond doubt, nothing is divided by 0
RISING = 0.02  # a relative rise of the valid loss above its best epoch; less is noise of one fold
NOTHING_LEARNED = 0.95  # of the loss that the class shares alone give: nothing below it in any epoch
MEMORISED = 0.25  # training error below this share of the valid error, with nothing gained at the end


def judge(
    rows: Sequence[EpochRow],
    *,
    train_loss: float,
    train_top3_error: float,
    chance_loss: float = math.inf,
    against_probe: AgainstProbe | None = None,
    remedy: str = "a smaller `--lr`",
) -> Verdict:
    """One plain sentence on a fold: no gain over its probe, overfitting, underfitting or fine; and what to change.

    rows                        every epoch's; valid losses in nats, errors in [0, 1]
    train_loss, train_top3_error  of training images, drawn as they occur, under the view and network of the last row
    chance_loss                 of the valid images in nats, if each gets the class shares of the training images
    against_probe               the network beside its frozen probe, None where there is none
    remedy                      what to change where the network is no better than that, from `remedy_for`
    The loss tells more than the error: it still moves where the third guess is right anyway.
    """
    last, best = rows[-1], min(rows, key=lambda row: row.valid_loss)
    before = rows[max(0, len(rows) - 1 - max(1, round(LAST_SHARE * len(rows))))]
    ended, earlier, lowest = (max(row.valid_loss, LEAST_LOSS) for row in (last, before, best))
    gained = 1 - ended / earlier if len(rows) > 1 else 0.0
    rose, more = ended / lowest - 1, round(last.epoch * 1.5) or 1
    risen = f"the valid loss has risen by {rose:.0%} since epoch {best.epoch}"
    falling = f"the last epochs still took {gained:.0%} off the valid loss"
    is_memorised = train_top3_error < MEMORISED * last.valid_top3_error
    kind: VerdictKind = "fine"
    advice = "the valid loss has settled, and the training images are not memorised"
    if against_probe is not None and not against_probe.is_better:
        kind, advice = "no gain", f"no better than its own frozen probe ({against_probe.figures}): {remedy}"
        if rose > RISING:
            advice += f"; {risen}, so fewer epochs may help too (`--epochs {best.epoch}`)"
        elif gained > STILL_GAINING:
            advice += f"; {falling}, so more of them may help too (`--epochs {more}`)"
    elif best.valid_loss > NOTHING_LEARNED * chance_loss and not is_memorised:
        change = f"more epochs (`--epochs {more}`) or a higher `--lr`" if rose <= RISING else "a smaller `--lr`"
        known = f"valid loss {best.valid_loss:.4f} at best, {chance_loss:.4f} by the class shares alone"
        kind, advice = "underfitting", f"the network learned next to nothing ({known}): {change}, or pretrained weights"
    elif rose > RISING:
        kind, advice = "overfitting", f"{risen}: fewer epochs (`--epochs {best.epoch}`) or a smaller `--lr`"
    elif gained > STILL_GAINING and not is_memorised:
        kind, advice = "underfitting", f"{falling}: more of them (`--epochs {more}`) or a higher `--lr`"
    elif gained > STILL_GAINING:  # of few epochs the last one has a small rate, and gains for that alone
        advice = f"{falling}, but the training images are nearly memorised: more of them (`--epochs {more}`) may help"
    elif is_memorised:
        kind = "overfitting"
        advice = (
            "the valid loss has settled while the training images are nearly memorised: more epochs would add little; "
            "better weights or a larger `--image-size` would help, and another backbone would help the blend"
        )
    return Verdict(
        kind=kind,
        advice=advice,
        train_loss=train_loss,
        valid_loss=last.valid_loss,
        train_top3_error=train_top3_error,
        valid_top3_error=last.valid_top3_error,
        gained=gained,
        against_probe=against_probe,
    )


def remedy_for(settings: TrainSettings, *, lr: float, has_batch_norm: bool, takes_head: bool) -> str:
    """What to change in a run that is no better than its frozen probe, in words; nothing that is set so already.

    lr          the peak rate that the fold was trained with
    takes_head  whether a fitted head can be put into the network
    Statistics of batches of 64 crops, and a random head, each cost more than fine-tuning gains on small data sets
    (top-3 error of tf_efficientnet_lite0 on 411 images of 75 classes: 0.0535 with both, 0.0365 without, probe 0.0462).
    """
    flags = ["--batch-norm frozen"] if has_batch_norm and settings.batch_norm != "frozen" else []
    flags += ["--head probe"] if takes_head and settings.head != "probe" else []
    if flags:
        return f"`{' '.join(flags)}`, or a smaller `--lr`"
    smaller = f"a smaller rate (`--lr {lr / 3:.1g}`)"
    if settings.head == "probe" and (settings.head_lr_scale or 1) > 1:
        return f"`--head-lr-scale 1`, or {smaller}"
    return smaller


def against_probe(workspace: Workspace, folds: Folds, job: Job) -> AgainstProbe | None:
    """The fold's network beside its frozen probe, by the `oof.npz` of both; None where there is no such probe.

    A probe counts that has the same backbone, weights, size, folds and images; of several, the one called RUN-probe;
    random weights (no digest) have none worth a comparison, and a damaged one is passed over, since others refuse it.
    Views that only one of the two was predicted under are left aside. Better: lower in top-3 error or log loss, and
    not beyond one standard error above in top-3 error.
    """
    if not job.weights_digest:
        return None
    own = load_predictions(job.key.folder(workspace) / "oof.npz", hint="`python run.py predict`")
    target, group = (values[folds.fold == job.fold] for values in (folds.target, folds.group))
    wanted = (PROBE, job.backbone.tag, train_size(job.settings, job.backbone), job.weights_digest)
    for name in sorted(runs(workspace), key=lambda name: (name != f"{job.plan.name}-{PROBE}", name)):
        other = JobKey(name, job.fold)
        folder = other.folder(workspace)
        try:
            stored, done = read_json(folder / "settings.json", hint=""), done_record(workspace, other) or {}
            made = (stored["kind"], stored["backbone"], stored["settings"]["image_size"], done["weights_digest"])
            if made != wanted or digest((folder / "oof.npz").read_bytes()) != done["files"]["oof.npz"]:
                continue
            probe = load_predictions(folder / "oof.npz", hint="")
        except (UserError, OSError, KeyError, TypeError):
            continue
        views = tuple(str(view) for view in own.views if view in probe.views)
        is_alike = own.folds_digest == probe.folds_digest and np.array_equal(own.image_id, probe.image_id)
        if not views or not is_alike or not np.array_equal(own.classes, probe.classes):
            continue
        both = [one.probs(views) for one in (own, probe)]
        missed = [(true_rank(probs, target) >= 3).astype(float) for probs in both]
        error, probe_error = (float(one.mean()) for one in missed)
        loss, probe_loss = (log_loss(probs, target) for probs in both)
        is_worse = paired_difference(missed[0], missed[1], group).is_above_error
        is_better = (error < probe_error or loss < probe_loss) and not is_worse
        return AgainstProbe(name, views, error, probe_error, loss, probe_loss, is_better)
    return None
