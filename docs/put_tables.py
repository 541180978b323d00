"""Puts the tables of the finished studies between the marks of a text.

What stands between the lines "<!-- tables -->" and "<!-- end of tables -->" is replaced by what
`leaveout tables` writes: `python docs/put_tables.py` keeps docs/paper.md up to date.
"""

import argparse
import sys
from pathlib import Path

import jax

from leaveout.runtime.files import write_text
from leaveout.studies.koh2019.tables import tables

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Write the tables and put them into the text; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    page = Path(__file__).with_name("paper.md")
    parser.add_argument("page", nargs="?", type=Path, default=page, help="the text (paper.md)")
    parser.add_argument("--studies", default=".", metavar="DIR", help="where the studies are")
    parser.add_argument("--out", default=".", metavar="DIR", help="folder for paper.json, paper.md")
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)  # as the command line computes
    before, begin, rest = options.page.read_text().partition("<!-- tables -->\n")
    _, end, after = rest.partition("<!-- end of tables -->")
    if not end:
        parser.error(f"{options.page} has no lines <!-- tables --> and <!-- end of tables -->")
    try:
        *_, made = tables(options.studies, out=options.out)
    except FileNotFoundError as error:
        parser.error(str(error))
    write_text(options.page, f"{before}{begin}{made.read_text()}{end}{after}")
    print(f"wrote {options.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
