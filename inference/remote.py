"""A request in the words of OpenAI's API, for a server that speaks it."""

from typing import Any

import orjson

from inference.engine import Sampling
from inference.engine.work import GrammarKind
from inference.jobs import Job
from kit.errors import Refused


class Unsupported(Refused):
    """A parameter that cannot be passed on to a remote model."""

    status, code = 400, "unsupported_parameter"


def refuse_unknown(sampling: Sampling) -> None:
    """Raise `Unsupported` for what means something else, or nothing, to another server."""
    grammar = sampling.grammar
    asked = {
        "logprobs": sampling.logprobs is not None,
        "logit_bias": bool(sampling.logit_bias),
        "stop_token_ids": bool(sampling.stop_token_ids),
        "response_format": grammar is not None and grammar.kind != GrammarKind.json_schema,
    }
    for name in (name for name, is_asked in asked.items() if is_asked):
        raise Unsupported(
            f"{name} is not available for this model, which another server runs; leave it out.",
            param=name,
        )


def body(job: Job, *, model: str) -> dict[str, Any]:
    """The JSON of a chat completion, streamed; parameters at their defaults are left out, since a
    server may not know them."""
    sampling = job.sampling
    asked: dict[str, Any] = {
        "model": model,
        "messages": list(job.messages),
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
    }
    if sampling.stop:
        asked["stop"] = list(sampling.stop)
    if sampling.grammar is not None:
        schema = {"name": "answer", "schema": orjson.loads(sampling.grammar.source)}
        asked["response_format"] = {"type": "json_schema", "json_schema": schema}
    usual = Sampling(max_tokens=1)
    for name in ("presence_penalty", "frequency_penalty", "repetition_penalty", "top_k", "min_p"):
        if getattr(sampling, name) != getattr(usual, name):
            asked[name] = getattr(sampling, name)
    return asked
