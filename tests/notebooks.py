"""Execute the notebooks and read what is in them.

``python tests/notebooks.py [FILE ...]`` renews the outputs of the given notebooks, or of all of them.
"""

from __future__ import annotations

import ast
import asyncio
import base64
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
TIMEOUT_S = 300


def paths() -> list[Path]:
    """All notebooks."""
    return sorted(FOLDER.glob("*.ipynb"))


def execute(path: Path) -> Any:
    """The notebook with the outputs of a fresh kernel, which sees this source tree whatever is installed.

    Raises CellExecutionError where a cell fails.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(
        notebook, timeout=TIMEOUT_S, kernel_name="python3", resources=where, record_timing=False, coalesce_streams=True
    )
    seen = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    env = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    asyncio.run(client.async_execute(env={**env, "PYTHONPATH": os.pathsep.join(filter(None, seen))}))
    return notebook


def code(notebook: Any) -> list[Any]:
    """The code cells."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(notebook: Any) -> list[list[str]]:
    """What every code cell shows as text, word by word: pandas releases differ in how they space columns."""
    return [[word for output in cell.outputs for word in _text(output).split()] for cell in code(notebook)]


def _text(output: Any) -> str:
    return str(output.text if output.output_type == "stream" else output.get("data", {}).get("text/plain", ""))


def warnings(notebook: Any) -> list[str]:
    """What the cells wrote to standard error."""
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    return [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]


def images(notebook: Any) -> list[int]:
    """Bytes of every picture, in order."""
    data = [output.get("data", {}) for cell in code(notebook) for output in cell.outputs]
    return [len(base64.b64decode(each["image/png"])) for each in data if "image/png" in each]


def imported(notebook: Any) -> set[str]:
    """Modules that the cells import, with their dots."""
    found = set()
    for node in _nodes(notebook):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
    return found


def used(notebook: Any, module: str) -> set[str]:
    """Names of a module that the cells use as ``module.name``."""
    attributes = (node for node in _nodes(notebook) if isinstance(node, ast.Attribute))
    return {node.attr for node in attributes if isinstance(node.value, ast.Name) and node.value.id == module}


def _nodes(notebook: Any) -> Iterator[ast.AST]:
    for cell in code(notebook):
        yield from ast.walk(ast.parse(cell.source))


def renew(path: Path) -> None:
    """Write the notebook back with the outputs of now, and without what differs between machines."""
    import nbformat

    notebook = execute(path)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in code(notebook):
        cell.metadata = {}
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = _smaller(output.data["image/png"])
    nbformat.write(notebook, path)
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB, {len(images(notebook))} pictures")


def _smaller(png: str) -> str:
    """The picture with 256 colours: a third of the bytes, and charts look the same."""
    from PIL import Image

    image, out = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(out, format="png", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


if __name__ == "__main__":
    for file in [Path(name) for name in sys.argv[1:]] or paths():
        renew(file)
