"""Makes the members of a blend out of runs, and gives their probabilities of all training images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ensemble.members.oof_file import CHUNK_ROWS, in_threads
from ensemble.members.open_run import known_runs, list_runs, open_run
from ensemble.members.run import Run
from ensemble.members.training_rows import Rows, rows_of
from ensemble.settings import BlendSettings
from folds.base.errors import UserError, first_few
from folds.base.progress import Track, silently
from folds.base.workspace import Workspace
from folds.split.assign import load_folds
from models.predict.predictions import ROW_SUM_TOLERANCE
from models.runs import done_folds, kind_of

KEPT_BYTES = 600_000_000  # probabilities up to this size stay in memory once read: 15 members x 88,220 x 103 classes
FAR_BELOW = 0.25  # of the median agreement of all members; networks of very different strength stay above a half
LEAST_PROB = 1e-6
DEFAULTS = BlendSettings()


@dataclass(frozen=True)
class Member:
    """What gets one weight: a run, or sibling runs (equal but for their seed) averaged, or one view of these."""

    name: str
    runs: tuple[Run, ...]

    def probs(self, start: int, stop: int) -> np.ndarray:
        """Out-of-fold probabilities of rows start to stop, read from the files. (n, C) float32."""
        probs = self.runs[0].probs(start, stop)
        for run in self.runs[1:]:
            probs = probs + run.probs(start, stop)
        return probs / np.float32(len(self.runs)) if len(self.runs) > 1 else probs

    def test_probs(self, image_id: np.ndarray, *, some: bool = False) -> np.ndarray:
        """Test probabilities averaged over networks and views. image_id (T,) sorted -> (T, C) float32.

        A run has a network per fold, and one more where it was refitted on all images; each counts alike, also where
        siblings have unequal numbers of them.

        some  the ids are a few of those predicted: only their rows are read, and the files' digests are not taken

        Raises UserError where a file was changed, is unfit, or predicts other images.
        """
        total: np.ndarray | None = None
        for run in self.runs:
            for path in run.tests:
                for piece, probs in run.test_probs(path, image_id, some=some):
                    total = np.zeros((len(image_id), probs.shape[1]), np.float32) if total is None else total
                    total[piece] += probs
        assert total is not None, "a member has no test predictions"
        total /= np.float32(sum(len(run.tests) for run in self.runs))
        return total


@dataclass(frozen=True)
class Members:
    """The M members of a blend, sorted by name, over the same N rows.

    true_probs (M, N) float32: each member's probability of each true class    tops (M, N) int16: its first choice
    kept (M, N, C) float32: all probabilities, where they fit into memory
    """

    rows: Rows
    members: tuple[Member, ...]
    true_probs: np.ndarray
    tops: np.ndarray
    kept: np.ndarray | None = field(default=None, repr=False)
    left_out: tuple[str, ...] = ()  # runs that lack a fold that the others have

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.members)

    @property
    def runs(self) -> list[Run]:
        return [run for member in self.members for run in member.runs]

    def __len__(self) -> int:
        return len(self.members)

    def chunks(self, fold: int | None = None, *, size: int = CHUNK_ROWS) -> Iterator[tuple[slice, np.ndarray]]:
        """All members' probabilities, of all folds or one, piece by piece: (rows, (M, n, C) float32)."""
        for piece in self.pieces(fold, size=size):
            yield piece, self.stacked(piece)

    def stacked(self, piece: slice) -> np.ndarray:
        """All members' probabilities of some rows. (M, n, C) float32"""
        return self.read(piece) if self.kept is None else self.kept[:, piece]

    def read(self, piece: slice, out: np.ndarray | None = None) -> np.ndarray:
        """The same from the files. (M, n, C) float32"""
        shape = len(self), piece.stop - piece.start, len(self.rows.classes)
        made = np.empty(shape, np.float32) if out is None else out
        for m, member in enumerate(self.members):
            made[m] = member.probs(piece.start, piece.stop)
        return made

    def pieces(self, fold: int | None = None, *, size: int = CHUNK_ROWS) -> Iterator[slice]:
        """The rows of all folds or one, cut into pieces that lie inside one fold each."""
        for k in range(self.rows.n_folds) if fold is None else (fold,):
            place = self.rows.of_fold(k)
            for start in range(place.start, place.stop, size):
                yield slice(start, min(start + size, place.stop))


