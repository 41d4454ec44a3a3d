"""Settings for all tests."""

import os

import pytest
from hypothesis import settings

settings.register_profile("a2d", deadline=None)  # how long an example takes says nothing
settings.load_profile("a2d")

# The models here are tiny: threads would mostly wait for one another, worst on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tests need no network: without one, the hub's client would try again for half a minute.
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True, scope="module")
def _short_measurements(request):
    """Let runs measure their models' speeds in a moment; `test_speeds` tests how it is done."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__ != "test_speeds":
            patch.setattr("a2d.runs.speeds._MIN_PASS_SECONDS", 0.0)
            patch.setattr("a2d.runs.speeds._MAX_SECONDS", 0.0)
            patch.setattr("a2d.runs.speeds._MIN_ROUNDS", 1)
        yield
