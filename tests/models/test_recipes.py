"""Checks the settings of runs: names, sizes in pixels, what a backbone's family gives, and how long a fold trains."""

import dataclasses
import json

import pytest

from folds.base.errors import UserError
from folds.base.workspace import Workspace
from models.backbones import build_network, find_traits, resolve_backbone
from models.input.sizes import (
    epoch_sizes,
    larger_views,
    needed_store_size,
    predict_size,
    refuse_odd_sizes,
    refuse_views,
    run_views,
    store_size_for,
    train_size,
)
from models.jobs.plan import family_remark
from models.predict.again import predict_run
from models.recipes import FROM_FAMILY, FullSettings, epochs_for, find_family, from_family, full_settings
from models.runs import done_folds, plan_runs, refuse_other_settings
from models.settings import PredictSettings, TrainSettings
from models.watch.events import FoldStarted
from tests.competition import refusal
from tests.models.small import SETTINGS, VIEWS, full, only, train

ONE = TrainSettings(backbone=("test_resnet",))


@pytest.mark.parametrize(
    "name", ["blend", "BLEND", "s0+s1", "m:mirror", "_features", "../x", ".hidden", "a b", "", "a" * 101]
)
@pytest.mark.parametrize("is_table", [False, True])
def test_a_name_that_leads_elsewhere_or_means_something_else_is_refused(name, is_table):
    said = refusal(plan_runs, ONE, {name: ONE} if is_table else {}, names=() if is_table else (name,))
    why = "its CSV would replace the blend's" if name.lower() == "blend" else "up to 100 letters, digits"
    assert said[0].startswith(f"`{name}` is no name for a run: {why}")
    assert said[1] == "`--run NAME`, or `[run.NAME]` in kit.toml"


def test_a_run_with_the_name_of_an_added_member_was_trained_and_never_blended(tmp_path):
    workspace = Workspace(tmp_path)
    (workspace.members / "other").mkdir(parents=True)
    said = "other is a member that was added, which would be blended instead of the run"
    assert refusal(refuse_other_settings, workspace, {"run": "other"})[0] == said


RESNET = resolve_backbone("resnet50")


@pytest.mark.parametrize(
    ("epochs", "start", "size", "sizes"),
    [
        (9, 128, 224, [128, 144, 160, 176, 192, 208, 224, 224, 224]),  # the last quarter is final
        (3, None, 225, [225, 225, 225]),
        (1, 64, 100, [100]),
    ],
)
def test_sizes_grow_from_the_start_size_to_the_final_one(epochs, start, size, sizes):
    assert epoch_sizes(full(epochs=epochs, start_size=start), size=size) == sizes


def test_sizes_come_from_the_settings_or_from_the_weights():
    plain = TrainSettings()
    assert (train_size(plain, RESNET), predict_size(plain, RESNET)) == (RESNET.size, RESNET.size)
    larger = TrainSettings(image_size=160, test_size=224)
    assert (train_size(larger, RESNET), predict_size(larger, RESNET)) == (160, 224)


@pytest.mark.parametrize(("size", "store"), [(64, 96), (224, 288), (256, 320), (299, 352)])
def test_the_store_is_a_sixth_larger_than_the_input(size, store):
    assert store_size_for(size) == store


def test_one_store_serves_the_largest_input_of_all_runs_and_views():
    resnet, both = ({"backbone": names} for names in (("resnet50",), ("resnet50", "inception")))
    plans = plan_runs(TrainSettings(**resnet), {})
    assert [needed_store_size(plans, ["centre", f"centre@{size}"]) for size in (128, 288, 290)] == [288, 288, 320]
    assert needed_store_size(plan_runs(TrainSettings(**both), {})) == 352
    assert needed_store_size(plan_runs(TrainSettings(**resnet, image_size=64, test_size=96), {})) == 128


def test_sides_that_a_network_does_not_take_are_refused_with_the_view_to_leave_out():
    vit, inception = resolve_backbone("test_vit"), resolve_backbone("inception")
    cases = [
        (vit, ["centre", "centre@96"], "test_vit.r160_in1k works on one size only, 160 pixels, and not on `centre@96`"),
        (inception, ["centre", "zoom@32"], "inception_v3.gluon_in1k cannot work on 32 x 32 pixels: "),
        (RESNET, ["mirror", f"mirror@{RESNET.size}"], f"`mirror` and `mirror@{RESNET.size}` are one view of "),
    ]
    for backbone, views, sentence in cases:
        with pytest.raises(UserError, match=sentence) as refused:
            refuse_views(views, backbone, own=backbone.size)
        assert refused.value.hint == f"leave out `{views[1]}`"
        refuse_views(views[:1], backbone, own=backbone.size)


