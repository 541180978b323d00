"""Packages of others that only some functions need: what is missing is named with its extra."""

import contextlib
from collections.abc import Iterator

__all__ = ["needed"]

_PACKAGES = {"sklearn": "scikit-learn"}  # where a module has another name than its package


@contextlib.contextmanager
def needed(what: str, extra: str = "study") -> Iterator[None]:
    """Import inside: a package that is not installed is told in one sentence.

    Args:
        what: needs it, as the beginning of a sentence: "a pandas table".
        extra: of ours, that brings it.

    Raises:
        ModuleNotFoundError: with the package and the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "a package").partition(".")[0]
        raise ModuleNotFoundError(
            f"{what} needs {_PACKAGES.get(module, module)}, which is not installed; "
            f'pip install "leaveout[{extra}]"',
            name=error.name,
        ) from error
