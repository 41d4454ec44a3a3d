"""Settings for all tests."""

import os

# The models here are tiny: threads would mostly wait for one another, worst on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
