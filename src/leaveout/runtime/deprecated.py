"""Old names that go on for one release, with a warning that says what to write instead."""

import enum
import functools
import importlib
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

from leaveout.runtime.text import warn

__all__ = ["found_elsewhere", "instead", "option", "renamed"]

_Option = TypeVar("_Option", bound=enum.Enum)

_P = ParamSpec("_P")
_R = TypeVar("_R")


def instead(old: str, new: str) -> None:
    """Warn that `old` is written `new` now."""
    warn(f"{old} is now {new}; the old name goes with the next release", DeprecationWarning)


def renamed(**keywords: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """A decorator: arguments by their old names still arrive, with a warning (old="new")."""

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            for old, new in keywords.items():
                if old in kwargs:
                    instead(f"{function.__name__}({old}=)", f"{function.__name__}({new}=)")
                    if new in kwargs:
                        raise TypeError(f"{function.__name__} takes {new}= or {old}=, not both")
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def found_elsewhere(
    module: str, places: Mapping[str, str], shown: str = ""
) -> Callable[[str], object]:
    """A module's `__getattr__`: its old names, each at "module:name" now, imported when asked for.

    Args:
        module: what the module is called where a user writes its names.
        places: old name to "module:name", or to "module" for a module.
        shown: what a user writes in the place of the module, where that is not its path.
    """

    def find(name: str) -> object:
        if name not in places:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        where, _, new = places[name].partition(":")
        instead(f"{module}.{name}", f"{shown or where}.{new}".rstrip("."))
        found = importlib.import_module(where)
        return getattr(found, new) if new else found

    return find


def option(kind: type[_Option], given: _Option | str, argument: str) -> _Option:
    """A value of an enumeration; its name as text still arrives, with a warning.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(given, kind):
        return given
    if isinstance(given, str) and given in kind.__members__:
        instead(f"{argument}={given!r}", f"{argument}={kind.__name__}.{given}")
        return kind[given]
    known = ", ".join(f"{kind.__name__}.{name}" for name in kind.__members__)
    raise ValueError(f"expected {argument} as one of {known}, got {given!r}")
