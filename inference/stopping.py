"""Requests in flight whose callers may no more.

What somebody reads is stopped where it is read (`tenants.watch`); a request in background has
nobody there.
"""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import cast
from uuid import UUID

from inference import jobs
from inference.catalog.offers import published
from inference.job import Job
from kit.errors import Refused, Unavailable
from kit.redis import async_state, leave_loop
from tenants.auth import recalled
from tenants.models import Organization

_AT_ONCE = 500


def stop_refused(organization: int) -> int:
    """Cancel what the organization has waiting and running for callers who would be refused now;
    how many requests. In a thread that has no event loop."""
    slug = Organization.objects.filter(pk=organization).values_list("slug", flat=True).first()
    return asyncio.run(_stop(organization, slug, published())) if slug is not None else 0


async def _stop(organization: int, slug: str, models: Collection[str]) -> int:
    stopped = 0
    try:
        for key, requests in (await _in_flight(organization, models)).items():
            if await _is_refused(key, slug):
                for request in requests:
                    stopped += await jobs.cancel(request=request, organization=organization)
    finally:
        await leave_loop()
    return stopped


async def _is_refused(key: str, slug: str) -> bool:
    try:
        await recalled(key, slug=slug)
    except Unavailable:
        return False
    except Refused:
        return True
    return False


async def _in_flight(organization: int, models: Collection[str]) -> Mapping[str, Sequence[UUID]]:
    """The requests of each caller."""
    client, names = async_state(), list[bytes]()
    for each in (jobs.LEASES, *(f"queue:{model}" for model in models)):
        names += cast("list[bytes]", await client.zrange(each, 0, -1))
    found: dict[str, list[UUID]] = defaultdict(list)
    for start in range(0, len(names), _AT_ONCE):
        async with client.pipeline(transaction=False) as pipe:
            for name in names[start : start + _AT_ONCE]:
                pipe.hmget(f"job:{name.decode()}", "org", "spec")
            for owner, spec in await pipe.execute():
                if owner and spec and int(owner) == organization:
                    job = Job.load(spec)
                    found[job.key].append(job.id)
    return found
