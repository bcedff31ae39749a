"""Which model serves a request: the one asked for, or one in its place while it is not healthy."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from inference.admission import Wish
from inference.catalog.offers import Offer, offers
from inference.fleet import pulse
from kit.errors import Invalid, Refused
from tenants.auth import Caller

Build = Callable[[Offer], Awaitable[Wish]]
"""Makes the wish for a model: its tokens, its defaults. May refuse."""


async def served(asked: Offer, build: Build, *, caller: Caller, replace_it: bool) -> Wish:
    """The wish as a healthy model takes it; as the one asked for does where there is none.

    No model stands in that `caller` may not use; `replace_it` says whether one may. A stand-in that
    cannot take the request (its context is too short, it knows no tools) is passed over. Raises
    what `build` raises for the model asked for,
    and `Invalid` for one that makes no answers.
    """
    if asked.is_encoder:
        raise Invalid(
            f"model: {asked.name} makes embeddings and does not answer; use /v1/embeddings.",
            param="model",
        )
    for offer in await _stand_ins(asked, caller) if replace_it else ():
        with suppress(Refused):
            return replace(await build(replace(offer, alias=asked.alias)), asked=asked.name)
    return await build(asked)


async def _stand_ins(asked: Offer, caller: Caller) -> list[Offer]:
    """Healthy ones of its chain, if it is not itself."""
    if not asked.fallbacks:
        return []
    fleet = await pulse.now()
    if fleet.healthy(asked.name):
        return []
    known = {each.name: each for each in await offers(caller=caller)}
    return [known[name] for name in asked.fallbacks if name in known and fleet.healthy(name)]
