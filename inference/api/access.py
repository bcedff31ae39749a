"""What every inference endpoint does first and last: who calls, and what the headers say."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any
from uuid import UUID

from django.http import HttpRequest
from pydantic import BaseModel

from inference.admission import Wish
from inference.api import parameters
from inference.generation import Generation, generation, start
from inference.idempotency import Repeatable, tie
from inference.jobs import Leaving, Reuse
from kit.errors import Invalid
from kit.idempotency import HEADER
from kit.money import decimal
from tenants.api.access import ManagedEndpoint
from tenants.auth import Caller, authenticate
from tenants.models import LEAST_ALIKE

_FALLBACK = "X-Model-Fallback"
_ALIAS = "X-Model-Alias"
_COST = "X-Cost"
_CACHE = "X-Cache"
_THRESHOLD = "X-Cache-Threshold"
_PACE = "X-Cache-Pace"
_CACHE_KEY = "X-Cache-Key"

_PACES = {"at-once": False, "natural": True}

INFERENCE = "inference"
"""The scope these endpoints need."""


class InferenceEndpoint(ManagedEndpoint):
    """An endpoint for keys that may run models."""

    runs_models = True

    async def known(self, request: HttpRequest) -> Caller:
        """Know the caller, or refuse."""
        caller = await authenticate(request.headers.get("Authorization"))
        caller.require(INFERENCE)
        return caller

    @asynccontextmanager
    async def generation(
        self, request: HttpRequest, wish: Wish, *, leaving: Leaving = Leaving.CANCEL
    ) -> AsyncIterator[Generation]:
        """Admit the wish under the request's own id, or find it again by its Idempotency-Key.

        `X-On-Disconnect` says otherwise than `leaving` what a disconnect does. Without it, whoever
        has a key may send the request again, and so is waited for.
        """
        if leaving is Leaving.CANCEL and HEADER in request.headers:
            leaving = Leaving.LINGER
        entered = generation(
            caller=self.caller,
            wish=_reusing(request, wish),
            request=request.id,  # type: ignore[attr-defined]
            leaving=leaving_of(request, leaving),
            repeatable=_repeatable(request, wish),
        )
        async with entered as run:
            request.id = run.job.id  # type: ignore[attr-defined]
            yield run

    async def made_once(self, request: HttpRequest, *, endpoint: str) -> UUID:
        """The id of what the request makes: its own, or that of the first time its Idempotency-Key
        came. Raises `KeyReused`."""
        key, own = request.headers.get(HEADER), request.id  # type: ignore[attr-defined]
        if key is None:
            return own  # type: ignore[no-any-return]
        repeatable = Repeatable.of(key, endpoint=endpoint, body=request.body)
        return await tie(repeatable, organization=self.caller.organization, request=own)

    async def start(self, request: HttpRequest, wish: Wish) -> UUID:
        """Admit the wish for nobody to wait for; its id, which becomes the response's."""
        request.id = await start(  # type: ignore[attr-defined]
            caller=self.caller,
            wish=_reusing(request, wish),
            request=request.id,  # type: ignore[attr-defined]
            repeatable=_repeatable(request, wish),
        )
        return request.id  # type: ignore[attr-defined,no-any-return]


def headers(
    run: Generation, wish: Wish | None = None, form: BaseModel | None = None
) -> Mapping[str, str]:
    """Where the caller stands with the limits, or that the answer is an earlier one's; what it
    cost, where it is whole; what of `form` does nothing; whether a cache had it, where it might
    have, and under which key; and how the model was asked for, where that is not its name: by an
    alias, or as one for which it stands in."""
    said = {"Idempotent-Replayed": "true"} if run.repeated else dict(run.standing.headers())
    said |= parameters.header(form)
    if run.cache is not None:
        said[_CACHE] = run.cache
    if run.answer:
        said[_CACHE_KEY] = run.answer
    if run.is_over:
        said[_COST] = f"{decimal(run.ended.amount)} {run.ended.currency}"
    if wish is not None and wish.offer.alias:
        said[_ALIAS] = wish.offer.alias
    asked = (wish.asked or wish.offer.name) if wish else run.job.model
    drawn_anew = run.repeated and wish is not None and wish.offer.alias
    return said if asked == run.job.model or drawn_anew else {**said, _FALLBACK: asked}


def cost(nanos: int, currency: str) -> dict[str, Any]:
    """An amount, exact: in the currency's unit, and in nanos."""
    return {"amount": decimal(nanos), "amount_nanos": nanos, "currency": currency}


def may_fall_back(request: HttpRequest) -> bool:
    """Whether another model may stand in; not with `X-Model-Fallback: never`."""
    wanted = request.headers.get(_FALLBACK, "allow").lower()
    if wanted not in {"allow", "never"}:
        raise Invalid(f"{_FALLBACK} must be allow or never, not {wanted[:40]!r}.", param=_FALLBACK)
    return wanted == "allow"


def _reusing(request: HttpRequest, wish: Wish) -> Wish:
    """As the headers X-Cache, X-Cache-Threshold and X-Cache-Pace say, if they say something."""
    if (wanted := request.headers.get(_CACHE)) is not None:
        try:
            wish = replace(wish, caching=Reuse(wanted.lower()))
        except ValueError as error:
            raise Invalid(
                f"{_CACHE} must be one of {', '.join(Reuse)}, not {wanted[:40]!r}.", param=_CACHE
            ) from error
    if (wanted := request.headers.get(_THRESHOLD)) is not None:
        wish = replace(wish, likeness=_likeness(wanted))
    if (wanted := request.headers.get(_PACE)) is not None:
        if wanted.lower() not in _PACES:
            raise Invalid(
                f"{_PACE} must be {' or '.join(_PACES)}, not {wanted[:40]!r}.", param=_PACE
            )
        wish = replace(wish, natural=_PACES[wanted.lower()])
    return wish


def _likeness(wanted: str) -> float:
    with suppress(ValueError):
        if LEAST_ALIKE <= (likeness := float(wanted)) <= 1:
            return likeness
    raise Invalid(
        f"{_THRESHOLD} must be a number from {LEAST_ALIKE} to 1, not {wanted[:40]!r}: below it "
        "questions that are not the same are taken for it.",
        param=_THRESHOLD,
    )


def leaving_of(request: HttpRequest, usual: Leaving) -> Leaving:
    """What leaving does, as the request says; raises `Invalid`."""
    wanted = request.headers.get("X-On-Disconnect")
    if wanted is None:
        return usual
    try:
        return Leaving(wanted.lower())
    except ValueError as error:
        raise Invalid(
            f"X-On-Disconnect must be one of {', '.join(Leaving)}, not {wanted[:40]!r}.",
            param="X-On-Disconnect",
        ) from error


def _repeatable(request: HttpRequest, wish: Wish) -> Repeatable | None:
    key = request.headers.get(HEADER)
    if key is None:
        return None
    return Repeatable.of(key, endpoint=wish.endpoint, body=request.body)
