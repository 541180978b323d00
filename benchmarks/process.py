"""A process that runs benchmarks: how it begins, and one of them."""

import importlib
from pathlib import Path

import jax

from benchmarks import harness
from benchmarks.compilation import compile_quickly
from leaveout.runtime.compilation import keep_compiled

__all__ = ["begin", "run"]

jax.config.update("jax_enable_x64", True)


def begin(size: str, device: str, minutes: float | None) -> str:
    """Make a process ready for benchmarks; the folder of results of its device."""
    if size == "smoke":
        compile_quickly()
    there = _computing_on(device)
    harness.stop_after(8 if there and minutes is None else minutes)
    if size != "full":  # which reports what compiling takes
        keep_compiled()
    return there


def run(name: str, out: Path, size: str) -> None:
    """Run a benchmark if there is time left, and forget its programs, which are many."""
    if harness.time_left(name):
        importlib.import_module(f"benchmarks.{name}").main(out, size)
        jax.clear_caches()


def _computing_on(device: str) -> str:
    """The folder of results of a device: none for processors, which JAX is told to use."""
    if device == "cpu":
        jax.config.update("jax_platforms", "cpu")
        return ""
    if jax.default_backend() != device:
        raise SystemExit(f"--device {device}: JAX computes on {jax.default_backend()} here")
    return device
