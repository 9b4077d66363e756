"""Declares the settings of the engine that does the jobs: here, or on Ray."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from folds.settings import at_least


@Parameter(name="*", group="engine")
@dataclass(frozen=True)
class EngineSettings:
    engine: Annotated[
        Literal["sequential", "ray"],
        Parameter(help="jobs one after another in this process, or side by side on Ray, on all GPUs or cores"),
    ] = "sequential"
    address: Annotated[str | None, Parameter(help="HOST:PORT of a Ray cluster that runs the jobs; implies ray")] = None
    gpus_per_job: Annotated[float, at_least(0.01, at_most=1, help="share of a GPU that a job on Ray gets")] = 1.0
    cpus_per_job: Annotated[
        int | None,
        at_least(1, help="cores of a job, and its threads; torch's own number (beside a GPU of Ray: 1) if not given"),
    ] = None
    cache: Annotated[
        Path | None,
        Parameter(help="folder on each machine's own disk; training reads a copy of the pixel store there"),
    ] = None

    @property
    def is_ray(self) -> bool:
        return self.engine == "ray" or self.address is not None


SEQUENTIAL = EngineSettings()
