"""Checks features and heads of frozen backbones: on disk, against scikit-learn, and blind to a fold's own images."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from folds.pixels.store import open_store
from folds.split.assign import Folds, load_folds
from models.backbones import build_network, head_parameters, pooled_features, resolve_backbone, set_head
from models.input.resample import network_input
from models.input.views import view_boxes
from models.probe.features import FrozenBody, image_features
from models.probe.heads import STRENGTHS, FeatureRows, fit_heads, inner_splits, lowest_strength, start_head
from models.probe.logistic import Logistic
from models.probe.neighbours import Choice, Memory
from tests.models.small import save_body


def small_problem(n=200, n_features=12, n_classes=4):
    """Features of different lengths (n, D) around class centres, and targets (n,)."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, n_classes, n)
    centres = rng.normal(0, 1.5, (n_classes, n_features))
    scale = rng.uniform(0.2, 3, n_features)
    features = (centres[target] + rng.normal(0, 1.5, (n, n_features))) * scale + 5
    return torch.tensor(features, dtype=torch.float32), torch.tensor(target)


def small_folds(target, *, n_folds=3):
    n = len(target)
    names = np.array([f"{i:04d}" for i in range(n)])
    return Folds(
        image_id=names,
        path=names,
        label=target.numpy().astype(str),
        target=target.numpy(),
        fold=np.arange(n) % n_folds,
        group=np.arange(n),
        classes=("0", "1", "2", "3"),
        n_folds=n_folds,
        seed=0,
        digest="small",
    )


def of_rows(features):
    return FeatureRows([[features.numpy()]], torch.device("cpu"))


def disturbed(features, folds, fold):
    """(rows, folds) in which the images of one fold look otherwise and are all of class 0."""
    own = folds.fold == fold
    changed = features * torch.from_numpy(np.where(own, -7.0, 1.0)).float()[:, None]
    return of_rows(changed), dataclasses.replace(folds, target=np.where(own, 0, folds.target))


def bytes_of(head):
    return head.weight.numpy().tobytes(), head.bias.numpy().tobytes()


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_a_head_is_scikit_learns_optimum(strength):
    features, target = small_problem()
    scale = float((features - features.mean(0)).square().mean().sqrt())
    fitted = LogisticRegression(C=1 / (strength * 12), tol=1e-7, max_iter=5000).fit(features / scale, target)
    head = Logistic(features.clone(), target, n_classes=4).fit(strength, tolerance=1e-6)
    theirs = fitted.predict_proba(features / scale)
    np.testing.assert_allclose(head.log_probs(features).exp().numpy(), theirs, atol=5e-4)
    np.testing.assert_allclose((head.weight * scale).numpy(), fitted.coef_, atol=2e-3)


@pytest.mark.parametrize("of_neighbours", [False, True])
def test_of_two_backbones_the_scale_of_one_has_no_say(of_neighbours):
    features, target = small_problem()
    scales, found = torch.ones(12), []
    scales[5:] *= 100
    for one in (features, features * scales):
        problem = (Memory if of_neighbours else Logistic)(one.clone(), target, n_classes=4, widths=(5, 7))
        choice = Choice(count=7, temperature=0.1, share=0.25, prior=0.5)
        head = problem if of_neighbours else problem.fit(0.1, tolerance=1e-6)
        found.append(head.log_probs(one, choice) if of_neighbours else head.log_probs(one))
    torch.testing.assert_close(found[1], found[0], atol=1e-3, rtol=1e-3)


def test_where_a_fit_starts_makes_no_difference():
    features, target = small_problem()
    problem = Logistic(features.clone(), target, n_classes=4)
    far = problem.fit(0.001)
    one, other = problem.fit(0.1, tolerance=1e-5), problem.fit(0.1, start=far, tolerance=1e-5)
    torch.testing.assert_close(one.log_probs(features).exp(), other.log_probs(features).exp(), atol=1e-3, rtol=0)


def test_a_class_without_images_gets_the_probability_of_half_an_image():
    features, target = small_problem()
    head = Logistic(features.clone(), target, n_classes=6).fit(0.1)
    probs = head.log_probs(features).exp().numpy()
    assert np.isfinite(probs).all()
    assert probs[:, 4:].mean() == pytest.approx(1 / 400, rel=0.05)  # by the mean of logarithms it was 0.0037
    assert np.argmax(probs, axis=1).max() < 4


def test_constant_and_repeated_features_are_no_obstacle():
    features, target = small_problem()
    features = torch.cat([features, features, torch.ones(200, 3)], dim=1)
    head = Logistic(features.clone(), target, n_classes=4).fit(0.01)
    assert (head.log_probs(features).argmax(1) == target).float().mean() > 0.8


