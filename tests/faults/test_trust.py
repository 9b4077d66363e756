"""Tests what is promised of trust: nothing stored names the machine or a secret, no code in data is run."""

from __future__ import annotations

import ast
import json
import os
import socket
from pathlib import Path

import huggingface_hub
import pytest
from safetensors.torch import save_file

import run
from folds.base.errors import UserError
from folds.base.workspace import Workspace, digest
from models.backbones import build_network, read_weights, resolve_backbone
from tests.cli.test_house import imports, nodes
from tests.competition import make_competition

ROOT = Path(run.__file__).parent
HOUSE = [
    path for room in ("folds", "models", "ensemble", "submissions") for path in sorted((ROOT / room).rglob("*.py"))
]
TRAIN = [
    *("--backbone", "test_resnet", "--image-size", "32", "--batch-size", "8", "--epochs", "1"),
    *("--device", "cpu", "--precision", "fp32"),
]
FLAGS = [*TRAIN, "--store-size", "32", "--n-folds", "2", "--trials", "16"]
UNPICKLERS = {
    *("pickle", "cPickle", "_pickle", "dill", "cloudpickle"),
    *("joblib", "shelve", "marshal", "yaml", "jsonpickle"),
}
SECRET = "s3cret-0f-the-machine"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The whole way from weights in the hub's cache, with a secret in the environment: (work folder, weights file)."""
    folder = tmp_path_factory.mktemp("trust-of-a-machine")
    snapshot = folder / "hub" / "models--timm--test_resnet.r160_in1k" / "snapshots" / "a1b2c3"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("a1b2c3")
    save_file(
        build_network(resolve_backbone("test_resnet"), 1000, size=64).state_dict(), snapshot / "model.safetensors"
    )
    data = make_competition(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "hub"))
        for name in ("HF_TOKEN", "KAGGLE_KEY", "AWS_SECRET_ACCESS_KEY", "FOLDBLEND_ANYTHING"):
            patch.setenv(name, SECRET)
        patch.setenv("HOME", str(folder / "home-of-somebody"))
        patch.chdir(folder)
        assert run.main(["all", str(data), "--work", str(folder / "work"), *FLAGS]) == 0
        assert run.main(["predict", "--work", str(folder / "work")]) == 0
    return Workspace(folder / "work"), snapshot / "model.safetensors"


def stored(work: Workspace) -> list[Path]:
    return [path for path in sorted(work.root.rglob("*")) if path.is_file()]


def test_the_digest_of_the_downloaded_file_stands_with_every_fold(finished):
    work, weights = finished
    for fold in (0, 1):
        done = json.loads((work.fold("test_resnet", fold) / "done.json").read_text())
        settings = json.loads((work.fold("test_resnet", fold) / "settings.json").read_text())
        assert done["weights_digest"] == digest(weights.read_bytes())
        assert (settings["backbone"], settings["weights"]) == ("test_resnet.r160_in1k", "pretrained")


def test_a_local_file_stands_with_its_digest_and_a_random_start_with_none(finished):
    work, weights = finished
    words = ["train", "--work", str(work.root), *TRAIN, "--fold", "0"]
    assert run.main([*words, "--weights", str(weights), "--run", "local"]) == 0
    assert run.main([*words, "--no-pretrained", "--run", "random"]) == 0
    probe = ["probe", "--work", str(work.root), *TRAIN[:4], "--weights", str(weights), "--run", "probed"]
    assert run.main([*probe, "--device", "cpu", "--precision", "fp32"]) == 0
    names = ("local", "random", "probed")
    done = {name: json.loads((work.fold(name, 0) / "done.json").read_text()) for name in names}
    settings = json.loads((work.fold("local", 0) / "settings.json").read_text())
    assert done["local"]["weights_digest"] == settings["weights"] == digest(weights.read_bytes())
    assert done["probed"]["weights_digest"] == digest(weights.read_bytes())
    assert "weights_digest" not in done["random"]


def test_nothing_that_is_stored_holds_a_path_of_this_machine(finished):
    work, weights = finished
    for path in stored(work):
        content = path.read_bytes()
        for place in (work.root.parent, weights.parents[3], ROOT, Path.home()):
            assert len(str(place)) < 3 or str(place).encode() not in content, (path, place)


def test_nothing_that_is_stored_holds_a_value_of_the_environment(finished):
    work, _ = finished
    values = {SECRET, "home-of-somebody", socket.gethostname(), *os.environ.values()}
    words = [value.encode() for value in values if len(value) >= 8 and not value.isdigit()]
    for path in stored(work):
        content = path.read_bytes()
        assert not [word for word in words if word in content], path


def test_everything_that_is_stored_is_of_a_kind_that_holds_no_code(finished):
    kinds = {path.suffix for path in stored(finished[0])}
    pictures, arrays = {".png", ".svg", ".u8"}, {".npz", ".npy", ".safetensors"}
    assert kinds <= {".csv", ".json", ".jsonl", ".log", ".html"} | pictures | arrays, kinds


def calls(path: Path) -> list[ast.Call]:
    return [node for node in nodes(path) if isinstance(node, ast.Call)]


def name_of(call: ast.Call) -> str:
    return ast.unparse(call.func)


def said(call: ast.Call, keyword: str) -> object:
    return next((ast.literal_eval(one.value) for one in call.keywords if one.arg == keyword), None)


def test_nothing_in_the_house_unpickles_or_runs_text():
    assert ROOT / "submissions" / "report" / "make.py" in HOUSE  # folders within the rooms were once left out
    for path, call in ((one, call) for one in [*HOUSE, ROOT / "run.py"] for call in calls(one)):
        name = name_of(call)
        assert name.split(".")[0] not in UNPICKLERS, (path, name)
        assert name not in ("eval", "exec", "compile", "__import__", "os.system", "torch.hub.load"), (path, name)
        assert name != "torch.load" or said(call, "weights_only") is True, path
        assert name not in ("np.load", "numpy.load") or said(call, "allow_pickle") is False, path
        assert said(call, "allow_pickle") is not True, path
        if name != "app.generate_completion":  # it prints for a shell and runs none
            assert said(call, "shell") is not True, path
        assert said(call, "trust_remote_code") is not True, path


def test_no_module_imports_what_unpickles_but_for_the_name_of_an_error():
    for path in HOUSE:
        names = {name.split(".")[0] for name in imports(path)}
        assert names & UNPICKLERS <= ({"pickle"} if path.name == "backbones.py" else set()), path


def test_settings_are_read_by_toml_and_json_only():
    names = {name_of(call) for path in [*HOUSE, ROOT / "run.py"] for call in calls(path)}
    assert {name for name in names if name.endswith(".loads")} == {"tomllib.loads", "json.loads"}


class Code:
    """Writes a file as soon as it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("name", ["net.pth", "net.pt", "net.bin", "net.safetensors", "net"])
def test_code_in_a_weights_file_is_not_run(tmp_path, name):
    import torch

    torch.save({"fc.weight": Code(tmp_path / "was-run")}, tmp_path / name)
    with pytest.raises(UserError, match="holds no weights that can be read safely"):
        read_weights(tmp_path / name)
    assert not (tmp_path / "was-run").exists()