def test_the_larger_size_of_the_authors_test_is_proposed_with_the_command_that_tries_it():
    plans = plan_runs(TrainSettings(backbone=("resnet18", "inception")), {})
    asked = {"size_of": predict_size, "command": lambda plan: f"predict --run {plan.name}"}
    (said,) = larger_views(plans, ["centre", "mirror"], **asked)
    assert said.startswith("resnet18.a1_in1k was trained at 224 pixels and tested at 288 by its authors: ")
    assert "`python run.py predict --run resnet18 --views centre,mirror,wide@288,wide-mirror@288`" in said
    assert list(larger_views(plans, ["centre", "centre@256"], **asked)) == []
    elsewhere = plan_runs(TrainSettings(backbone=("resnet18",), image_size=128), {})
    assert list(larger_views(elsewhere, ["centre"], **asked)) == []


@pytest.mark.parametrize(
    ("name", "size", "larger"),
    [("resnet50", 128, 160), ("resnet50", 160, 192), ("resnet50", 144, 192), ("inception_v3", 160, 192)],
)
def test_a_net_far_below_its_own_size_sees_one_of_two_views_larger(name, size, larger):
    settings, backbone = TrainSettings(backbone=(name,), image_size=size), resolve_backbone(name)
    assert run_views(PredictSettings(), settings, backbone, True) == (f"centre@{larger}", "mirror")
    assert store_size_for(size) >= larger


@pytest.mark.parametrize(
    ("asked", "settings", "name", "has_weights"),
    [
        (PredictSettings(), {}, "resnet50", True),  # its own size
        (PredictSettings(), {"image_size": 192}, "resnet50", True),
        (PredictSettings(), {"image_size": 32}, "resnet50", True),  # nothing larger is near
        (PredictSettings(), {"image_size": 128}, "resnet50", False),
        (PredictSettings(), {"image_size": 128, "test_size": 144}, "resnet50", True),
        (PredictSettings(("centre", "mirror")), {"image_size": 128}, "resnet50", True),
        (PredictSettings(), {"image_size": 128}, "vit_tiny_patch16_224", True),
    ],
)
def test_other_nets_and_named_views_and_sizes_are_asked_as_they_are(asked, settings, name, has_weights):
    backbone = resolve_backbone(name)
    settings = TrainSettings(backbone=(name,), **settings)
    assert run_views(asked, settings, backbone, has_weights) == ("centre", "mirror")


@pytest.mark.parametrize(
    ("backbone", "size", "other", "sentence"),
    [
        ("resnet50", 160, {"start_size": 256}, "`--start-size 256` is larger than the final size, 160"),
        ("test_vit", 96, {"start_size": 64}, "works on one size only, 96 pixels"),
        ("test_vit", 96, {"test_size": 128}, "works on one size only, 96 pixels"),
    ],
)
def test_a_start_above_the_end_and_a_second_size_of_a_network_of_one_are_refused(backbone, size, other, sentence):
    refuse_odd_sizes(TrainSettings(image_size=size), resolve_backbone(backbone))
    with pytest.raises(UserError, match=sentence):
        refuse_odd_sizes(TrainSettings(image_size=size, **other), resolve_backbone(backbone))


PLAIN = TrainSettings()
DEFAULTS = dataclasses.replace(SETTINGS, **dict.fromkeys(FROM_FAMILY))  # what a small net gets with nothing given


def filled(settings=PLAIN, tag="resnet50.a1_in1k", *, has_weights=True, n_train=5_500, **traits):
    return full_settings(settings, tag=tag, has_weights=has_weights, n_train=n_train, **traits)


@pytest.mark.parametrize(
    ("family", "tags"),
    [
        ("ImageNet CNN", ["resnet50.a1_in1k", "inception_v3.gluon_in1k", "tf_efficientnet_lite0.in1k"]),
        ("ImageNet CNN", ["convnext_tiny.fb_in1k", "resnetv2_50x1_bit.goog_in21k", "levit_128.fb_dist_in1k"]),
        ("ConvNeXt", ["convnext_tiny.in12k_ft_in1k", "convnextv2_nano.fcmae_ft_in22k_in1k"]),
        ("ConvNeXt", ["swin_tiny_patch4_window7_224.ms_in22k_ft_in1k"]),
        ("ViT", ["vit_small_patch16_224.augreg_in21k", "vit_small_patch14_dinov2.lvd142m"]),
        ("ViT", ["vit_base_patch16_siglip_224.webli", "deit3_small_patch16_224.fb_in22k_ft_in1k"]),
        ("ViT", ["beit_base_patch16_224.in22k_ft_in22k_in1k", "eva02_tiny_patch14_224.mim_in22k"]),
        ("ViT", ["convnext_base.clip_laion2b", "resnet50_clip.openai"]),
    ],
)
def test_the_first_row_that_fits_the_full_tag_is_the_family(family, tags):
    assert [find_family(tag, has_weights=True).name for tag in tags] == [family] * len(tags)
    assert {find_family(tag, has_weights=False).name for tag in tags} == {"from scratch"}


