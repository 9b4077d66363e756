"""Plans a probe: which backbone is asked with which weights, and which folds it still lacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from folds.base.workspace import Workspace, digest, read_json
from folds.split.assign import Folds
from models.backbones import build_network, resolve_backbone
from models.device import choose_device
from models.jobs.plan import find_start, weights_name
from models.precision import run_precision
from models.probe.frozen import FrozenBody
from models.probe.head_files import head_views
from models.runs import PROBE, RunPlan, done_folds, refuse_other_settings
from models.settings import PredictSettings


@dataclass(frozen=True)
class Probe:
    """A run to probe, with everything that was checked before the first one began."""

    name: str
    body: FrozenBody
    settings_json: dict[str, Any]
    done: dict[int, dict[str, Any]]  # done.json of the folds that are done under the views asked for
    lacking: tuple[int, ...]
    weights_digest: str = ""  # of the very file, downloaded or local; empty for random weights

    @property
    def head_views(self) -> tuple[str, ...]:
        return head_views(mirror=self.settings_json["settings"]["mirror"])


def plan_probe(workspace: Workspace, plan: RunPlan, folds: Folds, predict: PredictSettings) -> Probe:
    """The probe of a plan, and which of its folds are done under the views asked for; refuses other settings."""
    backbone, settings = resolve_backbone(plan.backbone), plan.settings
    device = choose_device(settings.device)
    size = settings.image_size or backbone.size
    precision = run_precision(
        settings.precision, device, backbone, size=size, way="forward", before=_begun_with(workspace, plan.name)
    )
    settings_json = {
        "run": plan.name,
        "kind": PROBE,
        "backbone": backbone.tag,
        "weights": weights_name(plan),
        "seed": folds.seed,
        "folds_digest": folds.digest,
        "settings": {
            "image_size": size,
            "precision": str(precision).removeprefix("torch."),
            "mirror": settings.mirror,
        },
    }
    refuse_other_settings(workspace, settings_json)
    done = {k: one for k, one in done_folds(workspace, plan.name).items() if one["views"] == list(predict.views)}
    lacking = tuple(k for k in range(folds.n_folds) if k not in done)
    weights = find_start(plan, backbone) if lacking else None
    if lacking:  # a trial: a wrong file or size is refused now
        build_network(backbone, 1, size=size, weights=weights)
    body = FrozenBody(backbone, weights, size, device, precision, folds.seed)
    weights_digest = digest(weights.read_bytes()) if weights else ""
    return Probe(plan.name, body, settings_json, done, lacking, weights_digest)


def _begun_with(workspace: Workspace, run: str) -> dict[str, str]:
    """The precision of a probe that has been begun, as `--precision` calls it."""
    names = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
    for path in sorted((workspace.models / run).glob("fold*/settings.json")):
        stored = read_json(path, hint=f"remove {path.parent}").get("settings", {}).get("precision")
        if stored in names:
            return {"forward": names[stored]}
    return {}
