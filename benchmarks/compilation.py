"""How programs are compiled that run once: by whoever wants to see that they run, not how fast."""

import os

import jax

__all__ = ["compile_quickly"]

# Unoptimised, on one thread and by XLA's older code for fusions, which jaxlib 0.10 has and 0.12
# has not, compiling takes a third of the time. The flags are read when JAX first computes.
_FLAGS = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]


def compile_quickly() -> None:
    """Tell XLA, before its first program, not to optimise; flags that a user has set stay."""
    old = ["--xla_cpu_use_fusion_emitters=false"]  # a flag that is unknown ends the process
    flags = _FLAGS + (old if jax.__version_info__ < (0, 11) else [])
    os.environ.setdefault("XLA_FLAGS", " ".join(flags))
