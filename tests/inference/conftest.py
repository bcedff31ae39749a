"""The echo model on offer, priced, and a worker's inside that serves it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from billing import pricing
from billing.models import Account, PriceVersion
from inference.announce import Announcement
from inference.catalog import offers
from inference.catalog.offers import Offer
from inference.engine import Sampling
from inference.fleet import pulse
from inference.jobs import Job
from inference.worker import Host
from tenants import datakeys
from tenants.auth import Caller
from tenants.models import ApiKey, Organization
from tests import factories
from tests.inference.clients import encoder as encoder
from tests.inference.clients import encoder_folder as encoder_folder
from tests.inference.clients import encoding as encoding
from tests.inference.clients import http as http
from tests.inference.clients import openai as openai
from tests.inference.parts import ECHO, RING, add_model, job, submit


@pytest.fixture(autouse=True)
def _fresh_snapshots() -> Iterator[None]:
    """Catalog and prices are held in memory; each test has its own."""
    for each in (offers, pricing, pulse):
        each.forget()
    yield
    for each in (offers, pricing, pulse):
        each.forget()


@pytest.fixture(autouse=True)
def _a_ring(_fresh_data_keys: None) -> None:
    """See `RING`."""
    for organization in (1, 2, 3):
        datakeys._hold(organization, RING)


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models announced, instead of a broker that nobody consumes."""
    said: list[str] = []

    def note(work: Announcement) -> None:
        said.append(work.model)

    for module in ("inference.admission", "inference.worker.host", "inference.worker.watch"):
        monkeypatch.setattr(f"{module}.announce", note)
    return said


@pytest.fixture
def echo(
    transactional_db: None, redis: Redis, tmp_path: Path, settings: Any, announced: list[str]
) -> Offer:
    """The echo model, published and priced."""
    settings.MODELS_DIR = tmp_path
    settings.DEFAULT_MODEL = ECHO
    add_model(tmp_path)
    return offers.published()[ECHO]


@pytest.fixture
def account(echo: Offer, acme: Organization) -> Account:
    """Acme's, with one euro of credit."""
    return factories.account(acme, credit_limit=1_000_000_000)


@pytest.fixture
def caller(account: Account, acme: Organization) -> Caller:
    """Acme's program, without limits."""
    ApiKey.objects.bulk_create([ApiKey(id="key000000000", organization=acme, name="a caller's")])
    return factories.caller(organization=acme.pk, schema=acme.schema_name)


@pytest.fixture
def host(echo: Offer) -> Iterator[Host]:
    """A worker with the echo model in it; nothing serves until a test says so."""
    host = Host([echo], slots=4)
    host.start()
    yield host
    host.drain(0)


@pytest.fixture
def one(caller: Caller, echo: Offer) -> Job:
    """A request of acme's, in line: it has no reservation, which settles to nothing."""
    made = job(
        organization=caller.organization,
        schema=caller.schema,
        prompt=tuple(echo.text.chat([{"role": "user", "content": "x" * 40}])),
        sampling=Sampling(max_tokens=100),
        price_version=PriceVersion.objects.get().pk,
    )
    submit(made)
    return made
