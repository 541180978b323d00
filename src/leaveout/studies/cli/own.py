"""What commands share that take a user's own table: its options, and what they ask for."""

import argparse
import dataclasses
from pathlib import Path

from leaveout.studies import datasets
from leaveout.studies.cli.progress import words
from leaveout.studies.own.asked import FORMATS, Asked

__all__ = ["asked", "of_table", "short_of"]

_OPTIONS = ("target", "features", "weights", "offset", "query", "positive", "missing", "loss",
            "format", "standardise")  # fmt: skip


def of_table() -> argparse.ArgumentParser:
    """The options that say how a user's own table is read."""
    parent = argparse.ArgumentParser(add_help=False)
    group = parent.add_argument_group("your own table, a CSV or Parquet file")
    group.add_argument("--target", metavar="COLUMN", help="what is predicted: labels, or numbers")
    group.add_argument(
        "--features", metavar="COLUMN,...", help="what it is predicted from (default: all others)"
    )
    group.add_argument("--weights", metavar="COLUMN", help="how much each row counts")
    group.add_argument("--offset", metavar="COLUMN", help="known amounts, added to the scores")
    group.add_argument(
        "--query",
        metavar="WHICH",
        help="rows on which the model is judged, and which do not train: a share, a column that "
        "says which, or another file; 0 for the training rows themselves (default 0.2)",
    )
    group.add_argument("--positive", metavar="LABEL", help="the label whose chance is modelled")
    group.add_argument(
        "--missing",
        choices=("refuse", "drop", "indicator"),
        help="rows with something missing: refuse the table (default), drop them, or code them",
    )
    group.add_argument("--loss", metavar="NAME", help="one of lo.losses, such as poisson")
    group.add_argument("--format", choices=FORMATS, help="of the file, if its name does not say")
    group.add_argument(
        "--standardise", action="store_true", help="numbers in standard deviations from their mean"
    )
    return parent


def asked(options: argparse.Namespace, groups: tuple[str, ...] = ()) -> Asked | None:
    """What is asked of a user's own table; None for a data set that goes by its name.

    Raises:
        ValueError: for a name that is neither, with the nearest; for a table without a target; for
            options of a table where there is none.
    """
    name = options.dataset
    given = {key: getattr(options, key) for key in _OPTIONS}
    if name in datasets.available():
        for key, value in given.items():
            if value:
                raise ValueError(f"--{key} is for a table of your own; {name} is a data set")
        return None
    if not Path(name).is_file():
        raise ValueError(_unknown(name))
    if options.target is None:
        raise ValueError(f"what does {name} predict? Name the column: --target COLUMN")
    kept = {field.name for field in dataclasses.fields(Asked)}
    features = None if options.features is None else words(options.features)
    more = {"path": name, "groups": groups, "features": features, "kind": options.format}
    more |= {"query": options.query or "0.2", "missing": options.missing or "refuse"}
    return Asked(**({k: v for k, v in given.items() if k in kept} | more))


def _unknown(name: str) -> str:
    """What to say of a name that is no data set and no file."""
    import difflib

    here = [path.name for path in Path(name).parent.glob("*") if path.is_file()]
    near = difflib.get_close_matches(Path(name).name, [*datasets.available(), *here], n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    if Path(name).suffix:
        return f"there is no file {name}{meant}"
    return f"unknown dataset {name!r}; known: {', '.join(datasets.available())}{meant}"


def short_of(asked: Asked | None, dataset: str) -> str:
    """What a study calls its data set: the name, or that of the file."""
    return dataset if asked is None else asked.name
