"""How much fits at once: chunk lengths from a budget in bytes."""

import contextlib
import ctypes
import os
import sys
from pathlib import Path

import jax
import numpy as np

__all__ = [
    "QUERY_BYTES",
    "bucket",
    "budget",
    "chunks",
    "exhausted",
    "give_back",
    "most_resident",
    "resident",
    "zeros",
]

QUERY_BYTES = 2**20  # of queries of several outputs whose reach is found together


def budget(memory: float | int | None = None) -> int:
    """Bytes that working arrays may take: `memory`, else a quarter of what is free.

    The free memory is the device's own where the backend reports it, the host's otherwise.

    Raises:
        ValueError: if `memory` is not positive.
    """
    if memory is not None:
        if not memory > 0:
            raise ValueError(f"expected memory as a positive number of bytes, got {memory!r}")
        return int(memory)
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return (statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)) // 4
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


def bucket(length: int | np.integer, least: int = 1) -> int:
    """The power of two that holds `length`, so that few shapes are ever compiled."""
    return max(least, 1 << (max(int(length), 1) - 1).bit_length())


def chunks(
    order: np.ndarray, bytes_each: float | int, available: int, most: int
) -> list[np.ndarray]:
    """Cut `order` into runs of at most `most` items that fit in `available` bytes.

    At least one item goes into a run, whatever it takes.
    """
    length = int(min(max(available // max(bytes_each, 1), 1), most))
    if length > 1:
        length = 1 << (length.bit_length() - 1)  # a power of two: ragged ends pad to few shapes
    return [order[at : at + length] for at in range(0, len(order), length)]


def zeros(shape: tuple[int, ...]) -> np.ndarray:
    """NumPy's zeros, at an address (64 bytes) of which JAX on a processor need not copy them."""
    size = int(np.prod(shape))
    room = np.zeros(size + 7)
    start = -room.ctypes.data % 64 // 8
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
    """The most bytes that this process had in memory at once."""
    import resource  # not on every system

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
