"""`leaveout discover`: which describable group moves a measure the most."""

import argparse
import warnings
from pathlib import Path

from leaveout.analysis.credit import Credit
from leaveout.studies import datasets
from leaveout.studies.cli.own import asked
from leaveout.studies.cli.progress import teller, words, wrote
from leaveout.studies.cli.records import as_json, records
from leaveout.studies.discovery import MEASURES, discovered
from leaveout.studies.report.of_credit import report

__all__ = ["add", "run"]


def add(commands: argparse._SubParsersAction, *parents: argparse.ArgumentParser) -> None:
    """Add the command to the others; `parents` bring the options that it shares with them."""
    parser = commands.add_parser(
        "discover",
        parents=parents,
        help="which describable group moves a measure the most, such as a gap between the sexes",
        description="Fits a model, scores every group that up to three columns describe by "
        "influence, ranks the best by a Newton step, trains again without each of the first, and "
        "compares them with the best of as many when chance deals influence out. Writes "
        "report.html and discovered.parquet into a folder it names.",
    )
    parser.add_argument("dataset", help="a CSV or Parquet file of yours, or a data set")
    parser.add_argument(
        "--measure", default="gap", choices=MEASURES, help="of the query examples (default gap)"
    )
    parser.add_argument(
        "--between", metavar="COLUMN", help="a gap is between its two commonest values"
    )
    parser.add_argument(
        "--by",
        metavar="COLUMN,...",
        help="columns that describe groups, of a table of yours (default: all but the target)",
    )
    parser.add_argument(
        "--without", default="", metavar="COLUMN,...", help="columns that describe no group"
    )
    parser.add_argument(
        "--depth", type=int, default=3, metavar="N", help="columns together, at most (default 3)"
    )
    parser.add_argument(
        "--show", type=int, default=10, metavar="N", help="groups that are shown (default 10)"
    )
    parser.add_argument(
        "--null", type=int, default=200, metavar="N", help="draws of chance (default 200)"
    )
    parser.add_argument(
        "--l2",
        type=float,
        metavar="X",
        help="the penalty divided by the number of training examples "
        "(default: the data set's own, or a thousandth)",
    )
    parser.add_argument("--out", metavar="DIR", help="folder to write to (default: named for you)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Look for the groups of a data set or a table, and print the first."""
    say = teller(options)
    data = _data(options)
    say(f"{data.name}: {data.n:,} training examples, {data.d:,} features")
    found = discovered(
        data, measure=options.measure, between=options.between, l2=options.l2,
        without=words(options.without), depth=options.depth, show=options.show,
        null=options.null, memory=options.memory,
    )  # fmt: skip
    print(_records(found) if options.json else found.table(most=options.show))
    folder = Path(options.out or f"discover-{data.name}")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "report.html", folder / "discovered.parquet"]
    report(found, paths[0], data=data, command=options.asked)
    found.save(paths[1])
    return wrote(paths, say)


def _data(options: argparse.Namespace) -> datasets.Dataset:
    """The data set, its descriptions among its labels."""
    by = () if options.by is None else words(options.by)
    between = () if options.between is None else (options.between,)
    with warnings.catch_warnings():  # a group by what is a feature: here that is what is meant
        warnings.filterwarnings("ignore", message=".*groups the rows and is a feature")
        given = asked(options, tuple(dict.fromkeys(by + between)), all_group=not by)
    if isinstance(given, datasets.Dataset):
        return given
    if by:
        raise ValueError(f"--by is for a table of your own; {given} is a data set: --without")
    assert isinstance(given, str)
    return datasets.load(given)


def _records(found: Credit) -> str:
    """What was found, as JSON."""
    word = {"influence": "influence", "Newton": "newton", "actual": "actual"}
    effects = {word[name]: each for name, each in found.effects.items() if name in word}
    return as_json(records(effects, None if found.null is None else found.null.p))
