"""From messages to tokens, off the event loop where the text is long."""

from collections.abc import Mapping, Sequence
from typing import Any

from inference.admission import EmptyPrompt
from inference.catalog.offers import Offer
from inference.engine import ChatRefused
from kit.errors import Invalid
from kit.threads import reading

_LONG = 8_192
"""Characters that are tokenized in about a millisecond."""


async def tokens(
    offer: Offer,
    turns: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] = (),
    *,
    param: str,
) -> tuple[int, ...]:
    """The chat in the model's own template; raises `EmptyPrompt` or `Invalid`."""
    if not any(turn["content"].strip() for turn in turns):
        raise EmptyPrompt(f"{param} is empty; say something to the model.", param=param)
    length = sum(len(turn["content"]) for turn in turns)
    try:
        if length > _LONG:
            return tuple(await reading(offer.text.chat, turns, tools))
        return tuple(offer.text.chat(turns, tools))
    except ChatRefused as error:
        raise Invalid(str(error), param=param) from error


async def encoded(offer: Offer, text: str) -> tuple[int, ...]:
    """The text itself, without a template."""
    if len(text) > _LONG:
        return tuple(await reading(offer.text.encode, text))
    return tuple(offer.text.encode(text))
