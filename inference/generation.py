"""One request as an edge sees it: admitted or found again, followed, and left."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import structlog
from redis.exceptions import RedisError

from inference import idempotency, jobs, undelivered
from inference.admission import Admitted, Wish, admit
from inference.idempotency import Repeatable
from inference.jobs import Head, Job, Leaving, TurnedAway
from inference.line import AlreadyIn
from inference.live import Follower, Listener, Silent
from inference.pace import room_in
from inference.stream import Ended, Event, Piece, texts_of
from kit.errors import Refused
from kit.threads import in_thread
from tenants import watch
from tenants.auth import Caller
from tenants.limits import Standing

LINGER_SECONDS = 15.0
"""How long a resumable request whose readers are gone waits for one to come back."""

log = structlog.get_logger()
_SCOPE = "inference"
_OURS = (Refused, RedisError)
"""What ends an answer without the caller's doing."""
_UNFINISHED = frozenset({"failed", *TurnedAway})
_UNSERVED_RETRY_SECONDS = 10.0
_NATURAL_SECONDS = 0.025
"""Between two pieces of an answer that a cache had and that is to be given as if it were made."""
_behind: set[asyncio.Task[None]] = set()


class NotKept(Refused):
    """No request of this id, or too long ago."""

    status, code = 404, "request_not_found"


async def not_kept(caller: Caller, request: UUID) -> Refused:
    """What is told whoever asks for a request that the state Redis does not know."""
    lost = await in_thread(
        undelivered.lost_early,
        organization=caller.organization,
        request=request,
        now=datetime.now(UTC),
    )
    return lost or NotKept(
        f"There is no request {request}, or its answer is no longer kept (an hour; a day if it "
        "ran in background or had an Idempotency-Key)."
    )


async def readable(caller: Caller, request: UUID) -> Head:
    """A request, in flight or kept, that the caller may read. Raises `NotKept`, also of one that
    another key sent to a model which the caller's may not use, and `NotKeptAnyMore`."""
    head = await jobs.head(request=request, organization=caller.organization)
    if head is None:
        raise await not_kept(caller, request)
    refuse_anothers(caller, request, model=head.model, key=head.key)
    return head


def may_read(caller: Caller, *, model: str, key: str) -> bool:
    """Whether the caller may read what `model` answered to the API key `key`: a key that may use
    some models alone reads those, and what it has sent itself (by an alias, for instance)."""
    return not caller.models or model in caller.models or key == caller.key


def refuse_anothers(caller: Caller, request: UUID, *, model: str, key: str) -> None:
    """Raise `NotKept` of a request that the caller may not read."""
    if not may_read(caller, model=model, key=key):
        raise NotKept(
            f"There is no request {request} that this API key may read: take the one that sent it, "
            "or one that may use its model."
        )


class GenerationFailed(Refused):
    """The model could not finish the answer; nothing was charged."""

    status, code = 500, "generation_failed"


class Cancelled(Refused):
    """Somebody stopped it."""

    status, code = 409, "request_cancelled"


class Overloaded(Refused):
    """It was in line, but the line was full and others had more right to it."""

    status, code = 503, "queue_full"


