"""How much fits at once: a budget in bytes, chunks that keep to it, and limits of plans."""

import contextlib
import contextvars
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from leaveout.runtime.options import check_positive

__all__ = [
    "ACCELERATOR",
    "BROAD",
    "CACHED_EXAMPLES",
    "CHUNK_GROUPS",
    "DENSE_COPY",
    "FACTORISED",
    "FEW_GROUPS",
    "GRADIENT_BYTES",
    "MANY_EXAMPLES",
    "MANY_GROUPS",
    "NEWTON_LANES",
    "PASS_EXAMPLES",
    "PATH_BYTES",
    "PATH_LANES",
    "POOL_BYTES",
    "POOL_LANES",
    "QUERY_BYTES",
    "bucket",
    "budget",
    "chunks",
    "exhausted",
    "gib",
    "give_back",
    "limited",
    "longest",
    "most_resident",
    "resident",
    "rung",
    "zeros",
]

# ---- limits: what is in flight together, on a processor ------------------------------------------

ACCELERATOR = 4  # times as many lanes on an accelerator, which waits longer for each kernel
CHUNK_GROUPS = 1024  # groups of a chunk, and those whose points are looked at one by one
MANY_GROUPS, FEW_GROUPS = 256, 64  # groups summed or evaluated together; what is left over
BROAD = 512  # columns from which on a product with all the data is as quick as it gets
NEWTON_LANES = 64  # groups solved together
POOL_LANES = 128  # groups retrained together: products are wide enough to run nearly at full speed
POOL_BYTES = 2**30  # of the lanes of a pool; more would only be slower
PATH_LANES = 128  # weightings whose regularisation path is followed together
PATH_BYTES = 2**29  # of their working arrays
CACHED_EXAMPLES = 1024  # examples in a block: all lanes' scores of it stay in the cache
MANY_EXAMPLES = 2**16  # examples up to which a fit looks at all of them together
PASS_EXAMPLES = 2048  # of more, examples in a block: with its products it stays in the cache
QUERY_BYTES = 2**20  # of queries of several outputs whose reach is found together
GRADIENT_BYTES = 2**27  # of gradients up to which they are clustered as they are
FACTORISED = 12_000  # parameters up to which a Hessian is formed and factorised (1.2 GB at most)
DENSE_COPY = 2**28  # of a sparse matrix up to which it is written out unasked

_limit: contextvars.ContextVar[int | None] = contextvars.ContextVar("limit", default=None)


def budget(memory: float | int | None = None) -> int:
    """Bytes that working arrays may take: `memory`, else the limit in force, else a quarter free.

    The free memory is the device's own where the backend reports it, the host's otherwise.

    Raises:
        ValueError: if `memory` is not positive.
    """
    if memory is not None:
        check_positive(memory, "memory", " of bytes")
        return int(memory)
    in_force = _limit.get()
    return _quarter_of_free() if in_force is None else in_force


@contextlib.contextmanager
def limited(memory: float | int | None) -> Iterator[None]:
    """`budget()` gives `memory` bytes inside; what it gives outside where that is None."""
    token = _limit.set(_limit.get() if memory is None else budget(memory))
    try:
        yield
    finally:
        _limit.reset(token)


def _quarter_of_free() -> int:
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return (statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)) // 4
    return _free_on_host() // 4


def _free_on_host() -> int:
    """Bytes of memory that are free; half of all where the system does not say, at least 2 GiB."""
    for name, share in (("SC_AVPHYS_PAGES", 1), ("SC_PHYS_PAGES", 2)):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE") // share
    return 2**31


def gib(size: float | int) -> str:
    """Bytes in words, for messages."""
    return f"{size / 2**30:,.2f} GiB"


def bucket(length: int | np.integer, least: int = 1) -> int:
    """The power of two that holds `length`, so that few shapes are ever compiled."""
    return max(least, 1 << (max(int(length), 1) - 1).bit_length())


def rung(count: int | np.integer, least: int = 64) -> int:
    """The rung of a short ladder that holds `count` rows: least, 4 least, 16 least and so on.

    Rows are filled up to it, so that another number of them compiles nothing, or hardly anything.
    """
    return least if count <= least else rung(count, 4 * least)


def chunks(
    order: np.ndarray, bytes_each: float | int, available: int, most: int
) -> list[np.ndarray]:
    """Cut `order` into runs of at most `most` items that fit in `available` bytes.

    At least one item goes into a run, whatever it takes.
    """
    length = longest(bytes_each, available, most)
    return [order[at : at + length] for at in range(0, len(order), length)]


def longest(bytes_each: float | int, available: int, most: int) -> int:
    """How many items of this size are taken together: the power of two that fits, at least one."""
    length = int(min(max(available // max(bytes_each, 1), 1), most))
    return 1 << (length.bit_length() - 1)  # a power of two: ragged ends pad to few shapes


def zeros(shape: tuple[int, ...], dtype: np.dtype | type = float) -> np.ndarray:
    """NumPy's zeros, at an address (64 bytes) of which JAX on a processor need not copy them."""
    size, each = int(np.prod(shape)), np.dtype(dtype).itemsize
    room = np.zeros(size + 64 // each - 1, dtype)
    start = -room.ctypes.data % 64 // each
    return room[start : start + size].reshape(shape)


def exhausted(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the host or of a device."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def give_back() -> None:
    """Hand back to the system what the C library's allocator keeps of freed memory.

    glibc keeps blocks of less than 32 MiB, one heap a thread: that can be a fifth of a process.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def resident() -> int:
    """Bytes that this process has in memory now; the most it ever had, where that is all one knows.

    Used by those who plan for a process as a whole.
    """
    with contextlib.suppress(OSError):
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    return most_resident()


def most_resident() -> int:
    """The most bytes that this process had in memory at once; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # on Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
