"""A request that nobody waits for at a connection: the same forms and bodies as at the edges."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from uuid import UUID

from inference import jobs
from inference.admission import Wish
from inference.api.chat import chat_completion, chat_wish
from inference.api.chat_forms import ChatForm
from inference.api.completions import CompletionForm, completion, completion_wish
from inference.api.embeddings import EmbeddingsForm, listed
from inference.api.forms import InferForm
from inference.api.infer import bill, prompt_wish, told
from inference.catalog.offers import encoder
from inference.embedding import embedding_wish, known_dimensions, shortened
from inference.engine import vectors_of
from inference.generation import Generation, reading, start
from inference.jobs import Leaving
from kit.edge import parse
from kit.errors import Invalid
from tenants.auth import Caller

StreamableForm = TypeVar("StreamableForm", ChatForm, CompletionForm)
Render = Callable[[Generation], Awaitable[dict[str, Any]]]
Prepare = Callable[[Caller, bytes, str], Awaitable[tuple[Wish, Render]]]


@dataclass(frozen=True, slots=True)
class Offline:
    """One request: whose, to which endpoint, its body, and its id."""

    caller: Caller
    endpoint: str
    body: bytes
    request: UUID
    label: str = ""
    project: str = ""


async def answer(asked: Offline) -> dict[str, Any]:
    """The body of its answer. Carried out once under its id, however often this is called.

    Raises the refusals of the endpoint, of admission and of generation.
    """
    wish, render = await ENDPOINTS[asked.endpoint](asked.caller, asked.body, asked.label)
    if not await jobs.exists(asked.request):
        wish = replace(wish, in_batch=True, project=wish.project or asked.project)
        await start(caller=asked.caller, wish=wish, request=asked.request)
    entered = reading(caller=asked.caller, request=asked.request, leaving=Leaving.CONTINUE)
    async with entered as run:
        found = await render(run)
        run.refuse_cut()
        return found


async def _chat(caller: Caller, body: bytes, label: str) -> tuple[Wish, Render]:
    form = _whole(parse(body, ChatForm))
    wish = await chat_wish(caller, form, label=label, replace_it=True)

    async def render(run: Generation) -> dict[str, Any]:
        return await chat_completion(run, form, wish)

    return wish, render


async def _completion(caller: Caller, body: bytes, label: str) -> tuple[Wish, Render]:
    form = _whole(parse(body, CompletionForm))
    wish = await completion_wish(caller, form, label=label, replace_it=True)

    async def render(run: Generation) -> dict[str, Any]:
        return await completion(run, form, wish)

    return wish, render


async def _embeddings(caller: Caller, body: bytes, label: str) -> tuple[Wish, Render]:
    form = parse(body, EmbeddingsForm)
    model = await encoder(form.model, caller=caller)
    dimensions = known_dimensions(model, form.dimensions)
    wish = await embedding_wish(model, form.texts, endpoint="embeddings", label=label)

    async def render(run: Generation) -> dict[str, Any]:
        text = (await run.whole()).texts[0]
        run.refuse_cut()
        return listed(run, shortened(vectors_of(text, count=len(wish.lengths)), dimensions), form)

    return wish, render


async def _infer(caller: Caller, body: bytes, label: str) -> tuple[Wish, Render]:
    form = parse(body, InferForm)
    wish = await prompt_wish(caller, form, endpoint="infer", label=label)

    async def render(run: Generation) -> dict[str, Any]:
        whole = await run.whole(count=form.n)
        return {
            "request_id": str(run.job.id),
            "model": run.job.model,
            **told(whole),
            **bill(whole.ended),
        }

    return wish, render


def _whole(form: StreamableForm) -> StreamableForm:
    if form.stream:
        raise Invalid("stream: a batch's answers come whole; leave it out.", param="stream")
    return form


ENDPOINTS: dict[str, Prepare] = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/embeddings": _embeddings,
    "/api/v1/infer": _infer,
}
"""What batches may be of."""
