"""Where a `Model` comes from: a mapping in a config, a Hugging Face config.json, or the catalog.

Everything wrong with a description is reported at once, as problems under the path ``model``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from pipesim import catalog
from pipesim.errors import ConfigError, Problem, nearest
from pipesim.workload.model import Experts, Latent, Model

_REQUIRED = ("layers", "hidden", "heads", "vocab", "sequence")
_CHOICES = {"norm": ("layer", "rms"), "head": ("lm", "bert", "none")}
_FLAGS = ("gated_mlp", "gelu_formula", "tied_embeddings", "causal", "biases", "qkv_bias", "dropout")
_ZERO_ALLOWED = ("positions", "token_types", "shared_ffn", "first_dense", "node_limit", "query_rank")
_NOTES = ("source", "note", "unverified", "measured_parameters")


def model_from_mapping(mapping: Mapping[str, Any], name: str = "custom") -> Model:
    """A model from the fields of `Model`; `layers, hidden, heads, vocab, sequence` are needed, the rest
    follow.

    Defaults: ``kv_heads`` = heads, ``head_dim`` = hidden / heads, ``ffn`` = 4 x hidden (8/3 x hidden
    rounded up to 256 when gated). A gated model is taken to be Llama-like (rotary, RMS norm, no biases, no
    dropout), any other GPT-like (learned positions, layer norm, biases, dropout); each can be given.
    ``positions`` is a number, ``learned`` (as many as ``sequence``) or ``rotary``. ``moe`` and ``mla`` are
    mappings of the fields of `Experts` and `Latent`.

    Raises ConfigError with one Problem per bad field.
    """
    given = {key: value for key, value in mapping.items() if key not in _NOTES}
    problems = _field_problems(given, Model, "model", _REQUIRED)
    if not problems and "head_dim" not in given and given["hidden"] % given["heads"]:
        allowed = _divisors(given["hidden"]) + ", or head_dim as well"
        problems.append(Problem("model.heads", "does not divide hidden", str(given["heads"]), allowed))
    if problems:
        raise ConfigError(problems)
    filled = _with_defaults(given, name)
    problems = _consistency_problems(filled)
    if problems:
        raise ConfigError(problems)
    return Model(**filled)


def model_from_catalog(name: str) -> Model:
    """A model by its name in `catalog/models.yaml`; ConfigError with the nearest name when there is none."""
    models = catalog.load("models")
    if name not in models:
        known = sorted(models)
        raise ConfigError([Problem("model", "unknown model", repr(name), ", ".join(known), nearest(name, known))])
    return model_from_mapping(models[name], name)


def _field_problems(given: Mapping[str, Any], kind: type, path: str, needed: tuple[str, ...]) -> list[Problem]:
    """Unknown, missing and ill-typed fields of one mapping, and of the mappings inside it."""
    known = [field.name for field in fields(kind)]
    problems = [_unknown(key, known, path) for key in given if key not in known]
    problems += [Problem(f"{path}.{key}", "is missing", allowed="a whole number") for key in needed if key not in given]
    for key, value in given.items():
        if key in known:
            problems += _value_problems(key, value, path)
    return problems


def _unknown(key: str, known: list[str], path: str) -> Problem:
    return Problem(f"{path}.{key}", "unknown field", repr(key), ", ".join(known), nearest(str(key), known))


def _value_problems(key: str, value: Any, path: str) -> list[Problem]:
    where = f"{path}.{key}"
    if key == "name":
        return []
    if key in ("moe", "mla"):
        return _nested_problems(value, Experts if key == "moe" else Latent, where)
    if key in _FLAGS:
        return [] if isinstance(value, bool) else [Problem(where, "is not true or false", repr(value), "true, false")]
    if key in _CHOICES:
        choices = _CHOICES[key]
        close = nearest(str(value), choices)
        return [] if value in choices else [Problem(where, "unknown", repr(value), ", ".join(choices), close)]
    if key == "positions" and isinstance(value, str):
        words = ("learned", "rotary")
        close = nearest(value, words)
        return [] if value in words else [Problem(where, "unknown", repr(value), "learned, rotary or a number", close)]
    return _number_problems(where, value, 0 if key in _ZERO_ALLOWED else 1)


def _number_problems(where: str, value: Any, least: int) -> list[Problem]:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and value >= least:
        return []
    return [Problem(where, "is not usable", repr(value), f"a whole number of at least {least}")]


def _nested_problems(value: Any, kind: type, where: str) -> list[Problem]:
    if value is None:
        return []
    if not isinstance(value, Mapping):
        return [Problem(where, "is not a mapping", repr(value), ", ".join(field.name for field in fields(kind)))]
    needed = tuple(field.name for field in fields(kind) if field.default is MISSING)
    return _field_problems(value, kind, where, needed)


def _with_defaults(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    filled = {"name": name, "kv_heads": given["heads"], **given}
    gated = given.get("gated_mlp", False)
    biases = given.get("biases", not gated)
    filled.setdefault("head_dim", max(given["hidden"] // given["heads"], 1))
    filled.setdefault("ffn", _gated_width(given["hidden"]) if gated else 4 * given["hidden"])
    filled.setdefault("norm", "rms" if gated else "layer")
    filled.setdefault("dropout", not gated)
    filled["biases"] = biases
    filled.setdefault("qkv_bias", biases)
    positions = given.get("positions", "rotary" if gated else "learned")
    filled["positions"] = {"learned": given["sequence"], "rotary": 0}.get(positions, positions)
    filled["moe"] = Experts(**given["moe"]) if given.get("moe") else None
    filled["mla"] = Latent(**given["mla"]) if given.get("mla") else None
    return filled


def _gated_width(hidden: int) -> int:
    return -(-8 * hidden // 3 // 256) * 256


def _consistency_problems(filled: Mapping[str, Any]) -> list[Problem]:
    problems = []
    heads, groups = filled["heads"], filled["kv_heads"]
    if heads % groups:
        problems.append(Problem("model.kv_heads", "does not divide heads", str(groups), _divisors(heads)))
    if 0 < filled["positions"] < filled["sequence"]:
        found = f"{filled['positions']} for sequences of {filled['sequence']}"
        problems.append(Problem("model.positions", "fewer than the sequence is long", found))
    moe = filled["moe"]
    if moe and moe.top_k > moe.experts:
        problems.append(Problem("model.moe.top_k", "more than there are experts", str(moe.top_k), f"1..{moe.experts}"))
    if filled.get("gelu_formula") and filled.get("gated_mlp"):
        problems.append(Problem("model.gelu_formula", "not with gated_mlp, whose activation function is SiLU", "true"))
    return problems


def _divisors(number: int) -> str:
    near = [d for d in range(1, number + 1) if number % d == 0]
    return "a divisor of " + f"{number}: " + ", ".join(map(str, near[:24]))
