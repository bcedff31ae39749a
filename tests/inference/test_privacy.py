"""What is kept of prompts and answers: sealed, as long as the organization wants, and no longer."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django_tenants.utils import schema_context
from redis import Redis

from billing.models import LedgerEntry
from inference import live, tasks, texts
from inference.catalog.offers import Offer
from inference.models import Request, RequestText
from inference.worker import Host
from kit.envelope import Unreadable
from tenants import audit, datakeys, organizations
from tenants.models import AuditEntry, Organization, Retention
from tests import factories
from tests.inference.parts import fields, in_schema, serving
from tests.inference.test_reading import ask, background

pytestmark = pytest.mark.django_db(transaction=True)

CANARY = "the canary sings at dawn"
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture
def key(account: Any, acme: Organization) -> str:
    return factories.api_key(acme)[1]


@pytest.fixture
def chosen(request: pytest.FixtureRequest, key: str, acme: Organization) -> Organization:
    """Acme, having chosen what is kept."""
    keep(acme, request.param)
    return acme


def keep(of: Organization, retention: Retention, days: int = 30) -> None:
    organizations.keep(of, retention, days=days, now=NOW, by=audit.SYSTEM)
    of.refresh_from_db()


def in_redis(redis: Redis) -> bytes:
    """Every value that Redis has."""
    found: list[Any] = []
    for name in redis.scan_iter():
        match redis.type(name):
            case b"hash":
                found.append(redis.hgetall(name))
            case b"stream":
                found.append(redis.xrange(name))
            case b"string":
                found.append(redis.get(name))
    return repr(found).encode()


async def read_to_its_end(key: str, request: str) -> Any:
    """The answer, once its stream has ended."""
    stream = await ask("GET", f"/api/v1/requests/{request}/stream", key)
    async for _ in stream.streaming_content:
        pass
    return (await ask("GET", f"/api/v1/requests/{request}", key)).json()


async def test_neither_prompt_nor_answer_stands_in_redis_in_the_clear(
    key: str, host: Host, redis: Redis
) -> None:
    request = await background(key, CANARY)
    waiting = in_redis(redis)
    assert b"sealed_prompt" in waiting
    with serving(host):
        answer = await read_to_its_end(key, request)
    assert answer["text"] == CANARY
    numbers = ", ".join(str(each) for each in CANARY.encode()).encode()
    for found in (waiting, in_redis(redis)):
        assert CANARY.encode() not in found
        assert numbers not in found
        assert numbers.replace(b" ", b"") not in found
    assert "sealed_prompt" not in fields(UUID(request))


@pytest.mark.parametrize("chosen", [Retention.NOTHING], indirect=True)
async def test_an_answer_of_which_nothing_is_kept_is_read_for_five_minutes_and_never_run_again(
    chosen: Organization, key: str, host: Host, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_QUIET_SECONDS", 0.05)
    body = {"prompt": CANARY}
    again = {"Idempotency-Key": "one"}
    with serving(host):
        first = await ask("POST", "/api/v1/infer", key, body, **again)
        request = first.json()["request_id"]
        assert 0 < redis.ttl(f"stream:{request}") <= 300
        assert redis.ttl(f"job:{request}") > 3600
        replayed = await ask("POST", "/api/v1/infer", key, body, **again)
        assert replayed.json()["text"] == CANARY
        redis.delete(f"stream:{request}")
        late = await ask("POST", "/api/v1/infer", key, body, **again)
    assert (late.status_code, late.json()["code"]) == (410, "answer_not_kept")
    assert await in_schema("public", LedgerEntry.objects.across_organizations().count) == 1
    assert await in_schema("org_acme", RequestText.objects.count) == 0


@pytest.mark.parametrize("chosen", [Retention.TEXTS], indirect=True)
async def test_texts_are_kept_sealed_and_read_when_redis_has_forgotten(
    chosen: Organization, key: str, host: Host, redis: Redis
) -> None:
    with serving(host):
        request = (await ask("POST", "/api/v1/infer", key, {"prompt": CANARY})).json()["request_id"]
    row = await in_schema("org_acme", lambda: RequestText.objects.get(pk=request))
    assert CANARY.encode() not in bytes(row.asked) + bytes(row.answered)
    redis.delete(f"stream:{request}", f"job:{request}")
    answer = (await ask("GET", f"/api/v1/requests/{request}", key)).json()
    assert answer["text"] == CANARY
    assert answer["messages"] == [{"role": "user", "content": CANARY}]
    assert answer["state"] == "remembered"


@pytest.mark.parametrize("chosen", [Retention.TEXTS], indirect=True)
async def test_the_prompts_of_completions_are_kept_too(
    chosen: Organization, key: str, host: Host
) -> None:
    body = {"model": "echo", "prompt": CANARY}
    with serving(host):
        for prompt in (CANARY, [*CANARY.encode()], [CANARY, "and more"]):
            await ask("POST", "/v1/completions", key, {**body, "prompt": prompt})
    rows = await in_schema("org_acme", lambda: list(RequestText.objects.order_by("request")))

    def contents() -> list[list[str]]:
        kept = [texts.opened(chosen.pk, row) for row in rows]
        return [[each["content"] for each in one.messages] for one in kept]

    assert await in_schema("public", contents) == [[CANARY], [CANARY], [CANARY, "and more"]]


async def test_by_default_the_history_has_figures_only(key: str, host: Host, echo: Offer) -> None:
    with serving(host):
        await ask("POST", "/api/v1/infer", key, {"prompt": CANARY})
    assert await in_schema("org_acme", Request.objects.count) == 1
    assert await in_schema("org_acme", RequestText.objects.count) == 0


@pytest.mark.parametrize("chosen", [Retention.TEXTS], indirect=True)
async def test_another_organizations_texts_are_not_to_be_had(
    chosen: Organization, key: str, host: Host, redis: Redis, globex: Organization
) -> None:
    await in_schema("public", lambda: keep(globex, Retention.TEXTS))
    bobs = (await in_schema("public", lambda: factories.api_key(globex)))[1]
    with serving(host):
        request = (await ask("POST", "/api/v1/infer", key, {"prompt": CANARY})).json()["request_id"]
    redis.delete(f"stream:{request}", f"job:{request}")
    assert (await ask("GET", f"/api/v1/requests/{request}", bobs)).status_code == 404


@pytest.mark.parametrize("chosen", [Retention.TEXTS], indirect=True)
async def test_texts_without_their_data_key_are_noise(
    chosen: Organization, key: str, host: Host
) -> None:
    with serving(host):
        request = (await ask("POST", "/api/v1/infer", key, {"prompt": CANARY})).json()["request_id"]

    def destroyed() -> None:
        datakeys.destroy(chosen.pk)
        with pytest.raises(Unreadable):
            texts.read(chosen.pk, UUID(request))

    await in_schema("public", destroyed)


def remember(of: Organization, *days_ago: int) -> None:
    with schema_context(of.schema_name):
        RequestText.objects.bulk_create(
            RequestText(
                request=UUID(int=days),
                asked=b"x",
                answered=b"y",
                finished_at=NOW - timedelta(days=days),
            )
            for days in days_ago
        )


def left(of: Organization) -> list[int]:
    with schema_context(of.schema_name):
        rows = RequestText.objects.order_by("pk")
        return [each.int for each in rows.values_list("pk", flat=True)]


@pytest.mark.parametrize(
    ("retention", "kept"), [("texts", [1, 6]), ("answers", []), ("nothing", [])]
)
def test_purging_leaves_what_is_to_be_kept(
    retention: str,
    kept: list[int],
    acme: Organization,
    globex: Organization,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(texts, "PURGED_AT_ONCE", 2)
    keep(acme, Retention(retention), days=7)
    keep(globex, Retention.TEXTS, days=30)
    for each in (acme, globex):
        remember(each, 1, 6, 8, 9, 10, 11, 12)
    monkeypatch.setattr("inference.tasks.timezone.now", lambda: NOW)
    assert tasks.purge_texts() == 7 - len(kept)
    assert left(acme) == kept
    assert len(left(globex)) == 7
    assert tasks.purge_texts() == 0, "again changes nothing"


def test_choosing_leaves_its_mark_once(acme: Organization) -> None:
    for _ in range(2):
        keep(acme, Retention.TEXTS, days=7)
    entry = AuditEntry.objects.for_org(acme).get(action="organization.retention")
    assert entry.before == {"retention": "answers", "kept_days": 30}
    assert entry.after == {"retention": "texts", "kept_days": 7}
