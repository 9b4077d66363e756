"""Runs AutoGluon's EnsembleSelection and hillclimbers on the same folds, each if it can be imported.

Started as a script of its own, perhaps by another Python (`--rivals PYTHON`), since neither is a dependency here:
`python rivals.py NAME FOLDER`, where FOLDER holds probs.npy (M, N, C), target.npy and fold.npy. Prints one JSON line.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np


def top3_error(target, probs):
    own = probs[np.arange(len(target)), target][:, None]
    return float(((probs > own).sum(axis=1) >= 3).mean())


def autogluon(probs, target):
    """25 steps, as by default, on the top-3 error."""
    from autogluon.core.metrics import make_scorer
    from autogluon.core.models.greedy_ensemble.ensemble_selection import EnsembleSelection

    scorer = make_scorer("top3", lambda y, p: 1 - top3_error(np.asarray(y), p), optimum=1, needs_proba=True)
    selection = EnsembleSelection(ensemble_size=25, problem_type="multiclass", metric=scorer)
    selection.fit(list(probs), target)
    return np.asarray(selection.weights_, float)


def hillclimbers(probs, target):
    """Precision 0.05; it knows vectors only, so that the (N, C) matrices travel as columns of rows."""
    import pandas as pd
    from hillclimbers import climb_hill

    frame = pd.DataFrame({f"m{m:02d}": probs[m].reshape(-1) for m in range(len(probs))})
    truth = pd.DataFrame({"y": np.zeros(len(frame), np.int8)})
    with contextlib.redirect_stdout(io.StringIO()):
        made = climb_hill(
            train=truth, oof_pred_df=frame, test_pred_df=pd.DataFrame(np.eye(len(probs)), columns=frame.columns),
            target="y", objective="minimize", precision=0.05, plot_hill=False,
            eval_metric=lambda y, p: top3_error(target, np.asarray(p).reshape(probs.shape[1:])),
        )  # fmt: skip
    return np.asarray(made, float)  # the blend of the unit vectors is the weights


def main(name: str, folder: str) -> None:
    probs, target, fold = (np.load(f"{folder}/{part}.npy") for part in ("probs", "target", "fold"))
    fit = {"autogluon": autogluon, "hillclimbers": hillclimbers}[name]
    try:
        fit(probs[:, :200], target[:200])
    except ImportError as err:
        print(json.dumps({"skipped": str(err)}))
        return
    start = time.perf_counter()
    weights = fit(probs, target)
    seconds, missed = time.perf_counter() - start, 0.0
    for k in np.unique(fold):
        part = fit(probs[:, fold != k], target[fold != k])
        missed += (fold == k).sum() * top3_error(target[fold == k], np.tensordot(part, probs[:, fold == k], 1))
    in_sample = top3_error(target, np.tensordot(weights, probs, 1))
    print(json.dumps({"seconds": seconds, "in_sample": in_sample, "crossfit": missed / len(target)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
