"""`leaveout extreme` and `leaveout flips`: which examples move a result the most, or turn it."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from leaveout.analysis.sets_found import Extreme, Flips
from leaveout.studies.cli.own import asked
from leaveout.studies.cli.progress import Bars, teller, words, wrote
from leaveout.studies.datasets import Dataset
from leaveout.studies.given import loaded
from leaveout.studies.sets import Matter

__all__ = ["add"]

_DIRECTIONS = {"up": (1,), "down": (-1,), "both": (1, -1)}
_TABLE = (
    " Of a table of yours every row trains if coefficients are asked about, unless --query says "
    "otherwise. "
)


def add(commands: argparse._SubParsersAction, *parents: argparse.ArgumentParser) -> None:
    """Add both commands to the others; `parents` bring the options that they share with them."""
    shared = (*parents, _shared())
    parser = commands.add_parser(
        "extreme",
        parents=shared,
        help="the sets of examples that move a result the most",
        description="Fits a model, looks for the sets of some sizes whose leaving moves a result "
        "the most, by influence, in stages and by exchange, and trains again without them; beside "
        "it what influence says, and what one pass by it finds." + _TABLE + "Writes extreme.png, "
        "groups.npz and summary.json into a folder it names.",
        epilog="example: leaveout extreme breast_cancer --points 30,57 --size 5,28,57",
    )
    parser.add_argument(
        "--size", default="1%,5%", metavar="K,...", help="examples that leave, or shares (1%%,5%%)"
    )
    parser.add_argument(
        "--direction", default="both", choices=_DIRECTIONS, help="of the result (default both)"
    )
    parser.set_defaults(run=_extreme, command="extreme")
    parser = commands.add_parser(
        "flips",
        parents=shared,
        help="the fewest examples found whose leaving turns a result",
        description="Fits a model, looks for the fewest examples whose leaving takes a result past "
        "a threshold, and trains again without them; beside it how many influence says."
        + _TABLE
        + "Writes flips.png, groups.npz and summary.json into a folder it names.",
        epilog="example: leaveout flips morocco --coefficient offer",
    )
    parser.add_argument("--threshold", type=float, metavar="X", help="to be passed (default 0)")
    parser.add_argument(
        "--most", default="10%", metavar="K", help="examples that may leave, or a share (10%%)"
    )
    parser.set_defaults(run=_flips, command="flips")


def _shared() -> argparse.ArgumentParser:
    """The options of both."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("dataset", help="a CSV or Parquet file of yours, or a data set")
    parent.add_argument(
        "--coefficient",
        metavar="NAME,...",
        help="what is looked at: coefficients of features, or of all that are like 'offer in *'",
    )
    parent.add_argument(
        "--points",
        metavar="N,...",
        help="or the margins of some query examples (scores, where numbers are predicted), counted "
        "from 0: 30,57 or 0-99 (default the mean loss on all)",
    )
    parent.add_argument(
        "--among",
        metavar="COLUMN,...",
        help="whose groups leave whole, such as villages; sizes then count them",
    )
    parent.add_argument(
        "--bound",
        action="store_true",
        help="prove what no set of single examples can do; of least squares",
    )
    parent.add_argument(
        "--l2",
        type=float,
        metavar="X",
        help="the penalty divided by the number of training examples (default: the data set's own, "
        "none for coefficients of least squares, else a thousandth)",
    )
    parent.add_argument("--out", metavar="DIR", help="folder to write to (default: named for you)")
    return parent


def _extreme(options: argparse.Namespace) -> int:
    """Look for the most influential sets, and print them."""
    sizes, ways = [_count(word) for word in words(options.size)], _DIRECTIONS[options.direction]
    return _answered(options, lambda matter, **more: matter.extreme(sizes, ways, **more))


def _flips(options: argparse.Namespace) -> int:
    """Look for the fewest that turn a result, and print them."""
    if options.coefficient is options.points is options.threshold is None:
        raise ValueError(
            "what is to be turned? Name it: --coefficient NAME or --points N; or give a "
            "--threshold for the mean loss"
        )
    past = {"threshold": options.threshold or 0.0, "most": _count(options.most)}
    return _answered(options, lambda matter, **more: matter.flips(**past, **more))


def _answered(options: argparse.Namespace, ask: Callable[..., Extreme | Flips]) -> int:
    """Ask, print what was found, and write it."""
    matter, say = _matter(options), teller(options)
    data, done = matter.data, 0
    folder = Path(options.out or f"{options.command}-{data.name}")
    if folder.is_file():
        raise ValueError(f"--out {folder} is a file; name a folder")
    say(f"{data.name}: {data.n:,} training examples, {data.d:,} features")
    with Bars(options.quiet) as bars:

        def count(some: int) -> None:
            nonlocal done
            done += some
            bars.update("models", done, None)

        found = ask(matter, bound=options.bound, memory=options.memory, progress=count)
    print(found)
    folder.mkdir(parents=True, exist_ok=True)
    return wrote(matter.write(found, folder, options.asked), say)


def _matter(options: argparse.Namespace) -> Matter:
    """What is asked about."""
    coefficients = _listed(options.coefficient, "--coefficient")
    among = _listed(options.among, "--among")
    data = loaded(asked(options, among, query="0" if coefficients else "0.2"))
    points = _points(_listed(options.points, "--points"), data)
    return Matter(data, coefficients, points, ",".join(among) or None, options.l2)


def _listed(text: str | None, option: str) -> tuple[str, ...]:
    """The words of an option; none where it was not given."""
    if text is not None and not words(text):
        raise ValueError(f"{option} names nothing")
    return words(text or "")


def _points(ranges: tuple[str, ...], data: Dataset) -> tuple[int, ...]:
    """Positions of query examples, of words such as 30 or 0-99."""
    found, count = [], len(data.y_query)
    for word in ranges:
        ends = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
        first, last = (0, -1) if ends is None else (int(ends[1]), int(ends[2] or ends[1]))
        if last < first:
            raise ValueError(f"expected --points as numbers such as 30,57 or 0-99, got {word!r}")
        if last >= count:
            raise ValueError(
                f"{data.name} has {count:,} query examples, counted from 0, but number {last:,} "
                "was asked"
            )
        found += range(first, last + 1)
    return tuple(found)


def _count(text: str) -> int | float:
    """A count, or a share: 28, 5%, or .05."""
    try:
        if text.endswith("%"):
            return float(text[:-1]) / 100
        return float(text) if "." in text else int(text)
    except ValueError:
        raise ValueError(
            f"expected a count such as 28 or a share such as 5%, got {text!r}"
        ) from None