@pytest.mark.parametrize(
    ("tag", "has_weights", "values"),
    [
        ("resnet50.a1_in1k", True, (3, 3e-4, "probe", 1.0, 1.0, 0.67, "frozen", 0.0, 0.25, 2)),
        ("convnext_tiny.in12k_ft_in1k", True, (3, 1e-4, "probe", 1.0, 0.85, 0.0, "frozen", 0.1, 0.25, 2)),
        ("vit_small_patch14_dinov2.lvd142m", True, (3, 5e-5, "probe", 1.0, 0.7, 0.0, "frozen", 0.1, 0.25, 2)),
        ("vit_small_patch14_dinov2.lvd142m", False, (18, 1e-3, "random", 1.0, 1.0, 0.0, "train", 0.0, 0.0, 1)),
    ],
)
def test_a_family_gives_what_is_not_given(tag, has_weights, values):
    full = filled(tag=tag, has_weights=has_weights)
    assert tuple(getattr(full, key) for key in FROM_FAMILY) == values
    assert from_family(PLAIN, full) == dict(zip(FROM_FAMILY, values, strict=True))


def test_what_is_given_overrides_the_family_and_everything_else_is_as_it_was():
    given = TrainSettings(lr="find", layer_decay=0.5, drop_path=0.0, batch_norm="train", epochs=2, mixup=0.2)
    full = filled(given, "vit_small_patch16_224.augreg_in21k")
    assert (full.lr, full.layer_decay, full.drop_path, full.batch_norm, full.epochs) == ("find", 0.5, 0.0, "train", 2)
    assert full.mixup == 0.2
    left = {"head": "probe", "head_lr_scale": 1.0, "frozen_share": 0.0, "start_share": 0.0, "stages": 2}
    assert from_family(given, full) == left


