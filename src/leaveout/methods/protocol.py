"""What a method is."""

from typing import Protocol, runtime_checkable

from leaveout.fitting.fitted import Change, Fit
from leaveout.groups import Groups

__all__ = ["Method"]


@runtime_checkable
class Method(Protocol):
    """How a change in theta is found: a frozen value such as `Influence()` or `Retrain()`."""

    @property
    def name(self) -> str:
        """For tables and axes."""
        ...

    @property
    def first_order(self) -> bool:
        """Whether measures are taken to first order in the change."""
        ...

    def change(self, fit: Fit, groups: Groups, memory=None) -> Change:
        """The change in theta of every group."""
        ...
