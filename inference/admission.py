"""Letting a request in: limits, credit and a place in line, in one round trip to Redis.

Three scripts of three rooms go in one pipeline, chained by a ticket: each acts only if the one
before it has let the request pass. No PostgreSQL, but to rebuild counters that Redis has lost.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from django.conf import settings

from billing import credit, pricing
from billing.models import IN_BATCHES, Meter
from billing.pricing import Price
from inference import jobs, line, responses, reuse
from inference.announce import Announcement, announce
from inference.catalog.offers import Offer, offer
from inference.engine import Sampling
from inference.jobs import Job, Leaving, Reuse
from inference.line import AlreadyIn
from inference.remote import refuse_unknown
from kit import origin
from kit.errors import Refused
from kit.redis import async_pipeline
from tenants import datakeys, limits
from tenants.auth import Caller
from tenants.limits import Scope
from tenants.models import Retention

Entered = TypeVar("Entered")
Scripts = Callable[[Any], None]
"""What queues an admission's scripts on a pipeline."""

_CREDIT_WAIT = 2.0
"""How long a request waits for others' reservations to be settled, in seconds."""
_refusals = line.Refusals()


class ContextOverflow(Refused):
    """Prompt and answer do not fit the model's context."""

    status, code = 400, "context_length_exceeded"


class EmptyPrompt(Refused):
    """Nothing to answer."""

    status, code = 400, "empty_prompt"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller wants: `n` answers to a prompt in tokens, by a model; a remote one gets
    `messages`."""

    offer: Offer
    prompt: tuple[int, ...]
    sampling: Sampling
    endpoint: str
    label: str = ""
    project: str = ""
    messages: Sequence[Mapping[str, Any]] = ()
    asked: str = ""
    """The model asked for, where `offer` stands in for it."""
    n: int = 1
    lengths: tuple[int, ...] = ()
    """Of the texts that `prompt` has one after another: to be embedded, or to be answered by `n`
    answers altogether."""
    in_batch: bool = False
    """Whether it is counted by the meters of batches."""
    seeded: bool = True
    """Whether the caller named the seed."""
    caching: Reuse | None = None
    """As the request says, instead of its organization."""
    likeness: float | None = None
    """How alike another question must be, as the request says."""
    natural: bool = False
    """Whether an answer that a cache has is streamed as if it were made."""
    priority: int | None = None
    """In line, if that is less urgent than its organization's."""
    timeout: float = 0.0
    """Seconds it may take, waiting included; 0: as long as it takes."""
    frame: Mapping[str, Any] | None = None
    """Of a response that is stored: see `inference.responses`."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request in line, and where its caller stands with the limits."""

    job: Job
    standing: limits.Standing


def room_for(offer: Offer, *, prompt: int, max_tokens: int | None, param: str) -> int:
    """The most tokens the answer may have; raises `EmptyPrompt` or `ContextOverflow`.

    Without `max_tokens` the model's default applies, cut to what the context has left.
    """
    if prompt == 0:
        raise EmptyPrompt(f"{param} is empty; say something to the model.", param=param)
    left = offer.context - prompt
    wanted = min(offer.default_max_tokens, left) if max_tokens is None else max_tokens
    if wanted > left or left < 1:
        raise ContextOverflow(
            f"{offer.name} has a context of {offer.context:,} tokens, but this asks for "
            f"{prompt + max(wanted, 1):,} ({prompt:,} in the prompt, {max(wanted, 1):,} for the "
            f"answer). Shorten the prompt or lower max_tokens.",
            param=param,
        )
    return wanted


async def admit(
    *,
    caller: Caller,
    wish: Wish,
    request: UUID,
    web: str,
    keep: int = jobs.KEPT_SECONDS,
    leaving: Leaving = Leaving.LINGER,
    repeatable: bool = False,
) -> Admitted:
    """Reserve what the request can cost at most, put it in line, and tell the workers.

    `web` is the web process that reads it, "" if none does; `keep` how many seconds its stream can
    be read after its end; `leaving` what becomes of it when its readers leave. `repeatable`: others
    may try to admit it under the same id at the same time; of them one does.

    Raises the refusals of `tenants.limits`, `billing.credit` and `inference.line`; then nothing
    is counted or held. And `AlreadyIn`.
    """
    newcomer = line.Newcomer(
        wish.offer.name, caller.organization, _priority(caller, wish), patient=not web
    )
    if not repeatable:
        _refusals.refuse_again(newcomer)
    try:
        return await _admit(caller, wish, request, web, keep, leaving, repeatable=repeatable)
    except line.QueueFull as refusal:
        _refusals.note(newcomer, refusal)
        raise


