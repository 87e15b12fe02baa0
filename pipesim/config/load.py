"""From a file or a mapping to a `Config`, or to one error with everything that is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipesim.config import overrides as setting
from pipesim.config.checks import Sections, abstract_problems, cluster_problems
from pipesim.config.document import AbstractConfig, ClusterConfig, Config
from pipesim.config.faults import problems_of
from pipesim.config.reading import plain, read_file
from pipesim.config.schedule import relative_to, schedule_options
from pipesim.config.section import listed
from pipesim.config.software import complete, taken_over
from pipesim.errors import ConfigError, Problem, nearest

Kind = type[AbstractConfig] | type[ClusterConfig]

_CHECKS: dict[Kind, Callable[[Sections, Mapping[str, Any], Path], Iterator[Problem]]] = {
    AbstractConfig: abstract_problems,
    ClusterConfig: cluster_problems,
}


def load_config(source: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Read and check a config.

    ``source`` is a YAML file, or a mapping of the same sections; ``overrides`` are ``path=value`` strings that
    change it first. Paths inside a file are relative to it, inside a mapping to the working directory.

    Raises:
        ConfigError: with all problems at once, each with its YAML path, what was found, what is allowed and
            the nearest match.
    """
    return _load(source, overrides, lambda data: data)


def load_with_schedule(
    source: str | os.PathLike[str] | Mapping[str, Any],
    schedule: str | Mapping[str, Any],
    overrides: Sequence[str] = (),
) -> Config:
    """As `load_config`, with another schedule: a mapping as in a config, or a name.

    By its name alone, it takes over those options of the config's own schedule that it has itself.

    Raises ScheduleError for an unknown schedule, ConfigError for everything else.
    """
    options = schedule_options(schedule) if isinstance(schedule, str) else {}

    def exchange(data: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(schedule, str):
            return {**data, "schedule": dict(schedule)}
        given = data.get("schedule")
        kept = {key: value for key, value in given.items() if key in options} if isinstance(given, dict) else {}
        return {**data, "schedule": {**kept, "name": schedule}}

    return _load(source, overrides, exchange)


_Change = Callable[[dict[str, Any]], dict[str, Any]]


def _load(source: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str], change: _Change) -> Config:
    if isinstance(source, Mapping):
        name, directory, data = None, Path(), dict(source)
    else:
        path = Path(source)
        name, directory, data = str(path), path.parent, read_file(path)
    try:
        config = _check(data, overrides, directory, change)
    except ConfigError as error:
        raise ConfigError(error.problems, error.source or name) from None
    config._source, config._directory = name, directory
    return config


def _check(data: dict[str, Any], overrides: Sequence[str], directory: Path, change: _Change) -> Config:
    data, problems = setting.apply(plain(data), overrides)
    given = change(plain(data))
    data = complete(given)
    defaults = taken_over(given, data)
    if "schedule" in data:
        data = {**data, "schedule": relative_to(directory, data["schedule"])}
    kind, form_problems = _form(data)
    problems += form_problems
    if kind is not None:
        config, found = _validate(kind, data, directory)
        found = _noted(found, setting.paths(overrides), "set on the command line")
        problems += _noted(found, defaults, "a default of training.software")
        if config is not None and not problems:
            config._software_implied = "training.software" in defaults
            return config
    raise ConfigError(problems)


def _form(data: Mapping[str, Any]) -> tuple[Kind | None, list[Problem]]:
    """Which form the keys belong to; keys of both forms, or of none, are a problem."""
    abstract = [key for key in ("pipeline", "memory") if key in data]
    cluster = [key for key in ("model", "cluster", "parallelism", "training") if key in data]
    if abstract and cluster:
        found = f"{listed(abstract)} of the abstract form, {listed(cluster)} of the cluster form"
        return None, [Problem("", "two forms of config in one", found, "the sections of one form")]
    if abstract or cluster:
        return (AbstractConfig if abstract else ClusterConfig), []
    allowed = "either pipeline (abstract form), or model, cluster, parallelism and training (cluster form)"
    known = [*AbstractConfig.model_fields, *ClusterConfig.model_fields]
    unknown = [key for key in data if key not in known]
    near = next((match for match in (nearest(str(key), known) for key in unknown) if match), None)
    return None, [Problem("", "not a config of either form", listed(map(str, data)), allowed, near)]


def _validate(kind: Kind, data: dict[str, Any], directory: Path) -> tuple[Config | None, list[Problem]]:
    """Section by section, then across the sections that are right."""
    config, problems, wrong = None, [], set()
    try:
        config = kind.model_validate(data)
    except ValidationError as error:
        problems = problems_of(error)
        wrong = {detail["loc"][0] for detail in error.errors(include_url=False) if detail["loc"]}
    right = [key for key in kind.model_fields if key in data and key not in wrong]
    if config is None:
        sections = {key: _adapter(kind, key).validate_python(data[key]) for key in right}
    else:
        sections = {key: getattr(config, key) for key in right}
    problems += _CHECKS[kind](sections, data, directory)
    return config, problems


@cache
def _adapter(kind: Kind, key: str) -> TypeAdapter[Any]:
    """What reads one section by itself."""
    return TypeAdapter(kind.model_fields[key].rebuild_annotation())


def _noted(problems: Sequence[Problem], paths: Sequence[str], note: str) -> list[Problem]:
    """The problems, with a note at those of these paths: where they come from."""
    return [
        replace(problem, message=f"{problem.message} ({note})") if _set_by(problem.path, paths) else problem
        for problem in problems
    ]


def _set_by(path: str, paths: Sequence[str]) -> bool:
    dotted = path.replace("[", ".").replace("]", "")
    return any(f"{dotted}.".startswith(f"{one}.") or f"{one}.".startswith(f"{dotted}.") for one in paths)