def load_members(workspace: Workspace, settings: BlendSettings = DEFAULTS, *, track: Track = silently) -> Members:
    """The runs that the settings name (all finished ones by default), checked, and joined by id to `folds.csv`.

    Of a partial blend runs may lack folds: the rows are then those of the folds that all members have.

    Raises UserError naming the run that has a gap, other folds or classes, NaN, or rows that do not sum to 1.
    """
    folds, known, names = load_folds(workspace), list_runs(workspace), settings.members
    if names is None and not known:
        raise UserError("there is no finished run to blend", hint="`python run.py train`")
    wanted: Sequence[str] = known if names is None else sorted(set(names))  # their order must not matter
    unknown = [name for name in names or () if name not in known]
    if unknown or not wanted:
        raise UserError(f"there is no finished run {first_few(unknown)}".rstrip(), hint=known_runs(workspace))
    used, in_use = wanted, list(range(folds.n_folds))
    if settings.partial:
        used, in_use = choose_parts(workspace, wanted, n_folds=folds.n_folds, is_named=names is not None)
    left_out = tuple(name for name in wanted if name not in used)
    rows = rows_of(folds, in_use)
    runs = list(in_threads(lambda name: open_run(workspace, name, rows=rows, views=settings.member_views), used))
    members = [Member(run.name, (run,)) for run in runs] if settings.separate_seeds else join_siblings(runs)
    if settings.separate_views:
        members = [
            Member(f"{member.name}:{view}", tuple(run.with_views((view,)) for run in member.runs))
            for member in members
            for view in sorted(set.intersection(*(set(run.views) for run in member.runs)))
        ]
    return read_members(rows, members, left_out=left_out, track=track)


def read_members(
    rows: Rows, members: Sequence[Member], *, left_out: tuple[str, ...] = (), track: Track = silently
) -> Members:
    """Read every member once. Raises UserError naming one that has NaN, or rows that do not sum to 1."""
    shape = len(members), len(rows), len(rows.classes)
    kept = np.empty(shape, np.float32) if 4 * np.prod(shape, dtype=float) <= KEPT_BYTES else None
    made = Members(rows, tuple(members), np.empty(shape[:2], np.float32), np.empty(shape[:2], np.int16), kept, left_out)

    def read(piece: slice) -> None:
        probs = made.read(piece, None if kept is None else kept[:, piece])
        for member, own in zip(members, probs, strict=True):
            # NaN and +infinity spread to the sum; -infinity of a logarithm is a probability of 0
            sums = own.sum(axis=1)
            bad = ~(np.abs(sums - 1) <= ROW_SUM_TOLERANCE)
            if bad.any():
                fault = "do not sum to 1" if np.isfinite(sums[bad]).all() else "are NaN or infinite"
                raise UserError(
                    f"{member.name}: the probabilities of {first_few(list(rows.image_id[piece][bad]))} {fault}",
                    hint=member.runs[0].remake_hint,
                )
        made.true_probs[:, piece] = probs[:, np.arange(probs.shape[1]), rows.target[piece]]
        made.tops[:, piece] = probs.argmax(axis=2)

    pieces = list(made.pieces())
    for _ in track(in_threads(read, pieces), what="reading members", total=len(pieces), unit="pieces"):
        pass
    return made


