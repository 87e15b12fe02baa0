"""``pipesim schedules | software | hardware | models``: what there is, and where it comes from."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipesim.cli.output import check_files, print_table, write_json

if TYPE_CHECKING:
    from pipesim.config import Option

Entry = dict[str, Any]
_WIDTH = 110


def schedules(arguments: argparse.Namespace) -> int:
    """List schedules, built-in and registered."""
    check_files({"--json": arguments.json})
    entries = _schedules()
    if arguments.json:
        write_json({"schedules": entries}, arguments.json)
        return 0
    print("\n\n".join(_schedule_text(entry) for entry in entries))
    return 0


def _schedules() -> list[Entry]:
    from pipesim.schedules import names, registry

    others: dict[str, list[str]] = {}
    for alias, name in registry.aliases().items():
        others.setdefault(name, []).append(alias)
    return [_schedule(name, others.get(name, [])) for name in names()]


def _schedule(name: str, aliases: list[str]) -> Entry:
    from pipesim.config import schedule_options
    from pipesim.errors import ScheduleError
    from pipesim.schedules import get

    try:
        options = schedule_options(name)
    except ScheduleError as error:
        return _unavailable(name, aliases, str(error))
    cls = get(name)
    return {
        "name": name,
        "aliases": aliases,
        "summary": cls.summary,
        "options": {key: _option(option) for key, option in options.items()},
        "requires": cls.requires,
        "bubble": cls.bubble,
        "memory": cls.memory,
        "source": cls.citation,
    }


def _option(option: Option) -> Entry:
    return {"default": option.default, "allowed": option.allowed, "help": option.help}


def _unavailable(name: str, aliases: list[str], why: str) -> Entry:
    nothing = {"requires": "", "bubble": "", "memory": "", "source": ""}
    return {"name": name, "aliases": aliases, "summary": why, "options": {}, **nothing}


def _schedule_text(entry: Entry) -> str:
    """A paragraph per schedule: formulas and citations are too long for the columns of a table."""
    lines = [f"{_with_aliases(entry)}: {entry['summary']}"]
    lines += [_hanging("option", f"{key} = {o['default']}: {o['help']}") for key, o in entry["options"].items()]
    lines += [_hanging(key, entry[key]) for key in ("requires", "bubble", "memory", "source") if entry[key]]
    return "\n".join(lines)


def _hanging(label: str, text: str) -> str:
    lead = f"  {label:<10}"
    return textwrap.fill(text, _WIDTH, initial_indent=lead, subsequent_indent=" " * len(lead), break_long_words=False)


def _with_aliases(entry: Entry) -> str:
    return f"{entry['name']} [{', '.join(entry['aliases'])}]" if entry["aliases"] else str(entry["name"])


def software(arguments: argparse.Namespace) -> int:
    """List the frameworks whose settings ``training.software`` takes over."""
    check_files({"--json": arguments.json})
    from pipesim import catalog

    entries = catalog.load("software")
    if arguments.json:
        write_json(catalog.copied({"software": entries}), arguments.json)
        return 0
    print("\n\n".join(_software_text(name, entry) for name, entry in entries.items()))
    return 0


def _software_text(name: str, entry: Mapping[str, Any]) -> str:
    sections = {section: entry.get(section, {}) for section in ("training", "simulation")}
    given = [f"{section}.{key}: {_yaml(value)}" for section, keys in sections.items() for key, value in keys.items()]
    settings = ", ".join(given) or "what every option is by default"
    lines = [f"{name}: {entry['for']}", _hanging("settings", settings)]
    meanings = [
        f"training.{key}: {word} is {meaning}"
        for key, words in entry.get("means", {}).items()
        for word, meaning in words.items()
    ]
    if meanings:
        lines.append(_hanging("meanings", ", ".join(meanings)))
    return "\n".join([*lines, _hanging("source", _one_line(entry["source"]))])


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def hardware(arguments: argparse.Namespace) -> int:
    """List GPUs and links."""
    check_files({"--json": arguments.json})
    from pipesim import catalog

    gpus, links = catalog.load("gpus"), catalog.load("links")
    if arguments.json:
        write_json(catalog.copied({"gpus": gpus, "links": links}), arguments.json)
        return 0
    columns = ["GPU", "memory", "bandwidth", "peak", "links", "source"]
    print_table("GPUs", columns, [_gpu_row(name, entry) for name, entry in gpus.items()])
    print()
    columns = ["link", "kind", "bandwidth", "latency", "source"]
    print_table("Links, per direction", columns, [_link_row(name, entry) for name, entry in links.items()])
    return 0


def _gpu_row(name: str, entry: Mapping[str, Any]) -> list[str]:
    peak = ", ".join(f"{precision} {rate}" for precision, rate in entry["peak"].items())
    links = f"{entry['intra_node']}, {entry['inter_node']}"
    return [name, entry["memory"], entry["memory_bandwidth"], peak, links, _one_line(entry["source"])]


def _link_row(name: str, entry: Mapping[str, Any]) -> list[str]:
    return [name, entry["kind"], entry["bandwidth"], entry["latency"], _one_line(entry["source"])]


def models(arguments: argparse.Namespace) -> int:
    """List models."""
    check_files({"--json": arguments.json})
    from pipesim import catalog

    entries = catalog.load("models")
    if arguments.json:
        write_json(catalog.copied({"models": entries}), arguments.json)
        return 0
    columns = ["model", "layers", "hidden", "heads", "sequence", "source"]
    print_table("Models", columns, [_model_row(name, entry) for name, entry in entries.items()])
    return 0


def _model_row(name: str, entry: Mapping[str, Any]) -> list[str]:
    sizes = [str(entry[key]) for key in ("layers", "hidden", "heads", "sequence")]
    return [name, *sizes, _one_line(entry.get("source", "-"))]


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
