"""What is compiled: calls from outside, as one program each; and where that is kept."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import equinox as eqx
import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from leaveout.runtime.files import cache
from leaveout.runtime.sharding import tracing

__all__ = ["compiled", "keep_compiled"]

_USUAL = 1.0  # seconds of compiling from which on JAX keeps a program unasked

_P = ParamSpec("_P")
_R = TypeVar("_R")


def compiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A pure function that is one compiled program where it is called with numbers.

    Left alone, JAX compiles each operation of such a call by itself, and a loop at every call anew.
    Inside another program the function is as it is written; `jax.vmap` and `jax.grad` of it outside
    any are compiled too.
    """
    whole = functools.cache(lambda: eqx.filter_jit(function))  # at the first call

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        return (function if tracing() else whole())(*args, **kwargs)

    return call


def keep_compiled(folder: str | os.PathLike | None = None) -> Path:
    """Have JAX keep what it compiles in a folder: another start need not compile it again.

    Call it once at the top of a script or a notebook; what was compiled before is not kept. Several
    processes may share the folder: an entry that is half written is compiled again, and JAX warns
    of it. It grows without a limit, and may be deleted at any time. Programs are kept whatever they
    took to compile, unless JAX has been given a least time other than its own second
    (jax_persistent_cache_min_compile_time_secs).

    Args:
        folder: where to; default the one that JAX has been given already
            (JAX_COMPILATION_CACHE_DIR), or else "compiled" in the user's cache ($LEAVEOUT_CACHE, or
            the system's place for caches).

    Returns:
        the folder.

    Raises:
        ValueError: if the folder cannot be made or written to.

    Example:
        >>> folder = lo.keep_compiled("compiled")  # doctest: +SKIP
    """
    settings: Any = jax.config  # its names are made when JAX starts
    given = settings.jax_compilation_cache_dir
    if folder is None and given:
        _keep_all()
        return Path(given)
    chosen = cache() / "compiled" if folder is None else Path(folder).expanduser()
    try:
        chosen.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{chosen} cannot be made ({error}); give another folder") from None
    if not os.access(chosen, os.W_OK):
        raise ValueError(f"{chosen} cannot be written to; give another folder")
    jax.config.update("jax_compilation_cache_dir", str(chosen))
    _keep_all()
    reset_cache()  # JAX looks for its folder once, when it first compiles
    return chosen


def _keep_all() -> None:
    """Keep what compiles in less than a second, as most programs here do, unless told otherwise."""
    settings: Any = jax.config
    if settings.jax_persistent_cache_min_compile_time_secs == _USUAL:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
