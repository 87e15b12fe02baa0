"""Plain text in columns."""

from __future__ import annotations

from collections.abc import Sequence

EIGHTHS = " ▏▎▍▌▋▊▉█"


def table(rows: Sequence[Sequence[str]], aligns: str, gap: str = "  ") -> list[str]:
    """Lines with every column as wide as its widest cell; ``aligns`` has ``<`` or ``>`` for each column."""
    widths = [max((len(row[i]) for row in rows if i < len(row)), default=0) for i in range(len(aligns))]
    lines = []
    for row in rows:
        cells = [f"{cell:{align}{width}}" for cell, align, width in zip(row, aligns, widths, strict=False)]
        lines.append(gap.join(cells).rstrip())
    return lines


def bar(fraction: float, width: int = 24, ascii_only: bool = False) -> str:
    """A horizontal bar, ``width`` characters long for 1; to an eighth of a character where Unicode may be used."""
    fraction = min(max(fraction, 0.0), 1.0)
    if ascii_only:
        return "#" * round(fraction * width)
    eighths = round(fraction * width * 8)
    return (EIGHTHS[8] * (eighths // 8) + EIGHTHS[eighths % 8]).rstrip()


def indent(lines: Sequence[str], by: str = "  ") -> list[str]:
    """Every line further to the right."""
    return [(by + line).rstrip() for line in lines]
