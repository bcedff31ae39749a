"""POST /api/v1/estimates: what a request would cost, before it is sent."""

from typing import Any

import orjson
from django.http import HttpRequest, HttpResponseBase
from drf_spectacular.utils import OpenApiExample, extend_schema
from pydantic import BaseModel, Field

from billing import pricing
from inference.admission import Wish
from inference.api.access import InferenceEndpoint, cost, may_fall_back
from inference.api.chat import chat_wish
from inference.api.chat_forms import ChatForm
from inference.api.forms import InferForm
from inference.api.infer import prompt_wish
from kit.edge import Json, body
from kit.errors import Invalid


class Amount(BaseModel):
    """Exact."""

    amount: str = Field(examples=["0.000012300"])
    amount_nanos: int
    currency: str


class CostRange(BaseModel):
    """From an answer that ends at once to one of `max_tokens`, which is what is reserved."""

    least: Amount
    most: Amount


class Estimate(BaseModel):
    """Tokens as the request would be counted, and what they cost at list price."""

    model: str = Field(description="The one that would serve.")
    prompt_tokens: int
    max_tokens: int
    n: int
    cost: CostRange


class Estimates(InferenceEndpoint):
    """Counts and prices a chat (`messages`) or a prompt (`prompt`) that is not sent."""

    runs_models = False

    @extend_schema(
        operation_id="estimate",
        tags=["Inference"],
        summary="What a request would cost",
        description=(
            "The body of POST /v1/chat/completions or POST /api/v1/infer. Nothing runs, nothing is "
            "reserved, no limit counts it. Tiers of a price are taken off later, when the month "
            "closes."
        ),
        request=InferForm,
        responses=Estimate,
        examples=[
            OpenApiExample(
                "A prompt",
                value={"model": "smollm2-135m-instruct", "prompt": "What is AI?", "max_tokens": 64},
                request_only=True,
            ),
            OpenApiExample(
                "A chat",
                value={
                    "model": "smollm2-135m-instruct",
                    "messages": [{"role": "user", "content": "What is AI?"}],
                    "n": 2,
                },
                request_only=True,
            ),
        ],
    )
    async def post(self, request: HttpRequest) -> HttpResponseBase:
        """Its tokens and the range of its cost."""
        wish = await self._wished(request)
        price = await pricing.price_of(wish.offer.name, organization=self.caller.organization)
        read, written = len(wish.prompt), wish.n * wish.sampling.max_tokens
        least = pricing.most(price, input_tokens=read)
        most = pricing.most(price, input_tokens=read, output_tokens=written)
        data: dict[str, Any] = {
            "model": wish.offer.name,
            "prompt_tokens": read,
            "max_tokens": wish.sampling.max_tokens,
            "n": wish.n,
            "cost": {
                "least": cost(least, price.currency),
                "most": cost(most, price.currency),
            },
        }
        return Json(data)

    async def _wished(self, request: HttpRequest) -> Wish:
        replace_it = may_fall_back(request)
        if _is_chat(request.body):
            chat = await body(request, ChatForm)
            return await chat_wish(self.caller, chat, label="", replace_it=replace_it)
        return await prompt_wish(
            self.caller,
            await body(request, InferForm),
            endpoint="infer",
            label="",
            replace_it=replace_it,
        )


def _is_chat(raw: bytes) -> bool:
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"The body is not JSON: {error}.", param="body") from error
    return isinstance(found, dict) and "messages" in found
