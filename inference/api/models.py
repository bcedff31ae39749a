"""GET /v1/models, /api/v1/models and /api/v1/model/info: what is on offer to this key."""

from typing import Any

from django.http import HttpRequest, HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema

from inference.api.access import InferenceEndpoint
from inference.catalog.offers import Offer, offer, offers
from inference.fleet import Fleet, fleet
from kit.edge import Json


class Models(InferenceEndpoint):
    """OpenAI's list of models."""

    @extend_schema(
        operation_id="models_list",
        summary="List the models (OpenAI's API)",
        tags=["OpenAI"],
        responses={200: OpenApiTypes.OBJECT},
    )
    async def get(self, request: HttpRequest) -> HttpResponseBase:
        """Those this key may use."""
        found = await offers(allowed=self.caller.models)
        return Json({"object": "list", "data": [_openai(each) for each in found]})


class OneModel(InferenceEndpoint):
    """OpenAI's description of a model."""

    @extend_schema(
        operation_id="models_retrieve",
        summary="Describe a model (OpenAI's API)",
        tags=["OpenAI"],
        responses={200: OpenApiTypes.OBJECT},
    )
    async def get(self, request: HttpRequest, name: str) -> HttpResponseBase:
        """By its name."""
        return Json(_openai(await offer(name, allowed=self.caller.models)))


class Catalog(InferenceEndpoint):
    """What the platform knows of every model."""

    @extend_schema(
        operation_id="catalog",
        summary="List the models, and how they are",
        tags=["Inference"],
        responses={200: OpenApiTypes.OBJECT},
    )
    async def get(self, request: HttpRequest) -> HttpResponseBase:
        """Those this key may use."""
        found, now = await offers(allowed=self.caller.models), await fleet()
        return Json({"models": [_info(each, now) for each in found]})


class ModelInfo(InferenceEndpoint):
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
        found = await offer(request.GET.get("model"), allowed=self.caller.models)
        return Json(_info(found, await fleet()))


def _openai(each: Offer) -> dict[str, Any]:
    return {
        "id": each.name,
        "object": "model",
        "created": int(each.created_at.timestamp()),
        "owned_by": each.owner,
    }


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
        "defaults": {
            "max_tokens": each.default_max_tokens,
            "temperature": each.default_temperature,
            "top_p": each.default_top_p,
        },
        "workers": now.serving(each.name),
        "running": now.running(each.name),
        "waiting": now.waiting.get(each.name, 0),
        "state": now.state(each.name),
        "healthy": now.healthy(each.name) > 0,
        "fallbacks": list(each.fallbacks),
    }
