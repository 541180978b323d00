"""Effects as JSON for other programs: a list of records, one a group and measure."""

import argparse
import json
from collections.abc import Mapping

import numpy as np

from leaveout.attribution.container import Effects
from leaveout.runtime.files import json_number
from leaveout.runtime.solution import Status

__all__ = ["as_json", "option", "records"]

_ALWAYS = ("influence", "newton", "actual")


def option() -> argparse.ArgumentParser:
    """The option that asks for records."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(
        "--json",
        action="store_true",
        help="print a list of records in the place of tables: group, size, measure, influence, "
        "newton, actual, status and p, null where something was not asked for",
    )
    return parent


def records(
    effects: Mapping[str, Effects], p: np.ndarray | None = None
) -> list[dict[str, str | int | float | None]]:
    """A record for each group and column.

    Args:
        effects: word of a method to the effects of all groups, the most exact last.
        p: (g m) how often chance does as much, or None.
    """
    last = list(effects.values())[-1]
    found = []
    for i, name in enumerate(last.groups.names):
        for j, column in enumerate(last.columns):
            values = {word: each.value[i, j] for word, each in effects.items()}
            values = {
                word: json_number(values.get(word)) for word in dict.fromkeys((*_ALWAYS, *values))
            }
            status = Status(int(last.column_status[i, j])).name
            chance = {"p": None if p is None else json_number(p[i, j])}
            first = {"group": str(name), "size": int(last.groups.size[i]), "measure": column}
            found.append(first | values | {"status": status} | chance)
    return found


def as_json(found: list[dict[str, str | int | float | None]]) -> str:
    """The records as text, one a line."""
    lines = ",\n ".join(json.dumps(record, ensure_ascii=False) for record in found)
    return f"[{lines}]"
