"""Settings for all tests."""

import os
import signal

import pytest
from hypothesis import settings

settings.register_profile("a2d", deadline=None)  # durations depend on the machine
settings.load_profile("a2d")

# The models are tiny: threads would mostly wait for each other, above all on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tests need no network: the hub's client would retry for half a minute without one.
os.environ.setdefault("HF_HUB_OFFLINE", "1")


LONG_FILES = [
    "test_readme.py",
    "test_fidelity.py",
    "test_distill.py",
    "test_docs.py",
    "test_pipeline.py",
    "test_pruning.py",
    "test_ray.py",
    "test_teachers.py",
    "test_translate_command.py",
    "test_foreign.py",
    "test_trainer.py",
    "test_parts.py",
    "test_starts.py",
    "test_export.py",
    "test_distributed.py",
    "test_decoding.py",
]
"""Files whose tests take half a minute or more, the longest first."""


def pytest_collection_modifyitems(items):
    """Put long files first, so that parallel workers end together; skip what is marked `full`."""
    order = {name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
    if os.environ.get("SUITE") != "full":
        for item in items:
            if item.get_closest_marker("full"):
                item.add_marker(pytest.mark.skip(reason="takes long: SUITE=full"))


def pytest_collection_finish():
    """Refuse imports after which SIGPIPE ends the process: any later test could end its worker."""
    if signal.getsignal(signal.SIGPIPE) is not signal.SIG_IGN:
        raise pytest.UsageError("an imported module, such as sacrebleu.sacrebleu, handles SIGPIPE")


MODULES_WITH_PICTURES = ["test_pipeline", "test_results"]
"""Modules that look at a run's pictures. Drawing them takes a quarter of a tiny run's time."""


class EmptyPictures:
    """Stand for `a2d.runs.plots` in reports of runs."""

    @staticmethod
    def curves(_, path, *__):
        path.parent.mkdir(exist_ok=True)
        path.touch()

    scores = alignment = curves


MODULES_WITH_STARTS = ["test_pruning", "test_starts", "test_ray"]
"""Modules that look at starts from the teacher, or make them in processes of their own. Much sample
text is most of a tiny run's work."""

MODULES_WITH_LIMITS = ["test_teachers", "test_trainer", "test_ray"]
"""Modules that look at the `max_length` of trained models, or train in processes of their own."""


def set_low_limit(model, *lengths):
    """Set generation defaults, but end translations early: models of tiny runs never end them."""
    # Imported above, PyTorch would not see OMP_NUM_THREADS.
    from a2d.models.search_settings import set_generation_defaults

    set_generation_defaults(model, *lengths)
    model.generation_config.max_length = min(40, model.generation_config.max_length)


@pytest.fixture(autouse=True, scope="module")
def _short_runs(request):
    """Draw no pictures, read and translate little text, and measure speeds shortly."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__ not in MODULES_WITH_PICTURES:
            patch.setattr("a2d.runs.report.plots", EmptyPictures)
        if request.module.__name__ not in MODULES_WITH_STARTS:
            patch.setattr("a2d.models.activations.SENTENCES", 100)
        if request.module.__name__ not in MODULES_WITH_LIMITS:
            patch.setattr("a2d.training.trainer.set_generation_defaults", set_low_limit)
        if request.module.__name__ != "test_speeds":
            patch.setattr("a2d.runs.speeds._MIN_PASS_SECONDS", 0.0)
            patch.setattr("a2d.runs.speeds._MAX_SECONDS", 0.0)
            patch.setattr("a2d.runs.speeds._MIN_ROUNDS", 1)
        yield