@pytest.mark.parametrize("n_folds", [2, 3])
def test_a_folds_own_images_and_labels_have_no_say_in_its_head(n_folds):
    features, target = small_problem()
    folds = small_folds(target, n_folds=n_folds)
    before = fit_heads(of_rows(features), folds)
    for k in range(n_folds):
        after = fit_heads(*disturbed(features, folds, k))
        assert bytes_of(after.heads[k]) == bytes_of(before.heads[k])
        assert after.strengths[k] == before.strengths[k]
        others = [j for j in range(n_folds) if j != k]
        assert all(bytes_of(after.heads[j]) != bytes_of(before.heads[j]) for j in others)


@pytest.mark.parametrize("n_folds", [2, 3, 4, 5])
def test_inner_splits_train_and_judge_inside_the_training_part_only(n_folds):
    fold, group = np.arange(60) % n_folds, np.arange(60) // n_folds
    splits = inner_splits(fold, group, n_folds=n_folds)
    assert {k for split in splits for k in split.valid} == set(range(n_folds))
    for split in splits:
        for k, valid in split.valid.items():
            assert k not in fold[split.train]
            assert k not in fold[valid]
            assert not set(group[split.train][fold[split.train] == fold[valid[0]]]) & set(group[valid])
            assert not set(split.train.tolist()) & set(valid.tolist())


def test_two_folds_of_one_group_each_left_nothing_to_choose_a_strength_by():
    """Two hospitals, `--group-column hospital --n-folds 2`: it was an IndexError."""
    fold = np.repeat([0, 1], 30)
    splits = inner_splits(fold, fold, n_folds=2)
    assert [sorted(split.valid) for split in splits] == [[0], [0], [1], [1]]
    assert all(len(split.train) == len(rows) == 15 for split in splits for rows in split.valid.values())


def test_noise_gets_a_stronger_penalty_than_clear_classes():
    features, target = small_problem(n=300)
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    clear = fit_heads(of_rows(features), small_folds(target)).strengths
    assert max(clear) < min(fit_heads(of_rows(noise), small_folds(target)).strengths)


def test_the_strength_lies_at_the_bottom_of_the_parabola():
    at = np.log(STRENGTHS[:4])
    bottom = np.log(0.4)  # between the second and the third
    assert lowest_strength(list((at - bottom) ** 2)) == pytest.approx(0.4)
    assert lowest_strength([1.0, 2.0]) == STRENGTHS[0]
    assert lowest_strength([3.0, 2.0, 1.0]) == STRENGTHS[2]


CPU = torch.device("cpu")
BACKBONE = resolve_backbone("test_resnet")


@pytest.fixture
def body(tmp_path):
    return FrozenBody(BACKBONE, save_body(tmp_path / "body.safetensors", n_classes=4), 32, CPU, torch.float32)


def ask(workspace, body, *, views=("centre", "mirror"), **options):
    """The files of the features of the test images, one for each view."""
    store = open_store(workspace)
    return list(image_features(workspace, store, store.test_rows, body, views=views, **options).values())


def test_features_are_the_means_of_the_stage_before_the_last_and_then_what_the_head_gets(workspace, body):
    store = open_store(workspace)
    rows = store.test_rows
    pixels = torch.from_numpy(np.array(store.pixels[rows]))
    network, maps = build_network(BACKBONE, 4, size=32, weights=body.weights).eval(), []
    network.layer3.register_forward_hook(lambda layer, given, made: maps.append(made))
    for file, view in zip(ask(workspace, body), ("centre", "mirror"), strict=True):
        stage, last = (torch.from_numpy(one.astype(np.float32)) for one in file.stages())
        boxes = view_boxes(view, width=store.width[rows], height=store.height[rows], crop_share=BACKBONE.crop_share)
        with torch.inference_mode():
            logits = network(network_input(pixels, boxes, size=32, backbone=BACKBONE))
            torch.testing.assert_close(network.get_classifier()(last), logits, atol=2e-3, rtol=0)
        torch.testing.assert_close(stage, maps.pop().mean((2, 3)), atol=2e-3, rtol=0)
        np.testing.assert_array_equal(torch.cat([stage, last], dim=1), file.load())


@pytest.mark.parametrize(
    ("tag", "widths"), [("test_efficientnet", [48, 64, 256]), ("test_convnext", [48, 64]), ("test_vit", [64])]
)
def test_stages_that_are_the_same_numbers_or_of_one_resolution_count_once(tag, widths):
    network = build_network(resolve_backbone(tag), 1, size=160).eval()
    with torch.inference_mode():
        assert [one.shape[1] for one in pooled_features(network, torch.zeros(2, 3, 160, 160))] == widths


