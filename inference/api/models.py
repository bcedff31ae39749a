"""GET /v1/models, /api/v1/models and /api/v1/model/info: what is on offer to this key."""

from typing import Any

from django.http import HttpRequest, HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema

from billing import pricing
from inference.api.access import InferenceEndpoint
from inference.catalog.offers import Offer, aliases, offer, offers
from inference.fleet import Fleet, fleet
from kit.edge import Json
from kit.money import decimal


class Models(InferenceEndpoint):
    """OpenAI's list of models."""

    runs_models = False

    @extend_schema(
        operation_id="models_list",
        summary="List the models (OpenAI's API)",
        tags=["OpenAI"],
        responses={200: OpenApiTypes.OBJECT},
    )
    async def get(self, request: HttpRequest) -> HttpResponseBase:
        """Those this key may use."""
        found = await offers(caller=self.caller)
        stood_for = await aliases(caller=self.caller)
        named = [some[0] for name, some in sorted(stood_for.items())]
        return Json({"object": "list", "data": [_openai(each) for each in [*found, *named]]})


class OneModel(InferenceEndpoint):
    """OpenAI's description of a model."""

    runs_models = False

    @extend_schema(
        operation_id="models_retrieve",
        summary="Describe a model (OpenAI's API)",
        tags=["OpenAI"],
        responses={200: OpenApiTypes.OBJECT},
    )
    async def get(self, request: HttpRequest, name: str) -> HttpResponseBase:
        """By its name."""
        return Json(_openai(await offer(name, caller=self.caller)))


class Described(InferenceEndpoint):
    """Tells of models."""

    runs_models = False

    async def info(self, each: Offer, now: Fleet) -> dict[str, Any]:
        """A model, and what the caller's organization pays for it."""
        return {**_info(each, now), "price": await self._price(each)}

    async def _price(self, each: Offer) -> dict[str, Any] | None:
        """What the caller's organization pays for a million of each meter; None where unpriced."""
        try:
            price = await pricing.price_of(each.name, organization=self.caller.organization)
        except pricing.NoPrice:
            return None
        rates = {meter: decimal(rate) for meter, rate in price.rates.items()}
        return {"currency": price.currency, "per_million": rates}


class Catalog(Described):
    """What the platform knows of every model."""

    @extend_schema(
        operation_id="catalog",
        summary="List the models, and how they are",
        tags=["Inference"],
        responses={200: OpenApiTypes.OBJECT},
    )
    async def get(self, request: HttpRequest) -> HttpResponseBase:
        """Those this key may use."""
        found, now = await offers(caller=self.caller), await fleet()
        return Json({"models": [await self.info(each, now) for each in found]})


class ModelInfo(Described):
    """What the platform knows of a model."""

    @extend_schema(
        operation_id="model_info",
        summary="Describe a model",
        tags=["Inference"],
        parameters=[OpenApiParameter("model", str, description="The default model if left out.")],
        responses={200: OpenApiTypes.OBJECT},
    )
    async def get(self, request: HttpRequest) -> HttpResponseBase:
        """Context, defaults, device, and how busy it is."""
        found = await offer(request.GET.get("model"), caller=self.caller)
        return Json(await self.info(found, await fleet()))


def _openai(each: Offer) -> dict[str, Any]:
    return {
        "id": each.alias or each.name,
        "object": "model",
        "created": int(each.created_at.timestamp()),
        "owned_by": each.owner,
    }


def _capabilities(each: Offer) -> list[str]:
    if each.is_encoder:
        return ["embeddings", "similarity", "batches"]
    common = ["chat", "streaming", "structured_outputs", "batches"]
    return common if each.remote else [*common, "completions", "tools", "logprobs", "resume"]


def _info(each: Offer, now: Fleet) -> dict[str, Any]:
    return {
        "name": each.name,
        "title": each.title,
        "owner": each.owner,
        "version": each.version,
        "kind": "embedding" if each.is_encoder else "language",
        "backend": each.backend,
        "device": each.device,
        "context": each.context,
        "capabilities": _capabilities(each),
        "defaults": {
            "max_tokens": each.default_max_tokens,
            "temperature": each.default_temperature,
            "top_p": each.default_top_p,
        },
        "dedicated": each.dedicated_to is not None,
        "workers": now.serving(each.name),
        "running": now.running(each.name),
        "waiting": now.waiting.get(each.name, 0),
        "state": now.state(each.name),
        "healthy": now.healthy(each.name) > 0,
        "fallbacks": list(each.fallbacks),
        "aliases": sorted(name for name, _ in each.aliases),
    }
