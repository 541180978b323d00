"""`leaveout figure`: make a figure of the paper."""

import argparse

from leaveout.studies.cli.progress import Bars, teller, wrote
from leaveout.studies.koh2019 import cones, figures, natural_figures, published

__all__ = ["add", "run"]


def add(commands: argparse._SubParsersAction, *parents: argparse.ArgumentParser) -> None:
    """Add the command to the others; `parents` bring the options that it shares with them."""
    parser = commands.add_parser(
        "figure",
        parents=parents,
        help="make a figure of the paper, running the studies it needs",
        description="Makes a figure of Koh et al. (2019) as PNG, PDF and JSON of its numbers. "
        "Studies that are missing or unfinished are run first, in the folder --studies. Figure 3, "
        "the counterexamples, is of generated data and needs none.",
    )
    numbers = ", ".join([*published.FIGURES, *natural_figures.FIGURES, *cones.FIGURES])
    parser.add_argument("number", help=f"one of: {numbers}")
    parser.add_argument(
        "--data",
        metavar="D,...",
        help="data sets to show, mnist:10 for 10 groups a family (default: those of the figure)",
    )
    parser.add_argument(
        "--groups", type=int, default=100, metavar="N", help="groups of each family (default 100)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Make a figure of the paper or of the theory."""
    names = None if options.data is None else options.data.split(",")
    say = teller(options)
    shared = {"studies": options.studies, "out": options.out, "say": say}
    shared["memory"] = options.memory
    with Bars(options.quiet) as bars:
        shared["progress"] = bars.update
        for wing in (natural_figures, cones):
            if options.number in wing.FIGURES:
                return wrote(wing.figure(options.number, names, **shared), say)
        written = figures.figure(options.number, names, per_family=options.groups, **shared)
    return wrote(written, say)
