"""Whether a request's answer is one to be given again: as it says, or else its organization."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inference.catalog.offers import Offer
from inference.job import Reuse
from kit.errors import Refused
from tenants.auth import Caller
from tenants.models import Caching, Retention


class NothingKept(Refused):
    """An answer that is to be given again would have to be kept, and is not to be."""

    status, code = 409, "answers_not_kept"


@dataclass(frozen=True, slots=True)
class Reused:
    """How a request's answer may be found and kept; `mode` "": not at all."""

    mode: str = ""
    seconds: int = 0
    epoch: int = 0
    adaptive: bool = False
    meant: str = ""
    likeness: float = 1.0


def of(
    caller: Caller,
    model: Offer,
    *,
    said: Reuse | None,
    messages: Sequence[Mapping[str, Any]],
    embeds: bool = False,
) -> Reused:
    """What holds for a request that says so of it (None: nothing), of a chat's messages or of none.
    Raises `NothingKept`."""
    mode, chosen = _mode(caller, model, said, embeds=embeds), caller.reuse
    if not mode:
        return Reused()
    # What is made anew is to be found in other words, too, where they usually are.
    semantic = mode == Reuse.SEMANTIC or (mode == Reuse.REFRESH and chosen.mode == Caching.SEMANTIC)
    return Reused(
        mode=mode,
        seconds=chosen.seconds,
        epoch=chosen.epoch_of(model.name),
        adaptive=chosen.adaptive,
        meant=_asked_last(messages) if semantic else "",
        likeness=chosen.likeness,
    )


def _mode(caller: Caller, model: Offer, said: Reuse | None, *, embeds: bool) -> str:
    if said in (None, Reuse.OFF) or embeds:
        may = model.caching and not embeds
        usual = said is None and may and caller.reuse.mode != Caching.OFF
        return caller.reuse.mode if usual and caller.retention != Retention.NOTHING else ""
    if caller.retention == Retention.NOTHING:
        raise NothingKept(
            "X-Cache: this organization keeps nothing of answers (GET /api/v1/retention); leave it "
            "out.",
            param="X-Cache",
        )
    if not model.caching:
        raise NothingKept(
            f"X-Cache: answers of {model.name} are not cached; leave it out.", param="X-Cache"
        )
    return said.value if said is not None else ""


def _asked_last(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of a user's turn that ends a chat; "" where another's does, or it is no text."""
    last = messages[-1] if messages else {}
    content = last.get("content")
    return content.strip() if last.get("role") == "user" and isinstance(content, str) else ""
