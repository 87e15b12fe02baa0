"""What can be said on the command line. Flags are a contract that scripts rely on."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterable
from typing import NoReturn, TypeAlias

from pipesim.errors import PipesimError, nearest

Command = Callable[[argparse.Namespace], int]

EXIT_CODES = "exit codes: 0 done; 1 simulated, but the plan does not fit in memory; 2 bad input"
FIGURES = (".png", ".svg", ".pdf")
TRACES = (".json", ".json.gz")
PAGES = (".html",)
SHELLS = ("bash", "zsh")
DEVICES = ("cpu", "cuda")


class UsageError(PipesimError):
    """The command line itself makes no sense."""


class _Parser(argparse.ArgumentParser):
    """Errors go the way of all others, with the nearest match."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n{self.format_usage().strip()}")


def parse(argv: list[str]) -> argparse.Namespace:
    """Arguments with ``load``, a function that imports and returns the command to call with them.

    Raises UsageError with the nearest command or flag; SystemExit after ``--help`` and ``--version``.
    """
    parser, commands = _build()
    if not argv:
        parser.print_help()
        raise SystemExit(0)
    _check_command(argv[0], commands)
    arguments, rest = parser.parse_known_args(argv)
    if rest:
        raise UsageError(_unknown_arguments(rest, commands[argv[0]]))
    return arguments


def _check_command(word: str, commands: Iterable[str]) -> None:
    known = ["-h", "--help", "--version"] if word.startswith("-") else list(commands)
    if word in known:
        return
    near = nearest(word, known)
    hint = f"; did you mean {near}?" if near else ""
    what = "flag" if word.startswith("-") else "command"
    raise UsageError(f"unknown {what} '{word}'; allowed: {', '.join(known)}{hint}")


def _unknown_arguments(rest: list[str], parser: argparse.ArgumentParser) -> str:
    flags = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
    word = rest[0].partition("=")[0]
    near = nearest(word, flags) if word.startswith("-") else None
    hint = f"; did you mean {near}?" if near else ""
    return f"unexpected argument '{rest[0]}'{hint}\n{parser.format_usage().strip()}"


