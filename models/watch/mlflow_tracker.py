"""Writes curves for MLflow: a run for each fold, in an experiment for each run of ours."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

import mlflow

from folds.base.workspace import Workspace
from models.watch.curves import Ending, TrackedJob, row_figures
from models.watch.events import EpochRow

PART = "foldblend.part"  # the tag that says which fold an MLflow run is
ENDINGS = {"done": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


class MlflowTracker:
    """Logs to the server or store at `uri`; a fold that goes on does so in the MLflow run that it began in."""

    def __init__(self, uri: str) -> None:
        self.client = mlflow.MlflowClient(tracking_uri=uri)
        self._runs: dict[str, str] = {}  # our job -> MLflow's run
        self._known: dict[str, set[int]] = {}  # the epochs that stand in it

    def begin(self, job: TrackedJob, rows: Sequence[EpochRow]) -> None:
        """Go on in the fold's last MLflow run, if it is behind some epochs; else make a new one."""
        found = self.client.get_experiment_by_name(job.run)
        experiment = found.experiment_id if found else self.client.create_experiment(job.run)
        before = self._last_run(experiment, job) if rows else None
        self._runs[job.name] = run_id = before or self._new_run(experiment, job)
        self._known[job.name] = {metric.step for metric in self.client.get_metric_history(run_id, "rate")}
        for row in rows:
            self.epoch(job, row)

    def epoch(self, job: TrackedJob, row: EpochRow) -> None:
        """Log the epoch, unless a process that was killed had done so already: the same seed makes the same figures."""
        if row.epoch in self._known[job.name]:
            return
        self._known[job.name].add(row.epoch)
        for name, value in row_figures(row).items():
            self.client.log_metric(self._runs[job.name], name, value, step=row.epoch)

    def end(self, job: TrackedJob, figures: Mapping[str, float], ending: Ending) -> None:
        run_id = self._runs.pop(job.name)
        for name, value in figures.items():
            self.client.log_metric(run_id, f"fold/{name}", value)
        self.client.set_terminated(run_id, ENDINGS[ending])

    def _last_run(self, experiment: str, job: TrackedJob) -> str | None:
        found = self.client.search_runs(
            [experiment], f"tags.`{PART}` = '{job.part}'", order_by=["attributes.start_time DESC"], max_results=1
        )
        if not found:
            return None
        self.client.update_run(found[0].info.run_id, status="RUNNING")
        return found[0].info.run_id

    def _new_run(self, experiment: str, job: TrackedJob) -> str:
        run_id: str = self.client.create_run(experiment, run_name=job.name, tags={PART: job.part}).info.run_id
        for name, value in job.settings.items():
            self.client.log_param(run_id, name, value)
        return run_id


def make_tracker(workspace: Workspace) -> MlflowTracker:
    """The tracker at MLFLOW_TRACKING_URI, as everywhere with MLflow; a database in the work folder without it."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)  # each makes a report of setting up a database
    folder = workspace.root / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    return MlflowTracker(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / 'mlflow.db'}")
