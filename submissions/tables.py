"""Lines for the terminal about a submission or a report."""

from __future__ import annotations

import shlex

from ensemble.blend.expected import expected_words
from folds.base.errors import first_few
from submissions.early import Early
from submissions.report.make import ReportResult
from submissions.write import SubmissionResult


def submission_summary(result: SubmissionResult) -> str:
    """What was written, which images were guessed, and the expected score."""
    sentences = [f"{result.path}: {result.rows:,} rows, valid"]
    if result.guessed:
        sentences.append(
            f"{len(result.guessed):,} unreadable test images got the most frequent classes: {first_few(result.guessed)}"
        )
    if result.partial:
        networks = ", ".join(f"{run} {count}" for run, count in result.partial["networks"].items())
        sentences.append(f"partial: made by the networks that are done ({networks})")
    if result.expected is not None:
        where = f"{result.expected.test_images:,} test images" if result.expected.test_images else "new images"
        sentences.append(f"expected top-3 error {expected_words(result.expected)} on {where}")
    return "\n".join(sentences)


def early_summary(early: Early) -> str:
    """That there is a first CSV, of the probes alone, and its expected score."""
    if early.written is None:
        made = f"{early.path}: was there before\nexpected top-3 error {expected_words(early.expected)}"
    else:
        made = submission_summary(early.written)
    return f"{made}\nthat is a first submission, of {first_few(early.probes)} alone; training comes next"


def report_summary(result: ReportResult, *, same_place: str) -> str:
    """The path and size of the page, what it could not show, and what to do with suspected labels."""
    sentences = [f"{result.path}: {result.bytes / 1e6:.1f} MB, one file that any browser opens"]
    sentences += [f"warning: {problem}" for problem in result.problems]
    if result.refused:
        sentences.append(f"{result.refused:,} pictures were left out, so that the page stays below 15 MB")
    if result.is_relabel_kept:
        sentences.append(f"{result.relabel} has edits and is left as it is until `prepare --relabel` has read it")
    elif result.suspects:
        errors = "error" if result.suspects == 1 else "errors"
        sentences.append(
            f"{result.suspects:,} suspected label {errors}: edit {result.relabel}, then"
            f" `python run.py prepare DATA --relabel {shlex.quote(str(result.relabel))}{same_place}`"
        )
    return "\n".join(sentences)
