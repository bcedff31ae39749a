"""What answers in OpenAI's form have in common."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

from inference.admission import Wish
from inference.api import sse
from inference.api.access import cost
from inference.catalog.offers import UnknownModel, offer
from inference.engine import Text
from inference.generation import Generation
from inference.stream import Ended
from kit.edge import openai_body, refusal_of
from kit.ids import made_at


async def spoken(run: Generation, wish: Wish) -> Text:
    """The text of the model that serves; a repeated request may have another than today's wish."""
    if run.job.model != wish.offer.name:
        with suppress(UnknownModel):
            return (await offer(run.job.model, caller=None)).text
    return wish.offer.text


def head(run: Generation, kind: str, *, prefix: str) -> dict[str, Any]:
    """The fields before an object's choices."""
    job = run.job
    return {
        "id": f"{prefix}-{job.id.hex}",
        "object": kind,
        "created": int(made_at(job.id).timestamp()),
        "model": job.model,
        "system_fingerprint": f"fp_{job.model_version}",
    }


async def told(events: AsyncIterator[bytes], stack: AsyncExitStack) -> AsyncIterator[bytes]:
    """The events of a stream, to its end or to an error in OpenAI's form; then `stack` ends."""
    async with stack:
        try:
            async for event in events:
                yield event
            yield b"data: [DONE]\n\n"
        except Exception as error:
            yield sse.event(openai_body(refusal_of(error)))


def usage(ended: Ended) -> dict[str, Any]:
    """What was used, by all answers together, and what it cost: OpenAI's clients pass that by."""
    return {
        "cost": cost(ended.amount, ended.currency),
        "prompt_tokens": ended.prompt_tokens,
        "completion_tokens": ended.completion_tokens,
        "total_tokens": ended.total_tokens,
        "prompt_tokens_details": {"cached_tokens": ended.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": ended.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
