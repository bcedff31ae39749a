"""OpenAI's client on the application itself, and the sentence encoder beside the echo model."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from openai import AsyncOpenAI

from billing.models import PriceVersion
from config.asgi import application
from inference.catalog import offers
from inference.catalog.models import Model
from inference.catalog.offers import Offer
from inference.engine import read_manifest
from inference.engine.prepare import prepare
from inference.worker import Host

ENCODER = "all-minilm-l6-v2"
ENCODER_RATES = {"embedding_tokens": 3_000_000_000, "batch_embedding_tokens": 1_500_000_000}
"""3,000 nanos a token, half of it in batches."""


@pytest.fixture(scope="session")
def encoder_folder(request: pytest.FixtureRequest) -> Path:
    """The encoder that ships, prepared in var/ unless it is there already."""
    models = request.config.rootpath / "var" / "models"
    return models / prepare(ENCODER, models).name


@pytest.fixture
def encoder(echo: Offer, encoder_folder: Path, settings: Any) -> Offer:
    """It, published and priced beside the echo model."""
    settings.DEFAULT_EMBEDDING_MODEL = ENCODER
    (settings.MODELS_DIR / ENCODER).symlink_to(encoder_folder)
    manifest = read_manifest(encoder_folder)
    PriceVersion.objects.create(
        model=ENCODER,
        currency="EUR",
        rates=ENCODER_RATES,
        effective_from=datetime(2026, 1, 1, tzinfo=UTC),
    )
    Model.objects.create(
        name=ENCODER,
        title=ENCODER,
        backend=manifest.backend,
        folder=ENCODER,
        version=manifest.version,
        context=manifest.context,
        published=True,
    )
    offers.forget()
    return offers.published()[ENCODER]


@pytest.fixture
def encoding(echo: Offer, encoder: Offer) -> Iterator[Host]:
    """A worker that has both."""
    host = Host([echo, encoder], slots=4)
    host.start()
    yield host
    host.drain(0)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, without a server between."""
    transport = httpx.ASGITransport(app=application)
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        yield client


@pytest.fixture
async def openai(http: httpx.AsyncClient, key: str) -> AsyncOpenAI:
    """OpenAI's client, with nothing changed but its address and key."""
    return AsyncOpenAI(
        base_url="http://testserver/v1", api_key=key, http_client=http, max_retries=0
    )
