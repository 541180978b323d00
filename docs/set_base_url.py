"""Says where the site is published: `python docs/set_base_url.py https://example.org/leaveout`.

Replaces BASE_URL in what is read outside the site: the README, as PyPI shows it, and the links of
the package.
"""

import sys
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["main"]

PLACES = ("README.md", "pyproject.toml")


def main(arguments: list[str]) -> int:
    """Put the address into every place; returns the exit code."""
    if len(arguments) != 1 or urlsplit(arguments[0]).scheme != "https":
        print("expected one address that begins with https://", file=sys.stderr)
        return 2
    for place in PLACES:
        path = Path(__file__).parents[1] / place
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("BASE_URL", arguments[0].rstrip("/")), encoding="utf-8")
        print(f"{place}: {text.count('BASE_URL')} links")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
