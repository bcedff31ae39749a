"""What becomes of a parameter that OpenAI's clients may send and that does nothing here.

Where leaving it undone changes no answer it is taken and passed by, and the response's header names
it; where it would, it is refused by name. Both stand on the form's field, so that the documentation
and docs/compatibility.md are printed from what decides.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import core_schema

HEADER = "X-Ignored-Parameters"
BECOMES = "x-becomes"
"""Under this the schema says it: ignored, refused, or ours."""


@dataclass(frozen=True, slots=True)
class _Marked:
    """Says in the schema what becomes of it."""

    why: str

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), BECOMES: type(self).__name__.lower(), "description": self.why}


class Ours(_Marked):
    """Not OpenAI's, and what it is."""

    __slots__ = ()


class Ignored(_Marked):
    """Harmless to leave undone, and `why`."""

    __slots__ = ()


class Refused(_Marked):
    """Not to be had, and `why`; but the values of the field's type change nothing and pass."""

    __slots__ = ()

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        def check(value: Any, inner: core_schema.ValidatorFunctionWrapHandler) -> Any:
            try:
                return inner(value)
            except ValidationError as error:
                raise ValueError(f"not supported: {self.why}; leave it out") from error

        return core_schema.no_info_wrap_validator_function(check, handler(source))


def ignored(form: BaseModel) -> list[str]:
    """The parameters that were sent and do nothing, in the form's order."""
    return [*_ignored(form, "")]


def header(form: BaseModel | None) -> Mapping[str, str]:
    """What the response says of them; nothing where there are none."""
    names = [] if form is None else ignored(form)
    return {HEADER: ", ".join(names)} if names else {}


def _ignored(form: BaseModel, before: str) -> Iterator[str]:
    for name, field in type(form).model_fields.items():
        value = getattr(form, name) if name in form.model_fields_set else None
        if value is None:
            continue
        if any(isinstance(mark, Ignored) for mark in field.metadata):
            yield before + name
        elif isinstance(value, BaseModel):
            yield from _ignored(value, f"{before}{name}.")
