"""Has Sphinx read docstrings as they are written: for people, in plain text.

Formulas are indented blocks, names stand in single backticks, bars are lengths. Here these become
what reStructuredText calls them, `lo.` names become links, and the first use of a word of the trade
in a docstring links to the glossary.
"""

import re

from generated import names

__all__ = ["process"]

WORDS = {  # as they stand in docstrings, to the term of the glossary
    r"sandwich lengths?": "Sandwich length",
    r"(?:Newton )?decrements?": "Newton decrement",
    r"self-loss": "Self-loss",
    r"flagged": "Flagged",
    r"coalitions?": "Coalition",
    r"envelopes?": "Envelope",
    r"base weights?": "Base weight",
    r"leverages?": "Leverage",
    r"null band": "Null band",
    r"cones?": "Cone",
    r"nu(?=:| is|,)": "Nu",
    r"mu(?= is|,|\b)": "Mu",
}
SECTION = re.compile(r"^(Args|Returns|Raises|Attributes|Example|Examples|Source|Yields):\s*(.*)$")
HEAD = re.compile(r"^(    [\w*][\w*, ]*:)(.*)$")
PUBLIC = {f"lo.{name}" for name, _ in names()}
SHORT = {}  # a name without its shelf, where only one has it
for _name in sorted(PUBLIC, key=len, reverse=True):
    SHORT[_name.rpartition(".")[2]] = _name


def process(app, what, name, obj, options, lines: list[str]) -> None:
    """Rewrite the lines of a docstring in place; Sphinx calls it before napoleon."""
    linked: set[str] = {name.rpartition(".")[2].lower()}
    out: list[str] = []
    section, literal = False, False
    for number, line in enumerate(lines):
        if SECTION.match(line):
            section, literal = True, False
        blank = not line.strip()
        indented = line.startswith("    ") and not blank
        if not section and indented and not literal and number and not lines[number - 1].strip():
            literal = True
            out += [".. code-block:: text", ""]
        elif literal and not blank and not indented:
            literal = False
        plain = literal or blank or line.lstrip().startswith((">>>", "..."))
        head = HEAD.match(line) if section else None
        if plain or _in_example(lines, number):
            out.append(line)
        elif head is not None:  # the name of an argument stays as it is
            out.append(head[1].replace(", ", ",") + _prose(head[2], linked))
        else:
            out.append(_prose(line, linked))
    lines[:] = out


def _in_example(lines: list[str], number: int) -> bool:
    """Whether a line is what an example prints, or between its lines."""
    for line in reversed(lines[:number]):
        if not line.strip():
            return False
        if line.lstrip().startswith((">>>", "...")):
            return True
    return False


def _prose(line: str, linked: set[str]) -> str:
    """One line of text: code in backticks, everything else as it reads."""
    parts = re.split(r"(`[^`]+`)", line)
    return "".join(
        _code(part[1:-1]) if part.startswith("`") and len(part) > 2 else _words(part, linked)
        for part in parts
    )


def _code(text: str) -> str:
    """A name as a link where it is public, else as code."""
    plain = text.removesuffix("()")
    full = plain if plain in PUBLIC else SHORT.get(plain)
    if full is None or plain.startswith("_"):
        return f"``{text}``"
    return f":py:obj:`{text} <leaveout.{full.removeprefix('lo.')}>`"


def _words(text: str, linked: set[str]) -> str:
    """Text with its special letters escaped, and words of the trade linked once."""
    text = re.sub(r"([|*\\])", r"\\\1", text)
    text = re.sub(r"(?<=\w)_(?=\W|$)", r"\\_", text)
    for pattern, term in WORDS.items():
        if term.lower() in linked:
            continue
        found = re.search(rf"(?<![\w`-])({pattern})(?![\w`-])", text)
        if found is not None and text.count("`", 0, found.start()) % 2 == 0:
            linked.add(term.lower())
            link = rf":term:`{found[1]} <{term}>`"
            text = text[: found.start()] + link + text[found.end() :]
    return text
