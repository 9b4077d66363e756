"""Checks the format of predictions, and Grad-CAM."""

import dataclasses

import numpy as np
import pytest
import timm
import torch
from torch import nn

from folds.base.errors import UserError
from models.predict.gradcam import grad_cam
from models.predict.predictions import Predictions, load_predictions, save_predictions
from tests.competition import refusal


def predictions():
    logits = np.random.default_rng(0).normal(size=(3, 2, 4))
    return Predictions(
        image_id=np.array(["007", "ü b.jpg", "c"]),
        classes=np.array(["0", "2", "10", "NA"]),
        views=np.array(["centre", "mirror"]),
        log_probs=(logits - np.log(np.exp(logits).sum(2, keepdims=True))).astype(np.float32),
        folds_digest="abc",
    )


def test_what_is_saved_is_what_is_loaded_and_the_same_bytes_every_time(tmp_path):
    for name in ("a.npz", "b.npz"):
        save_predictions(tmp_path / name, predictions())
    loaded = load_predictions(tmp_path / "a.npz", hint="")
    for field in dataclasses.fields(Predictions):
        np.testing.assert_array_equal(getattr(loaded, field.name), getattr(predictions(), field.name))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_views_are_averaged_as_probabilities_and_not_as_logarithms():
    log_probs = np.log([[[0.9, 0.1], [0.5, 0.5]]])
    made = Predictions(np.array(["a"]), np.array(["x", "y"]), np.array(["one", "two"]), log_probs, "d")
    np.testing.assert_allclose(made.probs(), [[0.7, 0.3]])
    np.testing.assert_allclose(made.probs(["two"]), [[0.5, 0.5]])


def test_a_view_that_is_not_there_is_refused_with_the_way_to_get_it():
    with pytest.raises(UserError, match="there is no view zoom in these predictions; they have centre, mirror") as err:
        predictions().probs(["zoom"])
    assert err.value.hint == "`python run.py predict --views centre,mirror,zoom`"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"image_id": np.array(["a", "a", "b"])}, "it has the id a twice"),
        ({"image_id": np.array(["a", "b"])}, r"log_probs has shape \(3, 2, 4\), not \(2, 2, 4\)"),
        ({"log_probs": np.full((3, 2, 4), np.nan, np.float32)}, "has NaN or infinite log-probabilities"),
        ({"log_probs": np.zeros((3, 2, 4), np.float32)}, "do not sum to 1"),
    ],
)
def test_a_file_that_holds_what_it_must_not_is_refused(tmp_path, change, sentence):
    bad = dataclasses.replace(predictions(), **change)
    np.savez(tmp_path / "oof.npz", **vars(bad))
    with pytest.raises(UserError, match=sentence):
        load_predictions(tmp_path / "oof.npz", hint="")
    with pytest.raises(AssertionError):
        save_predictions(tmp_path / "other.npz", bad)


def test_a_file_that_is_absent_or_cut_off_is_refused_with_the_hint(tmp_path):
    path, hint = tmp_path / "oof.npz", "`python run.py train`"
    assert refusal(load_predictions, path, hint=hint) == (f"{path} does not exist", hint)
    save_predictions(path, predictions())
    whole = path.read_bytes()
    for keep in (0, 10, 500):
        path.write_bytes(whole[:keep])
        assert refusal(load_predictions, path, hint=hint)[0].startswith(f"{path} is damaged")


class Known(nn.Module):
    """Its features are its input; each class's logit is the mean of one channel."""

    num_features = 3

    def __init__(self, *, channels_last: bool = False) -> None:
        super().__init__()
        self.channels_last = channels_last

    def forward_features(self, x):
        return x.permute(0, 2, 3, 1) if self.channels_last else x

    def forward_head(self, x):
        return x.mean(dim=(1, 2) if self.channels_last else (2, 3))


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_map_of_a_class_is_the_channel_that_it_is_the_mean_of(channels_last):
    seen = torch.rand(1, 3, 4, 5) + 0.1
    heat = grad_cam(Known(channels_last=channels_last), seen, [2, 0])
    assert heat.shape == (2, 4, 5)
    for one, channel in zip(heat, (2, 0), strict=True):
        assert one == pytest.approx((seen[0, channel] / seen[0, channel].max()).numpy(), rel=1e-6)
    assert not grad_cam(Known(channels_last=channels_last), -seen, [1]).any()  # nothing speaks for the class


def test_a_convolutional_net_has_a_map_and_keeps_its_parameters():
    network = timm.create_model("test_resnet", num_classes=4)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    heat = grad_cam(network, torch.randn(1, 3, 64, 64), [0, 3])
    assert heat.shape[0] == 2
    assert min(heat.shape[1:]) > 1
    assert ((heat >= 0) & (heat <= 1)).all()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_tokens_and_one_place_are_no_map():
    tokens = timm.create_model("test_vit", num_classes=4, img_size=64)
    assert grad_cam(tokens, torch.randn(1, 3, 64, 64), [0]) is None
    assert grad_cam(Known(), torch.ones(1, 3, 1, 1), [0]) is None
    assert grad_cam(Known(), torch.ones(1, 3, 2, 2), [0]).dtype == np.float32
