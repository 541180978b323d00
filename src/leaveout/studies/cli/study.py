"""`leaveout study`: predict, retrain, compare."""

import argparse

from leaveout.methods import BY_WORD
from leaveout.runtime.solution import Status
from leaveout.studies import datasets, removal
from leaveout.studies.cli.listing import HELP, listed
from leaveout.studies.cli.own import asked
from leaveout.studies.cli.progress import Bars, teller, took, words, wrote
from leaveout.studies.cli.records import as_json, records

__all__ = ["add", "run"]


def add(commands: argparse._SubParsersAction, *parents: argparse.ArgumentParser) -> None:
    """Add the command to the others; `parents` bring the options that it shares with them."""
    parser = commands.add_parser(
        "study",
        parents=parents,
        help="predict the effects of removing groups, retrain without each, and compare",
        description="Fits a model, makes the paper's seven kinds of groups of 0.25 to 25 % of the "
        "training data, predicts what removing each does to test predictions, test losses and its "
        "own loss, retrains without each group, and compares. Writes report.html, effects.parquet, "
        "summary.json, figure.png and groups.npz into a folder; the same command goes on where it "
        "was stopped.",
        epilog="example: leaveout study my.parquet --target y --groups 20",
    )
    parser.add_argument(
        "dataset",
        nargs="?",
        help=f"a CSV or Parquet file of yours, or one of: {', '.join(datasets.available())}",
    )
    parser.add_argument("--list", action="store_true", help=HELP)
    parser.add_argument(
        "--groups",
        type=int,
        default=100,
        metavar="N",
        help="groups of each family; 100 make up to 1,700 in all, as in the paper (default 100)",
    )
    parser.add_argument(
        "--method",
        default="influence,changed,newton",
        metavar="M,...",
        help=f"what to compare with retraining, of {', '.join(BY_WORD)} "
        "(default influence,changed,newton)",
    )
    parser.add_argument(
        "--l2",
        type=float,
        metavar="X",
        help="the penalty divided by the number of training examples "
        "(default: chosen by 5-fold cross-validation)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of groups and test points (default 0)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run a study and print how the methods compare, or list the studies."""
    if options.list:
        return listed()
    if options.dataset is None:
        raise ValueError("which data set? `leaveout data` lists them; or give a file of yours")
    say = teller(options)
    configuration = removal.Configuration(
        dataset=asked(options),
        per_family=options.groups,
        seed=options.seed,
        l2_over_n=options.l2,
        methods=words(options.method),
    )
    with Bars(options.quiet) as bars:
        result = removal.run(
            configuration, options.out, progress=bars.update, say=say, memory=options.memory,
            begun=options.begun, command=options.asked,
        )  # fmt: skip
    print(as_json(records(result.effects)) if options.json else _in_words(result))
    for sentence in _flagged(result):
        say(sentence)
    say(took(len(result.effects["actual"].groups), result.summary["seconds"]))
    names = ("report.html", "effects.parquet", "summary.json", "figure.png", "groups.npz")
    return wrote((path for name in names if (path := result.folder / name).exists()), say)


def _in_words(result: removal.Study) -> str:
    """How the methods compare."""
    shown = removal.headline(result.effects["actual"])
    return "\n\n".join(
        f"{result.effects[name].method} against actual effects\n{comparison.table(columns=shown)}"
        for name, comparison in result.comparisons.items()
    )


def _flagged(result: removal.Study) -> list[str]:
    """What did not converge, a sentence a method and status."""
    found = []
    for name, effects in result.effects.items():
        for code in sorted(set(effects.status.tolist()) - {0}):
            failed = effects.groups.names[effects.status == code]
            found.append(
                f"{name}: {len(failed):,} of {len(effects.groups):,} groups did not converge, "
                f"the first of them {str(failed[0])!r}: {Status(code).name}: {Status(code).advice}"
            )
    return found
