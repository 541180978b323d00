"""`python -m leaveout`: the command line."""

import sys

from leaveout.studies.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
