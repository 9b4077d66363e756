"""Weights from timm's model hub, out of its cache or downloaded into it."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import huggingface_hub
import timm

from folds.base.errors import UserError
from models.backbones import Backbone

REACH_SECONDS = 4  # the model hub counts as unreachable if it takes longer to answer
HUB_FILE = "model.safetensors"  # what timm calls its weights on the hub


def find_weights(backbone: Backbone) -> Path:
    """The file with the weights of a tag: from the hub's cache, else downloaded into it.

    Raises UserError, within seconds and with the three ways out, where there is neither cache nor network.
    """
    cfg = timm.get_pretrained_cfg(backbone.tag)
    if cfg is None or not cfg.hf_hub_id:
        raise UserError(f"timm offers no weights for {backbone.tag}", hint="`--weights FILE` or `--no-pretrained`")
    repo = cfg.hf_hub_id if cfg.hf_hub_id != "timm/" else f"timm/{backbone.tag}"
    cached = huggingface_hub.try_to_load_from_cache(repo, HUB_FILE)
    if isinstance(cached, str):
        return Path(cached)
    if not _hub_answers():
        raise _no_weights(backbone, "the model hub cannot be reached")
    try:
        return Path(huggingface_hub.hf_hub_download(repo, HUB_FILE))
    except (OSError, ValueError) as err:  # huggingface_hub's errors are both
        raise _no_weights(backbone, str(err).strip().splitlines()[0]) from err


def _no_weights(backbone: Backbone, why: str) -> UserError:
    return UserError(
        f"the weights {backbone.tag} are not on this machine and cannot be downloaded: {why}",
        hint="go online once, give a local file with `--weights FILE`, or start from scratch with `--no-pretrained`",
    )


def _hub_answers() -> bool:
    """Whether the model hub answers; huggingface_hub itself tries for three quarters of a minute."""
    request = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=REACH_SECONDS).close()
    except urllib.error.HTTPError:
        return True  # it answered
    except (OSError, ValueError):
        return False
    return True
