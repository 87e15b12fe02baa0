"""The command line: parse, call, print. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

EXIT_DOES_NOT_FIT = 1
EXIT_BAD_INPUT = 2
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    0: done; 1: simulated, but the plan does not fit in memory; 2: bad input or output, explained on standard
    error; 70: a bug; 130: interrupted; 141: whoever reads the output has gone.
    """
    _replace_what_cannot_be_encoded()
    try:
        code = _run(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        _discard_output()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        _discard_output()
        return _complain(_reason(error), EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        return _complain("interrupted", EXIT_INTERRUPTED)
    except MemoryError:
        return _complain("not enough memory for a simulation of this size", EXIT_BAD_INPUT)


def _run(argv: Sequence[str] | None) -> int:
    from pipesim.cli.arguments import parse
    from pipesim.errors import PipesimError

    try:
        arguments = parse(sys.argv[1:] if argv is None else list(argv))
        command = arguments.load()
        return int(command(arguments))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except PipesimError as error:
        return _complain(str(error), EXIT_BAD_INPUT)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        if os.environ.get("PIPESIM_TRACEBACK"):
            raise
        message = f"internal error, please report it: {type(error).__name__}: {error}"
        return _complain(f"{message}\n(PIPESIM_TRACEBACK=1 shows where)", EXIT_INTERNAL)


def _complain(message: str, code: int) -> int:
    print(f"pipesim: {message}", file=sys.stderr)
    return code


def _reason(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def _replace_what_cannot_be_encoded() -> None:
    """A terminal without UTF-8 shows question marks instead of stopping the program."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def _discard_output() -> None:
    """Let the interpreter flush into nothing when it ends: the real output cannot be written."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, AttributeError, ValueError):
        return
