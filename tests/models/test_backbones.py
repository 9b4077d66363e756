"""This file checks names, weights files and the refusals of backbones; small timm nets, no download."""

import time

import pytest
import torch
from safetensors.torch import save_file

from folds.errors import UserError
from models.backbones import SHORT_NAMES, build_network, find_weights, head_parameters, read_weights, resolve_backbone


def test_every_short_name_stands_for_a_full_tag_that_timm_has():
    for name, tag in SHORT_NAMES.items():
        assert resolve_backbone(name).tag == tag


def test_facts_come_from_the_weights_own_config():
    inception = resolve_backbone("inception_v4")
    assert inception.size == 299
    assert inception.mean == (0.5, 0.5, 0.5)
    resnet = resolve_backbone("resnet50")
    assert (resnet.size, resnet.crop_share, resnet.kernel) == (224, 0.95, "bicubic")


def test_a_timm_name_without_a_tag_is_pinned_to_a_full_tag():
    assert resolve_backbone("resnet18").tag.startswith("resnet18.")


def test_a_misspelt_backbone_is_refused_with_the_nearest_names():
    with pytest.raises(UserError, match="there is no backbone `resnet5O`, neither here nor in timm") as err:
        resolve_backbone("resnet5O")
    assert "`resnet50`" in err.value.hint


def test_an_unknown_weight_tag_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"timm has no weights `resnet18\.zalo`") as err:
        resolve_backbone("resnet18.zalo")
    assert "resnet18.a1_in1k" in err.value.hint


def test_weights_of_another_head_fill_the_body_and_leave_the_head_new(tmp_path):
    donor = build_network(resolve_backbone("test_resnet"), 7, size=32)
    save_file(donor.state_dict(), tmp_path / "donor.safetensors")
    network = build_network(resolve_backbone("test_resnet"), 5, size=32, weights=tmp_path / "donor.safetensors")
    head = head_parameters(network)
    assert head == {"fc.weight", "fc.bias"}
    for name, value in network.state_dict().items():
        assert name in head or torch.equal(value, donor.state_dict()[name])
    assert network.fc.weight.shape[0] == 5


def test_a_plain_state_dict_with_wrappers_is_read(tmp_path):
    donor = build_network(resolve_backbone("test_resnet"), 5, size=32)
    wrapped = {"state_dict": {f"module.{name}": value.half() for name, value in donor.state_dict().items()}}
    torch.save(wrapped, tmp_path / "donor.pth")
    assert read_weights(tmp_path / "donor.pth").keys() == donor.state_dict().keys()


class Malicious:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path, capsys):
    torch.save({"weight": Malicious()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="holds no weights that can be read safely"):
        read_weights(tmp_path / "evil.pth")
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "sentence"), [(b"", "holds no weights"), (b"not weights at all", "holds no weights")]
)
@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_a_broken_weights_file_is_refused(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_weights(tmp_path / name)


def test_an_absent_weights_file_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"the weights file .*none\.pth does not exist"):
        read_weights(tmp_path / "none.pth")


def test_weights_of_another_network_are_refused(tmp_path):
    save_file(build_network(resolve_backbone("test_convnext"), 5, size=32).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"other\.safetensors is not for test_resnet\.r160_in1k: conv1"):
        build_network(resolve_backbone("test_resnet"), 5, size=32, weights=tmp_path / "other.safetensors")


def test_an_input_too_small_for_the_network_is_refused():
    with pytest.raises(UserError, match=r"inception_v3\.gluon_in1k cannot work on 32 x 32 pixels") as err:
        build_network(resolve_backbone("inception"), 5, size=32)
    assert err.value.hint == "`--image-size 299`, the size of its weights"


def test_without_network_and_cache_the_refusal_comes_in_seconds_and_names_three_ways_out(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    began = time.monotonic()
    with pytest.raises(UserError, match=r"resnet50\.a1_in1k are not on this machine and cannot be downloaded") as err:
        find_weights(resolve_backbone("resnet50"))
    assert time.monotonic() - began < 30
    assert err.value.hint == (
        "go online once, give a local file with `--weights FILE`, or start from scratch with `--no-pretrained`"
    )
