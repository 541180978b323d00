"""Strict settings for every test: float64, no silent promotion of ranks, real data found."""

import os
from pathlib import Path

import jax
import jaxtyping
import pytest

# The suite is mostly compilation, of programs that then run once: unoptimised, it takes a sixth
# less. The main job, benchmarks and notebooks run what users run.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def as_users_run_it():
    """The package as installed: wrong types reach its own checks, not those of the test suite."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real raw data, or a skip that says what to set."""
    folder = os.environ.get("LEAVEOUT_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("LEAVEOUT_DATA is not set to the folder of real data sets")
    return Path(folder)
