"""A JSON schema of configs, for editors."""

from __future__ import annotations

from typing import Any

from pipesim.config.document import AbstractConfig, ClusterConfig


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of both forms, with the names of the catalog and of the schedules."""
    from pydantic.json_schema import models_json_schema

    references, schema = models_json_schema(
        [(AbstractConfig, "validation"), (ClusterConfig, "validation")], title="pipesim config"
    )
    definitions = schema["$defs"]
    for form in ("AbstractConfig", "ClusterConfig"):
        definitions[form]["properties"]["schedule"] = _schedule()
    definitions["ClusterConfig"]["properties"]["model"] |= _suggest("models")
    definitions["Cluster"]["properties"]["gpu"] |= _suggest("gpus")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": schema["title"],
        "anyOf": list(references.values()),
        "$defs": definitions,
    }


def _suggest(kind: str) -> dict[str, Any]:
    from pipesim import catalog

    return {"examples": catalog.names(kind)}


def _schedule() -> dict[str, Any]:
    from pipesim import schedules

    name = {"type": "string", "examples": schedules.names()}
    mapping = {"type": "object", "properties": {"name": name}, "required": ["name"]}
    return {"anyOf": [name, mapping], "description": "a schedule's name, or its name and its own options"}
