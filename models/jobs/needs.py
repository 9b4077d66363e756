"""Says what a job needs of a machine on Ray: a share of a GPU, cores, and not to be one where it failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from folds.base.errors import UserError
from folds.engine import EngineSettings


@dataclass(frozen=True)
class Needs:
    """Share of a GPU, cores, and machines to avoid, by Ray's names for them."""

    gpus: float
    cpus: int
    avoid: frozenset[str] = frozenset()

    def fits(self, machine: Mapping[str, Any]) -> bool:
        """Whether a machine has all that, were it idle."""
        there = machine["Resources"]
        is_enough = there.get("GPU", 0) >= self.gpus and there.get("CPU", 0) >= self.cpus
        return bool(is_enough and machine["NodeID"] not in self.avoid)


def machines(ray: Any) -> list[dict[str, Any]]:
    """The machines of Ray that live, as Ray describes them."""
    return [machine for machine in ray.nodes() if machine["Alive"]]


def find_needs(ray: Any, engine: EngineSettings, *, run: str, device: str) -> Needs:
    """What a job of a run needs. Raises UserError where no machine has it.

    On a CPU a job gets the cores that it would have without Ray, since what torch computes depends on their number.
    """
    there = machines(ray)
    has_gpus = any("GPU" in machine["Resources"] for machine in there)
    if device == "cuda" and not has_gpus:
        raise UserError(f"no machine of Ray has a GPU, and {run} wants one", hint="`--device cpu`")
    gpus = engine.gpus_per_job if has_gpus and device != "cpu" else 0.0
    fit = [machine["Resources"].get("CPU", 0) for machine in there if Needs(gpus, 0).fits(machine)]
    most = int(max(fit, default=0))
    usual = 1 if gpus else min(torch.get_num_threads(), max(most, 1))
    needs = Needs(gpus, engine.cpus_per_job or usual)
    if needs.cpus > most:
        what = "with a GPU" if gpus else "of Ray"
        raise UserError(
            f"a job is to get {needs.cpus} cores, and the largest machine {what} has {most}",
            hint=f"`--cpus-per-job {max(most, 1)}`",
        )
    return needs