class Unserved(Refused):
    """It was in line, but no worker serves the model any more."""

    status, code = 503, "model_unavailable"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, or several to one prompt: the text of each, and how it ended."""

    texts: Sequence[str]
    reasons: Sequence[str]
    ended: Ended


class Generation:
    """A request in line, running, or ended and read again."""

    def __init__(
        self, job: Job | Head, standing: Standing, follower: Follower, *, repeated: bool = False
    ) -> None:
        self.job = job
        self.standing = standing
        self.repeated = repeated
        """Whether it was sent before, and is only read here."""
        self._follower = follower
        self._events = aiter(follower)
        self._early: list[Event] = []
        self._found: str | None = None
        self._answer = ""
        self._pause = 0.0

    async def begun(self) -> None:
        """Wait for the first piece where a cache may have the answer, so that it can be said
        before the answer is."""
        if not isinstance(self.job, Job) or not self.job.caching:
            return
        self._early += [await anext(self._events)]
        self._found, self._answer = await jobs.found_in(request=self.job.id)
        if self._found and self.job.cache_natural:
            self._pause = _NATURAL_SECONDS

    @property
    def cache(self) -> str | None:
        """`hit`, `semantic` (to the same in other words) or `miss`; None where nothing was looked
        for, or that is not known yet."""
        found = self.ended.cache if self.is_over else self._found
        if found:
            return "semantic" if found == "semantic" else "hit"
        looked = isinstance(self.job, Job) and self.job.caching
        return "miss" if looked and found is not None else None

    @property
    def answer(self) -> str:
        """What a cache finds its answer by; "" where none may, or that is not known yet."""
        return self.ended.answer if self.is_over else self._answer

    async def pieces(self) -> AsyncIterator[Piece]:
        """The answer as it is made; raises `GenerationFailed`, `Overloaded`, `Unserved`."""
        while self._early:
            event = self._early.pop()
            if isinstance(event, Piece):
                yield event
        async for event in self._events:
            if isinstance(event, Piece):
                if self._pause:
                    await asyncio.sleep(self._pause)
                yield event
        if self.ended.reason in _UNFINISHED:
            raise await self._refusal()

    async def _refusal(self) -> Refused:
        model = self.job.model
        if self.ended.reason == TurnedAway.SHED:
            return Overloaded(
                f"Too many requests wait for {model}; this one gave way. Nothing was charged; try "
                "again shortly.",
                retry_after=await room_in(model),
            )
        if self.ended.reason == TurnedAway.UNSERVED:
            return Unserved(
                f"No worker serves {model} at the moment. Nothing was charged; try again, or "
                "another model.",
                retry_after=_UNSERVED_RETRY_SECONDS,
            )
        return GenerationFailed(
            f"The answer could not be finished: {self.ended.error or 'the worker failed'}. "
            "Nothing was charged; try again."
        )

    def refuse_cut(self) -> None:
        """Raise `Cancelled` if it was stopped before its end: for edges that cannot say so of an
        answer. Only after the last piece."""
        if self.ended.reason == "cancelled":
            raise Cancelled(
                f"The request {self.job.id} was cancelled before its answer was whole; what came "
                "until then is billed. Send it anew, under another Idempotency-Key if it had one."
            )

    async def whole(self, *, count: int = 1) -> Answer:
        """The answer, or all of them (`count` at least), when complete; raises
        `GenerationFailed`."""
        pieces = [piece async for piece in self.pieces()]
        texts = texts_of(pieces, count=count)
        ends = {piece.choice: piece.end for piece in pieces if piece.end}
        reasons = [ends.get(choice, self.ended.reason) for choice in range(len(texts))]
        return Answer(texts, reasons, self.ended)

    @property
    def ended(self) -> Ended:
        """How it came out; only after the last piece."""
        assert self._follower.ended is not None  # noqa: S101  the caller's order, not its data
        return self._follower.ended

    @property
    def is_over(self) -> bool:
        """Whether `ended` is known."""
        return self._follower.ended is not None

    async def cancel(self) -> bool:
        """Stop within a step; tokens delivered until then are billed."""
        return await jobs.cancel(request=self.job.id, organization=self.job.organization)


@asynccontextmanager
async def generation(
    *,
    caller: Caller,
    wish: Wish,
    request: UUID,
    leaving: Leaving = Leaving.CANCEL,
    repeatable: Repeatable | None = None,
) -> AsyncIterator[Generation]:
    """Admit a request and follow it; one that is sent again is found and followed.

    Leaving before its end (a disconnect) does to it what `leaving` says; if the platform could not
    go on reading, the caller has some seconds to come back all the same. Raises what `admit` and
    `idempotency.tie` raise.
    """
    if repeatable is not None:
        request = await _tied(repeatable, caller.organization, request)
    is_known = repeatable is not None and await jobs.exists(request)
    async with AsyncExitStack() as stack:
        run = None
        if not is_known:
            first = _entered(caller, wish, request, leaving, repeatable=repeatable is not None)
            with suppress(AlreadyIn):
                run = await stack.enter_async_context(first)
        if run is None:
            again = reading(caller=caller, request=request, leaving=leaving)
            run = await stack.enter_async_context(again)
        yield run


@asynccontextmanager
async def _entered(
    caller: Caller,
    wish: Wish,
    request: UUID,
    leaving: Leaving,
    *,
    repeatable: bool,
) -> AsyncIterator[Generation]:
    """One that is sent for the first time. Raises what `admit` raises."""
    listener = await Listener.here()
    async with Follower(request, listener, organization=caller.organization) as follower:
        admission = admit(
            caller=caller,
            wish=wish,
            request=request,
            web=listener.id,
            keep=jobs.KEPT_LONG_SECONDS if repeatable else jobs.KEPT_SECONDS,
            leaving=leaving,
            repeatable=repeatable,
        )
        entering = asyncio.create_task(admission)
        try:
            admitted = await asyncio.shield(entering)
            with watch.watched(caller, scope=_SCOPE, stop=follower.stop):
                yield Generation(admitted.job, admitted.standing, follower)
        except _OURS as error:
            leaving = _patient(leaving, error, follower)
            raise
        finally:
            if follower.ended is None:
                _behind_the_callers_back(_leave_once_in(entering, leaving))


async def start(
    *,
    caller: Caller,
    wish: Wish,
    request: UUID,
    repeatable: Repeatable | None = None,
) -> UUID:
    """Admit a request that nobody waits for, and return its id; `reading` finds it."""
    if repeatable is not None:
        organization = caller.organization
        request = await _tied(repeatable, organization, request)
        if await jobs.exists(request):
            return request
    with suppress(AlreadyIn):
        await admit(
            caller=caller,
            wish=wish,
            request=request,
            web="",
            keep=jobs.KEPT_LONG_SECONDS,
            leaving=Leaving.CONTINUE,
            repeatable=True,
        )
    return request


@asynccontextmanager
async def reading(
    *,
    caller: Caller,
    request: UUID,
    after: str = "",
    leaving: Leaving = Leaving.LINGER,
) -> AsyncIterator[Generation]:
    """Follow a request of the caller's organization that was sent before; raises `NotKept`,
    or `NotKeptAnyMore` where the answer was lost.

    `after` is the entry read last; "" begins at the beginning.
    """
    listener = await Listener.here()
    organization = caller.organization
    async with Follower(request, listener, organization=organization, after=after) as follower:
        if caller.models:
            await readable(caller, request)
        head = await jobs.attach(request=request, organization=organization, web=listener.id)
        if head is None:
            raise await not_kept(caller, request)
        try:
            with watch.watched(caller, scope=_SCOPE, stop=follower.stop):
                yield Generation(head, Standing(), follower, repeated=True)
        except _OURS as error:
            leaving = _patient(leaving, error, follower)
            raise
        finally:
            if follower.ended is None:
                _behind_the_callers_back(_leave(head, leaving))


async def _tied(repeatable: Repeatable, organization: int, request: UUID) -> UUID:
    """The id under which it runs; a new one where the first came to nothing."""
    first = await idempotency.tie(repeatable, organization=organization, request=request)
    if first == request or not await jobs.came_to_nothing(first):
        return first
    return await idempotency.tie_anew(
        repeatable, organization=organization, first=first, request=request
    )


def _patient(leaving: Leaving, error: Exception, follower: Follower) -> Leaving:
    """What we could not read on is not left by its caller, who may send it again; but whoever is
    refused, or waited for too long, leaves."""
    if error is follower.stopped or isinstance(error, Silent):
        return leaving
    return Leaving.LINGER if leaving is Leaving.CANCEL else leaving


async def _leave_once_in(entering: asyncio.Task[Admitted], leaving: Leaving) -> None:
    try:
        job = (await entering).job
    except (AlreadyIn, Refused, RedisError):
        return
    await _leave(job, leaving)


async def _leave(job: Job | Head, leaving: Leaving) -> None:
    try:
        request, organization, grace = job.id, job.organization, LINGER_SECONDS
        await jobs.leave(request=request, organization=organization, leaving=leaving, grace=grace)
        left = grace if leaving is Leaving.LINGER else None
        while left is not None:
            await asyncio.sleep(left)
            left = await jobs.cancel_unread(request=request, organization=organization, grace=grace)
    except RedisError as error:
        log.warning("a request whose reader left runs on", request=str(job.id), error=str(error))


def _behind_the_callers_back(work: Coroutine[None, None, None]) -> None:
    task = asyncio.create_task(work)
    _behind.add(task)
    task.add_done_callback(_behind.discard)
