"""Files of ours: where they are kept, written whole or not at all, read without trust.

No pickle, no surprise in size, one sentence if damaged.
"""

import contextlib
import io
import json
import os
import secrets
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from leaveout.runtime.extras import needed
from leaveout.runtime.options import check_is
from leaveout.runtime.text import shortened, warn

__all__ = [
    "PARTIAL",
    "Target",
    "cache",
    "json_number",
    "kind_in",
    "read_json",
    "read_npz",
    "read_parquet",
    "write",
    "write_json",
    "write_npz",
    "write_parquet",
    "write_text",
]

#: a path, or a file that is open in binary mode
Target: TypeAlias = str | os.PathLike | io.BufferedIOBase

#: how names of files end that are being written; one that is left over was interrupted
PARTIAL = ".partial"
_EDITION = "2"  # of our .npz files: since 2 they list what they hold
_ABOUT = ("format", "members")
_MOST = 2**36  # bytes that the arrays of one file may take
_WORDS = 2**20  # bytes that what a file says of itself may take
#: what reads a file of ours, by the kind that it says it is
_READERS = {
    "effects": "lo.load", "fit": "lo.load", "groups": "lo.Groups.load",
    "run": "lo.load(path, objective=..., recipe=...)", "values": "lo.Values.load",
}  # fmt: skip
#: what zipfile and NumPy raise for bytes that make no sense, an unknown compression among them
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError, ValueError, RuntimeError,
    OverflowError, SyntaxError, struct.error,
)  # fmt: skip


class _Other(ValueError):
    """A sound file, but not the one that was asked for."""


def cache() -> Path:
    """The folder of the user's cache: $LEAVEOUT_CACHE, or the system's place for caches."""
    given = os.environ.get("LEAVEOUT_CACHE")
    if given:
        return Path(given)
    import platformdirs

    return platformdirs.user_cache_path("leaveout")


