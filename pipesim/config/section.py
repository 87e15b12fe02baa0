"""What every section of a config shares: frozen, strict, and with errors that name what would be right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, NamedTuple, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from pipesim import units
from pipesim.config.reading import plain as copy_plain
from pipesim.errors import nearest

LARGEST_COUNT = 10**9
"""No count in a config is larger; it keeps products of two counts inside 64 bits."""


class Fault(NamedTuple):
    """Something wrong below the value being validated: where, what, and what would be right."""

    where: tuple[str | int, ...]
    message: str
    found: Any = None
    allowed: str | None = None
    nearest: str | None = None

    def error(self) -> PydanticCustomError:
        """The same, to raise from a validator."""
        context = {"message": self.message, "allowed": self.allowed, "nearest": self.nearest}
        return PydanticCustomError("fault", "{message}", context)


def refuse(message: str, allowed: str | None = None, near: str | None = None) -> PydanticCustomError:
    """The error to raise for the very value being validated."""
    return Fault((), message, None, allowed, near).error()


def refused(error: PydanticCustomError, where: tuple[str | int, ...], found: Any) -> Fault:
    """The fault that `refuse` raised for a value, placed where the value is."""
    context = error.context or {}
    return Fault(where, context["message"], found, context.get("allowed"), context.get("nearest"))


def refuse_all(faults: Iterable[Fault]) -> ValidationError:
    """One error for several faults, to raise from a validator."""
    lines = [InitErrorDetails(type=fault.error(), loc=fault.where, input=fault.found) for fault in faults]
    return ValidationError.from_exception_data("config", lines)


def unknown_key(key: str, value: Any, known: Iterable[str], where: tuple[str | int, ...] = ()) -> Fault:
    """The fault of a key that a mapping does not have."""
    names = list(known)
    return Fault((*where, str(key)), "unknown key", value, listed(names), nearest(str(key), names))


def listed(names: Iterable[str]) -> str:
    """Names as a message shows them."""
    return ", ".join(names) or "none"


class Section(BaseModel):
    """A mapping with fixed keys. Values are not coerced: ``"8"`` and ``true`` are not whole numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def plain(self) -> dict[str, Any]:
        """The section as dicts, lists and scalars in a fixed order; what is not set is left out."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: copy_plain(value) for name, value in values.items() if value is not None}

    @model_validator(mode="wrap")
    @classmethod
    def _name_known_keys(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Turn pydantic's bare 'extra forbidden' into an error that lists the keys there are."""
        try:
            return handler(data)
        except ValidationError as error:
            lines = [_line(detail, cls.model_fields) for detail in error.errors(include_url=False)]
            raise ValidationError.from_exception_data(cls.__name__, lines) from None


def _line(detail: Any, known: Mapping[str, FieldInfo]) -> InitErrorDetails:
    """An error's details in the form that builds a new error."""
    kind, where, context = detail["type"], detail["loc"], detail.get("ctx", {})
    if kind in ("extra_forbidden", "invalid_key"):
        kind = unknown_key(where[-1], None, known).error()
    elif kind == "missing":
        kind = refuse("is missing", _what_it_takes(known[where[-1]]))
    elif kind == "fault":
        kind = PydanticCustomError("fault", "{message}", context)
    return InitErrorDetails(type=kind, loc=where, input=detail["input"], ctx=context)


def _what_it_takes(field: FieldInfo) -> str:
    """What a key wants to be given, for people, from the schema of its type."""
    if field.description:
        return field.description
    adapter: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation())
    schema = adapter.json_schema()
    if "properties" in schema:
        return f"a mapping of {listed(schema['properties'])}"
    return str(schema.get("description") or f"a whole number of at least {schema['minimum']}")


def _quantity(parse: Callable[[object], float]) -> Callable[[object], float]:
    def read(value: object) -> float:
        try:
            return parse(value)
        except units.UnitError as error:
            raise refuse(error.message, error.allowed, error.nearest) from None

    return read


def _schema(description: str) -> WithJsonSchema:
    return WithJsonSchema({"type": ["number", "string"], "description": description})


read_seconds = _quantity(units.parse_seconds)

Ranks = Annotated[int, Field(ge=1, le=10**4)]
Count = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, PlainValidator(read_seconds), _schema('seconds, or text with a unit: "3 us"')]
Bytes = Annotated[
    float,
    PlainValidator(_quantity(units.parse_bytes)),
    _schema('bytes, or text with a unit: "80 GB", "16 GiB"'),
]


def as_tuple(value: Any) -> Any:
    """Lists become tuples, so that a frozen section is frozen all through."""
    return tuple(value) if isinstance(value, list) else value


Counts = Annotated[tuple[Annotated[int, Field(ge=0, le=LARGEST_COUNT)], ...], BeforeValidator(as_tuple)]
Scales = Annotated[tuple[Annotated[float, Field(gt=0, le=1e6)], ...], BeforeValidator(as_tuple)]
