"""Predicts a folder of pictures with a pack: block after block, in bounded memory, and goes on after a kill."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from folds.base.csvfile import read_csv
from folds.base.errors import UserError, first_few
from folds.base.locks import alone
from folds.base.metrics import top_classes
from folds.base.progress import Track, silently
from folds.base.terminal import duration
from folds.base.workspace import Workspace, digest, read_json, refusing, write_bytes, write_json
from folds.find.dataset import Item, ids_of_sample, items_to_predict
from folds.find.listing import list_files
from folds.manifest.manifest import natural_key
from folds.pixels.fill import Known, fill
from folds.pixels.pool import usable_cores
from folds.pixels.store import FORMS, PixelStore
from models.predict.predictions import average_views
from submissions.check import valid_csv
from submissions.csv_form import Layout, sample_layout
from submissions.offline.pack_file import OpenPack, Pack, Smaller
from submissions.settings import InferSettings

BLOCK = 1024  # pictures: 0.25 GB of a store of 288 pixels; a multiple of the batches, as `predict` has them
FIRST = 256  # pictures of the first block, which tells how long all of them take
ROOM = 1.15  # times the measured time: later blocks may be slower
WRITING_SECONDS = 60.0  # kept of `--max-hours` for the CSV


@dataclass(frozen=True)
class InferResult:
    """The CSV that was written and checked.

    guessed   ids of pictures that could not be read, which got the most frequent classes
    unseen    ids of pictures that the time did not suffice for, which got them too
    part      what was used of the ensemble     seconds  of this call
    """

    path: Path
    rows: int
    guessed: tuple[str, ...]
    unseen: tuple[str, ...]
    part: Smaller
    whole: Smaller
    seconds: float


def infer(
    pack: Path,
    pictures: Path,
    settings: InferSettings,
    *,
    say: Callable[[str], object] = lambda _: None,
    track: Track = silently,
) -> InferResult:
    """Predict every picture below a folder and write the CSV.

    What is done is kept beside the CSV, in `NAME.csv.parts`, until all pictures are seen: the same call goes on there.
    Raises UserError where the pack is damaged, the folder empty, or what is kept is of another pack or other pictures.
    """
    began = time.monotonic()
    opened, out = OpenPack(pack), settings.out
    items, layout = _items(opened.pack, pictures, settings)
    if pictures.resolve() in out.resolve().parents:
        why = f"{out} lies in the folder of the pictures, which is never written to"
        raise UserError(why, hint="take another `--out`")
    state = out.with_name(f"{out.name}.parts")
    with alone(Workspace(state), "infer", say=say):
        work = _Work(opened, pictures, items, settings, state, say)
        finished = work.run(began, track)
        best, seen = work.found(finished)
        write_bytes(out, valid_csv(layout, best, opened.pack.images_per_class))
        unseen = tuple(name for name in layout.image_id if name not in seen)
        if not unseen:
            shutil.rmtree(state, ignore_errors=True)  # with the lock, so that nobody who waits for it begins in here
    guessed = tuple(name for name in layout.image_id if name in seen and name not in best)
    seconds = time.monotonic() - began
    return InferResult(out, len(layout.image_id), guessed, unseen, work.part, opened.pack.smaller[0], seconds)


def _items(pack: Pack, pictures: Path, settings: InferSettings) -> tuple[list[Item], Layout]:
    """The pictures by id, in the order of `submit`, and the layout of the CSV."""
    files = list_files(pictures).files
    if settings.sample is None:
        items = items_to_predict(files, "", None, sample="")
        if not items:
            names = first_few([file.path for file in files])
            raise UserError(f"{pictures} holds no picture: {names}", hint="give the folder that holds the pictures")
        ids = sorted((item.image_id for item in items), key=natural_key)
        layout = Layout(pack.header, tuple(ids), pack.classes, pack.separator, pack.label_separator)
    else:
        try:
            table = read_csv(settings.sample.read_bytes(), name=settings.sample.name)
        except OSError as err:
            raise UserError(f"the sample {settings.sample} cannot be read: {err.strerror}") from err
        ids = ids_of_sample(table)
        way_out = f"DATA is {pictures} here: give the folder that holds these pictures"
        items = items_to_predict(files, "", ids, sample=table.name, way_out=way_out)
        layout = sample_layout(table, pack.classes, image_id=ids)
        if layout.shown:  # no separator: then it is the pack's
            layout = replace(layout, label_separator=pack.label_separator, shown=None)
    return sorted(items, key=lambda item: item.image_id), layout


@dataclass
class _Work:
    """The blocks of pictures: which are done, and how the next ones are. step: the part of the ensemble in use."""

    opened: OpenPack
    pictures: Path
    items: Sequence[Item]
    settings: InferSettings
    state: Path
    say: Callable[[str], object]
    step: int = 0
    per_picture: float = 0.0  # seconds, by the last block; 0 where none was predicted yet

    @cached_property
    def blocks(self) -> list[slice]:
        n = len(self.items)
        return [slice(0, min(FIRST, n)), *(slice(at, min(at + BLOCK, n)) for at in range(FIRST, n, BLOCK))]

    @property
    def part(self) -> Smaller:
        return self.opened.pack.smaller[self.step]

    def path(self, at: int) -> Path:
        return self.state / f"block-{at:05d}.npz"

    def run(self, began: float, track: Track) -> set[int]:
        """Predict all blocks that are not done; returns those that are. Fewer than all where the time was up."""
        hours = self.settings.max_hours
        deadline = None if hours is None else began + max(hours * 3600 - WRITING_SECONDS, 0.0)
        self._begin(deadline)
        todo = [at for at in range(len(self.blocks)) if not self.path(at).is_file()]
        done = set(range(len(self.blocks))) - set(todo)
        sizes = [self.blocks[at].stop - self.blocks[at].start for at in todo]
        if done and not self.per_picture:  # of an earlier call
            with np.load(self.path(max(done)), allow_pickle=False) as block:
                self.per_picture = float(block.get("per_picture", 0.0))  # an older call did not keep it
        with ThreadPoolExecutor(1, thread_name_prefix="decode") as thread:
            ahead: list[Future[PixelStore]] = []
            for i, at in enumerate(track(todo, what="pictures", total=len(todo), unit="blocks")):
                if deadline is not None and time.monotonic() + self.per_picture * sizes[i] > deadline:
                    break
                since = time.monotonic()
                store = ahead.pop().result() if ahead else self._decode(at)
                if i + 1 < len(todo):  # the next block is decoded while this one is predicted
                    ahead.append(thread.submit(self._decode, todo[i + 1]))
                self._predict(at, store, track, since=since)
                done.add(at)
        return done

    def _begin(self, deadline: float | None) -> None:
        """Go on with the part of the ensemble that an earlier call chose, or choose one."""
        listed = "\n".join(f"{item.image_id}\t{item.file.path}\t{item.file.bytes}" for item in self.items)
        head = {"pack": self.opened.digest, "pictures": digest(listed.encode(errors="surrogatepass"))}
        path = self.state / "head.json"
        if path.is_file():
            stored = read_json(path, hint=f"remove {self.state}")
            if {key: stored.get(key) for key in head} != head:
                why = f"{self.state} was begun with another pack or other pictures"
                raise UserError(why, hint="remove it, or take another `--out`")
            self.step = stored["step"]
            return
        for left in self.state.glob("block-*.npz"):  # of a call that was stopped before it had chosen
            left.unlink()
        if deadline is not None:
            self._choose(deadline)
        write_json(path, {**head, "step": self.step})

    def _choose(self, deadline: float) -> None:
        """Predict the first block, and choose the largest part of the ensemble that all pictures have time for."""
        since = time.monotonic()
        store = self._decode(0)
        decoded = time.monotonic()
        self._predict(0, store, silently, since=since)
        now, first = time.monotonic(), self.blocks[0]
        n = first.stop - first.start
        decode, predict, steps = (decoded - since) / n, (now - decoded) / n, self.opened.pack.smaller

        def seconds(part: Smaller) -> float:  # for all pictures; the whole ensemble has predicted the first ones
            return ROOM * (len(self.items) - n * (part is steps[0])) * (decode + predict * part.cost)

        self.step = affordable([seconds(part) for part in steps], left=deadline - now)
        self.per_picture = decode + predict * self.part.cost
        if self.step:
            self.say(
                f"the whole ensemble would take {duration(seconds(steps[0]))}; {describe(self.part, steps[0])} takes"
                f" about {duration(seconds(self.part))}"
            )
            self.path(0).unlink()

    def _decode(self, at: int) -> PixelStore:
        """The pictures of a block, decoded into a store of their own."""
        pack, items = self.opened.pack, self.items[self.blocks[at]]
        path = self.state / f"pixels-{at:05d}"
        workers = self.settings.workers or usable_cores()
        files = [item.file for item in items]
        with refusing(path, hint="free some room, or choose another folder with `--out`"):
            pixels = FORMS[pack.store_form].create(path, n=len(items), size=pack.store_size)
            facts, _ = fill(pixels, files, root=self.pictures, known=Known({}, None), workers=workers, track=silently)
        return PixelStore(
            pixels=pixels,
            image_id=np.array([item.image_id for item in items], dtype=str),
            split=np.array(["test" if fact.decoded > 0 else "" for fact in facts], dtype=str),
            width=np.array([fact.width for fact in facts], dtype=np.int64),
            height=np.array([fact.height for fact in facts], dtype=np.int64),
            size=pack.store_size,
        )

    def _predict(self, at: int, store: PixelStore, track: Track, *, since: float) -> None:
        """Write the three best classes of a block's readable pictures, and remove their pixels. since: it was begun"""
        rows = np.flatnonzero(store.split == "test")
        best = top_classes(self._scores(store, rows, track), k=3).astype(np.int32)
        self.per_picture = (time.monotonic() - since) / len(store.split)
        buffer = io.BytesIO()
        np.savez(buffer, rows=rows, best=best, per_picture=self.per_picture)
        write_bytes(self.path(at), buffer.getvalue())
        store.pixels.path.unlink()

    def _scores(self, store: PixelStore, rows: np.ndarray, track: Track) -> np.ndarray:
        """The blended scores of store rows (n,). (n, C) float64. One run's networks are in memory at a time."""
        from models.predict.packed import packed_log_probs

        pack, part, names = self.opened.pack, self.part, sorted(self.part.members)
        totals = {name: np.zeros((len(rows), len(pack.classes)), np.float32) for name in names}
        counts, seen = dict.fromkeys(names, 0), dict[tuple[str, str], np.ndarray]()
        for run_name in sorted({run for name in names for run in pack.members[name].runs}):
            users = [name for name in names if run_name in pack.members[name].runs]
            wanted = tuple(dict.fromkeys(view for name in users for view in part.members[name]))
            found = packed_log_probs(
                replace(pack.runs[run_name], views=wanted),
                self.opened.read,
                store,
                rows,
                n_classes=len(pack.classes),
                device_name=self.settings.device,
                batch_size=self.settings.predict_batch,
                what=run_name,
                track=track,
                seen=seen,
            )
            for log_probs in found:
                for name in users:
                    totals[name] += average_views(log_probs, [wanted.index(view) for view in part.members[name]])
                    counts[name] += 1
        return pack.recipe(names).scores(totals[name] / np.float32(counts[name]) for name in names)

    def found(self, finished: set[int]) -> tuple[dict[str, np.ndarray], set[str]]:
        """The best classes of every picture in these blocks that could be read, and the ids of all."""
        found: dict[str, np.ndarray] = {}
        for at in finished:
            with np.load(self.path(at), allow_pickle=False) as block:
                for row, best in zip(block["rows"].tolist(), block["best"], strict=True):
                    found[self.items[self.blocks[at].start + row].image_id] = best
        return found, {item.image_id for at in finished for item in self.items[self.blocks[at]]}


def affordable(seconds: Sequence[float], *, left: float) -> int:
    """The first of ever cheaper ways that the time suffices for; the cheapest where it suffices for none."""
    return next((at for at, needed in enumerate(seconds) if needed <= left), len(seconds) - 1)


def describe(part: Smaller, whole: Smaller) -> str:
    """What is left of an ensemble, and what that costs out of fold."""
    left = tuple(dict.fromkeys(view for views in part.members.values() for view in views))
    views = "" if set(left) == {view for of in whole.members.values() for view in of} else f" under {', '.join(left)}"
    members = f"{len(part.members)} of {len(whole.members)} members{views}"
    return f"{members} (out-of-fold top-3 error {part.oof_top3_error:.4f} instead of {whole.oof_top3_error:.4f})"
