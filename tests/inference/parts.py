"""Pieces from which inference tests are made."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypeVar, cast
from uuid import UUID

from django.db import connection
from django_tenants.utils import schema_context

from billing.models import PriceVersion
from inference import line, stream
from inference.catalog.models import Model
from inference.engine import Delta, Sampling
from inference.engine.manifest import Manifest, write_manifest
from inference.jobs import Job
from inference.worker import Host
from kit.envelope import Ring
from kit.ids import request_id
from kit.redis import pipeline, state
from tenants import datakeys
from tenants.models import Organization

T = TypeVar("T")
ECHO = "echo"
RING = Ring({1: bytes(range(32))})
"""Organization 1's data keys: it has no row, nor do tests of Redis alone have a database."""
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
RATES = {"input_tokens": 1_000_000_000, "output_tokens": 2_000_000_000}
"""1,000 nanos a token in, 2,000 a token out."""


def add_model(
    folder: Path,
    *,
    name: str = ECHO,
    context: int = 512,
    times: int = 1,
    rates: Mapping[str, int] = RATES,
    dedicated_to: Organization | None = None,
) -> Model:
    """An echo model on disk, in the catalog, at `times` the price."""
    (folder / name).mkdir()
    manifest = Manifest(
        name=name,
        backend="echo",
        context=context,
        eos=(256,),
        version="1",
        quantization="none",
        parameters=0,
    )
    write_manifest(folder / name, manifest)
    PriceVersion.objects.create(
        model=name,
        currency="EUR",
        rates={meter: rate * times for meter, rate in rates.items()},
        effective_from=datetime(2026, 1, 1, tzinfo=UTC),
    )
    return Model.objects.create(
        name=name,
        title=name,
        backend="echo",
        folder=name,
        version="1",
        context=context,
        default_max_tokens=64,
        published=True,
        dedicated_to=dedicated_to,
    )


def job(**fields: Any) -> Job:
    """A request of organization 1."""
    return Job(
        **{
            "id": request_id(datetime.now(UTC)),
            "organization": 1,
            "schema": "org_acme",
            "key": "key000000000",
            "model": ECHO,
            "model_version": "1",
            "priority": 1,
            "prompt": (104, 105),
            "sampling": Sampling(max_tokens=8),
            "price_version": 1,
            "endpoint": "test",
            "label": "",
            "region": "local",
            **fields,
        }
    )


def submit(*some: Job, web: str = "web") -> list[bool]:
    """Put requests in line, past limits and credit; of which of them the workers are to be told."""
    told = []
    for each in some:
        ticket, ring = f"ticket:{each.id}", datakeys.ring(each.organization)
        state().set(ticket, "credit:0")

        def script(pipe: Any, each: Job = each, ticket: str = ticket, ring: Ring = ring) -> None:
            line.submit(pipe, ticket=ticket, job=each, ring=ring, web=web)

        told.append(line.submitted(pipeline(script)[0]))
    return told


def append(step: Iterable[tuple[UUID, int, Delta]], organization: int = 1) -> list[str]:
    """Write one step of an organization's requests."""
    return stream.append(
        [
            (request, attempt, delta, RING.cipher(stream.place(organization, request)))
            for request, attempt, delta in step
        ]
    )


def emitted(request: UUID, organization: int = 1) -> tuple[int, ...]:
    """The tokens in a request's stream."""
    return stream.emitted(organization, request)


def fields(request: UUID) -> dict[str, str]:
    """A job as Redis has it."""
    found = cast("dict[bytes, bytes]", state().hgetall(f"job:{request}"))
    return {name.decode(): value.decode("latin1") for name, value in found.items()}


async def in_schema(schema: str, read: Callable[[], T]) -> T:
    """What `read` finds in the database, in that schema, from a coroutine."""

    def work() -> T:
        try:
            with schema_context(schema):
                return read()
        finally:
            connection.close()

    return await asyncio.to_thread(work)


@contextmanager
def serving(host: Host, *, model: str = ECHO, threads: int = 2) -> Iterator[None]:
    """Do what the announcements of a Celery broker would: serve, as long as the block runs."""
    over = Event()

    def serve() -> None:
        while not over.wait(0.01):
            host.serve(model)

    workers = [Thread(target=serve) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        over.set()
        for worker in workers:
            worker.join(10)
