"""Tests class maps: Grad-CAM against a net whose answer is known, and nets that have no map."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from models.predict.gradcam import grad_cam


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


def test_where_nothing_speaks_for_a_class_its_map_is_empty():
    assert not grad_cam(Known(), -torch.ones(1, 3, 4, 4), [1]).any()


def test_a_convolutional_net_has_a_map_and_keeps_its_parameters():
    network = timm.create_model("test_resnet", num_classes=4)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    heat = grad_cam(network, torch.randn(1, 3, 64, 64), [0, 3])
    assert heat.shape[0] == 2
    assert min(heat.shape[1:]) > 1
    assert ((heat >= 0) & (heat <= 1)).all()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_tokens_are_no_map():
    network = timm.create_model("test_vit", num_classes=4, img_size=64)
    assert grad_cam(network, torch.randn(1, 3, 64, 64), [0]) is None


def test_one_place_is_no_map():
    assert grad_cam(Known(), torch.ones(1, 3, 1, 1), [0]) is None
    assert grad_cam(Known(), torch.ones(1, 3, 2, 2), [0]).dtype == np.float32
