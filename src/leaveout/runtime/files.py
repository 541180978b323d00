"""Files of ours: where they are kept, written whole or not at all, read without trust.

No pickle, no surprise in size, one sentence if damaged.
"""

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

__all__ = ["cache", "read_json", "read_npz", "read_parquet", "write"]

_MOST = 2**36  # bytes that the arrays of one file may take
#: what zipfile and NumPy raise for bytes that make no sense, an unknown compression among them
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError, ValueError, RuntimeError,
    OverflowError, SyntaxError, struct.error,
)  # fmt: skip


def cache() -> Path:
    """The folder of the user's cache: $LEAVEOUT_CACHE, or the system's place for caches."""
    return Path(os.environ.get("LEAVEOUT_CACHE") or platformdirs.user_cache_dir("leaveout"))


def read_npz(path: Any, kind: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file whose entry `format` is this kind, say "leaveout groups 1".

    Sizes are taken from the headers and compared with what is stored before anything is allocated.

    Raises:
        ValueError: if it is not such a file, is damaged, or holds what it should not.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check(archive, path)
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except _DAMAGE as error:
        if isinstance(error, OSError) and not Path(path).is_file():
            raise
        raise ValueError(f"{path} is damaged, or not a file of leaveout: {error}") from error
    found = arrays.pop("format", None)
    if found is None or found.shape != () or str(found) != kind:
        raise ValueError(f"{path} does not hold {kind.split()[1]} saved by leaveout")
    return arrays


def _check(archive: zipfile.ZipFile, path) -> None:
    """Refuse members that are no plain arrays, or whose headers promise other sizes."""
    total = 0
    for entry in archive.infolist():
        name = entry.filename
        if not name.endswith(".npy") or "/" in name or "\\" in name:
            raise ValueError(f"it has a member {name!r}")
        with archive.open(entry) as member:
            version = np.lib.format.read_magic(member)
            reader = {(1, 0): np.lib.format.read_array_header_1_0}.get(
                version, np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = reader(member)
            header = member.tell()
        if dtype.hasobject:
            raise ValueError(f"{name!r} holds Python objects")
        stored = entry.file_size - header
        if int(np.prod(shape, dtype=object)) * dtype.itemsize != stored:
            raise ValueError(f"the header of {name!r} does not fit its {stored:,} bytes")
        total += stored
    if total > _MOST:
        raise ValueError(f"its arrays take {total:,} bytes")


def read_json(path: str | os.PathLike, *keys: str) -> dict[str, Any]:
    """The object that a JSON file of ours holds, with at least these keys.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        found = json.loads(Path(path).read_text())
        if not isinstance(found, dict) or not found.keys() >= set(keys):
            raise ValueError(f"expected an object with {', '.join(keys) or 'names and values'}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}; delete it to have it made again") from error
    return found


def read_parquet(path: str | os.PathLike, rows: int) -> Any:
    """A pandas table of so many rows from a Parquet file of ours.

    Sizes are taken from its footer before anything is allocated.

    Raises:
        ValueError: if it is damaged, or another table.
    """
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            footer = file.metadata
            size = sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
            if footer.num_rows != rows or size > _MOST:
                raise ValueError(f"it has {footer.num_rows:,} rows ({size:,} bytes), not {rows:,}")
            return file.read().to_pandas()
    except (OSError, ValueError) as error:
        if not Path(path).is_file():
            raise
        raise ValueError(f"{path} is damaged: {error}") from error


def write(path: Path, content: Callable) -> None:
    """Write a file so that it is there whole or not at all; `content` writes to the open file."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        content(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
