"""Shows a blend: a table of the candidates, one of the members, and the sentences that belong to them."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ensemble.blend.expected import expected_sentences
from ensemble.blend.make_blend import BlendResult
from folds.base.errors import first_few
from folds.base.terminal import figures


def blend_summary(result: BlendResult) -> Group:
    """Everything that `blend` says, for a rich console."""
    return Group(candidate_table(result), member_table(result), *map(Text, blend_sentences(result)))


def candidate_table(result: BlendResult) -> Table:
    """One row per candidate: its loss in-sample, and on images that its weights have not seen."""
    title = f"candidates, {result.metric.title} on {result.blend.images:,} out-of-fold images"
    numbers = ("in-sample", "cross-fitted", "95% interval", "optimism", "behind the best")
    table = figures(title, texts=("", "candidate"), numbers=numbers)
    table.add_column("what it is")
    for score in result.scores:
        table.add_row(
            "*" if score is result.kept else "",
            score.candidate.name,
            f"{score.in_sample:.4f}",
            f"{score.crossfit:.4f}",
            f"{score.low:.4f} - {score.high:.4f}",
            f"{score.optimism:+.4f}",
            f"{score.behind:.4f} +- {score.behind_error:.4f}" if score.behind else "best",
            score.candidate.about,
        )
    return table


def member_table(result: BlendResult) -> Table:
    """One row per member: its own loss, its weight with the spread over folds, and the change without it.

    correlation  of its errors with those of the other members, the mean
    """
    numbers = ("alone", "rarest quarter", "log loss", "weight", "over folds", "without it", "correlation")
    title = f"members of the kept blend, {result.blend.candidate}"
    table = figures(title, texts=("member",), numbers=numbers)
    for one in result.blend.worth:
        table.add_row(
            one.name,
            f"{one.alone:.4f}",
            f"{one.rarest:.4f}",
            f"{one.log_loss:.4f}",
            f"{one.weight:.3f}",
            f"{one.weight_low:.3f} - {one.weight_high:.3f}",
            "-" if one.without is None else f"{one.without - result.blend.crossfit:+.4f}",
            "-" if one.error_correlation is None else f"{one.error_correlation:.2f}",
        )
    return table


def blend_sentences(result: BlendResult) -> list[str]:
    """What was kept and why, the expected score, which members could go, and what looks wrong."""
    blend, kept = result.blend, result.kept
    sentences = [f"kept: {blend.candidate}, because {blend.why}", *expected_sentences(result.metric, blend.expected)]
    if kept.optimism:
        sentences.append(f"in-sample {kept.in_sample:.4f}, too good: the weights were fitted on the same images")
    if blend.expected.oof != blend.crossfit:
        sentences.append(
            f"{blend.candidate} itself has {blend.crossfit:.4f}, but it was chosen on these images: the expected"
            " value scores each fold under the candidate chosen without it"
        )
    title, undecided = result.metric.title, result.undecided
    sentences.append(f"mean {title} of the rarest quarter of the classes: {result.rarest:.4f}, cross-fitted")
    if undecided is not None:
        sentences.append(f"weights can change the outcome of {undecided:.1%} of the images; the others are decided")
    idle = [one.name for one in blend.worth if one.without is not None and one.without <= blend.crossfit]
    if idle:
        sentences.append(f"without {first_few(idle, most=5)} (one at a time) the blend is as good")
    return sentences + [f"warning: {warning}" for warning in result.warnings]
