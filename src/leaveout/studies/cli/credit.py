"""`leaveout credit`: what each natural group of a data set is worth."""

import argparse
from pathlib import Path

from leaveout.methods import BY_WORD
from leaveout.studies import natural
from leaveout.studies.cli.listing import HELP, listed
from leaveout.studies.cli.progress import Bars, took, words, wrote
from leaveout.studies.natural import Report

__all__ = ["add", "run"]

_COLUMNS = 8  # of effects whose correlations are printed


def add(commands: argparse._SubParsersAction, *parents: argparse.ArgumentParser) -> None:
    """Add the command to the others; `parents` bring the options that it shares with them."""
    parser = commands.add_parser(
        "credit",
        parents=parents,
        help="what each natural group of a data set is worth: hospitals, workers, functions",
        description="Fits a model, takes the groups from a column of the data set, and says what "
        "leaving each out does to the loss on the query examples and on parts of them, by "
        "influence, by a Newton step and by retraining, and whether random groups of the same size "
        "and class balance do the same. Writes credit.parquet, summary.json, effects_*.npz and "
        "figures into a folder it names.",
    )
    parser.add_argument(
        "dataset", nargs="?", help="a data set with columns; `leaveout data NAME` lists them"
    )
    parser.add_argument("--list", action="store_true", help=HELP)
    parser.add_argument(
        "--by", metavar="COLUMN,...", help="what groups the examples (default: its first column)"
    )
    parser.add_argument(
        "--method",
        default="influence,newton,actual",
        metavar="M,...",
        help=f"of {', '.join(BY_WORD)} (default influence,newton,actual)",
    )
    parser.add_argument(
        "--l2",
        type=float,
        metavar="X",
        help="the penalty divided by the number of training examples "
        "(default: the data set's own, or chosen by 5-fold cross-validation)",
    )
    parser.add_argument(
        "--null", type=int, default=1000, metavar="N", help="random groups a group (default 1000)"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="folder to write to, or to go on in (default: named for you)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run a study of natural groups and print what they are worth, or list the studies."""
    if options.list:
        return listed()
    if options.dataset is None:
        raise ValueError("which data set? `leaveout data` lists them")
    question = natural.Question(
        options.dataset, options.by, options.l2, words(options.method), options.null
    )
    with Bars() as bars:
        report = natural.run(
            question, options.out, progress=bars.update, say=print, memory=options.memory,
            begun=options.begun,
        )  # fmt: skip
    if report.credit is not None:
        print(f"\n{report.credit.table()}")
    _print_comparisons(report)
    for name, count in report.summary["not_converged"].items():
        if count:
            print(f"{name}: {count:,} groups did not converge; see the status in the table")
    print(f"\n{took(len(report.table), report.summary['seconds'])}", end="; ")
    return wrote(path for path in sorted(report.folder.iterdir()) if _is_result(path))


def _print_comparisons(report: Report) -> None:
    compared = [row for row in report.summary["comparison"] if row["spearman"] is not None]
    columns = list(dict.fromkeys(row["column"] for row in compared))
    for row in compared:
        if row["column"] in columns[:_COLUMNS]:
            print(
                f"{row['method']:<9} against actual, {row['column']}: Spearman "
                f"{row['spearman']:.3f}, slope {row['slope']:.3f}"
            )
    if len(columns) > _COLUMNS:
        print(f"... and {len(columns) - _COLUMNS} columns more, in summary.json")


def _is_result(path: Path) -> bool:
    """Whether a file is there for a reader, and not for the study to go on."""
    return (
        path.suffix in (".parquet", ".png")
        or path.match("effects_*.npz")
        or (path.name == "summary.json")
    )