def test_another_view_asks_for_that_view_alone(workspace, body):
    before = {file.path: file.path.stat().st_mtime_ns for file in ask(workspace, body)}
    files = ask(workspace, body, views=("centre", "whole", "mirror"))
    assert len(files) == 3
    assert before.items() <= {file.path: file.path.stat().st_mtime_ns for file in files}.items()


def test_other_weights_under_the_same_name_make_other_features(workspace, body):
    before = ask(workspace, body)[0]
    save_body(body.weights, seed=1)
    after = ask(workspace, body)[0]
    assert after.path != before.path
    assert not np.array_equal(after.load(), before.load())


@pytest.mark.parametrize("change", [{"size": 48}, {"precision": torch.bfloat16}, {"weights": None}])
def test_another_size_precision_or_start_makes_other_features(workspace, body, change):
    assert ask(workspace, dataclasses.replace(body, **change))[0].key != ask(workspace, body)[0].key


def test_a_damaged_or_foreign_file_is_made_anew(workspace, body):
    file = ask(workspace, body)[0]
    whole, head = file.path.read_bytes(), file.path.with_suffix(".json")
    foreign = json.loads(head.read_text())
    foreign["facts"]["images"] = "others"
    damages = [(file.path, whole[:-1] + b"\x7f"), (file.path, whole[:-9]), (file.path, b"")]
    for path, damage in [*damages, (head, json.dumps(foreign).encode()), (head, b"[]")]:
        path.write_bytes(damage)
        assert not file.is_whole()
        ask(workspace, body)
        assert file.path.read_bytes() == whole


def test_the_size_of_batches_leaves_the_features_as_they_are(workspace, body):
    before = ask(workspace, body)[0].load().astype(np.float32)
    for file in workspace.features.iterdir():
        file.unlink()
    after = ask(workspace, body, batch_size=4)[0].load().astype(np.float32)
    np.testing.assert_allclose(after, before, rtol=2e-3, atol=1e-3)


def test_no_images_have_no_features_but_know_their_width(workspace, body):
    none = image_features(workspace, open_store(workspace), np.array([], dtype=np.int64), body, views=("centre",))
    assert [stage.shape for stage in none["centre"].stages()] == [(0, 192), (0, 96)]
    assert none["centre"].is_whole()


def test_features_do_not_disturb_what_is_drawn_at_random(workspace, body):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    ask(workspace, body)
    assert torch.equal(torch.rand(2), expected)


def test_every_fold_starts_from_its_own_head_and_only_the_first_costs_a_pass(workspace, body):
    folds, store = load_folds(workspace), open_store(workspace)

    def start(fold):
        return start_head(workspace, folds, store, body, fold=fold)

    def files():
        return {path: path.stat().st_mtime_ns for path in workspace.features.iterdir()}

    first, made = start(0).weight, files()
    heads = [start(fold).weight for fold in (0, 1)]
    assert files() == made
    assert torch.equal(heads[0], first)
    assert not torch.equal(heads[0], heads[1])
    of_all = start(None)
    assert (of_all.weight.shape, of_all.bias.shape, of_all.weight.dtype) == ((4, 96), (4,), torch.float32)
    assert not any(torch.equal(of_all.weight, head) for head in heads)
    assert torch.equal(start(None).weight, of_all.weight)


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_a_head_that_is_set_makes_the_network_answer_as_the_head_does(name, stages):
    network = build_network(resolve_backbone(name), 4, size=160, stages=stages).eval()
    images = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = torch.cat(pooled_features(network, images)[-1 if stages == 1 else 0 :], dim=1)
        weight, bias = torch.rand(4, features.shape[1]), torch.rand(4)
        assert set_head(network, weight, bias)
        torch.testing.assert_close(network(images), features @ weight.T + bias)


# a convolution; two heads behind batch norm; one linear layer, of another width
@pytest.mark.parametrize(("name", "width"), [("resnetv2_50", None), ("levit_128s", None), ("test_resnet", 7)])
def test_a_classifier_that_is_not_one_linear_layer_of_the_width_is_left_alone(name, width):
    network = build_network(resolve_backbone(name), 4, size=224)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert not set_head(network, torch.zeros(4, width or network.num_features), torch.zeros(4))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_stage_head_starts_from_zeros_draws_no_number_and_goes_with_copies():
    torch.manual_seed(0)
    plain = build_network(BACKBONE, 4, size=32).eval()
    torch.manual_seed(0)
    network = copy.deepcopy(build_network(BACKBONE, 4, size=32, stages=2).eval())
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(network(images), plain(images), rtol=0, atol=0)
        network.stage_head.weight.add_(1)
        assert not torch.equal(network(images), plain(images))
    assert {"stage_head.weight", "fc.weight", "fc.bias"} == head_parameters(network)
