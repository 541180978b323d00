"""Plain text for people: tables whose columns line up."""

__all__ = [
    "aligned",
]


def aligned(rows: list[list[str]], right: bool = False) -> list[str]:
    """Lines of text with cells in columns, those after the first flush right if asked."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row):
        cells = [
            cell.rjust(width) if right and k else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return [line(row) for row in rows]
