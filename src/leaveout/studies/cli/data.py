"""`leaveout data`: the data sets, and what tells each from any other."""

import argparse

from leaveout.studies import datasets

__all__ = ["add", "run"]


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command to the others."""
    parser = commands.add_parser(
        "data",
        help="list the data sets: what is here, where, how big, from whom, on what terms",
        description="Without a name, lists every data set, where its raw files are on this "
        "machine and how big they are. With names, finds or downloads the raw files, checks them, "
        "and prints what tells the data from any other: sizes, class counts, checksums.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="data sets to fetch and describe")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """List the data sets, or fetch and describe those that are named."""
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