async def _admit(
    caller: Caller,
    wish: Wish,
    request: UUID,
    web: str,
    keep: int,
    leaving: Leaving,
    *,
    repeatable: bool,
) -> Admitted:
    ring = await datakeys.aring(caller.organization)
    scopes = limits.scopes(caller, model=wish.offer.name, alias=wish.offer.alias)

    async def enter(price: Price) -> tuple[Job, limits.Standing, bool]:
        job = _job(caller, wish, request, price.version, scopes)
        frame = responses.sealed(wish.frame, ring, organization=job.organization, request=request)
        submit = partial(
            line.submit, job=job, ring=ring, web=web, keep=keep, frame=frame, leaving=leaving
        )
        return job, *await _enter(job, price, scopes, submit, repeatable=repeatable)

    name, organization = wish.offer.name, caller.organization
    job, standing, to_be_told = await _priced(name, organization, enter)
    if to_be_told:
        announce(Announcement(job.model, wish.offer.queue, request=str(request)))
    return Admitted(job=job, standing=standing)


async def admit_again(job: Job, *, request: UUID) -> None:
    """Put a request that ended without its answer in line once more, as `request`.

    At today's price, for nobody to wait for, and counted in no limit: its caller does not ask.
    Raises `UnknownModel` and the refusals of `billing.credit` and `inference.line`.
    """
    model = await offer(job.model, caller=None)
    ring = await datakeys.aring(job.organization, needs=job.sealed_under)

    async def enter(price: Price) -> bool:
        fresh = replace(
            job.unsealed(ring),
            id=request,
            model_version=model.version,
            price_version=price.version,
            counted=(),
        )
        submit = partial(
            line.submit,
            job=fresh,
            ring=ring,
            web="",
            keep=jobs.KEPT_LONG_SECONDS,
            leaving=Leaving.CONTINUE,
        )
        with suppress(AlreadyIn):
            return (await _enter(fresh, price, (), submit, repeatable=True))[1]
        return False

    if await _priced(job.model, job.organization, enter):
        announce(Announcement(job.model, model.queue, request=str(request)))


async def _priced(
    model: str, organization: int, enter: Callable[[Price], Awaitable[Entered]]
) -> Entered:
    """Enter at the price in force; read anew where the account turns out to have its currency of
    late."""
    price = await pricing.price_of(model, organization=organization)
    try:
        return await enter(price)
    except credit.OtherCurrency:
        pricing.forget()
    return await enter(await pricing.price_of(model, organization=organization))


async def _enter(
    job: Job,
    price: Price,
    scopes: Sequence[Scope],
    submit: Callable[..., None],
    *,
    repeatable: bool,
) -> tuple[limits.Standing, bool]:
    """Where its caller stands then, and whether the workers are to be told."""
    most = pricing.most(price, **job.units(read=job.input_tokens, written=job.output_tokens))
    if job.caching:
        most = max(most, pricing.most(price, **{Meter.RESPONSE_CACHE_TOKENS: job.cost}))
    scripts = partial(
        _scripts, scopes=scopes, job=job, most=most, currency=price.currency, submit=submit
    )
    try:
        return await _try_until_paid(job, scopes, scripts, repeatable)
    except AlreadyIn as twin:
        if twin.is_over:
            await withdraw(job, unless_in=False)
        raise
    except Refused:
        await withdraw(job)
        raise


