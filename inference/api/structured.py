"""Grammars looked at before a request is let in, off the event loop."""

import asyncio

from inference.api.forms import Wanted
from inference.engine import GrammarRefused, check
from kit.errors import Invalid


async def checked(wanted: Wanted | None) -> Wanted | None:
    """The same; raises `Invalid` naming the field where it cannot be followed."""
    if wanted is not None:
        try:
            await asyncio.to_thread(check, wanted.grammar)
        except GrammarRefused as error:
            raise Invalid(f"{wanted.param}: {error}", param=wanted.param) from error
    return wanted
