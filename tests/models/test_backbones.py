"""Checks names, weights files and the refusals of backbones; small timm nets, no download."""

from functools import partial

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from folds.base.errors import UserError
from models.backbones import SHORT_NAMES, build_network, head_parameters, read_weights, resolve_backbone
from models.jobs.hub import find_weights, weights_name
from models.runs import plan_runs
from models.settings import TrainSettings
from tests.competition import refusal
from tests.models.small import save_body


def test_every_short_name_stands_for_a_full_tag_that_timm_has():
    for name, tag in SHORT_NAMES.items():
        assert resolve_backbone(name).tag == tag


def test_size_mean_and_kernel_come_from_the_weights_own_config_and_a_name_is_pinned_to_a_full_tag():
    inception, resnet = resolve_backbone("inception_v4"), resolve_backbone("resnet50")
    assert (inception.size, inception.mean) == (299, (0.5, 0.5, 0.5))
    assert (resnet.size, resnet.crop_share, resnet.kernel) == (224, 0.95, "bicubic")
    assert resolve_backbone("resnet18").tag.startswith("resnet18.")


def test_a_net_tested_on_more_than_the_picture_saw_nan_beside_it():
    assert resolve_backbone("volo_d4_448").crop_share == 1


def test_a_weights_file_with_a_sign_of_equality_in_its_name_was_left_out_without_a_word(tmp_path):
    def plan(*texts):
        return plan_runs(TrainSettings(backbone=("test_resnet",), weights=texts), {})[0]

    checkpoint = tmp_path / "epoch=9-step=1000.ckpt"
    checkpoint.write_bytes(b"x")
    assert plan(str(checkpoint)).weights == checkpoint
    assert plan(f"test_resnet={checkpoint}", "resnet50=other.pth").weights == checkpoint
    assert refusal(weights_name, plan("test_resnot=a.pth"))[0].startswith("there is no backbone `test_resnot`")
    assert refusal(weights_name, plan("epoch=9.ckpt"))[0].startswith("there is no backbone `epoch`")


@pytest.mark.parametrize(
    ("name", "sentence", "hint"),
    [
        ("resnet5O", "there is no backbone `resnet5O`, neither here nor in timm", "`resnet50`"),
        ("resnet18.zalo", r"timm has no weights `resnet18\.zalo`", "resnet18.a1_in1k"),
    ],
)
def test_a_misspelt_backbone_or_tag_is_refused_with_the_nearest_names(name, sentence, hint):
    with pytest.raises(UserError, match=sentence) as err:
        resolve_backbone(name)
    assert hint in err.value.hint


def test_weights_of_another_head_fill_the_body_and_leave_the_head_new(weights):
    network, donor = build_network(resolve_backbone("test_resnet"), 5, size=32, weights=weights), load_file(weights)
    head = head_parameters(network)
    assert head == {"fc.weight", "fc.bias"}
    for name, value in network.state_dict().items():
        assert name in head or torch.equal(value, donor[name])
    assert network.fc.weight.shape[0] == 5


def test_a_plain_state_dict_with_wrappers_is_read(tmp_path, weights):
    donor = load_file(weights)
    torch.save({"state_dict": {f"module.{name}": value.half() for name, value in donor.items()}}, tmp_path / "a.pth")
    assert read_weights(tmp_path / "a.pth").keys() == donor.keys()


