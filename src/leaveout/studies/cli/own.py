"""What commands share that take a user's own table: its options, and what they ask for."""

import argparse
from pathlib import Path

from leaveout.objectives import losses
from leaveout.runtime.text import did_you_mean
from leaveout.studies import datasets
from leaveout.studies.cli.progress import words
from leaveout.studies.given import Given
from leaveout.studies.own.frames import read_file
from leaveout.studies.own.verb import table

__all__ = ["asked", "of_table"]

_FORMATS = ("csv", "tsv", "parquet")
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
    group.add_argument("--format", choices=_FORMATS, help="of the file, if its name does not say")
    group.add_argument(
        "--standardise", action="store_true", help="numbers in standard deviations from their mean"
    )
    return parent


def asked(
    options: argparse.Namespace,
    groups: tuple[str, ...] = (),
    *,
    all_group: bool = False,
    query: str = "0.2",
) -> Given:
    """What a command is asked about: a data set by its name, or one made of the user's own table.

    Args:
        options: of the command line.
        groups: columns of a table that group its rows, and are no features unless told so.
        all_group: whether all of its columns do that predict the target, as features beside.
        query: rows of a table on which the model is judged, where --query does not say.

    Raises:
        ValueError: for a name that is neither, with the nearest; for a table without a target; for
            options of a table where there is none.
    """
    name = options.dataset
    if name in datasets.available():
        for key in _OPTIONS:
            if getattr(options, key):
                raise ValueError(f"--{key} is for a table of your own; {name} is a data set")
        return name
    if not Path(name).is_file():
        raise ValueError(_unknown(name))
    if options.target is None:
        raise ValueError(f"what does {name} predict? Name the column: --target COLUMN")
    frame = read_file(Path(name), options.format)
    features = None if options.features is None else words(options.features)
    if all_group:
        taken = {options.target, options.weights, options.offset, options.query}
        every = tuple(column for column in frame.columns if column not in taken)
        features, groups = features or every, tuple(dict.fromkeys((*every, *groups)))
    return table(
        frame,
        target=options.target,
        groups=list(groups) or None,
        features=features,
        weights=options.weights,
        offset=options.offset,
        query=_query(options.query or query),
        positive=options.positive,
        missing=options.missing or "refuse",
        standardise=options.standardise,
        loss=None if options.loss is None else _loss(options.loss),
        name=Path(name).name.partition(".")[0],
    )


def _query(text: str) -> float | str | None:
    """A share where the text is a number, 0 for the training rows; else a column, or a file."""
    try:
        return float(text) or None
    except ValueError:
        return text


def _loss(name: str) -> losses.Loss:
    """A loss of the shelf by its name."""
    found = getattr(losses, name, None)
    if not isinstance(found, losses.Loss):
        known = [n for n in losses.__all__ if isinstance(getattr(losses, n), losses.Loss)]
        raise ValueError(f"unknown loss {name!r}{did_you_mean(name, known)}")
    return found


def _unknown(name: str) -> str:
    """What to say of a name that is no data set and no file."""
    import difflib

    here = [path.name for path in Path(name).parent.glob("*") if path.is_file()]
    near = difflib.get_close_matches(Path(name).name, [*datasets.available(), *here], n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    if Path(name).suffix:
        return f"there is no file {name}{meant}"
    return f"unknown dataset {name!r}; known: {', '.join(datasets.available())}{meant}"
