"""This file says what became of a submission, and what a check found, in lines for the terminal."""

from __future__ import annotations

from folds.errors import first_few
from submissions.check import CheckResult
from submissions.submission import SubmissionResult


def submission_sentences(result: SubmissionResult) -> list[str]:
    """What was written, what was guessed, and what is promised."""
    sentences = [f"{result.path}: {result.rows:,} rows, valid"]
    if result.guessed:
        sentences.append(
            f"{len(result.guessed):,} unreadable test images got the most frequent classes: {first_few(result.guessed)}"
        )
    if result.promised is not None:
        sentences.append(f"expected top-3 error {result.promised:.4f}, cross-fitted on out-of-fold images")
    return sentences


def check_sentences(result: CheckResult) -> list[str]:
    """One line if the CSV is valid, one a fault if it is not."""
    if result.is_valid:
        return [f"{result.path}: {result.rows:,} rows, valid"]
    return [f"{result.path}: {fault}" for fault in result.faults]
