"""Strict settings for every test: float64, no silent promotion of ranks, real data found."""

import gc
import os
import tempfile
from pathlib import Path

import jax
import jaxtyping
import pytest
from benchmarks.compilation import compile_quickly

# The suite is mostly compilation, of programs that then run once: compiled quickly it takes a third
# of the time, and a tenth less again if processes share what they compile. The main job, recorded
# benchmarks and notebooks run what users run.
compile_quickly()
if "PYTEST_XDIST_WORKER" not in os.environ and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    SHARED = tempfile.TemporaryDirectory(prefix="leaveout-compiled-")  # gone when pytest is
    os.environ["JAX_COMPILATION_CACHE_DIR"] = SHARED.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_compilation_cache_dir", SHARED.name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_enable_x64", True)
# Writing programs down makes millions of small objects and hardly a circle: looked for as seldom as
# here, circles take a tenth less of the suite's time and no more of its memory.
gc.set_threshold(100_000, 50, 100)
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_finish():
    """What is imported stays: it need not be looked through again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def forgetful():
    """Drop what a file compiled: thousands of programs exhaust the maps of a process's memory."""
    yield
    jax.clear_caches()


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
