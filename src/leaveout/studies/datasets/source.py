"""Raw files: found, downloaded, verified; and what was parsed from them, cached.

A raw file is looked for in $LEAVEOUT_DATA and in the user's cache ($LEAVEOUT_CACHE, or the
system's place for caches), and otherwise downloaded. Nothing unverified is ever parsed: a file, or
the member of an archive that is re-packed by those who pass it on, has a pinned SHA-256.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from leaveout.runtime.files import cache, write
from leaveout.studies.datasets.container import Dataset

__all__ = [
    "File",
    "Origin",
    "cached",
    "dataset",
    "find",
    "idx",
    "member",
    "standardised",
    "where",
]


@dataclasses.dataclass(frozen=True)
class File:
    """One raw file.

    Attributes:
        name: of the file.
        sha256: pinned; None if it is the members that are pinned.
        urls: where to download it, first choice first; none for what is not published as a file.
        members: name of each member used to its SHA-256.
    """

    name: str
    sha256: str | None = None
    urls: tuple[str, ...] = ()
    members: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a data set comes from.

    Attributes:
        folder: the folder its files are in, below $LEAVEOUT_DATA or the cache.
        files: what is in it.
        page: where a person can read about it.
        source: a reference.
        licence: on what terms.
        derived: how files that are nobody's publication were made; None for publishers' originals.
        packaged: the folder to which a package of the system installs the same files, if one does.
    """

    folder: str
    files: tuple[File, ...]
    page: str
    source: str
    licence: str
    derived: str | None = None
    packaged: str | None = None


def where(origin: Origin, file: File) -> Path | None:
    """The path of a raw file that is on this machine, else None."""
    folders = [root / origin.folder for root in _roots()]
    folders += [Path(origin.packaged)] if origin.packaged is not None else []
    return next((path for each in folders if (path := each / file.name).is_file()), None)


def find(origin: Origin, name: str) -> Path:
    """The verified raw file of this name, downloaded if need be.

    Raises:
        FileNotFoundError: if it is neither here nor to be had, with what to do.
        ValueError: if it is not the file that is pinned.
    """
    file = next(file for file in origin.files if file.name == name)
    path = where(origin, file) or _download(origin, file)
    if file.sha256 is not None:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != file.sha256:
            raise ValueError(
                f"{path} is not the file expected: its SHA-256 is {found}, not {file.sha256}; "
                f"delete it and {_get(origin, file)}"
            )
    return path


def member(origin: Origin, name: str, inner: str) -> bytes:
    """The verified member of a zip archive whose path ends in `inner`.

    Raises:
        ValueError: if the archive is damaged, or lacks the member, or the member is another.
    """
    path = find(origin, name)
    file = next(file for file in origin.files if file.name == name)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if Path(n).name == inner and "__MACOSX" not in n]
            if len(names) != 1:
                raise ValueError(
                    f"expected one {inner} in {path}, got {len(names)}; {_get(origin, file)}"
                )
            content = archive.read(names[0])
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(
            f"{path} is damaged or truncated ({error}); delete it and {_get(origin, file)}"
        ) from error
    expected, found = dict(file.members)[inner], hashlib.sha256(content).hexdigest()
    if found != expected:
        raise ValueError(
            f"{inner} in {path} is not the file expected: its SHA-256 is {found}, not {expected}; "
            f"delete {path} and {_get(origin, file)}"
        )
    return content


def idx(origin: Origin, name: str, magic: int) -> np.ndarray:
    """A raw file of bytes in the format of MNIST, compressed, a row an entry.

    Raises:
        ValueError: if it does not begin with this number.
    """
    content = gzip.decompress(find(origin, name).read_bytes())
    sizes = np.frombuffer(content, ">u4", 1 + magic % 256)
    if sizes[0] != magic:
        raise ValueError(f"{name} does not begin as an idx file does: {sizes[0]}, not {magic}")
    values = np.frombuffer(content, np.uint8, offset=4 * len(sizes))
    return values.reshape(sizes[1], -1)


