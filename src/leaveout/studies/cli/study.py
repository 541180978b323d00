"""`leaveout study`: predict, retrain, compare."""

import argparse

from leaveout.methods import BY_WORD
from leaveout.runtime.solution import Status
from leaveout.studies import datasets, removal
from leaveout.studies.cli.listing import HELP, listed
from leaveout.studies.cli.progress import Bars, took, words, wrote

__all__ = ["add", "run"]


def add(commands: argparse._SubParsersAction, *parents: argparse.ArgumentParser) -> None:
    """Add the command to the others; `parents` bring the options that it shares with them."""
    parser = commands.add_parser(
        "study",
        parents=parents,
        help="predict the effects of removing groups, retrain without each, and compare",
        description="Fits a model, makes the paper's seven kinds of groups of 0.25 to 25 % of the "
        "training data, predicts what removing each does to test predictions, test losses and its "
        "own loss, retrains without each group, and compares. Writes effects.parquet, "
        "summary.json, figure.png and groups.npz into a folder it names.",
    )
    parser.add_argument("dataset", nargs="?", help=f"one of: {', '.join(datasets.available())}")
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
    parser.add_argument(
        "--out", metavar="DIR", help="folder to write to, or to go on in (default: named for you)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run a study and print how the methods compare, or list the studies."""
    if options.list:
        return listed()
    if options.dataset is None:
        raise ValueError("which data set? `leaveout data` lists them")
    configuration = removal.Configuration(
        dataset=options.dataset,
        per_family=options.groups,
        seed=options.seed,
        l2_over_n=options.l2,
        methods=words(options.method),
    )
    with Bars() as bars:
        result = removal.run(
            configuration, options.out, progress=bars.update, say=print, memory=options.memory,
            begun=options.begun,
        )  # fmt: skip
    shown = removal.headline(result.effects["actual"])
    for name, comparison in result.comparisons.items():
        print(f"\n{result.effects[name].method} against actual effects")
        print(comparison.table(columns=shown))
    for name, effects in result.effects.items():
        for code in sorted(set(effects.status.tolist()) - {0}):
            failed = effects.groups.names[effects.status == code]
            print(
                f"\n{name}: {len(failed):,} of {len(effects.groups):,} groups did not converge, "
                f"the first of them {str(failed[0])!r}: {Status(code).name}: {Status(code).advice}"
            )
    count = len(result.effects["actual"].groups)
    print(f"\n{took(count, result.summary['seconds'])}", end="; ")
    names = ("effects.parquet", "summary.json", "figure.png", "groups.npz")
    return wrote(result.folder / name for name in names)
