"""Run what a Markdown document shows: console and Python blocks, and compare with the output shown.

A ``console`` block holds ``$ pipesim ...`` commands, each followed by the output it prints; a line ``...`` stands
for any lines. A ``python`` block is run as it stands; a ``text`` block right after it is what it prints. A ``yaml``
block that starts with ``# file: NAME`` is written to that file first. ``python tests/documents.py FILE`` rewrites
the outputs in FILE with what the commands print now.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.S | re.M)


class Shown(NamedTuple):
    """Something that the document says to run, and the output that it shows."""

    code: str
    language: str
    expected: str
    span: tuple[int, int]


def blocks(text: str) -> Iterator[Shown]:
    """Commands, programs and files of a document, in order."""
    found = list(FENCE.finditer(text))
    for index, block in enumerate(found):
        language, body = block[1], block[2]
        if language == "console":
            yield from _commands(body, block.start(2))
        elif language == "yaml":
            yield Shown(body, language, "", block.span(2))
        elif language == "python":
            after = found[index + 1] if index + 1 < len(found) else None
            shown = after is not None and after[1] == "text" and not text[block.end() : after.start()].strip()
            yield Shown(body, language, after[2] if shown else "", after.span(2) if shown else (0, 0))


def _commands(body: str, offset: int) -> Iterator[Shown]:
    starts = [m.start() for m in re.finditer(r"^\$ ", body, re.M)] + [len(body)]
    for a, b in itertools.pairwise(starts):
        line, _, output = body[a:b].partition("\n")
        begin = offset + a + len(line) + 1
        yield Shown(line[2:], "console", output, (begin, begin + len(output)))


def run(shown: Shown, namespace: dict[str, object]) -> str | None:
    """What a block prints, run in the working directory; None for commands that are not pipesim's."""
    if shown.language == "yaml":
        if name := re.match(r"# file: (\S+)", shown.code):
            Path(name[1]).write_text(shown.code)
        return ""
    out = io.StringIO()
    if shown.language == "python":
        with contextlib.redirect_stdout(out):
            exec(compile(shown.code, "README", "exec"), namespace)
        return out.getvalue()
    words = shlex.split(shown.code, comments=True)
    if words[0] != "pipesim":
        return None
    from pipesim.cli import main

    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        main(words[1:])
    return out.getvalue()


def matches(expected: str, printed: str) -> bool:
    """Whether the output is what is shown, where a line of three dots stands for any lines."""
    parts = [re.escape(part) for part in re.split(r"^\.\.\.\n", _trimmed(expected), flags=re.M)]
    return re.fullmatch("(?:.*\n)*?".join(parts), _trimmed(printed)) is not None


def _trimmed(text: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in text.strip("\n").splitlines())


def workplace(directory: Path) -> None:
    """What a reader has in the working directory: the configs."""
    shutil.copytree(ROOT / "configs", directory / "configs")


def rewrite(path: Path) -> None:
    """Put the outputs of now into a document; outputs with elided lines keep their shape only if they match."""
    text, namespace = path.read_text(), {}
    changes = []
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        workplace(Path(directory))
        for shown in blocks(text):
            printed = run(shown, namespace)
            if printed is not None and shown.expected and not matches(shown.expected, printed):
                changes.append((shown.span, _trimmed(printed)))
    for (start, end), printed in reversed(changes):
        text = text[:start] + printed + text[end:]
    path.write_text(text)
    print(f"{path}: {len(changes)} outputs rewritten")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        rewrite(Path(name).resolve())
