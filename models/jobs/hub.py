"""The weights that a run starts from: a local file, or one of timm's model hub, cached or downloaded."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import huggingface_hub
import timm

from folds.base.errors import UserError
from folds.base.workspace import digest
from models.backbones import Backbone, resolve_backbone
from models.runs import RunPlan, named_weights

REACH_SECONDS = 4  # the model hub counts as unreachable if it takes longer to answer
HUB_FILE = "model.safetensors"  # what timm calls its weights on the hub


def find_start(plan: RunPlan, backbone: Backbone) -> Path | None:
    """The weights file that the plan's networks start from; None for a random start."""
    return plan.weights or (find_weights(backbone) if plan.settings.pretrained else None)


def weights_name(plan: RunPlan) -> str:
    """The digest of a local file; `pretrained` stands for the tag's own, `random` for none.

    Raises UserError where `--weights NAME=FILE` names no backbone: it would have no say.
    """
    for backbone, _ in named_weights(plan.settings):
        if backbone:
            resolve_backbone(backbone)
    if plan.weights is None:
        return "pretrained" if plan.settings.pretrained else "random"
    try:
        return digest(plan.weights.read_bytes())
    except OSError as err:
        raise UserError(
            f"the weights file {plan.weights} cannot be read: {err.strerror}", hint="`--weights FILE`"
        ) from err


def find_weights(backbone: Backbone) -> Path:
    """The file with the weights of a tag: from the hub's cache, else downloaded into it.

    Raises UserError, within seconds and with the three ways out, where there is neither cache nor network.
    """
    cfg = timm.get_pretrained_cfg(backbone.tag)
    if cfg is None or not cfg.hf_hub_id:
        raise UserError(
            f"the weights {backbone.tag} are not on the model hub", hint="`--weights FILE` or `--no-pretrained`"
        )
    repo = cfg.hf_hub_id if cfg.hf_hub_id != "timm/" else f"timm/{backbone.tag}"
    cached = huggingface_hub.try_to_load_from_cache(repo, HUB_FILE)
    if isinstance(cached, str):
        return Path(cached)
    try:
        _reach_hub()
        return Path(huggingface_hub.hf_hub_download(repo, HUB_FILE))
    except Exception as err:  # those of huggingface_hub, and of the HTTP library below it: it was another one in hub 1
        why = (str(err).strip() or type(err).__name__).splitlines()[0]
        raise UserError(
            f"the weights {backbone.tag} are not on this machine and cannot be downloaded: {why}",
            hint="go online once, give a local file with `--weights FILE`, or start from scratch with "
            "`--no-pretrained`",
        ) from err


def _reach_hub() -> None:
    """Raise OSError where the model hub is silent: huggingface_hub itself tries for three quarters of a minute."""
    request = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=REACH_SECONDS).close()
    except urllib.error.HTTPError:
        return  # it answered
    except (OSError, ValueError) as err:
        raise OSError("the model hub cannot be reached") from err