def _build() -> tuple[_Parser, dict[str, _Parser]]:
    from pipesim import __version__

    parser = _Parser(
        prog="pipesim",
        description="Simulate pipeline-parallel training: step time, bubbles, memory and throughput of a plan.",
        epilog=EXIT_CODES,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pipesim {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    commands = {name: add(subparsers) for name, add in _COMMANDS.items()}
    return parser, commands


_Subparsers: TypeAlias = "argparse._SubParsersAction[_Parser]"


def _command(subparsers: _Subparsers, name: str, module: str, summary: str) -> _Parser:
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=EXIT_CODES,
        allow_abbrev=False,
    )

    def load() -> Command:
        command: Command = getattr(importlib.import_module(f"pipesim.cli.{module}"), name)
        return command

    parser.set_defaults(load=load)
    return parser


def _add_config(parser: _Parser, many: bool = False) -> None:
    parser.add_argument("config", metavar="CONFIG", nargs="+" if many else None, help="a YAML file")
    _add_set(parser, "the config")


def _add_set(parser: _Parser, what: str) -> None:
    parser.add_argument(
        "--set", metavar="PATH=VALUE", action="append", default=[], dest="overrides",
        help=f"change one value of {what}, such as schedule.chunks=2 (repeatable)",
    )  # fmt: skip


def _add_json(parser: _Parser) -> None:
    parser.add_argument("--json", metavar="FILE", help="write JSON to FILE; - is standard output, and nothing else")


def _file(suffixes: tuple[str, ...]) -> Callable[[str], str]:
    def check(name: str) -> str:
        if name.lower().endswith(suffixes):
            return name
        raise argparse.ArgumentTypeError(f"'{name}' does not end in {', '.join(suffixes)}")

    return check


def _run(subparsers: _Subparsers) -> _Parser:
    parser = _command(subparsers, "run", "run", "simulate one training step of a config")
    _add_config(parser)
    _add_json(parser)
    parser.add_argument("--out", metavar="DIR", help="write result, timeline, Gantt chart and memory plot to DIR")
    parser.add_argument("--gantt", metavar="FILE", type=_file(FIGURES), help="draw a Gantt chart (png, svg or pdf)")
    parser.add_argument(
        "--trace", metavar="FILE", type=_file(TRACES), help="write a trace for Perfetto (.json or .json.gz)"
    )
    parser.add_argument(
        "--html", metavar="FILE", type=_file(PAGES), help="write a report to look at in a browser, in one file"
    )
    parser.add_argument("--engine", choices=("event", "compiled"), help="replaces the config's simulation.engine")
    return parser


def _compare(subparsers: _Subparsers) -> _Parser:
    parser = _command(subparsers, "compare", "compare", "simulate several configs or schedules side by side")
    _add_config(parser, many=True)
    parser.add_argument("--schedules", metavar="A,B,C", help="run every config with each of these schedules")
    _add_json(parser)
    parser.add_argument("--plot", metavar="FILE", type=_file(FIGURES), help="draw all timelines on one time axis")
    return parser


def _explain(subparsers: _Subparsers) -> _Parser:
    parser = _command(subparsers, "explain", "explain", "say why each bubble is there, and what would bring more speed")
    _add_config(parser)
    _add_json(parser)
    return parser


def _show(subparsers: _Subparsers) -> _Parser:
    parser = _command(subparsers, "show", "show", "print the program of a config without simulating it")
    _add_config(parser)
    parser.add_argument(
        "--format", choices=("grid", "csv"), default="grid",
        help="a grid of ranks and slots, or PyTorch's compute-only schedule CSV",
    )  # fmt: skip
    return parser


def _export(subparsers: _Subparsers) -> _Parser:
    parser = _command(subparsers, "export", "export", "write the program of a config for another tool to run")
    _add_config(parser)
    _add_to(parser)
    parser.add_argument("file", metavar="FILE", help="what to write; - is standard output")
    return parser


def _add_to(parser: _Parser) -> None:
    parser.add_argument(
        "--to", choices=("torch-csv", "torch-csv-comms"), default="torch-csv",
        help="a schedule for torch.distributed.pipelining: compute_only, or compute_comms with sends and receives",
    )  # fmt: skip


def _replay(subparsers: _Subparsers) -> _Parser:
    parser = _command(
        subparsers, "replay", "replay", "run the program of a config on PyTorch's pipeline runtime, on this machine"
    )
    _add_config(parser)
    _add_to(parser)
    _add_json(parser)
    parser.add_argument("--steps", metavar="N", type=_positive(int), default=5, help="how many steps to measure (5)")
    parser.add_argument(
        "--op-time", metavar="SECONDS", type=_positive(float),
        help="scale all times so that ops take this long on average (0.04, or what lets a step take 10 s)",
    )  # fmt: skip
    parser.add_argument(
        "--gantt", metavar="FILE", type=_file(FIGURES), help="draw the predicted and the measured timeline"
    )
    parser.add_argument("--trace", metavar="FILE", type=_file(TRACES), help="write the measured timeline for Perfetto")
    parser.add_argument("--kineto", metavar="DIR", help="write PyTorch's own trace of one more step, a file per rank")
    return parser


def _trace(subparsers: _Subparsers) -> _Parser:
    parser = _command(subparsers, "trace", "trace", "measure the pipeline in traces of a real run")
    parser.add_argument(
        "file", metavar="FILE", nargs="+",
        help="traces by PyTorch's profiler, one per rank; or a trace by pipesim; or one table of events (csv, parquet)",
    )  # fmt: skip
    _add_json(parser)
    parser.add_argument("--step", metavar="N", type=int, help="which step; the one of median length when left out")
    parser.add_argument("--gantt", metavar="FILE", type=_file(FIGURES), help="draw that step (png, svg or pdf)")
    parser.add_argument("--profile", metavar="FILE", help="write what each stage costs, for costs: {profile: FILE}")
    return parser


def _calibrate(subparsers: _Subparsers) -> _Parser:
    parser = _command(
        subparsers, "calibrate", "calibrate", "measure what one GPU of a config runs, with PyTorch on this machine"
    )
    _add_config(parser)
    parser.add_argument("--device", choices=DEVICES, help="where to measure; cuda where there is one when left out")
    parser.add_argument("--repeats", metavar="N", type=_positive(int), default=20, help="runs of each piece (20)")
    parser.add_argument(
        "--out", metavar="FILE", help="write a profile, for costs: {profile: FILE}; - is standard output"
    )
    parser.add_argument("--gpu-out", metavar="FILE", help="write constants of the device, for cluster: {gpu: ...}")
    _add_json(parser)
    return parser


def _positive(number: Callable[[str], float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = number(text)
        except ValueError:
            value = 0
        if 0 < value < float("inf"):
            return value
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive number")

    return parse


def _validate(subparsers: _Subparsers) -> _Parser:
    parser = _command(subparsers, "validate", "validate", "report every error of a config at once")
    _add_config(parser, many=True)
    return parser


def _init(subparsers: _Subparsers) -> _Parser:
    parser = _command(subparsers, "init", "init", "write a commented config to start from")
    parser.add_argument("model", metavar="MODEL", help="a name that `pipesim models` lists, or a config.json")
    parser.add_argument(
        "cluster", metavar="CLUSTER",
        help="a GPU that `pipesim hardware` lists, or a number of them, as in 64xh100-sxm-80gb",
    )  # fmt: skip
    parser.add_argument("--out", metavar="FILE", help="write to FILE instead of standard output")
    return parser


def _listing(name: str, summary: str) -> Callable[[_Subparsers], _Parser]:
    def add(subparsers: _Subparsers) -> _Parser:
        parser = _command(subparsers, name, "listing", summary)
        _add_json(parser)
        return parser

    return add


def _accuracy(subparsers: _Subparsers) -> _Parser:
    parser = _command(subparsers, "accuracy", "accuracy", "compare predictions with published measurements")
    parser.add_argument(
        "--source", metavar="NAME", action="append",
        help="only this source of measurements (repeatable)",
    )  # fmt: skip
    _add_set(parser, "every run's config")
    parser.add_argument("--rows", action="store_true", help="list every row, not only summaries")
    _add_json(parser)
    parser.add_argument("--plot", metavar="FILE", type=_file(FIGURES), help="draw predicted against measured")
    return parser


def _completion(subparsers: _Subparsers) -> _Parser:
    parser = _command(subparsers, "completion", "completion", "print a script that completes commands in a shell")
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=f"one of {', '.join(SHELLS)}")
    return parser


def _schema(subparsers: _Subparsers) -> _Parser:
    return _command(subparsers, "schema", "schema", "print the JSON schema of configs, for editors")


_COMMANDS: dict[str, Callable[[_Subparsers], _Parser]] = {
    "run": _run,
    "compare": _compare,
    "explain": _explain,
    "show": _show,
    "validate": _validate,
    "export": _export,
    "replay": _replay,
    "trace": _trace,
    "calibrate": _calibrate,
    "schedules": _listing("schedules", "list the schedules, their options and their sources"),
    "software": _listing("software", "list training frameworks, their settings and their sources"),
    "hardware": _listing("hardware", "list GPUs and links, and the sources of their numbers"),
    "models": _listing("models", "list the models, and the sources of their shapes"),
    "accuracy": _accuracy,
    "init": _init,
    "schema": _schema,
    "completion": _completion,
}


def words(text: str) -> list[str]:
    """A comma-separated list; empty entries are an error."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UsageError(f"--schedules: an empty name in '{text}'")
    return parts
