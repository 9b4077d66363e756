"""Checks device and precision: `--precision auto` is measured once, malloc keeps memory, batch norm is fused."""

import copy
import dataclasses
import json
import resource
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from folds.base.errors import UserError
from folds.split.assign import load_folds
from models import device as precision
from models.backbones import resolve_backbone
from models.device import PRECISIONS, choose_device, fused, keep_memory, return_memory, run_precision
from models.predict.again import load_trained
from models.probe.probe import probe_run
from models.runs import chosen_precision, plan_runs
from models.watch.events import FoldStarted
from tests.models.small import SETTINGS, VIEWS, only, train

CPU = torch.device("cpu")
AUTO = dataclasses.replace(SETTINGS, precision="auto", epochs=1)
BACKBONE = resolve_backbone("test_resnet")


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A machine with bfloat16: the seconds that it takes, which can be set; what was measured; where that is kept."""
    seconds, asked = {"fp32": 2.0, "bf16": 1.0}, []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    monkeypatch.setattr(precision, "_measure", lambda backbone, *, size, way: asked.append((size, way)) or seconds)
    return seconds, asked, tmp_path / "cache" / "foldblend" / "precision.json"


def choose(name="auto", *, device=CPU, size=32, way="train", before=()):
    return run_precision(name, device, BACKBONE, size=size, way=way, before=dict(before))


@pytest.mark.parametrize(("bf16", "choice"), [(0.84, "bf16"), (0.86, "fp32"), (1.2, "fp32")])
def test_what_lies_within_15_percent_goes_to_float32(measured, bf16, choice):
    measured[0].update(fp32=1.0, bf16=bf16)
    assert choose() == PRECISIONS[choice]


def test_a_choice_is_measured_once_for_each_size_and_way_and_kept(measured):
    seconds, asked, path = measured
    assert choose() == torch.bfloat16
    seconds["bf16"] = 3.0
    assert choose() == torch.bfloat16  # as before
    assert choose(way="forward") == torch.float32
    assert choose(size=64) == torch.float32
    assert asked == [(32, "train"), (32, "forward"), (64, "train")]
    kept = json.loads(path.read_text())
    assert sorted(kept.values()) == ["bf16", "fp32", "fp32"]
    assert all(f"torch {torch.__version__}; {BACKBONE.tag}; " in key for key in kept)


def test_a_file_that_cannot_be_read_or_written_only_means_another_measurement(measured):
    _, asked, path = measured
    path.parent.mkdir(parents=True)
    path.write_text("{no json")
    assert choose() == choose() == torch.bfloat16
    assert len(asked) == 1
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("a file where a folder is needed")
    assert choose() == choose() == torch.bfloat16
    assert len(asked) == 3


def test_nothing_is_measured_where_the_precision_is_set_or_the_hardware_has_no_choice(measured, monkeypatch):
    _, asked, _ = measured
    assert [choose(name) for name in ("fp32", "bf16", "fp16")] == [torch.float32, torch.bfloat16, torch.float16]
    assert choose(before={"train": "fp32"}) == torch.float32
    monkeypatch.setattr(precision, "has_bf16", lambda device: False)
    assert choose() == torch.float32
    assert asked == []


def test_a_real_measurement_leaves_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    seconds = precision._measure(BACKBONE, size=32, way="train")
    assert seconds.keys() == {"fp32", "bf16"}
    assert all(one > 0 for one in seconds.values())
    assert torch.equal(torch.rand(3), expected)


def test_a_run_trains_and_predicts_in_the_precisions_that_it_was_begun_with(measured, workspace, monkeypatch):
    _, _, path = measured
    faster = {"train": {"fp32": 1.0, "bf16": 2.0}, "forward": {"fp32": 2.0, "bf16": 1.0}}
    monkeypatch.setattr(precision, "_measure", lambda backbone, *, size, way: faster.pop(way))
    for fold in (0, 1):  # the second finds nothing kept, and can measure nothing
        (begun,) = only(FoldStarted, train(workspace, AUTO, only_folds=[fold]))
        assert begun.precision == "float32"
        assert chosen_precision(workspace, "test_resnet") == {"train": "fp32", "forward": "bf16"}
        trained = load_trained(workspace, "test_resnet", fold, load_folds(workspace), device=CPU)
        assert trained.model.precision == torch.bfloat16
        path.unlink(missing_ok=True)
    with pytest.raises(UserError, match="begun with other settings: precision auto -> fp32"):
        train(workspace, dataclasses.replace(AUTO, precision="fp32"))


def test_a_probe_keeps_the_precision_that_it_was_begun_with(measured, workspace):
    seconds, asked, path = measured
    list(probe_run(workspace, plan_runs(AUTO, {})[0], VIEWS))
    folder = workspace.fold("test_resnet-probe", 1)
    (folder / "done.json").unlink()
    seconds["bf16"] = 3.0
    path.unlink()
    list(probe_run(workspace, plan_runs(AUTO, {})[0], VIEWS))
    assert json.loads((folder / "settings.json").read_text())["settings"]["precision"] == "bfloat16"
    assert asked == [(32, "forward")]


ROOT = Path(__file__).parents[2]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="glibc on Linux")
FAULTS = """
import resource, torch
from models.device import choose_device
def faults():
    for _ in range(2):  # the first time does not count
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(3):
            torch.ones(1 << 24)  # 64 MB: glibc maps a block of more than 32 MB on its own, whatever came before
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
left = faults()
choose_device("cpu")
print(faults(), left)
"""


@on_linux
def test_large_blocks_are_not_handed_back_and_zeroed_again():
    done = subprocess.run([sys.executable, "-c", FAULTS], cwd=ROOT, capture_output=True, text=True, check=True)
    kept, left = map(int, done.stdout.split())
    assert 10 * kept < left, (kept, left)


@on_linux
def test_what_is_kept_is_given_back_between_training_and_evaluation():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    cpu = choose_device("cpu")
    blocks = [torch.ones(1 << 22) for _ in range(8)]  # 16 MB each
    last = torch.ones(1 << 10)  # above them, so that the end of the heap cannot sink
    full = resident()
    del blocks
    return_memory(cpu)
    assert resident() < full - (1 << 26)
    assert last[0] == 1


def test_a_system_without_glibc_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_memory.__wrapped__() is False


def stirred(network):
    """A network in evaluation mode whose batch norms do something."""
    torch.manual_seed(0)
    for norm in (one for one in network.modules() if isinstance(one, nn.BatchNorm2d)):
        for tensor, low, high in ((norm.running_mean, -0.5, 0.5), (norm.running_var, 0.5, 2.0), (norm.bias, -0.3, 0.3)):
            nn.init.uniform_(tensor, low, high)
    return network.eval()


def n_fused(network):
    return sum("forward" in vars(one) for one in network.modules()) // 2


@pytest.mark.parametrize(
    ("name", "size", "norms"),
    [
        ("test_resnet", 32, 15),
        ("test_efficientnet", 32, 13),  # `same` padding, activations inside the norms
        ("inception_v3", 96, 94),
        ("densenet121", 32, 59),  # the others stand before their convolutions
        ("test_vit", 160, 0),
    ],
)
def test_convolutions_and_batch_norms_are_one_on_a_cpu_and_give_the_same_logits(name, size, norms):
    network = stirred(timm.create_model(name, num_classes=7))
    before, seen = copy.deepcopy(network.state_dict()), torch.randn(2, 3, size, size)
    with torch.inference_mode():
        expected = network(seen)
        with fused(network, size=size, device=CPU):
            assert n_fused(network) == norms
            assert network.state_dict().keys() == before.keys()
            torch.testing.assert_close(network(seen), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        assert torch.equal(network(seen), expected)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_nothing_is_fused_where_a_convolution_is_also_read_elsewhere():
    class NormalisesFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, images):
            stem = self.stem(images)
            return (stem + self.norm(stem).relu()).mean((2, 3))

    network = stirred(NormalisesFirst())
    with fused(network, size=8, device=CPU):
        assert n_fused(network) == 0


def test_what_learns_is_not_fused_and_gets_the_gradient_that_it_had():
    network, gradients = stirred(timm.create_model("test_resnet", num_classes=7)), []
    for part in (network.conv1, network.bn1, network.layer1):
        part.requires_grad_(False)
    seen = torch.randn(2, 3, 32, 32)
    for context in (nullcontext(), fused(network, size=32, device=CPU, learns=True)):
        with context:
            network(seen).square().sum().backward()
            gradients.append({name: one.grad for name, one in network.named_parameters() if one.grad is not None})
            fused_norms = n_fused(network)
        network.zero_grad(set_to_none=True)
    frozen = [one for one in network.modules() if isinstance(one, nn.BatchNorm2d) and not one.weight.requires_grad]
    assert fused_norms == len(frozen) == 5
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_a_network_that_fails_meanwhile_is_left_as_it_was():
    network = stirred(timm.create_model("test_resnet", num_classes=7))
    network.fc = nn.Linear(1, 7)  # takes none of its features
    with pytest.raises(RuntimeError), fused(network, size=32, device=CPU):
        pass
    assert n_fused(network) == 0
    assert not any(one._forward_hooks for one in network.modules())
