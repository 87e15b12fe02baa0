"""Files that are written as a whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pipesim.errors import PipesimError


def write_atomically(target: Path, content: bytes) -> None:
    """Write next to the target, then rename: a reader sees the old file or the new one.

    Raises:
        PipesimError: the file cannot be written.
    """
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as out:
            out.write(content)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise PipesimError(f"{target}: cannot be written: {error.strerror or error}") from error


def _umask() -> int:
    """The process's file creation mask, which temporary files do not follow by themselves."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