@pytest.mark.parametrize(
    ("given", "traits", "expected"),
    [
        # where few images train from a probed head, rates are higher, and at the weights' own size layers are frozen
        ({}, {"n_train": 10_000}, {"frozen_share": 0.67, "lr": 3e-4}),
        ({}, {"size_share": 0.76}, {"frozen_share": 0.67, "lr": 3e-4}),
        ({}, {"size_share": 0.74}, {"frozen_share": 0.0, "lr": 3e-4}),
        ({}, {"n_train": 10_001}, {"frozen_share": 0.0, "lr": 3e-4, "start_share": 0.25}),
        ({"frozen_share": 0.5}, {"n_train": 100_000}, {"frozen_share": 0.5, "lr": 3e-4}),
        ({"frozen_share": 0.0}, {}, {"frozen_share": 0.0, "lr": 3e-4}),
        ({"lr": 2e-4}, {}, {"frozen_share": 0.67, "lr": 2e-4}),
        # a random head learns ten times faster on weights, and no stage but the last one reaches it
        ({"head": "random"}, {}, {"frozen_share": 0.0, "lr": 1e-4, "head_lr_scale": 10.0, "stages": 1}),
        ({"head": "random", "head_lr_scale": 3.0, "stages": 2}, {}, {"head_lr_scale": 3.0, "stages": 2}),
        ({"head": "random"}, {"has_weights": False}, {"head_lr_scale": 1.0}),
        ({}, {"takes_head": False}, {"head": "random", "head_lr_scale": 10.0, "stages": 1}),
        ({"stages": 1}, {}, {"stages": 1}),
        # trained weights are mixed with those before training where these predict too
        ({"batch_norm": "train"}, {}, {"frozen_share": 0.0, "lr": 1e-4, "start_share": 0.0}),
        ({"batch_norm": "train", "start_share": 0.3}, {}, {"start_share": 0.3}),
        # a network without stochastic depth gets none from its family
        ({}, {"tag": "convnext_base.clip_laion2b", "has_drop_path": False}, {"drop_path": 0.0}),
        ({"drop_path": 0.2}, {"has_drop_path": False}, {"drop_path": 0.2}),
    ],
)
def test_what_a_family_gives_depends_on_what_is_given_the_images_and_the_network(given, traits, expected):
    full = filled(TrainSettings(**given), **traits)
    assert {key: getattr(full, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("given", "traits", "hint"),
    [
        ({"head": "random"}, {}, "`--head probe`, or `--start-share 0`"),
        ({}, {"has_weights": False}, "`--start-share 0`"),
        ({"head": "probe"}, {"takes_head": False}, "`--start-share 0`"),
    ],
)
def test_a_random_head_mixes_no_weights_before_training_and_is_not_told_to(given, traits, hint):
    assert filled(TrainSettings(**given), **traits).start_share == 0.0
    assert refusal(filled, TrainSettings(**given, start_share=0.5), **traits) == (
        "`--start-share 0.5` mixes the trained weights with those before training, and resnet50.a1_in1k starts "
        "with a random head here",
        hint,
    )


def test_the_traits_of_a_network_are_those_of_timms_and_stochastic_depth_that_it_lacks_is_refused():
    assert not find_traits("deit_tiny_distilled_patch16_224.fb_in1k")["takes_head"]
    assert not find_traits("inception_v3.gluon_in1k")["has_drop_path"]
    assert find_traits("resnet50.a1_in1k")["has_drop_path"]
    assert "has no stochastic depth" in refusal(build_network, resolve_backbone("vgg11"), 4, size=64, drop_path=0.2)[0]


@pytest.mark.parametrize(
    ("n_train", "epochs", "from_scratch"),
    [
        (1, 15, 45),
        (400, 15, 45),
        (1_000, 12, 36),
        (2_000, 8, 29),  # ln 2 / ln 5.5 = 0.41 of the way from 12 to 3, from 36 to 18
        (5_500, 3, 18),
        (12_000, 6, 16),
        (90_000, 6, 12),
        (10_000_000, 6, 12),
    ],
)
def test_the_epochs_follow_the_images_and_are_more_from_scratch(n_train, epochs, from_scratch):
    assert epochs_for(n_train, has_weights=True) == epochs
    assert epochs_for(n_train, has_weights=False) == from_scratch


def test_full_settings_cannot_be_made_without_their_values():
    with pytest.raises(TypeError, match="lr"):
        FullSettings()


def test_a_run_that_was_begun_by_default_stores_its_full_values_and_goes_on_with_the_same_values_typed(workspace):
    train(workspace, dataclasses.replace(DEFAULTS, epochs=1), only_folds=[0])
    given = json.loads((workspace.fold("test_resnet", 0) / "settings.json").read_text())["settings"]
    expected = {"epochs": 1, "lr": 1e-3, "head": "random", "head_lr_scale": 1.0, "batch_norm": "train"}
    assert {key: given[key] for key in expected} == expected
    typed = dataclasses.replace(DEFAULTS, epochs=1, lr=1e-3, head="random", batch_norm="train", layer_decay=1.0)
    train(workspace, typed, only_folds=[1])
    assert done_folds(workspace, "test_resnet").keys() == {0, 1}
    predicted = predict_run(workspace, "test_resnet", VIEWS, device_name="cpu")
    assert [one.event.top3_error is not None for one in predicted] == [True, True]
    with pytest.raises(UserError, match=r"begun with other settings: lr 0\.001 -> 0\.002"):
        train(workspace, dataclasses.replace(DEFAULTS, epochs=1, lr=2e-3))
    assert "begun with other settings: epochs 1 -> 45" in refusal(train, workspace, DEFAULTS)[0]


def test_by_default_weights_are_fine_tuned_from_their_probed_head(workspace, weights):
    settings = dataclasses.replace(DEFAULTS, weights=(str(weights),), epochs=1)
    (started,) = only(FoldStarted, train(workspace, settings, only_folds=[0]))
    assert (started.is_probed, started.lr) == (True, 3e-4)


def test_the_remark_of_a_run_says_its_family_and_what_that_gives(workspace, tmp_path):
    plan = plan_runs(TrainSettings(backbone=("resnet50",), lr=0.01), {})[0]
    assert family_remark(workspace, plan, PredictSettings()) == (
        'resnet50 (ImageNet CNN): epochs = 15, head = "probe", head_lr_scale = 1.0, layer_decay = 1.0, '
        'frozen_share = 0.67, batch_norm = "frozen", drop_path = 0.0, start_share = 0.25, stages = 2, '
        'views = ["centre", "mirror"]'
    )
    nowhere = dataclasses.replace(workspace, root=tmp_path)
    for key in ("epochs", "frozen_share"):
        assert f"{key} = by the number of images, once `split` has counted them" in family_remark(nowhere, plan, VIEWS)
    unknown = plan_runs(TrainSettings(backbone=("resnet5O",)), {})[0]
    assert family_remark(workspace, unknown, VIEWS).startswith("resnet5O: there is no backbone `resnet5O`")
