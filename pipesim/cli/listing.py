"""``pipesim schedules | hardware | models``: what there is, and where it comes from."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from pipesim.cli.output import print_table, write_json

Entry = dict[str, Any]


def schedules(arguments: argparse.Namespace) -> int:
    """List schedules, built-in and registered."""
    entries = _schedules()
    if arguments.json:
        write_json({"schedules": entries}, arguments.json)
        return 0
    rows = [
        [_with_aliases(e), e["summary"], ", ".join(e["options"]) or "-", e["bubble"] or "-", e["source"]]
        for e in entries
    ]
    print_table("Schedules", ["name", "what it is", "options", "bubble", "source"], rows)
    return 0


def _schedules() -> list[Entry]:
    from pipesim.schedules import names, registry

    others: dict[str, list[str]] = {}
    for alias, name in registry.aliases().items():
        others.setdefault(name, []).append(alias)
    return [_schedule(name, others.get(name, [])) for name in names()]


def _schedule(name: str, aliases: list[str]) -> Entry:
    from pipesim.config import schedule_options
    from pipesim.schedules import get

    try:
        cls = get(name)
    except Exception as error:  # somebody else's plug-in may fail in any way when it is imported
        return _unavailable(name, aliases, str(error))
    options = {
        o.name: {"default": o.default, "allowed": o.allowed, "help": o.help} for o in schedule_options(name).values()
    }
    return {
        "name": name,
        "aliases": aliases,
        "summary": cls.summary,
        "options": options,
        "requires": cls.requires,
        "bubble": cls.bubble,
        "memory": cls.memory,
        "source": cls.citation,
    }


def _unavailable(name: str, aliases: list[str], why: str) -> Entry:
    nothing = {"requires": "", "bubble": "", "memory": "", "source": ""}
    return {"name": name, "aliases": aliases, "summary": f"cannot be loaded: {why}", "options": {}, **nothing}


def _with_aliases(entry: Entry) -> str:
    return f"{entry['name']} [{', '.join(entry['aliases'])}]" if entry["aliases"] else str(entry["name"])


def hardware(arguments: argparse.Namespace) -> int:
    """List GPUs and links."""
    from pipesim import catalog

    gpus, links = catalog.load("gpus"), catalog.load("links")
    if arguments.json:
        write_json({"gpus": gpus, "links": links}, arguments.json)
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
    from pipesim import catalog

    entries = catalog.load("models")
    if arguments.json:
        write_json({"models": entries}, arguments.json)
        return 0
    columns = ["model", "layers", "hidden", "heads", "sequence", "source"]
    print_table("Models", columns, [_model_row(name, entry) for name, entry in entries.items()])
    return 0


def _model_row(name: str, entry: Mapping[str, Any]) -> list[str]:
    sizes = [str(entry[key]) for key in ("layers", "hidden", "heads", "sequence")]
    return [name, *sizes, _one_line(entry.get("source", "-"))]


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
