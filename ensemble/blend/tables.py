"""Shows a blend: a table of the candidates, one of the members, and the sentences that belong to them."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ensemble.blend.cross_fit import Score
from ensemble.blend.make_blend import BlendResult
from folds.base.errors import first_few

MOST_WARNINGS = 5


def blend_summary(result: BlendResult) -> Group:
    """Everything that `blend` says, for a rich console."""
    sentences = [Text(sentence) for sentence in blend_sentences(result)]
    return Group(candidate_table(result), member_table(result), *sentences)


def candidate_table(result: BlendResult) -> Table:
    """One row per candidate: what it seems to lose, what it loses on images that its weights have not seen."""
    table = Table(
        title=f"candidates, {result.metric.title} on {result.blend.images:,} out-of-fold images", box=SIMPLE_HEAD
    )
    for heading, justify in (("", "left"), ("candidate", "left"), ("in-sample", "right"), ("cross-fitted", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for heading in ("95% interval", "optimism", "behind the best"):
        table.add_column(heading, justify="right")
    table.add_column("what it is")
    for score in result.scores:
        table.add_row(
            "*" if score is result.kept else "",
            score.candidate.name,
            f"{score.in_sample:.4f}",
            f"{score.crossfit:.4f}",
            f"{score.interval[0]:.4f} - {score.interval[1]:.4f}",
            f"{score.optimism:+.4f}",
            f"{score.behind:.4f} +- {score.behind_error:.4f}" if score.behind else "best",
            score.candidate.about,
        )
    return table


def member_table(result: BlendResult) -> Table:
    """One row per member: its own loss, its weight with the spread over folds, and what the blend is without it."""
    table = Table(title=f"members of the kept blend, {result.kept.candidate.name}", box=SIMPLE_HEAD)
    table.add_column("member")
    for heading in ("alone", "log loss", "weight", "over folds", "without it", "error correlation"):
        table.add_column(heading, justify="right")
    table.add_column("nearest")
    for one in result.worth:
        table.add_row(
            one.name,
            f"{one.alone:.4f}",
            f"{one.log_loss:.4f}",
            f"{one.weight:.3f}",
            f"{one.weight_low:.3f} - {one.weight_high:.3f}",
            "-" if one.without is None else f"{one.without - result.kept.crossfit:+.4f}",
            "-" if one.error_correlation is None else f"{one.error_correlation:.2f}",
            one.nearest or "-",
        )
    return table


def blend_sentences(result: BlendResult) -> list[str]:
    """What was kept and why, what is promised, which members could go, and what looks wrong."""
    blend, kept = result.blend, result.kept
    low, high = result.nested.interval
    sentences = [
        f"kept: {blend.candidate}, because {blend.why}",
        f"expected {result.metric.title} {result.nested.loss:.4f} ({low:.4f} to {high:.4f}), cross-fitted;"
        f" {_in_sample(kept)}",
    ]
    if result.nested.loss != kept.crossfit:
        sentences.append(
            f"{kept.candidate.name} itself has {kept.crossfit:.4f}, but it was chosen on these images: the expected"
            " value scores each fold under the candidate chosen without it"
        )
    if result.undecided is not None:
        sentences.append(
            f"weights can change the outcome of {result.undecided:.1%} of the images; the others are decided"
        )
    if result.idle:
        sentences.append(f"dropping {first_few(result.idle, most=5)} (one at a time) costs nothing")
    return sentences + [f"warning: {warning}" for warning in result.warnings[:MOST_WARNINGS]]


def _in_sample(kept: Score) -> str:
    if kept.optimism == 0:
        return "nothing was fitted that could flatter it"
    return f"in-sample it is {kept.in_sample:.4f}, which is not to be trusted"