async def _try_until_paid(
    job: Job, scopes: Sequence[Scope], scripts: Scripts, repeatable: bool
) -> tuple[limits.Standing, bool]:
    give_up = time.monotonic() + _CREDIT_WAIT
    while True:
        # In one go where twins try: what one counts and holds is then never half another's.
        replies = await async_pipeline(scripts, atomic=repeatable)
        try:
            line.refuse_twin(replies[2])
            standing = limits.admitted(replies[0], scopes)
            credit.reserved(replies[1])
            to_be_told = line.submitted(replies[2])
        except credit.CreditMissing:
            await asyncio.to_thread(credit.rebuild, job.organization)
        except credit.CreditReserved:
            if time.monotonic() > give_up:
                raise
            await asyncio.sleep(0.05)
        else:
            return standing, to_be_told


async def withdraw(job: Job, *, unless_in: bool = True) -> None:
    """Count and hold nothing for a request that did not get in: `unless_in`, where it has got in
    meanwhile, its twin's counts and hold are left alone."""
    unless = f"job:{job.id}" if unless_in else None

    def scripts(pipe: Any) -> None:
        limits.withdraw(pipe, counted=job.counted, request=job.id, unless=unless)
        credit.release(pipe, organization=job.organization, request=job.id, unless=unless)

    await async_pipeline(scripts)


def _scripts(
    pipe: Any,
    *,
    scopes: Sequence[Scope],
    job: Job,
    most: int,
    currency: str,
    submit: Callable[..., None],
) -> None:
    ticket = f"ticket:{job.id}"
    limits.admit(pipe, ticket=ticket, scopes=scopes, request=job.id, tokens=job.cost)
    credit.reserve(
        pipe,
        ticket=ticket,
        organization=job.organization,
        request=job.id,
        amount=most,
        currency=currency,
        key=job.key,
        project=job.project,
    )
    submit(pipe, ticket=ticket)


def _job(
    caller: Caller, wish: Wish, request: UUID, price_version: int, scopes: Sequence[Scope]
) -> Job:
    remote = wish.offer.remote is not None
    if remote:
        refuse_unknown(wish.sampling)
    retention, (reads, writes) = _retention(caller, wish), _meters(wish)
    reused = reuse.of(
        caller, wish.offer, said=wish.caching, messages=wish.messages, embeds=bool(wish.lengths)
    )
    # Whose seed is nobody's is everybody's: so the same question has the same answer.
    anyone = bool(reused.mode) and not wish.seeded
    return Job(
        id=request,
        organization=caller.organization,
        schema=caller.schema,
        key=caller.key,
        model=wish.offer.name,
        model_version=wish.offer.version,
        priority=_priority(caller, wish),
        prompt=() if remote else wish.prompt,
        lengths=wish.lengths,
        messages=tuple(wish.messages) if remote or retention == Retention.TEXTS else (),
        prompt_tokens=len(wish.prompt),
        n=wish.n,
        sampling=replace(wish.sampling, seed=0) if anyone else wish.sampling,
        price_version=price_version,
        endpoint=wish.endpoint,
        label=wish.label,
        project=wish.project or origin.current().project,
        region=settings.REGION,
        counted=tuple(scope.name for scope in scopes),
        retention=retention,
        timeout=wish.timeout,
        caching=reused.mode,
        cache_seconds=reused.seconds,
        cache_epoch=reused.epoch,
        cache_adaptive=reused.adaptive,
        cache_natural=wish.natural,
        meant=reused.meant,
        likeness=reused.likeness if wish.likeness is None else wish.likeness,
        reads=reads,
        writes=writes,
    )


def _priority(caller: Caller, wish: Wish) -> int:
    """The less urgent one of its plan's and its own."""
    return int(max(caller.priority, wish.priority or 0))


def _meters(wish: Wish) -> tuple[str, str]:
    """What is counted of its prompt, and of its answers."""
    kind = IN_BATCHES if wish.in_batch else ""
    if wish.offer.is_encoder:
        return f"{kind}{Meter.EMBEDDING_TOKENS}", ""
    return f"{kind}{Meter.INPUT_TOKENS}", f"{kind}{Meter.OUTPUT_TOKENS}"


def _retention(caller: Caller, wish: Wish) -> str:
    """What was embedded is not kept in the history: its vectors are no answer to be read."""
    if wish.offer.is_encoder and caller.retention == Retention.TEXTS:
        return Retention.ANSWERS
    return caller.retention
