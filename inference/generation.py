"""One request as an edge sees it: admitted, followed, and stopped when its caller leaves."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from inference import jobs
from inference.admission import Admitted, Wish, admit
from inference.jobs import Job
from inference.live import Follower, Listener
from inference.stream import Ended, Piece
from kit.errors import Refused
from tenants.auth import Caller
from tenants.limits import Standing

_stopping: set[asyncio.Task[None]] = set()


class GenerationFailed(Refused):
    """The model could not finish the answer; nothing was charged."""

    status, code = 500, "generation_failed"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    text: str
    ended: Ended


class Generation:
    """A request in line or running."""

    def __init__(self, job: Job, standing: Standing, follower: Follower) -> None:
        self.job = job
        self.standing = standing
        self._follower = follower

    async def pieces(self) -> AsyncIterator[Piece]:
        """The answer as it is made; raises `GenerationFailed`."""
        async for event in self._follower:
            if isinstance(event, Piece):
                yield event
        if self.ended.reason == "failed":
            raise GenerationFailed(
                f"The answer could not be finished: {self.ended.error or 'the worker failed'}. "
                "Nothing was charged; try again."
            )

    async def whole(self) -> Answer:
        """The answer when it is complete; raises `GenerationFailed`."""
        text = [piece.text async for piece in self.pieces()]
        return Answer(text="".join(text), ended=self.ended)

    @property
    def ended(self) -> Ended:
        """How it came out; only after the last piece."""
        assert self._follower.ended is not None  # noqa: S101  the caller's order, not its data
        return self._follower.ended

    async def cancel(self) -> bool:
        """Stop within a step; tokens delivered until then are billed."""
        return await jobs.cancel(
            request=self.job.id, organization=self.job.organization, reason="cancelled"
        )


@asynccontextmanager
async def generation(
    *, caller: Caller, wish: Wish, request: UUID, now: datetime
) -> AsyncIterator[Generation]:
    """Admit a request and follow it. Leaving before its end (a disconnect) cancels it."""
    listener = await Listener.here()
    async with Follower(request, listener) as follower:
        entering = asyncio.create_task(
            admit(caller=caller, wish=wish, request=request, web=listener.id, now=now)
        )
        try:
            admitted = await asyncio.shield(entering)
            yield Generation(admitted.job, admitted.standing, follower)
        finally:
            if follower.ended is None:
                _in_background(_stop(entering))


async def _stop(entering: asyncio.Task[Admitted]) -> None:
    try:
        job = (await entering).job
    except Refused:
        return
    await jobs.cancel(request=job.id, organization=job.organization, reason="cancelled")


def _in_background(work: Coroutine[None, None, None]) -> None:
    task = asyncio.create_task(work)
    _stopping.add(task)
    task.add_done_callback(_stopping.discard)
