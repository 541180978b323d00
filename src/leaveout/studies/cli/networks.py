"""`leaveout networks`: does influence hold for a network, trained and not solved?"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from leaveout.runtime.files import write_text
from leaveout.studies.cli.listing import HELP, listed
from leaveout.studies.cli.progress import Bars, teller, took, words, wrote
from leaveout.studies.folder import Say
from leaveout.studies.networks import figures, setups, study
from leaveout.studies.networks.study import Report
from leaveout.studies.networks.table import markdown, overview, table

__all__ = ["add", "run"]


def add(commands: argparse._SubParsersAction, *parents: argparse.ArgumentParser) -> None:
    """Add the command to the others; `parents` bring the options that it shares with them."""
    parser = commands.add_parser(
        "networks",
        parents=parents,
        help="the same for a network: train, predict, retrain without each group, compare",
        description="Trains a network by its published recipe from several seeds, makes groups "
        "(the paper's families, those of the data, random halves, single points), predicts what "
        "removing each does, trains again without each from the same start through the same "
        "batches, and compares: with the ceiling that noise of seeds leaves. Writes "
        "effects.parquet, summary.json, figures and run.npz into a folder it names.",
    )
    parser.add_argument("dataset", nargs="?", help=f"one of: {', '.join(setups.available())}")
    parser.add_argument("--list", action="store_true", help=HELP)
    parser.add_argument(
        "--setup",
        choices=setups.VARIANTS,
        help="SGD with relu or tanh, or Adam (default: as published)",
    )
    parser.add_argument(
        "--trainings",
        type=int,
        default=2000,
        metavar="N",
        help="retrainings in all, groups times seeds (default 2000)",
    )
    parser.add_argument(
        "--seeds", type=int, default=4, metavar="S", help="trainings of each (default 4)"
    )
    parser.add_argument("--rate", type=float, metavar="X", help="learning rate (default: recipe's)")
    parser.add_argument(
        "--method",
        metavar="M,...",
        help=f"what to compare with retraining, of {', '.join(study.WORDS)} (default: all that the "
        "size of the network allows)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of groups and queries (default 0)")
    parser.add_argument(
        "--across",
        nargs="+",
        metavar="DIR",
        help="of these finished studies, one table (networks.md) and the figure of smoothness "
        "(smoothness.png), into --out",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run a study of a network and print its table, or what several of them say together."""
    if options.list:
        return listed()
    if options.across:
        reports = [study.read(folder) for folder in options.across]
        return _across(reports, Path(options.out or "."), teller(options))
    if options.dataset is None:
        raise ValueError(f"which data set? known: {', '.join(setups.available())}")
    configuration = study.Configuration(
        options.dataset, options.setup, options.trainings, options.seeds, options.rate,
        options.seed, None if options.method is None else words(options.method),
    )  # fmt: skip
    say = teller(options)
    with Bars(options.quiet) as bars:
        report = study.run(
            configuration, options.out, progress=bars.update, say=say, memory=options.memory
        )
    _tell(report)
    if report.summary["flagged"]:
        say(
            f"{report.summary['flagged']:,} groups left no training, or one that ended in NaN: "
            "see the status"
        )
    say(took(len(report.effects["actual"].groups), report.summary["seconds"]))
    names = ("effects.parquet", "summary.json", "run.npz", "figure.png", "slopes.png")
    return wrote((path for name in names if (path := report.folder / name).exists()), say)


def _tell(report: Report) -> None:
    """The tables of what is predicted and of the mean loss, and how smooth the training is."""
    actual, costs = report.effects["actual"], _whole(report)
    for measure in (actual.measure[0], actual.measure[-1]):
        print(f"{_heading(measure)}\n{table(report.scores, costs, measure)}\n")
    smooth = report.summary["smoothness"]
    if smooth:
        print(f"smoothness {min(smooth):.3f} to {max(smooth):.3f}")


def _heading(measure: str) -> str:
    return (
        f"effects on {measure}: Spearman [95 %] with retraining, of predictions from this run, "
        "from another seed (and its ceiling), of means over seeds (and theirs)"
    )


def _whole(report: Report) -> Mapping[str, float]:
    """What methods cost, retraining apart: it has no line."""
    return {name: cost for name, cost in report.costs.items() if name != "actual"}


def _across(reports: list[Report], folder: Path, say: Say) -> int:
    """One text: an overview, then the table of each study; and the figure of smoothness."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [overview([(_name(report), report.scores) for report in reports])]
    for report in reports:
        summary, actual = report.summary, report.effects["actual"]
        smooth = summary["smoothness"]
        of = f"smoothness {min(smooth):.2f} to {max(smooth):.2f}; " if smooth else ""
        title = f"### {_name(report)}"
        what = setups.Setup.of_json(summary["setup"]).in_words()
        head = f"{what}. {len(actual.groups):,} groups x {len(summary['quality'])} seeds; {of}"
        measure = actual.measure[0]
        parts += [
            title,
            f"{head}effects on {measure}.",
            markdown(report.scores, _whole(report), measure),
        ]
    text, drawn = folder / "networks.md", folder / "smoothness.png"
    write_text(text, "\n\n".join(parts) + "\n")
    figures.draw_across(reports, drawn)
    return wrote([text, drawn], say)


def _name(report: Report) -> str:
    """What a study is of."""
    asked = report.summary["configuration"]
    return f"{asked['dataset']}, {asked['setup']}"