def read_npz(path: Target, kind: str, known: Collection[str]) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by `write_npz`: all that it lists, and no others.

    What it says it is, what it lists, and its headers, compared with what is stored, are looked at
    before anything is allocated.

    Args:
        path: of the file.
        kind: "effects" or "groups".
        known: names that its arrays may have.

    Raises:
        ValueError: if it is not such a file, is damaged, lacks an array that it lists, or holds
            what it should not.
    """
    _check_path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = _sizes(archive)
            _check_kind(archive, sizes, kind, path)
            names = sorted(sizes.keys() - set(_ABOUT))
            if not set(names) <= set(known):
                raise ValueError(f"it has members {shortened(sorted(set(names) - set(known)))}")
            return {name: _array(archive, name) for name in names}
    except _Other:
        raise
    except _DAMAGE as error:
        if isinstance(error, OSError) and not _is_file(path):
            raise
        raise ValueError(_what_else(path, kind, error)) from error


def kind_in(path: Target) -> str:
    """What an .npz file by `write_npz` says that it holds; nothing of any other."""
    _check_path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("format.npy").file_size > _WORDS:
                return ""
            words = str(_array(archive, "format")).split()
    except _DAMAGE:
        return ""
    return words[1] if len(words) == 3 and words[0] == "leaveout" else ""


def _check_path(path: Target) -> None:
    """Refuse what is no path and no open file, and a folder."""
    check_is(path, str | os.PathLike | io.BufferedIOBase, "the path of a file")
    if not isinstance(path, io.BufferedIOBase) and os.path.isdir(path):
        raise IsADirectoryError(f"{path} is a folder; name a file in it")


def _is_file(path: Target) -> bool:
    return not isinstance(path, str | os.PathLike) or Path(path).is_file()


def _what_else(path: Target, kind: str, error: Exception) -> str:
    """What to say of a file that cannot be read."""
    if isinstance(path, str | os.PathLike):
        with open(path, "rb") as file:
            if file.read(4) == b"PAR1":
                return (
                    f"{path} is a Parquet table, which does not say who is in which group: read it "
                    f"with pandas.read_parquet, and save {kind} as .npz to load them again"
                )
    return f"{path} is damaged, or not a file of leaveout: {error}"


def _sizes(archive: zipfile.ZipFile) -> dict[str, int]:
    """Bytes of each array, from the headers.

    Raises:
        ValueError: for a member that is no plain array, or has a header that promises another size.
    """
    sizes = {}
    for entry in archive.infolist():
        name = entry.filename
        if not name.endswith(".npy") or "/" in name or "\\" in name:
            raise ValueError(f"it has a member {name!r}")
        if name.removesuffix(".npy") in sizes:
            raise ValueError(f"it has two members {name!r}")
        sizes[name.removesuffix(".npy")] = _size(archive, entry)
    total = sum(sizes.values())
    if total > _MOST:
        raise ValueError(f"its arrays take {total:,} bytes")
    return sizes


def _size(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> int:
    name = entry.filename
    with archive.open(entry) as member:
        if np.lib.format.read_magic(member) != (1, 0):  # the others' headers can be of any length
            raise ValueError(f"the header of {name!r} is not as we write them")
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        stored = entry.file_size - member.tell()
    if dtype.hasobject:
        raise ValueError(f"{name!r} holds Python objects")
    if dtype.kind not in "biufU" or dtype.itemsize == 0:
        raise ValueError(f"{name!r} holds entries of the type {dtype}")
    if int(np.prod(shape, dtype=object)) * dtype.itemsize != stored:
        raise ValueError(f"the header of {name!r} does not fit its {stored:,} bytes")
    return stored


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        member.read(1)  # beyond its end, where its checksum is compared
    return array


def _check_kind(
    archive: zipfile.ZipFile, sizes: Mapping[str, int], kind: str, path: Target
) -> None:
    """Refuse what says that it is another file, and what lacks a part that it lists."""
    found, listed = (
        _array(archive, name).astype(str).reshape(-1).tolist()
        if sizes.get(name, _WORDS + 1) <= _WORDS
        else []
        for name in _ABOUT
    )
    match found[0].split() if len(found) == 1 else []:
        case ["leaveout", mine, "1"] if mine == kind:
            warn(
                f"{path} was saved by an earlier leaveout, which did not list what a file holds: "
                "if that was interrupted, weights or bounds can be missing; save it again"
            )
        case ["leaveout", mine, edition] if mine == kind and edition == _EDITION:
            lost = sorted({"members", *listed} - sizes.keys())
            if lost:
                raise ValueError(f"its members {shortened(lost)} are missing")
            if len(sizes) != len(listed) + len(_ABOUT):
                raise ValueError("it has members that it does not list")
        case ["leaveout", mine, edition] if mine == kind:
            raise _Other(f"{path} was saved by a later leaveout (edition {edition}); update yours")
        case ["leaveout", other, _] if other in _READERS:
            raise _Other(f"{path} holds {other}, not {kind}; read it with {_READERS[other]}")
        case _:
            raise _Other(f"{path} does not hold {kind} saved by leaveout")


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
    with needed("a Parquet file"):
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


def write(path: Target, content: Callable[[io.BufferedIOBase], object]) -> None:
    """Write a file so that it is there whole or not at all.

    What was there stays until the new one is complete and on the disk: it is written beside it,
    under a name of its own, and takes its name then. Where that fails nothing is left.

    Args:
        path: where to; what is an open file, or no ordinary one, is written to as it is.
        content: writes to the open file.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    _check_path(path)
    if isinstance(path, io.BufferedIOBase):
        content(path)
        return
    final = Path(os.path.realpath(path))  # beyond links, as if one had opened it
    if not final.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {final.parent} for {path}; make it first")
    if final.exists() and not final.is_file():
        with open(final, "wb") as file:
            content(file)
        return
    partial = final.with_name(f".{final.name[:50]}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with open(partial, "xb") as file:
            content(file)
            file.flush()
            os.fsync(file.fileno())
        if final.exists():
            shutil.copymode(final, partial)
        os.replace(partial, final)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    _settle(final.parent)


def _settle(folder: Path) -> None:
    """See to it that the names in a folder are on the disk, where the system can."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def write_npz(path: Target, kind: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays for `read_npz`, whole or not at all: the kind, what there is, then all of it.

    Args:
        path: where to; a name that does not end in .npz gets that ending.
        kind: "effects" or "groups".
        arrays: by name; none holds Python objects.
    """
    _check_path(path)
    if isinstance(path, str | os.PathLike) and not os.fspath(path).endswith(".npz"):
        path = f"{os.fspath(path)}.npz"
    about = {
        "format": np.array(f"leaveout {kind} {_EDITION}"),
        "members": np.array(list(arrays), str),
    }
    parts: dict[str, Any] = about | dict(arrays)
    write(path, lambda file: np.savez_compressed(file, **parts))


def write_text(path: Target, text: str) -> None:
    """Write a text, whole or not at all."""
    write(path, lambda file: file.write(text.encode()))


def json_number(value) -> float | None:
    """A number that JSON has, or nothing."""
    return float(value) if value is not None and np.isfinite(value) else None


def write_json(path: Target, content: object, indent: int | None = 2) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=indent) + "\n")


def write_parquet(path: Target, table: Any) -> None:
    """Write a pandas table as Parquet, whole or not at all."""
    with needed("a Parquet file"):
        import pyarrow.parquet  # noqa: F401 - pandas would name no extra
    write(path, lambda file: table.to_parquet(file, index=False))
