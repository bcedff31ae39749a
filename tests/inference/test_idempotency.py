"""Every POST that runs a model, or moves money, is one however often it is sent under one key."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from django.urls import URLPattern, URLResolver, get_resolver

from billing.models import Account, LedgerEntry
from billing.receivables import Checkout
from inference.batches.models import Batch
from inference.worker import Host
from tenants import tokens
from tenants.models import LogIn, Organization, User
from tests import factories
from tests.inference.clients import ENCODER
from tests.inference.parts import ECHO, in_schema, serving
from tests.inference.test_api import events, post
from tests.stripe.server import Double

pytestmark = pytest.mark.django_db(transaction=True)

_PROMPT = {"prompt": "hello"}
RUNS: dict[str, Any] = {
    "v1/chat/completions": {"model": ECHO, "messages": [{"role": "user", "content": "hello"}]},
    "v1/completions": {"model": ECHO, "prompt": "hello"},
    "v1/responses": {"model": ECHO, "input": "hello"},
    "v1/moderations": {"input": "hello"},
    "v1/embeddings": {"model": ENCODER, "input": "hello"},
    "api/v1/infer": _PROMPT,
    "api/v1/infer/stream": _PROMPT,
    "api/v1/embeddings": {"text": "hello"},
    "api/v1/similarity": {"text": "hello", "texts": ["hi"]},
}
BATCHES: dict[str, Any] = {"api/v1/infer/batch": {"requests": [_PROMPT]}}
MONEY = {"api/v1/billing/checkouts"}
ELSEWHERE = {
    "v1/batches": "as api/v1/infer/batch, by the same function",
    "api/v1/stripe/events": "each event of Stripe's is taken once, by its own id",
    "api/v1/budgets": "one a subject, by constraint; moves nothing",
    "api/v1/billing/subscription/quote": "changes nothing",
    "api/v1/estimates": "runs nothing",
    "api/v2/infer": "see test_versions.py",
}
HARMLESS = (
    "api/v1/auth/", "api/v1/exports", "api/v1/invitations", "api/v1/keys", "api/v1/members",
    "api/v1/ownership", "api/v1/login", "api/v1/webhooks", "v1/files",
)  # fmt: skip


def routes(resolver: URLResolver, prefix: str = "") -> Iterator[str]:
    """Those of the API that take a POST."""
    for each in resolver.url_patterns:
        path = prefix + str(each.pattern)
        if isinstance(each, URLResolver):
            yield from routes(each, path)
        elif isinstance(each, URLPattern) and _is_post(each) and path.startswith(("v1/", "api/")):
            yield path


def _is_post(pattern: URLPattern) -> bool:
    return hasattr(getattr(pattern.callback, "view_class", None), "post")


def test_every_post_of_the_api_is_in_one_of_these_tables() -> None:
    known = {*RUNS, *BATCHES, *MONEY, *ELSEWHERE}
    found = {
        path
        for path in routes(get_resolver())
        if not path.startswith(HARMLESS) and not path.endswith("/cancel")
    }
    assert found == known


@pytest.fixture
def key(account: Account, acme: Organization) -> str:
    """Acme's program's key."""
    return factories.api_key(acme)[1]


@pytest.mark.parametrize("path", RUNS)
async def test_what_runs_a_model_runs_once_and_says_the_same(
    path: str, key: str, encoding: Host, acme: Organization
) -> None:
    again = {"Idempotency-Key": f"again {path}"}
    said = []
    encodes = ("embeddings", "similarity", "moderations")
    model = ENCODER if path.endswith(encodes) else ECHO
    with serving(encoding, model=model):
        for _ in range(2):
            response = await post(f"/{path}", RUNS[path], key, **again)
            assert response.status_code == 200, response.content
            text = await events(response) if response.streaming else response.json()
            said.append((response["X-Request-ID"], _without_time(text)))
            assert (response.get("Idempotent-Replayed") == "true") == (len(said) == 2)
        other = await post(f"/{path}", RUNS[path] | {"user": "other"}, key, **again)
    assert said[0] == said[1]
    assert other.status_code in (400, 409)
    count = await in_schema("public", LedgerEntry.objects.for_org(acme).count)
    assert count == 1


@pytest.mark.parametrize("path", BATCHES)
async def test_a_batch_sent_again_is_the_same_batch(
    path: str, key: str, encoding: Host, acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = {"Idempotency-Key": "batch"}
    first, second = [await post(f"/{path}", BATCHES[path], key, **again) for _ in range(2)]
    assert (first.status_code, second.status_code) == (202, 202)
    assert first["Location"] == second["Location"]
    assert await in_schema("public", Batch.objects.for_org(acme).count) == 1
    other = await post(f"/{path}", {"requests": [{"prompt": "bye"}]}, key, **again)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")


async def test_a_page_to_pay_at_is_one(
    account: Account, acme: Organization, alice: User, double: Double
) -> None:
    bearer = await in_schema("public", lambda: _bearer(alice))
    wish = {"kind": "top_up", "amount": "25.00", "return_url": "https://x.example/"}
    headers = {"Idempotency-Key": "page", "X-Organization": acme.slug}
    path = "/api/v1/billing/checkouts"
    first, second = [await post(path, wish, bearer, **headers) for _ in range(2)]
    assert (first.status_code, second.status_code) == (202, 202), first.content
    assert first.json()["id"] == second.json()["id"]
    assert await in_schema("public", Checkout.objects.for_org(acme).count) == 1
    other = await post(path, wish | {"amount": "50.00"}, bearer, **headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")


def _bearer(user: User) -> str:
    now = datetime.now(UTC)
    login = LogIn(user=user, created_at=now, refreshed_at=now)
    pair = tokens.pair(user=user.pk, login=login.pk)
    login.token = pair.token
    login.save(force_insert=True)
    return pair.access


def _without_time(said: Any) -> Any:
    if isinstance(said, dict):
        return {name: each for name, each in said.items() if name not in ("latency_ms", "created")}
    return said
