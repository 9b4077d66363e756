"""The events of training, probing and predicting: rooms yield them, `run.py` shows them.

run is a run's name, fold a number or None for the refit on all images; losses are in nats, errors in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class EpochRow:
    """One line of `log.jsonl` and of the screen. The valid figures are NaN where all images train."""

    epoch: int
    lr: float
    image_size: int
    train_loss: float
    valid_loss: float
    valid_top1_error: float
    valid_top3_error: float
    images_per_second: float
    seconds: float


@dataclass(frozen=True)
class FoldStarted:
    """lr is the peak rate; is_probed: the head starts from its probe."""

    run: str
    tag: str
    fold: int | None
    n_train: int
    n_valid: int
    image_size: int
    store_size: int
    device: str
    precision: str
    lr: float
    is_probed: bool


@dataclass(frozen=True)
class FoldResumed:
    """The fold goes on from the checkpoint of an earlier process, after `epoch` of `epochs`."""

    run: str
    fold: int | None
    epoch: int
    epochs: int


@dataclass(frozen=True)
class CheckpointRefused:
    """The checkpoint is damaged or of another training (`why`, a clause): the fold starts over."""

    path: Path
    why: str


@dataclass(frozen=True)
class FoldHeld:
    """Another process is training the fold (`holder`: which one, on which machine), and this one waits for it."""

    run: str
    fold: int | None
    holder: str


@dataclass(frozen=True)
class FoldMoved:
    """The fold's process or machine on Ray is gone (`why`, a clause): another process goes on with it."""

    run: str
    fold: int | None
    why: str


@dataclass(frozen=True)
class FoldFailed:
    """A fold, or what concerns a whole run (`name`), failed, and the others go on.

    trace     None for a mistake of the user, which `hint` mends
    may_move  whether only this machine lacks something
    """

    run: str
    name: str
    why: str
    hint: str | None
    trace: str | None
    may_move: bool = False


@dataclass(frozen=True)
class MemoryShort:
    """The device ran out of memory: batches are split into parts of `micro_batch` images, with the same gradients."""

    micro_batch: int
    batch_size: int


@dataclass(frozen=True)
class AgainstProbe:
    """A fold's network and the run `probe`, a frozen probe of the same weights, on the fold's images under `views`."""

    probe: str
    views: tuple[str, ...]
    top3_error: float
    probe_top3_error: float
    loss: float
    probe_loss: float
    is_better: bool


@dataclass(frozen=True)
class Verdict:
    """Scores on training and valid images under the same views; `gained`: relative fall of the last valid losses."""

    run: str
    fold: int
    kind: Literal["no gain", "overfitting", "underfitting", "fine"]
    advice: str
    train_loss: float
    valid_loss: float
    train_top3_error: float
    valid_top3_error: float
    gained: float
    against_probe: AgainstProbe | None = None  # None where there is no probe of the same weights


@dataclass(frozen=True)
class FoldDone:
    """trained: False if the fold was done before; views: it was predicted under; top3_error: OOF, None for a refit."""

    run: str
    fold: int | None
    top3_error: float | None
    seconds: float
    trained: bool
    views: tuple[str, ...]


@dataclass(frozen=True)
class FoldPredicted:
    """A fold is predicted again; the refit on all images has no error."""

    run: str
    fold: int | None
    top3_error: float | None


@dataclass(frozen=True)
class ProbeStarted:
    """The features of all images are computed next, once for the heads of all folds."""

    run: str
    tag: str
    n_train: int
    n_test: int
    image_size: int
    store_size: int
    device: str
    precision: str


@dataclass(frozen=True)
class ProbeFitted:
    """The heads of all folds are fitted; `strengths`: of each fold's L2 penalty."""

    run: str
    strengths: tuple[float, ...]
    features_seconds: float
    heads_seconds: float


Event = (
    FoldStarted
    | FoldResumed
    | CheckpointRefused
    | EpochRow
    | MemoryShort
    | Verdict
    | FoldDone
    | FoldHeld
    | FoldMoved
    | FoldFailed
)
ProbeEvent = ProbeStarted | ProbeFitted | FoldDone


@dataclass(frozen=True)
class JobEvent:
    """An event, and its job: a fold of a run. place: machine and device on Ray, empty for this process."""

    run: str
    fold: int | None
    event: Event | ProbeEvent
    place: str = ""


@dataclass(frozen=True)
class JobProgress:
    """How far a job is in what it does now (`what`, such as `epoch 2/10`), in units such as images."""

    run: str
    fold: int | None
    what: str
    done: int
    total: int
    unit: str = "images"
    per_second: float | None = None
    place: str = ""


def fold_name(run: str, fold: int | None) -> str:
    """What a job is called: `resnet50 fold 2`, or `resnet50 on all images` for the refit."""
    return f"{run} on all images" if fold is None else f"{run} fold {fold}"
