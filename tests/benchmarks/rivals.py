"""Runs AutoGluon's EnsembleSelection and hillclimbers on the same folds, each if it can be imported.

It is started as a script of its own, perhaps by another Python (`--rivals PYTHON`), since neither is a dependency here:
`python rivals.py NAME FOLDER`, where FOLDER holds probs.npy (M, N, C), target.npy and fold.npy. Prints one JSON line.
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np

CHUNK = 8192


def top3_error(target, probs):
    missed = 0
    for start in range(0, len(target), CHUNK):
        piece, truth = np.asarray(probs[start : start + CHUNK]), target[start : start + CHUNK]
        own = piece[np.arange(len(truth)), truth][:, None]
        missed += int((((piece > own).sum(axis=1)) >= 3).sum())
    return missed / len(target)


def autogluon(probs, target):
    """25 steps, as by default, on the top-3 error."""
    from autogluon.core.metrics import make_scorer
    from autogluon.core.models.greedy_ensemble.ensemble_selection import EnsembleSelection

    scorer = make_scorer("top3", lambda y, p: 1 - top3_error(np.asarray(y), p), optimum=1, needs_proba=True)
    selection = EnsembleSelection(ensemble_size=25, problem_type="multiclass", metric=scorer)
    selection.fit([np.asarray(one) for one in probs], target)
    return np.asarray(selection.weights_, float)


def hillclimbers(probs, target):
    """Precision 0.05; it knows vectors only, so the (N, C) matrices travel as columns of rows."""
    import contextlib
    import io
    from functools import partial

    import pandas as pd
    from hillclimbers import climb_hill

    n, n_classes = probs.shape[1:]
    frame = pd.DataFrame({f"m{m:02d}": probs[m].reshape(-1) for m in range(len(probs))})
    metric = partial(lambda y, p: top3_error(target, np.asarray(p).reshape(n, n_classes)))
    truth = pd.DataFrame({"y": np.zeros(len(frame), np.int8)})
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        made = climb_hill(
            train=truth, oof_pred_df=frame, test_pred_df=pd.DataFrame(np.eye(len(probs)), columns=frame.columns),
            target="y", objective="minimize", eval_metric=metric, precision=0.05, plot_hill=False,
        )  # fmt: skip
    return np.asarray(made, float)  # the blend of the unit vectors is the weights


def main(name: str, folder: str) -> None:
    probs = np.load(f"{folder}/probs.npy", mmap_mode="r")
    target, fold = np.load(f"{folder}/target.npy"), np.load(f"{folder}/fold.npy")
    fit = {"autogluon": autogluon, "hillclimbers": hillclimbers}[name]
    try:
        fit(np.asarray(probs[:, :200]), target[:200])
    except ImportError as err:
        print(json.dumps({"skipped": str(err)}))
        return
    start = time.perf_counter()
    weights = fit(probs, target)
    seconds = time.perf_counter() - start
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1000
    missed = 0.0
    for k in np.unique(fold):
        rows = np.flatnonzero(fold == k)
        other = np.flatnonzero(fold != k)
        part = fit(np.ascontiguousarray(probs[:, other]), target[other])
        missed += len(rows) * top3_error(target[rows], np.tensordot(part, probs[:, rows], 1))
    in_sample = sum(
        top3_error(target[a : a + CHUNK], np.tensordot(weights, probs[:, a : a + CHUNK], 1))
        * len(target[a : a + CHUNK])
        for a in range(0, len(target), CHUNK)
    )
    figures = {"in_sample": in_sample / len(target), "crossfit": missed / len(target)}
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "weights": weights.round(4).tolist(), **figures}))


if __name__ == "__main__":
    main(*sys.argv[1:])
