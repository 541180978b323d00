"""`leaveout credit`: what each natural group of a data set is worth."""

import argparse
from pathlib import Path

import numpy as np

from leaveout.attribution.container import Effects
from leaveout.methods import BY_WORD
from leaveout.runtime.solution import Status
from leaveout.runtime.text import aligned
from leaveout.studies import natural
from leaveout.studies.cli.listing import HELP, listed
from leaveout.studies.cli.own import asked
from leaveout.studies.cli.progress import Bars, teller, took, words, wrote
from leaveout.studies.cli.records import as_json, records
from leaveout.studies.configured import chosen
from leaveout.studies.natural import Report

__all__ = ["add", "run"]

_COLUMNS = 8  # of effects whose correlations are printed
_GROUPS = 20  # that are printed


def add(commands: argparse._SubParsersAction, *parents: argparse.ArgumentParser) -> None:
    """Add the command to the others; `parents` bring the options that it shares with them."""
    parser = commands.add_parser(
        "credit",
        parents=parents,
        help="what each natural group of a data set or a table is worth: hospitals, vendors",
        description="Fits a model, takes the groups from a column, and says what leaving each out "
        "does to the loss on the query examples and on parts of them, by influence, by a Newton "
        "step and by retraining, and whether random groups of the same size and class balance do "
        "the same. Writes report.html, credit.parquet, summary.json, effects_*.npz and figures "
        "into a folder; the same command goes on where it was stopped.",
        epilog="example: leaveout credit sales.csv --target churn --by vendor --query 0.2",
    )
    parser.add_argument(
        "dataset",
        nargs="?",
        help="a CSV or Parquet file of yours, or a data set with columns; `leaveout data NAME` "
        "lists them",
    )
    parser.add_argument("--list", action="store_true", help=HELP)
    parser.add_argument(
        "--by",
        metavar="COLUMN,...",
        help="what groups the examples (default: the first column of a data set)",
    )
    parser.add_argument(
        "--method",
        default="influence,newton,actual",
        metavar="M,...",
        help=f"of {', '.join(BY_WORD)} (default influence,newton,actual)",
    )
    parser.add_argument(
        "--null", type=int, default=1000, metavar="N", help="random groups a group (default 1000)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run a study of natural groups and print what they are worth, or list the studies."""
    if options.list:
        return listed()
    if options.dataset is None:
        raise ValueError("which data set? `leaveout data` lists them; or give a file of yours")
    say = teller(options)
    by = () if options.by is None else words(options.by)
    given = asked(options, by)
    if not isinstance(given, str) and not by:
        raise ValueError(f"which column of {options.dataset} groups its rows? Name it: --by COLUMN")
    question = natural.Question(given, options.by, options.l2, words(options.method), options.null)
    with Bars(options.quiet) as bars:
        report = natural.run(
            question, options.out, progress=bars.update, say=say, memory=options.memory,
            begun=options.begun, command=options.asked,
        )  # fmt: skip
    print(_records(report) if options.json else _in_words(report))
    for name, count in report.summary["not_converged"].items():
        if count:
            say(f"{name}: {count:,} groups did not converge; see the status in the table")
    say(took(len(report.table), report.summary["seconds"]))
    return wrote((path for path in sorted(report.folder.iterdir()) if _is_result(path)), say)


def _records(report: Report) -> str:
    """The effects of all groups on all columns, as JSON."""
    word = {each.name: each.word for each in chosen(report.summary["question"]["methods"])}
    effects = {word[name]: each for name, each in report.effects.items()}
    columns = list(effects.values())[-1].columns
    p = [report.table.get(f"p on {column}", np.nan) for column in columns]
    every = np.stack([np.broadcast_to(part, len(report.table)) for part in p], axis=1)
    return as_json(records(effects, every))


def _in_words(report: Report) -> str:
    """The table of what the groups are worth, and how methods compare."""
    table = _table(report) if report.credit is None else report.credit.table()
    return "\n".join([table, *_comparisons(report)])


def _table(report: Report) -> str:
    """The groups of largest effect, of a study that was read from its folder."""
    best = list(report.effects.values())[-1]
    column = best.columns[0]
    rows = [["group", "size", *report.effects, "p", "q"]]
    for i in np.argsort(-np.abs(best.value[:, 0]), kind="stable")[:_GROUPS].tolist():
        effects = [_effect(each, i) for each in report.effects.values()]
        chance = [report.table[f"{name} on {column}"][i] if f"{name} on {column}" in report.table
                  else np.nan for name in ("p", "q")]  # fmt: skip
        rows.append([str(best.groups.names[i]), f"{best.groups.size[i]:,}", *effects,
                     *(f"{value:.3f}" for value in chance)])  # fmt: skip
    more = len(report.table) - _GROUPS
    rest = [f"... and {more:,} groups of smaller effect"] if more > 0 else []
    return "\n".join([f"effects on {column}", *aligned(rows, right=True), *rest])


def _effect(found: Effects, i: int) -> str:
    status = Status(int(found.column_status[i, 0]))
    return f"{found.value[i, 0]:+.4g}" + ("" if status is Status.converged else f" {status.name}")


def _comparisons(report: Report) -> list[str]:
    compared = [row for row in report.summary["comparison"] if row["spearman"] is not None]
    columns = list(dict.fromkeys(row["column"] for row in compared))
    lines = [
        f"{row['method']:<9} against actual, {row['column']}: Spearman "
        f"{row['spearman']:.3f}, slope {row['slope']:.3f}"
        for row in compared
        if row["column"] in columns[:_COLUMNS]
    ]
    if len(columns) > _COLUMNS:
        lines.append(f"... and {len(columns) - _COLUMNS} columns more, in summary.json")
    return lines


def _is_result(path: Path) -> bool:
    """Whether a file is there for a reader, and not for the study to go on."""
    return (
        path.suffix in (".html", ".parquet", ".png")
        or path.match("effects_*.npz")
        or (path.name == "summary.json")
    )
