"""`leaveout tables`: the paper's tables beside what was found."""

import argparse

from leaveout.studies.cli.progress import teller, wrote
from leaveout.studies.koh2019.tables import tables

__all__ = ["add", "run"]


def add(commands: argparse._SubParsersAction, *parents: argparse.ArgumentParser) -> None:
    """Add the command to the others; `parents` bring the options that it shares with them."""
    parser = commands.add_parser(
        "tables",
        parents=parents,
        help="put the paper's tables beside what the finished studies found",
        description="Writes table 1, all Spearman correlations and the cost of every finished "
        "study in --studies as paper.json and paper.md, the paper's numbers beside them.",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the tables and print them."""
    written = tables(options.studies, out=options.out)
    print(written[-1].read_text())
    return wrote(written, teller(options))
