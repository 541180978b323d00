"""`leaveout value`: what each group of a data set adds to the others."""

import argparse
from pathlib import Path

from leaveout.studies import valued
from leaveout.studies.cli.progress import Bars, teller, wrote

__all__ = ["add", "run"]


def add(commands: argparse._SubParsersAction, *parents: argparse.ArgumentParser) -> None:
    """Add the command to the others; `parents` bring the options that it shares with them."""
    parser = commands.add_parser(
        "value",
        parents=parents,
        help="what each group of a data set adds to the others, over all coalitions of them",
        description="Fits a model, takes players from columns of the data set, trains every "
        "coalition of up to 12 of them (a sample of more), and says what each adds to the mean "
        "loss on the query examples, averaged over all orders of joining. Writes values.npz, "
        "values.parquet, values.png and summary.json into a folder it names.",
    )
    parser.add_argument("dataset", help="a data set with columns; `leaveout data NAME` lists them")
    parser.add_argument(
        "--by", metavar="COLUMN,...", help="what makes the players (default: its first column)"
    )
    parser.add_argument(
        "--of", default="shapley", help="shapley, banzhaf, or 'beta A B' (default shapley)"
    )
    parser.add_argument(
        "--largest", type=int, metavar="N", help="only the examples of the N largest players"
    )
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="only every N-th training example"
    )
    parser.add_argument(
        "--trainings", type=int, metavar="N", help="how many coalitions are trained"
    )
    parser.add_argument(
        "--method", default="actual", help="by which they are (default actual: retraining)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run a study of values and print them."""
    worth = valued.Worth(
        options.dataset, options.by, options.of, options.largest, options.every,
        options.trainings, options.l2, (options.method,),
    )  # fmt: skip
    folder = Path(worth.folder() if options.out is None else options.out)
    say = teller(options)
    with Bars(options.quiet) as bars:
        found = valued.run(worth, folder, progress=bars.update, say=say, memory=options.memory)
    print(found.table())
    names = ("summary.json", "values.npz", "values.parquet", "values.png")
    return wrote((folder / name for name in names), say)
