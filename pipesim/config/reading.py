"""Text to plain data: a YAML reader that refuses what a config never needs and says where.

Differences from PyYAML's safe loader: a key given twice is an error, values resolve as in YAML 1.2
(``1e9`` is a number; ``yes``, ``12:30`` and ``2024-01-01`` are text), and size, nesting and the expansion
of aliases are bounded, so that no file can make reading it slow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipesim.errors import ConfigError, Problem, nearest

MAX_FILE_BYTES = 1 << 20
MAX_VALUES = 100_000
MAX_DEPTH = 50
MAX_DIGITS = 100


class _Loader(yaml.SafeLoader):
    """Safe loader with YAML 1.2 scalars and no repeated keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


_SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
     "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("merge", r"<<", "<"),
)  # fmt: skip
for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}", re.compile(rf"^(?:{_pattern})$"), [*_first.replace("\0", ""), ""]
    )


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    """A whole number; decimal even with leading zeros, unlike YAML 1.1."""
    text = loader.construct_scalar(node)
    digits = text.lstrip("+-")
    if len(digits) > MAX_DIGITS:
        raise yaml.MarkedYAMLError(problem=f"a number of {len(digits)} digits", problem_mark=node.start_mark)
    value = int(digits, 0) if digits[:2] in ("0x", "0o") else int(digits)
    return -value if text.startswith("-") else value


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = loader.construct_scalar(node).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def _refuse_repeated_keys(node: yaml.MappingNode) -> None:
    first_line: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a key must be plain text", problem_mark=key.start_mark)
        if key.value in first_line:
            message = f"the key '{key.value}' is given twice (first on line {first_line[key.value]})"
            raise yaml.MarkedYAMLError(problem=message, problem_mark=key.start_mark)
        first_line[key.value] = key.start_mark.line + 1


def parse_yaml(text: str, source: str | None = None) -> Any:
    """The value of one YAML document.

    Raises ConfigError with line and column for text that is not YAML, and for documents that are absurd
    (nested deeper than MAX_DEPTH, or more than MAX_VALUES values once aliases are expanded).
    """
    try:
        return _load(text)
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax_problem(error)], source) from None
    except yaml.reader.ReaderError as error:
        message = f"not text: character #x{int(error.character):04x} at position {error.position}"
        raise ConfigError([Problem("", message)], source) from None
    except RecursionError:
        raise ConfigError([Problem("", f"nested too deeply; at most {MAX_DEPTH} levels")], source) from None
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ConfigError([Problem("", f"a value cannot be read: {error}")], source) from None


def _load(text: str) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _refuse_absurd(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _refuse_absurd(root: yaml.Node) -> None:
    """Bound nesting and the number of values after aliases are expanded, in time linear in the text."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, depth: int) -> int:
        if depth > MAX_DEPTH:
            raise _absurd(f"nested deeper than {MAX_DEPTH} levels, or an alias that contains itself", node)
        if id(node) not in sizes:
            total = 1 + sum(size(child, depth + 1) for child in _children(node))
            if total > MAX_VALUES:
                raise _absurd(f"more than {MAX_VALUES} values; a config has fewer", node)
            sizes[id(node)] = total
        return sizes[id(node)]

    size(root, 0)


def _absurd(message: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=message, problem_mark=node.start_mark)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        _refuse_repeated_keys(node)
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _syntax_problem(error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    parts = [part for part in (error.context, error.problem) if part]
    return Problem(where, ", ".join(parts) or "not valid YAML")


def read_file(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises ConfigError for anything else, missing files included."""
    value = parse_yaml(_read_text(path), str(path))
    if value is None:
        raise ConfigError([Problem("", "the file is empty", allowed="a mapping of sections")], str(path))
    if not isinstance(value, dict):
        found = "a list" if isinstance(value, list) else f"the single value {value!r:.60}"
        raise ConfigError([Problem("", "not a config", found, "a mapping of sections")], str(path))
    return value


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ConfigError([_unreadable(path, error)], str(path)) from None
    if len(data) > MAX_FILE_BYTES:
        message = f"the file is larger than {MAX_FILE_BYTES >> 20} MiB; a config is not that large"
        raise ConfigError([Problem("", message)], str(path))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"the file is not UTF-8 text: byte 0x{data[error.start]:02x} at offset {error.start}"
        raise ConfigError([Problem("", message)], str(path)) from None


def _unreadable(path: Path, error: OSError | ValueError) -> Problem:
    if isinstance(error, FileNotFoundError):
        return Problem("", "no such file", nearest=nearest_file(path))
    if isinstance(error, IsADirectoryError):
        return Problem("", "a directory, not a file", nearest=_first_config(path))
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return Problem("", f"cannot be read: {reason}")


def nearest_file(path: Path) -> str | None:
    """The file next to a missing one whose name is closest."""
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.exists()]
    except OSError:
        return None
    match = nearest(path.name, names)
    return str(path.parent / match) if match else None


def _first_config(path: Path) -> str | None:
    configs = sorted(entry for entry in path.glob("*.y*ml"))
    return str(configs[0]) if configs else None


def plain(value: Any, depth: int = 0) -> Any:
    """Copy data into dicts with text keys, lists and scalars, so that a config from Python equals one from YAML.

    Mappings, sequences, paths and NumPy scalars are accepted; other objects are left for validation to
    refuse by path. Raises ConfigError when nested deeper than MAX_DEPTH, as data that contains itself is.
    """
    if depth > MAX_DEPTH:
        raise ConfigError([Problem("", f"nested too deeply; at most {MAX_DEPTH} levels")])
    if isinstance(value, Mapping):
        return {str(key): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, Path):
        return str(value)
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    return value


def describe(value: Any) -> str:
    """A value as it would stand in YAML, cut to a length that fits a message."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}[str(value)]
    if isinstance(value, Mapping):
        return f"a mapping ({_cut(', '.join(map(str, value)), 40)})" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return _cut(_number(value) if isinstance(value, int) else repr(value), 60)


def _number(value: int) -> str:
    # str() of an int beyond 4300 digits is an error by itself
    bits = value.bit_length()
    return str(value) if bits < 200 else f"a number of about {int(bits * math.log10(2)) + 1} digits"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
