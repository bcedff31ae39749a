"""What an organization asks of the platform besides running models: so much a minute, so much at
once, counted over all processes by the script that counts requests to models (`tenants.limits`).

The work itself goes through threads of its own, of which no organization takes more than half, and
the database gives each statement some seconds (`kit.threads`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from uuid import UUID

import structlog
from django.conf import settings
from redis.exceptions import RedisError

from kit import statements, threads
from kit.redis import async_pipeline, pipeline
from tenants import limits
from tenants.auth import Limits
from tenants.limits import Scope, Standing

_LOST_MS = 120_000
"""How long one counts as running whose process died."""

log = structlog.get_logger()


async def enter(organization: int, request: UUID) -> Standing:
    """Count one more, which runs until it leaves; raises `LimitReached`."""
    scopes = (_scope(organization),)
    [reply] = await async_pipeline(partial(_admit, scopes=scopes, request=request))
    standing = limits.admitted(reply, scopes)
    threads.take_lane(organization)
    return standing


async def leave(organization: int, request: UUID) -> None:
    """It runs no more."""
    counted = (_scope(organization).name,)
    try:
        await async_pipeline(partial(limits.settle, counted=counted, request=request, tokens=0))
    except RedisError as error:
        log.warning("Redis was not told who left", error=str(error))


@contextmanager
def entered(organization: int, request: UUID) -> Iterator[None]:
    """Both, around a page; raises `LimitReached`."""
    scopes = (_scope(organization),)
    [reply] = pipeline(partial(_admit, scopes=scopes, request=request))
    limits.admitted(reply, scopes)
    counted = (scopes[0].name,)
    try:
        with statements.in_time():
            yield
    finally:
        try:
            pipeline(partial(limits.settle, counted=counted, request=request, tokens=0))
        except RedisError as error:
            log.warning("Redis was not told who left", error=str(error))


def _scope(organization: int) -> Scope:
    bounds = Limits(
        requests_per_minute=settings.MANAGEMENT_PER_MINUTE,
        concurrent_requests=settings.MANAGEMENT_AT_ONCE,
    )
    whose = "your organization, besides requests to models"
    return Scope(f"management:{organization}", "management", whose, bounds)


def _admit(pipe: object, *, scopes: tuple[Scope, ...], request: UUID) -> None:
    limits.admit(
        pipe,
        ticket=f"ticket:{request}",
        scopes=scopes,
        request=request,
        tokens=0,
        lost_ms=_LOST_MS,
    )