def standardised(train: np.ndarray, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in units of the training rows' standard deviations from their mean."""
    middle, scale = train.mean(axis=0), train.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    return (train - middle) / scale, (query - middle) / scale


def cached(origin: Origin, name: str, parse: Callable[[], dict[str, np.ndarray]], code: bytes):
    """What `parse` returns, from the user's cache if the same was parsed before.

    Args:
        origin: whose pinned checksums are part of the key.
        name: of the data set.
        parse: makes the arrays.
        code: the source of what parses, also part of the key.
    """
    pins = repr([(file.sha256, file.members) for file in origin.files]).encode()
    key = hashlib.sha256(pins + code).hexdigest()[:16]
    path = cache() / "parsed" / f"{name}-{key}.npz"
    if path.is_file():
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
                return dict(stored)
        except (ValueError, OSError, zipfile.BadZipFile):
            pass  # a damaged cache is made again
    arrays = parse()
    _keep(path, arrays)
    return arrays


def dataset(
    name: str,
    origin: Origin,
    parse: Callable[[], dict[str, np.ndarray]],
    code: bytes,
    scale: float = 1.0,
    **rest,
) -> Dataset:
    """A data set from parsed arrays.

    Args:
        name: of the data set.
        origin: of its raw files.
        parse: makes x, y, x_query, y_query, features; perhaps weights, labels_<name> and
            query_labels_<name>.
        code: the source of what parses.
        scale: what inputs are divided by.
        rest: further fields of the data set.
    """
    arrays = cached(origin, name, parse, code)
    x, x_query = (
        arrays[key] / scale if scale != 1.0 else arrays[key].astype(float)
        for key in ("x", "x_query")
    )
    real = arrays["y"].dtype.kind == "f"
    classes = 2 if real else int(arrays["y"].max()) + 1

    def those(prefix):
        return {
            key.removeprefix(prefix): value
            for key, value in arrays.items()
            if key.startswith(prefix)
        }

    return Dataset(
        name=name,
        x=x,
        y=arrays["y"].astype(float if real else int),
        x_query=x_query,
        y_query=arrays["y_query"].astype(float if real else int),
        outputs=1 if classes == 2 else classes,
        feature_names=tuple(arrays["features"].tolist()),
        source=f"{origin.source}, {origin.page}",
        licence=origin.licence,
        weights=arrays.get("weights"),
        labels=those("labels_"),
        query_labels=those("query_labels_"),
        **rest,
    )


def _keep(path: Path, arrays) -> None:
    with contextlib.suppress(OSError):  # nowhere to write: parsing again is only slower
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, lambda file: np.savez(file, **arrays))
        for old in path.parent.glob(f"{path.name.rsplit('-', 1)[0]}-*.npz"):
            if old != path:
                old.unlink()


def _roots() -> list[Path]:
    data = os.environ.get("LEAVEOUT_DATA")
    return [*([Path(data)] if data else []), cache() / "raw"]


def _get(origin: Origin, file: File) -> str:
    """What a person can do to have the file."""
    folder = f"{origin.folder}/{file.name} below the folder that LEAVEOUT_DATA names"
    if not file.urls:
        return f"put it at {folder}: it cannot be downloaded ({origin.derived or origin.page})"
    return f"download {file.urls[0]} to {folder}"


def _download(origin: Origin, file: File) -> Path:
    data = os.environ.get("LEAVEOUT_DATA")
    looked = "LEAVEOUT_DATA is not set" if not data else f"it is not in {data}/{origin.folder}"
    missing = f"{file.name} was not found: {looked}"
    if not file.urls:
        raise FileNotFoundError(f"{missing}; {_get(origin, file)}")
    try:
        import pooch
    except ImportError:
        raise FileNotFoundError(
            f'{missing}; pip install "leaveout[study]" to have it downloaded, or '
            f"{_get(origin, file)}"
        ) from None
    pooch.get_logger().setLevel("WARNING")
    pin = None if file.sha256 is None else f"sha256:{file.sha256}"
    folder, reasons = cache() / "raw" / origin.folder, []
    for url in file.urls:
        try:
            with _Bar(file.name) as bar:
                fetch: Any = pooch.HTTPDownloader(progressbar=bar, timeout=30)
                return Path(pooch.retrieve(url, pin, file.name, folder, downloader=fetch))
        except (OSError, ValueError) as error:  # no network, no such page, another file
            reasons.append(f"{url}: {_reason(error)}")
    raise FileNotFoundError(
        f"{missing}, and downloading failed ({'; '.join(reasons)}); {_get(origin, file)}"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, ValueError) and "hash" in str(error):
        return "what it sends has another SHA-256 than the one pinned"
    if isinstance(error, PermissionError):
        return f"the cache cannot be written, {error}"
    return f"no answer ({type(error).__name__})"


class _Bar:
    """A progress bar in the shape that pooch wants."""

    def __init__(self, name: str):
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
        )
        self.task = self.progress.add_task(name, total=None)

    def __enter__(self) -> Any:
        self.progress.start()
        return self

    def __exit__(self, *_):
        self.progress.stop()

    @property
    def total(self):
        """Bytes in all."""
        return self.progress.tasks[0].total

    @total.setter
    def total(self, value):
        self.progress.update(self.task, total=value)

    def update(self, count: int) -> None:
        """So many bytes more."""
        self.progress.advance(self.task, count)

    def reset(self) -> None:
        """Begin again."""
        self.progress.update(self.task, completed=0)

    def close(self) -> None:
        """Done."""
