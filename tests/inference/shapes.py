"""What we answer under /v1, held against the models of the `openai` package to the letter."""

from collections.abc import Iterator
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, TypeAdapter

T = TypeVar("T")
OURS = "usage.cost"
"""The one field that is ours: what a request cost. Clients pass it by."""


def exactly(shape: type[T], data: Any) -> T:
    """`data` as the package's model: no field missing, none of a wrong type, none invented."""
    adapter: TypeAdapter[Any] = TypeAdapter(shape)
    found = adapter.validate_json(orjson.dumps(data), strict=True)
    assert [name for name in _invented(found, "") if not name.endswith(OURS)] == []
    said = adapter.dump_python(found, mode="json", exclude_unset=True, by_alias=True)
    assert said == data, "a field was read otherwise than it was sent"
    return found  # type: ignore[no-any-return]


def chunks(shape: type[T], lines: list[str]) -> list[T]:
    """The events of a stream that ends as OpenAI's does, each as the package's model."""
    assert lines[-1] == "data: [DONE]"
    return [exactly(shape, orjson.loads(line.removeprefix("data: "))) for line in lines[:-1]]


def _invented(value: Any, at: str) -> Iterator[str]:
    """Where a model holds a field that it does not know."""
    if isinstance(value, BaseModel):
        yield from (f"{at}{name}" for name in value.model_extra or ())
        for name in type(value).model_fields:
            yield from _invented(getattr(value, name), f"{at}{name}.")
    elif isinstance(value, list):
        for each in value:
            yield from _invented(each, at)
