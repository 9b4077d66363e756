"""This file says what became of a submission, in lines for the terminal."""

from __future__ import annotations

from folds.errors import first_few
from submissions.submission import SubmissionResult


def submission_summary(result: SubmissionResult) -> str:
    """What was written, what was guessed, and what is promised."""
    sentences = [f"{result.path}: {result.rows:,} rows, valid"]
    if result.guessed:
        sentences.append(
            f"{len(result.guessed):,} unreadable test images got the most frequent classes: {first_few(result.guessed)}"
        )
    if result.partial:
        networks = ", ".join(f"{run} {count}" for run, count in result.partial["networks"].items())
        sentences.append(f"partial: made by the networks that are done ({networks})")
    if result.promised is not None:
        sentences.append(f"expected top-3 error {result.promised:.4f}, cross-fitted on out-of-fold images")
    return "\n".join(sentences)
