"""Batches: rows of work cut into runs, each filled up to a shape that is compiled, joined again."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from leaveout.runtime.memory import (
    ACCELERATOR,
    BROAD,
    FEW_GROUPS,
    MANY_GROUPS,
    bucket,
    budget,
    exhausted,
    limited,
    longest,
)
from leaveout.runtime.remembered import forget
from leaveout.runtime.sharding import devices, is_traced, on_host, place_all, to_host
from leaveout.runtime.text import warn

__all__ = ["abreast", "cut_out", "halving", "in_rungs", "in_runs", "joined", "runs_of", "summed"]

_T = TypeVar("_T")
_Tree = TypeVar("_Tree")


def in_runs(
    runs: Iterable[np.ndarray],
    call: Callable[[np.ndarray], PyTree],
    lanes: Callable[[np.ndarray], int] = len,
    axis: int = 0,
) -> PyTree:
    """The answers of `call` to runs of rows, one after the other along an axis.

    Args:
        runs: arrays of rows.
        call: of rows to a PyTree of arrays, an entry a row.
        lanes: to how many rows a run is filled up, by repeating it; default none more.
        axis: of the answers, along which the rows lie.
    """
    parts, counts = [], []
    for rows in runs:
        parts.append(call(np.resize(rows, lanes(rows))))
        counts.append(len(rows))
    return joined(parts, counts, axis)


def in_rungs(
    count: int,
    most: int,
    call: Callable[[np.ndarray], PyTree],
    many: int = MANY_GROUPS,
    few: int = FEW_GROUPS,
) -> PyTree:
    """The answers of `call` to rows 0 to count - 1, many at a time and at the end a few.

    Two shapes serve any number of rows; of the last few some may be computed in vain.

    Args:
        count: how many rows.
        most: rows that fit in memory at once.
        call: of rows to a PyTree of arrays, an entry a row.
        many: rows that are best taken at once, on a processor.
        few: and of what is left over.
    """
    times = 1 if on_host() else ACCELERATOR
    many, few = min(times * many, most), min(times * few, most)
    whole = count // many * many
    runs = [*runs_of(whole, many), *(whole + rows for rows in runs_of(count - whole, few))]
    return in_runs(runs, call, lambda rows: many if len(rows) == many else few)


def abreast(columns: int, most: int) -> int:
    """Lanes of so many columns that go through a product together, a power of two up to `most`.

    More would be no quicker, and few groups would mostly be filled up in vain. Each device has one.
    """
    return max(longest(columns, BROAD, most), min(bucket(devices()), most))


def runs_of(count: int, length: int) -> Iterator[np.ndarray]:
    """Rows 0 to count - 1 in runs of this length, the last as short as it is."""
    return (np.arange(at, min(at + length, count)) for at in range(0, count, length))


def cut_out(block: Int[Array, ""], length: int, n: int) -> Callable[..., Array]:
    """What cuts a block of examples out of n, inside `jit`: of a leaf, along its axis 0 or 1.

    The last block begins early enough to be full. Along axis 1 lies what the examples get: of those
    that the block before has seen it is 0.
    """
    start = jnp.minimum(block * length, n - length)

    def cut(leaf, axis: int = 0):
        part = jax.lax.dynamic_slice_in_dim(leaf, start, length, axis)
        new = start + jnp.arange(length) >= block * length
        return jnp.where(new[None], part, 0.0) if axis else part

    return cut


def summed(
    term: Callable[[Callable[..., Array]], _Tree], length: int, n: int, every: int | Array = 1
) -> _Tree:
    """The sum over blocks of examples of `term`, which is given what cuts a block out of n.

    Args:
        term: of `cut_out`'s answer to a PyTree of arrays.
        length: of a block, at most n.
        n: examples.
        every: only the first of so many blocks is looked at; it may be traced.
    """

    def of(block):
        return term(cut_out(block, length, n))

    def add(number, total):
        return jax.tree.map(jnp.add, total, of(number * every))

    count = -(-n // length)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(of, 0))
    return jax.lax.fori_loop(0, -(-count // every), add, zeros)


def joined(parts: list, counts: list[int], axis: int = 0, back: np.ndarray | None = None) -> PyTree:
    """PyTrees of one structure, their arrays one after the other.

    They are put together on the host, where no program is compiled for their shapes.

    Args:
        parts: PyTrees of arrays.
        counts: how many rows of each are kept, its first.
        axis: of the arrays, along which the rows lie.
        back: which of all rows comes first, second and so on; default as they lie.
    """
    traced = is_traced(parts)
    alone = not traced and len(parts) == 1 and devices() == 1 and back is None
    if alone and _lengths(parts[0], axis) <= {counts[0]}:
        return jax.block_until_ready(parts[0])
    numbers = jnp if traced else np
    kept = [(*(slice(None),) * axis, slice(count)) for count in counts]

    def whole(*leaves):
        cut = [leaf[some] for leaf, some in zip(leaves, kept, strict=True)]
        rows = numbers.concatenate(cut, axis) if len(cut) > 1 else cut[0]
        return rows if back is None else numbers.take(rows, back, axis)

    if traced:
        return jax.tree.map(whole, *parts)
    answer = jax.tree.map(whole, *map(to_host, parts))
    return place_all(answer)


def _lengths(tree: PyTree, axis: int) -> set[int]:
    return {leaf.shape[axis] for leaf in jax.tree.leaves(tree)}


def halving(
    runs: Iterable[np.ndarray], most: int, call: Callable[[np.ndarray, int], _T]
) -> Iterator[tuple[np.ndarray, list[_T]]]:
    """Runs of rows, and the answers of call(some rows, most), at most so many at once.

    Where memory runs out, half as many rows are taken at once from then on, in half the memory.
    """
    memory: int | None = None
    for run in runs:
        answers, left = [], run
        while len(left):
            try:
                with limited(memory):
                    answers.append(call(left[:most], most))
            except (MemoryError, jax.errors.JaxRuntimeError) as error:
                if not exhausted(error) or most == 1:
                    raise
                forget()
                warn(
                    f"memory ran out with {most:,} groups at once; going on with {most // 2:,}: a "
                    "smaller memory= would do so from the start"
                )
                most, memory = most // 2, budget(memory) // 2
                continue
            left = left[most:]
        yield run, answers
