"""The command `leaveout`."""

import argparse
import sys

import jax

from leaveout.solution import Status

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)  # the command line may: it owns the process
    try:
        return options.run(options)
    except (ValueError, FileNotFoundError, ImportError) as error:
        print(f"leaveout: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("leaveout: interrupted; the same command goes on where it was", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    from leaveout import datasets, study

    parser = argparse.ArgumentParser(
        prog="leaveout",
        description="What would this model be if that group of training points had not been "
        "there? Compares predicted effects of removing groups with those of retraining.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser(
        "study",
        help="predict the effects of removing groups, retrain without each, and compare",
        description="Fits a model, makes the paper's seven kinds of groups of 0.25 to 25 % of the "
        "training data, predicts what removing each does to test predictions, test losses and its "
        "own loss, retrains without each group, and compares. Writes effects.parquet, "
        "summary.json, figure.png and groups.npz into a folder it names.",
    )
    one.add_argument("dataset", help=f"one of: {', '.join(datasets.available())}")
    one.add_argument(
        "--groups",
        type=int,
        default=100,
        metavar="N",
        help="groups of each family; 100 make up to 1,700 in all, as in the paper (default 100)",
    )
    one.add_argument(
        "--method",
        default="influence,newton",
        metavar="M,...",
        help=f"what to compare with retraining, of {', '.join(study.METHODS)} "
        "(default influence,newton)",
    )
    one.add_argument(
        "--l2",
        type=float,
        metavar="X",
        help="the penalty divided by the number of training examples "
        "(default: chosen by 5-fold cross-validation)",
    )
    one.add_argument("--seed", type=int, default=0, help="of groups and test points (default 0)")
    one.add_argument(
        "--out", metavar="DIR", help="folder to write to, or to go on in (default: named for you)"
    )
    one.add_argument(
        "--memory", type=float, metavar="GIB", help="memory for working arrays, in GiB"
    )
    one.set_defaults(run=_study)
    return parser


def _study(options: argparse.Namespace) -> int:
    from leaveout import study

    configuration = study.Configuration(
        dataset=options.dataset,
        per_family=options.groups,
        seed=options.seed,
        l2_over_n=options.l2,
        methods=tuple(name.strip() for name in options.method.split(",") if name.strip()),
    )
    memory = None if options.memory is None else options.memory * 2**30
    with _Bars() as bars:
        result = study.run(
            configuration, options.out, progress=bars.update, say=print, memory=memory
        )
    shown = study.headline(result.effects["actual"])
    for name, comparison in result.comparisons.items():
        print(f"\n{result.effects[name].method} against actual effects")
        print(comparison.table(columns=shown))
    for name, effects in result.effects.items():
        for code in sorted(set(effects.status.tolist()) - {0}):
            failed = effects.groups.names[effects.status == code]
            print(
                f"\n{name}: {len(failed):,} of {len(effects.groups):,} groups left out, the first "
                f"of them {str(failed[0])!r}: {Status(code).name}: {Status(code).advice}"
            )
    seconds = result.summary["seconds"]["total"]
    print(f"\n{len(result.effects['actual'].groups):,} groups in {seconds:.0f} s; wrote")
    for name in ("effects.parquet", "summary.json", "figure.png", "groups.npz"):
        print(f"  {result.folder / name}")
    return 0


class _Bars:
    """One progress bar a method: share, groups a second, time left."""

    def __init__(self):
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.progress = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.tasks = {}

    def __enter__(self):
        self.progress.start()
        return self

    def __exit__(self, *_):
        self.progress.stop()

    def update(self, name: str, done: int, total: int) -> None:
        """Show that `done` of `total` groups of a method are finished."""
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=total, completed=done, rate="")
            return
        task = self.progress.tasks[self.tasks[name]]
        speed = task.speed
        rate = "" if not speed else f"{speed:,.0f} groups/s"
        self.progress.update(self.tasks[name], completed=done, rate=rate)


if __name__ == "__main__":
    sys.exit(main())
