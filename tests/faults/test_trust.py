"""Tests what is promised of trust: nothing stored names the machine or a secret, no code in data is run."""

import ast
import json
import os
import socket
from pathlib import Path

import huggingface_hub
import pytest
import torch

import run
from folds.base.workspace import Workspace, digest
from models.backbones import read_weights
from tests.cli.test_house import ROOMS, ROOT, imports, nodes
from tests.competition import QUICK, TRAIN, make_competition, refusal
from tests.models.small import save_body

HOUSE = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
UNPICKLERS = {
    *("pickle", "cPickle", "_pickle", "dill", "cloudpickle"),
    *("joblib", "shelve", "marshal", "yaml", "jsonpickle"),
}
SECRET = "s3cret-0f-the-machine"


def from_weights(words: list[str]) -> list[str]:
    return [word for word in words if word != "--no-pretrained"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The whole way from weights in the hub's cache, with a secret in the environment: (work folder, weights file)."""
    folder = tmp_path_factory.mktemp("trust-of-a-machine")
    snapshot = folder / "hub" / "models--timm--test_resnet.r160_in1k" / "snapshots" / "a1b2c3"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("a1b2c3")
    save_body(snapshot / "model.safetensors", n_classes=1000)
    data = make_competition(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "hub"))
        for name in ("HF_TOKEN", "KAGGLE_KEY", "AWS_SECRET_ACCESS_KEY", "FOLDBLEND_ANYTHING"):
            patch.setenv(name, SECRET)
        patch.setenv("HOME", str(folder / "home-of-somebody"))
        patch.chdir(folder)
        assert run.main(["all", str(data), "--work", str(folder / "work"), *from_weights(QUICK), "--trials", "16"]) == 0
        assert run.main(["predict", "--work", str(folder / "work")]) == 0
    return Workspace(folder / "work"), snapshot / "model.safetensors"


def recorded(work: Workspace, name: str, fold: int, *, file: str = "done.json") -> dict[str, object]:
    return json.loads((work.fold(name, fold) / file).read_text())


def stored(work: Workspace) -> list[Path]:
    return [path for path in sorted(work.root.rglob("*")) if path.is_file()]


def test_the_digest_of_the_downloaded_file_stands_with_every_fold(finished):
    work, weights = finished
    for fold in (0, 1):
        assert recorded(work, "test_resnet", fold)["weights_digest"] == digest(weights.read_bytes())
        settings = recorded(work, "test_resnet", fold, file="settings.json")
        assert (settings["backbone"], settings["weights"]) == ("test_resnet.r160_in1k", "pretrained")


def test_a_local_file_stands_with_its_digest_and_a_random_start_with_none(finished):
    work, weights = finished
    words = ["train", "--work", str(work.root), *from_weights(TRAIN), "--epochs", "1", "--fold", "0"]
    assert run.main([*words, "--weights", str(weights), "--run", "local"]) == 0
    assert run.main([*words, "--no-pretrained", "--run", "random"]) == 0
    probe = ["probe", "--work", str(work.root), "--backbone", "test_resnet", "--image-size", "32", "--run", "probed"]
    assert run.main([*probe, "--weights", str(weights), "--device", "cpu", "--precision", "fp32"]) == 0
    of_file = digest(weights.read_bytes())
    assert recorded(work, "local", 0, file="settings.json")["weights"] == of_file
    assert [recorded(work, name, 0)["weights_digest"] for name in ("local", "probed")] == [of_file, of_file]
    assert "weights_digest" not in recorded(work, "random", 0)


def test_nothing_that_is_stored_holds_a_path_of_this_machine_or_a_value_of_the_environment(finished):
    work, weights = finished
    paths = [str(place) for place in (work.root.parent, weights.parents[3], ROOT, Path.home())]
    values = {SECRET, "home-of-somebody", socket.gethostname(), *os.environ.values()}
    words = [value for value in values if len(value) >= 8 and not value.isdigit()]
    words = [word.encode() for word in (*words, *(path for path in paths if len(path) >= 3))]
    for path in stored(work):
        content = path.read_bytes()
        assert not [word for word in words if word in content], path


def test_everything_that_is_stored_is_of_a_kind_that_holds_no_code(finished):
    kinds = {path.suffix for path in stored(finished[0])}
    pictures, arrays = {".png", ".svg", ".u8"}, {".npz", ".npy", ".safetensors"}
    assert kinds <= {".csv", ".json", ".jsonl", ".log", ".html"} | pictures | arrays, kinds


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """What is called in a file, by the name that it is called by."""
    return [(ast.unparse(node.func), node) for node in nodes(path) if isinstance(node, ast.Call)]


def said(call: ast.Call, keyword: str) -> object:
    return next((ast.literal_eval(one.value) for one in call.keywords if one.arg == keyword), None)


def test_nothing_in_the_house_unpickles_or_runs_text():
    assert ROOT / "submissions" / "report" / "make.py" in HOUSE  # folders within the rooms were once left out
    for path, (name, call) in ((one, called) for one in [*HOUSE, ROOT / "run.py"] for called in calls(one)):
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
    names = {name for path in [*HOUSE, ROOT / "run.py"] for name, _ in calls(path)}
    assert {name for name in names if name.endswith(".loads")} == {"tomllib.loads", "json.loads"}


class Code:
    """Writes a file as soon as it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("name", ["net.pth", "net.pt", "net.bin", "net.safetensors", "net"])
def test_code_in_a_weights_file_is_not_run(tmp_path, name):
    torch.save({"fc.weight": Code(tmp_path / "was-run")}, tmp_path / name)
    assert "holds no weights that can be read safely" in refusal(read_weights, tmp_path / name)[0]
    assert not (tmp_path / "was-run").exists()
