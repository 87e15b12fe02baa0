"""A result as files in a directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipesim.files import write_atomically
from pipesim.report.figures import encode

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def save(
    directory: Path,
    metrics_json: str,
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Figure],
) -> list[Path]:
    """Write ``result.json``, each table as CSV and each figure as SVG and PNG; the paths, in that order.

    The directory is made if it is missing.

    Raises:
        PipesimError: a file cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    contents: dict[str, bytes] = {"result.json": metrics_json.encode()}
    for name, table in tables.items():
        contents[f"{name}.csv"] = table.to_csv(index=False, lineterminator="\n").encode()
    for name, figure in figures.items():
        for suffix in ("svg", "png"):
            contents[f"{name}.{suffix}"] = encode(figure, suffix)
    paths = []
    for name, content in contents.items():
        write_atomically(directory / name, content)
        paths.append(directory / name)
    return paths


