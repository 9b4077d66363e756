"""What most tests of networks begin with: a work folder of their own, and a weights file."""

import pytest

from tests.models.small import prepared, save_body


@pytest.fixture
def workspace(tmp_path):
    return prepared(tmp_path)


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A file with random weights of test_resnet; not to be changed."""
    return save_body(tmp_path_factory.mktemp("weights") / "test_resnet.safetensors")
