"""The command `leaveout`."""

import argparse
import contextlib
import os
import sys
from typing import Any

import jax

from leaveout.runtime.solution import SolveError, Status
from leaveout.studies.datasets.source import cache

__all__ = ["keep_compiled", "main"]

_COLUMNS = 8  # of effects whose correlations are printed


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)  # the command line may: it owns the process
    if arguments is None:
        keep_compiled()
    try:
        return options.run(options)
    except (ValueError, OSError, ImportError, SolveError) as error:
        print(f"leaveout: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("leaveout: interrupted; the same command goes on where it was", file=sys.stderr)
        return 130


def keep_compiled() -> None:
    """Have JAX keep what it compiles in the user's cache: another start need not compile it again.

    A folder chosen with JAX_COMPILATION_CACHE_DIR stands.
    """
    settings: Any = jax.config  # its names are made when JAX starts
    root = cache()
    if root is None or settings.jax_compilation_cache_dir:
        return
    folder = root / "compiled"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if os.access(folder, os.W_OK):  # compiling again is only slower
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _parser() -> argparse.ArgumentParser:
    from leaveout.studies import datasets, natural
    from leaveout.studies import removal as study
    from leaveout.studies.koh2019 import cones as theory
    from leaveout.studies.koh2019 import figures as paper

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
    one.add_argument("dataset", nargs="?", help=f"one of: {', '.join(datasets.available())}")
    one.add_argument(
        "--list", action="store_true", help="list the studies in this folder, and how far they are"
    )
    one.add_argument(
        "--groups",
        type=int,
        default=100,
        metavar="N",
        help="groups of each family; 100 make up to 1,700 in all, as in the paper (default 100)",
    )
    one.add_argument(
        "--method",
        default="influence,changed,newton",
        metavar="M,...",
        help=f"what to compare with retraining, of {', '.join(study.METHODS)} "
        "(default influence,changed,newton)",
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
        "--memory", type=float, metavar="GIB", help="memory for the whole process, in GiB"
    )
    one.set_defaults(run=_study)
    worth = commands.add_parser(
        "credit",
        help="what each natural group of a data set is worth: hospitals, workers, functions",
        description="Fits a model, takes the groups from a column of the data set, and says what "
        "leaving each out does to the loss on the query examples and on parts of them, by "
        "influence, by a Newton step and by retraining, and whether random groups of the same size "
        "and class balance do the same. Writes credit.parquet, summary.json, effects_*.npz and "
        "figures into a folder it names.",
    )
    worth.add_argument("dataset", help="a data set with columns; `leaveout data NAME` lists them")
    worth.add_argument(
        "--by", metavar="COLUMN,...", help="what groups the examples (default: its first column)"
    )
    worth.add_argument(
        "--method",
        default="influence,newton,actual",
        metavar="M,...",
        help=f"of {', '.join(natural.METHODS)} (default all)",
    )
    worth.add_argument(
        "--l2",
        type=float,
        metavar="X",
        help="the penalty divided by the number of training examples "
        "(default: the data set's own, or chosen by 5-fold cross-validation)",
    )
    worth.add_argument(
        "--null", type=int, default=1000, metavar="N", help="random groups a group (default 1000)"
    )
    worth.add_argument(
        "--out", metavar="DIR", help="folder to write to, or to read (default: named for you)"
    )
    worth.add_argument(
        "--memory", type=float, metavar="GIB", help="memory for working arrays, in GiB"
    )
    worth.set_defaults(run=_credit)
    drawn = commands.add_parser(
        "figure",
        help="make a figure of the paper, running the studies it needs",
        description="Makes a figure of Koh et al. (2019) as PNG, PDF and JSON of its numbers. "
        "Studies that are missing or unfinished are run first, in the folder --studies. Figure 3, "
        "the counterexamples, is of generated data and needs none.",
    )
    numbers = ", ".join([*paper.FIGURES, *natural.FIGURES, *theory.FIGURES])
    drawn.add_argument("number", help=f"one of: {numbers}")
    drawn.add_argument(
        "--data",
        metavar="D,...",
        help="data sets to show, mnist:10 for 10 groups a family (default: those of the figure)",
    )
    drawn.add_argument(
        "--groups", type=int, default=100, metavar="N", help="groups of each family (default 100)"
    )
    table = commands.add_parser(
        "tables",
        help="put the paper's tables beside what the finished studies found",
        description="Writes table 1, all Spearman correlations and the cost of every finished "
        "study in --studies as paper.json and paper.md, the paper's numbers beside them.",
    )
    table.add_argument(
        "--page", metavar="FILE", help="also put them between the marks <!-- tables --> of a text"
    )
    for each in (drawn, table):
        each.add_argument("--studies", default=".", metavar="DIR", help="where the studies are")
        each.add_argument("--out", default=".", metavar="DIR", help="folder to write to")
    drawn.add_argument(
        "--memory", type=float, metavar="GIB", help="memory for working arrays, in GiB"
    )
    drawn.set_defaults(run=_figure)
    table.set_defaults(run=_tables)
    shelf = commands.add_parser(
        "data",
        help="list the data sets: what is here, where, how big, from whom, on what terms",
        description="Without a name, lists every data set, where its raw files are on this "
        "machine and how big they are. With names, finds or downloads the raw files, checks them, "
        "and prints what tells the data from any other: sizes, class counts, checksums.",
    )
    shelf.add_argument("names", nargs="*", metavar="NAME", help="data sets to fetch and describe")
    shelf.set_defaults(run=_data)
    return parser


def _bytes(options: argparse.Namespace) -> float | None:
    return None if options.memory is None else options.memory * 2**30


def _list() -> int:
    from leaveout.studies import removal as study

    rows = study.found()
    if not rows:
        print("no studies in this folder")
    for row in rows:
        each = row["configuration"]
        chosen = "chosen l2" if each.l2_over_n is None else f"l2/n {each.l2_over_n:.3g}"
        print(
            f"{row['folder']!s:<32} {each.dataset:<14} {each.per_family:>4} groups a family, "
            f"{chosen}, seed {each.seed}: {row['state']}"
        )
    return 0


def _credit(options: argparse.Namespace) -> int:
    from leaveout.studies import natural

    question = natural.Question(
        options.dataset,
        options.by,
        options.l2,
        tuple(name.strip() for name in options.method.split(",") if name.strip()),
        options.null,
    )
    report = natural.run(question, options.out, say=print, memory=_bytes(options))
    if report.credit is not None:
        print(f"\n{report.credit.table()}")
    compared = [row for row in report.summary["comparison"] if row["spearman"] is not None]
    shown = list(dict.fromkeys(row["column"] for row in compared))[:_COLUMNS]
    for row in compared:
        if row["column"] in shown:
            print(
                f"{row['method']:<9} against actual, {row['column']}: Spearman "
                f"{row['spearman']:.3f}, slope {row['slope']:.3f}"
            )
    columns = len({row["column"] for row in compared})
    if columns > len(shown):
        print(f"... and {columns - len(shown)} columns more, in summary.json")
    for name, count in report.summary["not_converged"].items():
        if count:
            print(f"{name}: {count:,} groups did not converge; see the status in the table")
    print(f"\n{len(report.table):,} groups in {report.summary['seconds']:.0f} s", end="; ")
    return _wrote(sorted(report.folder.iterdir()))


def _figure(options: argparse.Namespace) -> int:
    from leaveout.studies import natural
    from leaveout.studies.koh2019 import cones as theory
    from leaveout.studies.koh2019 import figures as paper

    names = None if options.data is None else options.data.split(",")
    for room in (natural, theory):
        if options.number not in room.FIGURES:
            continue
        return _wrote(
            room.figure(
                options.number,
                names,
                studies=options.studies,
                out=options.out,
                say=print,
                memory=_bytes(options),
            )
        )
    with _Bars() as bars:
        written = paper.figure(
            options.number,
            names,
            studies=options.studies,
            out=options.out,
            per_family=options.groups,
            progress=bars.update,
            say=print,
            memory=_bytes(options),
        )
    return _wrote(written)


def _tables(options: argparse.Namespace) -> int:
    from leaveout.studies.koh2019 import figures as paper

    written = paper.tables(options.studies, out=options.out, page=options.page)
    print(written[-1].read_text())
    return _wrote(written)


def _wrote(paths) -> int:
    print("wrote")
    for path in paths:
        print(f"  {path}")
    return 0


def _data(options: argparse.Namespace) -> int:
    from leaveout.studies import datasets

    unknown = [name for name in options.names if name not in datasets.available()]
    for name in unknown:
        datasets.load(name)  # raises, with the list of known ones
    for name in options.names:
        data = datasets.load(name)
        print(f"{name}\n  source    {data.source}\n  licence   {data.licence}")
        for key, value in data.fingerprint().items():
            print(f"  {key:<15} {value}")
        for key, column in data.labels.items():
            print(f"  labels: {key}, {len(set(column.tolist())):,} different")
    if not options.names:
        for name in datasets.available():
            print(f"{name:<14} {_whereabouts(name)}")
    return 0


def _whereabouts(name: str) -> str:
    """Where the raw files of a data set are, how big, from whom and on what terms."""
    from leaveout.studies import datasets

    origin = datasets.origin(name)
    if origin is None:
        return "needs no file"
    paths = [datasets.where(origin, file) for file in origin.files]
    found = [path for path in paths if path is not None]
    megabytes = sum(path.stat().st_size for path in found) / 1e6
    if len(found) == len(paths):
        state = f"{megabytes:.1f} MB in {found[0].parent}"
    elif all(file.urls for file in origin.files):
        state = f"not here: `leaveout data {name}` downloads it"
    else:
        state = f"not here, and published nowhere: {origin.derived}"
    return f"{state}\n{'':<15}{origin.source}\n{'':<15}licence: {origin.licence}"


def _study(options: argparse.Namespace) -> int:
    from leaveout.studies import removal as study

    if options.list:
        return _list()
    if options.dataset is None:
        raise ValueError("which data set? `leaveout data` lists them")
    configuration = study.Configuration(
        dataset=options.dataset,
        per_family=options.groups,
        seed=options.seed,
        l2_over_n=options.l2,
        methods=tuple(name.strip() for name in options.method.split(",") if name.strip()),
    )
    memory = _bytes(options)
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
    print(f"\n{len(result.effects['actual'].groups):,} groups in {seconds:.0f} s", end="; ")
    names = ("effects.parquet", "summary.json", "figure.png", "groups.npz")
    return _wrote(result.folder / name for name in names)


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
        task = self.tasks.get(name)
        if task is None or self.progress.tasks[task].finished:  # or another study's turn
            self.tasks[name] = self.progress.add_task(name, total=total, completed=done, rate="")
            return
        task = self.progress.tasks[self.tasks[name]]
        speed = task.speed
        rate = "" if not speed else f"{speed:,.0f} groups/s"
        self.progress.update(self.tasks[name], completed=done, rate=rate)