@pytest.mark.parametrize("content", [b"", b"not weights at all"])
@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_a_broken_or_absent_weights_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert "holds no weights" in refusal(read_weights, tmp_path / name)[0]
    with pytest.raises(UserError, match=r"the weights file .*none\.pth does not exist"):
        read_weights(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("donor", "options", "size", "own_size", "sentence"),
    [
        pytest.param("test_convnext", {}, 32, 160, r"test_resnet\.r160_in1k: conv1", id="another network"),
        pytest.param("test_vit", {"embed_dim": 32}, 96, 160, r"test_vit\.r160_in1k: cls_token, pos_embed", id="wider"),
        pytest.param("convit_tiny", {}, 256, 224, r"convit_tiny\.fb_in1k: pos_embed of its", id="timm resamples none"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_the_size_of_the_backbones_own(
    tmp_path, donor, options, size, own_size, sentence
):
    path = save_body(tmp_path / "donor.safetensors", donor, **options)
    backbone = resolve_backbone("test_resnet" if donor == "test_convnext" else donor)
    with pytest.raises(UserError, match=rf"donor\.safetensors is not for {sentence}") as err:
        build_network(backbone, 5, size=size, weights=path)
    assert err.value.hint.endswith(f"made for, or `--image-size {own_size}`, the size of its weights")


@pytest.mark.parametrize(
    ("name", "trained", "size", "prefix"),
    [
        ("vit_small_patch16_224.augreg_in21k_ft_in1k", 224, 288, 1),
        ("vit_small_patch14_dinov2.lvd142m", 518, 224, 1),
        ("eva02_tiny_patch14_336.mim_in22k_ft_in1k", 336, 224, 1),
        ("vit_base_patch16_siglip_224.v2_webli", 224, 256, 0),
        ("deit_tiny_distilled_patch16_224.fb_in1k", 224, 160, 2),
        ("flexivit_small.1200ep_in1k", 240, 224, 0),
    ],
)
def test_a_vit_at_another_size_than_its_weights_was_refused(tmp_path, monkeypatch, name, trained, size, prefix):
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, depth=2))  # 12 take seconds each
    backbone = resolve_backbone(name)
    assert (backbone.size, backbone.fixed_size) == (trained, True)
    donor = timm.create_model(name, pretrained=False, num_classes=7, img_size=trained)
    rows, columns = donor.patch_embed.grid_size
    with torch.no_grad():  # the first channel counts the columns
        donor.pos_embed[0, prefix:, 0] = torch.linspace(0, 1, columns).repeat(rows)
    save_file(donor.state_dict(), tmp_path / "donor.safetensors")
    network = build_network(backbone, 5, size=size, weights=tmp_path / "donor.safetensors")
    head, own = head_parameters(network), donor.state_dict()
    for tensor, value in network.state_dict().items():
        assert tensor in head or tensor == "pos_embed" or torch.equal(value, own[tensor]), tensor
    side = size // network.patch_embed.patch_size[0]
    assert network.pos_embed.shape[1] == prefix + side * side
    assert torch.equal(network.pos_embed[:, :prefix], donor.pos_embed[:, :prefix])
    columns = network.pos_embed[0, prefix:, 0].view(side, side).detach()
    assert torch.allclose(columns, columns[:1].expand_as(columns), atol=1e-4)  # every row counts as the donor's did
    assert columns[0].numpy() == pytest.approx(torch.linspace(0, 1, side).numpy(), abs=0.05)
    assert "state_dict" not in network.pretrained_cfg


def test_relative_positions_of_a_swin_are_resampled_with_its_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, depths=(1, 1, 1, 1)))
    name = "swin_tiny_patch4_window7_224.ms_in22k"
    donor = timm.create_model(name, pretrained=False, num_classes=7)
    table = "layers.0.blocks.0.attn.relative_position_bias_table"
    with torch.no_grad():
        donor.get_parameter(table).copy_(torch.arange(3.0).expand(169, 3))  # constant over places, another each head
    save_file(donor.state_dict(), tmp_path / "donor.safetensors")
    smaller = build_network(resolve_backbone(name), 5, size=128, weights=tmp_path / "donor.safetensors")
    assert smaller.get_parameter(table).mean(0).tolist() == pytest.approx([0, 1, 2], abs=1e-4)


def test_a_head_of_the_same_size_comes_along_to_another_input_size(tmp_path):
    path = save_body(tmp_path / "donor.safetensors", "test_vit", n_classes=5)
    network, donor = build_network(resolve_backbone("test_vit"), 5, size=96, weights=path), load_file(path)
    assert torch.equal(network.head.weight, donor["head.weight"])
    assert torch.equal(network.head.bias, donor["head.bias"])


@pytest.mark.parametrize("n_classes", [7, 1000])  # 1,000: in the weights' own description, whatever the file holds
def test_a_network_of_another_size_has_the_classes_that_are_asked_for(tmp_path, n_classes):
    path = save_body(tmp_path / "donor.safetensors", "test_vit", n_classes=3)
    network = build_network(resolve_backbone("test_vit"), n_classes, size=96, weights=path, drop_path=0.1)
    assert network(torch.zeros(1, 3, 96, 96)).shape == (1, n_classes)


def test_an_input_too_small_for_the_network_is_refused():
    with pytest.raises(UserError, match=r"inception_v3\.gluon_in1k cannot work on 32 x 32 pixels") as err:
        build_network(resolve_backbone("inception"), 5, size=32)
    assert err.value.hint == "`--image-size 299`, the size of its weights"


def test_without_network_and_cache_the_refusal_names_three_ways_out(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(UserError, match=r"resnet50\.a1_in1k are not on this machine and cannot be downloaded") as err:
        find_weights(resolve_backbone("resnet50"))
    assert err.value.hint == (
        "go online once, give a local file with `--weights FILE`, or start from scratch with `--no-pretrained`"
    )
