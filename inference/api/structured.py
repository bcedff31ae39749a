"""Grammars looked at before a request is let in, off the event loop."""

from inference.api.forms import Wanted
from inference.engine import GrammarRefused, check
from kit.errors import Invalid
from kit.threads import reading


async def checked(wanted: Wanted | None) -> Wanted | None:
    """The same; raises `Invalid` naming the field where it cannot be followed."""
    if wanted is not None:
        try:
            await reading(check, wanted.grammar)
        except GrammarRefused as error:
            raise Invalid(f"{wanted.param}: {error}", param=wanted.param) from error
    return wanted
