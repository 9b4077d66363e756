"""Makes, once for all tests of this folder, a competition that has gone the whole way."""

import pytest

from tests.submissions.whole import make_whole


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """Its work folder: a leak, a copy, a picture under two labels, two runs, a blend, a submission."""
    return make_whole(tmp_path_factory.mktemp("whole"))