def join_siblings(runs: Sequence[Run]) -> list[Member]:
    """One member for all runs with equal settings and views and unequal seeds; runs without settings stay alone."""
    families: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps([run.settings, run.views], sort_keys=True) if run.settings else f"alone: {run.name}"
        families.setdefault(key, []).append(run)
    members = []
    for family in families.values():
        seeds = [run.seed for run in family]
        alone = len(set(seeds)) < len(seeds)  # the same settings and seed under two names: a copy, not a sibling
        joined = [Member("+".join(run.name for run in family), tuple(family))]
        members += [Member(run.name, (run,)) for run in family] if alone else joined
    return sorted(members, key=lambda member: member.name)


def choose_parts(
    workspace: Workspace, names: Sequence[str], *, n_folds: int, is_named: bool
) -> tuple[Sequence[str], list[int]]:
    """The folds of one run, and all runs that have them too: those that keep the most out-of-fold predictions.

    Predictions of probes are counted last: a probe has every fold within minutes, and must not keep a network out that
    has been trained on some of them.

    is_named  the user named the runs: all of them are blended, by the folds that all of them have
    Raises UserError where no fold is common to the runs named.
    """
    whole = frozenset(range(n_folds))
    added = [name for name in names if (workspace.members / name).is_dir()]  # these have every fold
    done = {name: whole if name in added else frozenset(done_folds(workspace, name)) & whole for name in names}
    common = frozenset.intersection(*done.values())
    if is_named:
        if not common:
            raise UserError(f"{first_few(sorted(names))} have no fold in common", hint="`--members` with fewer of them")
        return names, sorted(common)

    trained = [name for name in names if name in added or kind_of(workspace, name) is None]

    def predictions(folds: frozenset[int]) -> list[int]:
        members = [sum(done[name] >= folds for name in some) for some in (trained, names)]
        return [count for own in members for count in (len(folds) * own, own)]

    folds = max(sorted({*done.values(), common} - {frozenset()}, key=sorted), key=predictions)
    return [name for name in names if done[name] >= folds], sorted(folds)


def disagreeing_members(members: Members) -> list[str]:
    """A sentence for every member that agrees with the others far less than they do with each other.

    Accuracy does not see rows shifted by one where images are sorted by class. But hard images are hard for every
    network: inside a class, the members' confidence in the true class rises and falls together, and that is gone after
    a shift. After a permutation of classes the first choices no longer agree. Members of columns have not seen the
    pictures, and are not compared.
    """
    seeing = [m for m, member in enumerate(members.members) if not any(run.is_of_columns for run in member.runs)]
    if len(seeing) < 3:
        return []
    tops, names = members.tops[seeing], [members.names[m] for m in seeing]
    same = np.array([(tops == one).mean(axis=1) for one in tops])  # (M, M)
    choices = (same.sum(axis=1) - 1) / (len(seeing) - 1)
    target = members.rows.target
    confidence = np.log(members.true_probs[seeing].astype(np.float64) + LEAST_PROB)  # (M, N)
    count = np.maximum(np.bincount(target), 1)
    for one in confidence:
        one -= (np.bincount(target, one) / count)[target]
    scaled = confidence / np.maximum(np.linalg.norm(confidence, axis=1, keepdims=True), 1e-12)
    others = scaled.sum(axis=0) - scaled  # (M, N)
    correlations = np.sum(scaled * others, axis=1) / np.maximum(np.linalg.norm(others, axis=1), 1e-12)
    sentences, noise = [], 3 / np.sqrt(len(target))  # of the correlation of members that have nothing in common
    for name, choice, correlation in zip(names, choices, correlations, strict=True):
        if choice < FAR_BELOW * np.median(choices):
            sentences.append(
                f"{name} has the same first choice as another member on {choice:.1%} of the images only"
                f" (median {np.median(choices):.1%}): are its classes in another order?"
            )
        elif noise < np.median(correlations) and correlation < FAR_BELOW * np.median(correlations):
            sentences.append(
                f"{name} finds other images hard than the other members do (correlation {correlation:.2f},"
                f" median {np.median(correlations):.2f}): are its rows shifted?"
            )
    return sentences
