"""A response's items as they were asked, are listed, and are what the next one goes on from."""

from collections.abc import Mapping
from typing import Any

from inference.api.response_forms import ResponseForm
from inference.api.response_output import Output, name_of, status_of
from inference.engine import Sampling
from inference.responses import Found
from kit.errors import Invalid, Refused


class NotEnded(Refused):
    """What the response goes on from is still being made."""

    status, code = 409, "response_not_ended"


def echo(form: ResponseForm, sampling: Sampling) -> dict[str, Any]:
    """What a response says of how it was asked for."""
    text = {"format": {"type": "text"}, "verbosity": "medium"}
    if form.text is not None and form.text.format is not None:
        text["format"] = form.text.format.model_dump(by_alias=True)
    choice = form.tool_choice or "auto"
    return {
        "instructions": form.instructions,
        "max_output_tokens": form.max_output_tokens,
        "max_tool_calls": form.max_tool_calls,
        "metadata": form.metadata or {},
        "parallel_tool_calls": form.parallel_tool_calls is not False,
        "previous_response_id": form.previous_response_id,
        "prompt_cache_key": form.prompt_cache_key,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": form.safety_identifier,
        "service_tier": "default",
        "temperature": sampling.temperature,
        "text": text,
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "tools": [each.model_dump() for each in form.tools or ()],
        "top_logprobs": form.top_logprobs or 0,
        "top_p": sampling.top_p,
        "truncation": "disabled",
        "background": bool(form.background),
        "user": form.user,
    }


def context_of(found: Found) -> list[dict[str, Any]]:
    """All that was said until the end of a response. Raises `NotEnded`, or `Invalid` for one that
    has no answer."""
    name = name_of(found.request)
    if found.ended is None:
        raise NotEnded(
            f"previous_response_id: {name} has not ended; wait for it.",
            param="previous_response_id",
        )
    if status_of(found.ended) == "failed":
        raise Invalid(
            f"previous_response_id: {name} failed; go on from the one before it.",
            param="previous_response_id",
        )
    output = Output(found.request, tools=found.frame["tools"])
    for piece in found.pieces:
        for _ in output.take(piece):
            pass
    output.end(status_of(found.ended))
    return [*found.frame["context"], *found.frame["input"], *output.items]


def listed(found: Found, *, after: str | None, most: int, newest: bool) -> dict[str, Any]:
    """A page of what was asked; `after` is an item's id. Raises `Invalid`."""
    items = [
        {**_shown(item), "id": f"{_PREFIX[item['type']]}_{found.request.hex}i{number}"}
        for number, item in enumerate(found.frame["input"])
    ]
    if newest:
        items.reverse()
    if after is not None:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise Invalid(f"after: no item is called {after[:80]!r}.", param="after")
        items = items[ids.index(after) + 1 :]
    page = items[:most]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(items) > most,
    }


_PREFIX = {"message": "msg", "function_call": "fc", "function_call_output": "fco"}


def _shown(item: Mapping[str, Any]) -> dict[str, Any]:
    """With its content in parts, as OpenAI lists it."""
    if item["type"] == "function_call":
        names = ("type", "call_id", "name", "arguments")
        return {**{name: item[name] for name in names}, "status": "completed"}
    if item["type"] == "function_call_output":
        return {**item, "status": "completed"}
    content = item["content"]
    texts = [content] if isinstance(content, str) else [part["text"] for part in content]
    parts: list[dict[str, Any]]
    if item["role"] == "assistant":
        parts = [
            {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
            for text in texts
        ]
    else:
        parts = [{"type": "input_text", "text": text} for text in texts]
    return {"type": "message", "role": item["role"], "status": "completed", "content": parts}
