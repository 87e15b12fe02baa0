"""Where results go: standard output, tables, and files that are either whole or not there."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from pipesim.errors import PipesimError

STANDARD_OUTPUT = "-"


class OutputError(PipesimError):
    """A result has nowhere to go."""


def check_files(files: dict[str, str | None], inputs: Sequence[str] = ()) -> None:
    """Refuse, before any work, files that cannot be written or are read; ``files`` is flag -> name."""
    wanted = {flag: name for flag, name in files.items() if name is not None and name != STANDARD_OUTPUT}
    for flag, name in wanted.items():
        _check_file(flag, name)
        _check_not_read(flag, name, inputs)
    resolved = [Path(name).resolve() for name in wanted.values()]
    twice = next((path for path in resolved if resolved.count(path) > 1), None)
    if twice is not None:
        raise OutputError(f"{' and '.join(wanted)}: both write {twice}")


def _check_file(flag: str, name: str) -> None:
    path = Path(name)
    if not name or path.is_dir():
        raise OutputError(f"{flag}: '{name}' is a directory; allowed: a file")
    _check_directory(flag, path.parent)
    if path.exists() and not os.access(path, os.W_OK):
        raise OutputError(f"{flag}: cannot write '{name}'")


def _check_not_read(flag: str, name: str, inputs: Sequence[str]) -> None:
    if not Path(name).is_file():  # a terminal or a pipe may be both
        return
    if any(os.path.exists(read) and os.path.samefile(name, read) for read in inputs):
        raise OutputError(f"{flag}: '{name}' is read as input; it would be overwritten")


def check_directory(flag: str, name: str | None, files: Sequence[str] = (), inputs: Sequence[str] = ()) -> None:
    """Refuse a directory that neither exists nor can be made by one ``mkdir``, or where ``files`` are inputs."""
    if name is None:
        return
    path = Path(name)
    if not name:
        raise OutputError(f"{flag}: an empty name; allowed: a directory")
    if path.exists():
        _check_directory(flag, path)
    else:
        _check_directory(flag, path.parent)
    for file in files:
        _check_not_read(flag, str(path / file), inputs)


def _check_directory(flag: str, path: Path) -> None:
    if not path.exists():
        raise OutputError(f"{flag}: there is no directory '{path}'; make it first")
    if not path.is_dir():
        raise OutputError(f"{flag}: '{path}' is not a directory")
    if not os.access(path, os.W_OK | os.X_OK):
        raise OutputError(f"{flag}: cannot write into '{path}'")


@contextmanager
def whole_file(name: str) -> Iterator[Path]:
    """A path to write to, which becomes ``name`` when all went well and is removed when not.

    The file keeps all its suffixes while it is written, because libraries choose formats by them. Devices and
    pipes are written directly.
    """
    target = Path(name)
    if target.exists() and not target.is_file():
        try:
            yield target
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"cannot write '{name}': {error.strerror or error}") from None
        return
    target = target.resolve()
    partial = target.with_name(f".{os.getpid()}.partial.{target.name}")
    try:
        yield partial
        os.replace(partial, target)
    except OSError as error:
        raise OutputError(f"cannot write '{name}': {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)


def write_json(value: Any, name: str) -> None:
    """JSON with a newline at the end, to a file or with ``-`` to standard output."""
    write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", name)


def write_text(text: str, name: str) -> None:
    """Text to a file, or with ``-`` to standard output."""
    if name == STANDARD_OUTPUT:
        sys.stdout.write(text)
        return
    with whole_file(name) as path:
        path.write_text(text, encoding="utf-8")


def say(text: str, json_name: str | None = None) -> None:
    """Text for people: on standard output, or on standard error when JSON has that."""
    print(text, file=sys.stderr if json_name == STANDARD_OUTPUT else sys.stdout)


def working(what: str) -> AbstractContextManager[Any]:
    """A spinner on standard error while something takes long; nothing when nobody looks at it."""
    if sys.stderr is None or not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(what)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on standard error, to be told how much is done, and of how much; None when nobody looks at it."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def say_summary(result: Any, json_name: str | None = None) -> None:
    """The summary of a result, where `say` would print it; with emphasis on a terminal that shows colours."""
    stream = sys.stderr if json_name == STANDARD_OUTPUT else sys.stdout
    if stream is None or not stream.isatty():
        print(result.summary(), file=stream)
        return
    from rich.console import Console

    from pipesim.report.text import rich_summary

    Console(file=stream, highlight=False).print(rich_summary(result.metrics), soft_wrap=True)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A ruled table on a terminal; aligned columns, one row per line, in a pipe."""
    if sys.stdout is not None and sys.stdout.isatty():
        _print_ruled(title, columns, rows)
    else:
        print(aligned(columns, rows))


def aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart, the last one as long as it is."""
    table = [list(columns), *map(list, rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    return "\n".join(line.rstrip() for line in lines)


def _print_ruled(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
