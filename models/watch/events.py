"""The events of training, probing and predicting, and their jobs; losses are in nats, errors in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from folds.base.workspace import Workspace

VerdictKind = Literal["no gain", "overfitting", "underfitting", "fine"]


class JobKey(NamedTuple):
    """Which job: a fold of a run, or with fold None its refit on all images; also what concerns a whole run.

    As text it is `resnet50.fold2` or `resnet50.all`, as in the name of its lock.
    """

    run: str
    fold: int | None

    @property
    def part(self) -> str:
        return "all" if self.fold is None else f"fold{self.fold}"

    @property
    def name(self) -> str:
        return f"{self.run} on all images" if self.fold is None else f"{self.run} fold {self.fold}"

    def folder(self, workspace: Workspace) -> Path:
        return workspace.models / self.run / self.part

    def __str__(self) -> str:
        return f"{self.run}.{self.part}"


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

    tag: str
    n_train: int
    n_valid: int
    image_size: int
    largest_size: int
    store_size: int
    device: str
    precision: str
    lr: float
    is_probed: bool


@dataclass(frozen=True)
class FoldResumed:
    """The fold goes on from the checkpoint of an earlier process, after `epoch` of `epochs`."""

    epoch: int
    epochs: int


@dataclass(frozen=True)
class CheckpointRefused:
    """The checkpoint is damaged or of another training (`why`, a clause): the fold starts over."""

    path: Path
    why: str


@dataclass(frozen=True)
class FoldHeld:
    """Another process is working on `name` (`holder`: which one, on which machine), and this one waits for it."""

    name: str
    holder: str


@dataclass(frozen=True)
class FoldMoved:
    """The process or machine of `name` on Ray is gone (`why`, a clause): another process goes on with it."""

    name: str
    why: str


@dataclass(frozen=True)
class FoldFailed:
    """A fold, or what concerns a whole run (`name`), failed, and the others go on.

    trace     None for a mistake of the user, which `hint` mends
    may_move  whether only this machine lacks something
    """

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

    @property
    def figures(self) -> str:
        errors = f"top-3 error {self.top3_error:.4f} against {self.probe_top3_error:.4f}"
        return f"{errors}, log loss {self.loss:.4f} against {self.probe_loss:.4f}"


@dataclass(frozen=True)
class Verdict:
    """Scores on training and valid images under the same views; `gained`: relative fall of the last valid losses."""

    kind: VerdictKind
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

    top3_error: float | None
    seconds: float
    trained: bool
    views: tuple[str, ...]

    @classmethod
    def before(cls, record: dict[str, Any]) -> FoldDone:
        """By an earlier command, whose done.json this is."""
        return cls(record["oof_top3_error"], record["seconds"], trained=False, views=tuple(record["views"]))


@dataclass(frozen=True)
class PredictStarted:
    """Networks of a run predict `views` next; what they predicted of `kept` stays. Sizes in pixels."""

    networks: int
    views: tuple[str, ...]
    kept: tuple[str, ...]
    largest_size: int
    store_size: int


@dataclass(frozen=True)
class FoldPredicted:
    """A fold is predicted again under `views`; the refit on all images has no error."""

    top3_error: float | None
    views: tuple[str, ...]


@dataclass(frozen=True)
class ProbeStarted:
    """The features of all images are computed next, once for the heads of all folds."""

    tag: str
    n_train: int
    n_test: int
    image_size: int
    largest_size: int
    store_size: int
    device: str
    precision: str


@dataclass(frozen=True)
class ProbeFitted:
    """The heads of all folds are fitted; `strengths`: of each fold's L2 penalty."""

    strengths: tuple[float, ...]
    features_seconds: float
    heads_seconds: float


@dataclass(frozen=True)
class NeighboursChosen:
    """A fold is looked up among the others: by `count` neighbours, and prototypes with a `share` of the vote.

    images_per_second  of the fold's own and the test images, each view counted, once the memory is made
    """

    count: int
    temperature: float
    share: float
    prior: float
    features_seconds: float
    choice_seconds: float
    search_seconds: float
    images_per_second: float


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
    | PredictStarted
    | FoldPredicted
    | ProbeStarted
    | ProbeFitted
    | NeighboursChosen
)


@dataclass(frozen=True)
class JobEvent:
    """An event, and its job. place: machine and device on Ray, empty for this process."""

    key: JobKey
    event: Event
    place: str = ""


@dataclass(frozen=True)
class JobProgress:
    """How far a job is in what it does now (`what`, such as `epoch 2/10`), in units such as images."""

    key: JobKey
    what: str
    done: int
    total: int
    unit: str = "images"
    per_second: float | None = None
    place: str = ""


Happened = JobEvent | JobProgress
