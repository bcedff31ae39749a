"""Answers that are given again: to the same question alone, and to nobody else."""

import json
from collections.abc import Awaitable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from django.test import AsyncClient
from django_tenants.utils import schema_context
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from redis import ConnectionError as RedisGone
from redis import Redis

from billing import pricing
from billing.models import LedgerEntry, PriceVersion
from inference.catalog import offers
from inference.catalog.models import Model
from inference.catalog.offers import Offer, Remote
from inference.engine import Delta, FinishReason, Outcome
from inference.models import Request
from inference.worker import Host, replays
from inference.worker.editions import edition
from inference.worker.shelf import Shelf
from kit.envelope import Ring
from kit.redis import cached, state
from tenants import answers, audit, organizations
from tenants.models import AuditEntry, Organization, Plan, Retention
from tests import factories
from tests.inference.parts import NOW, add_model, fields, in_schema, job, serving
from tests.inference.test_api import events, post

pytestmark = pytest.mark.django_db(transaction=True)

RATE = 100_000_000
"""100 nanos a token that the cache had."""
ASKED = {"prompt": "hello there", "max_tokens": 8, "temperature": 1.0}
EXACT = {"X-Cache": "exact"}


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    """Tests share organization and data key."""
    cached().flushdb()
    replays.replays.clear()
    yield
    cached().flushdb()
    replays.replays.clear()


@pytest.fixture
def key(account: Any, acme: Organization) -> str:
    """Acme's program's key; what the cache has is priced."""
    price = PriceVersion.objects.get()
    PriceVersion.objects.create(
        model=price.model,
        currency=price.currency,
        rates={**price.rates, "response_cache_tokens": RATE},
        effective_from=price.effective_from + timedelta(days=1),
    )
    pricing.forget()
    return factories.api_key(acme)[1]


async def ask(key: str, path: str = "/api/v1/infer", **body: Any) -> Any:
    headers = body.pop("headers", EXACT)
    return await post(path, {**ASKED, **body}, key, **headers)


async def hits(key: str, **body: Any) -> str | None:
    said: str | None = (await ask(key, **body)).get("X-Cache")
    return said


async def followed(key: str, wanted: str | None, **body: Any) -> None:
    """Ask until a change has come through; that this takes a second at most, test_auth holds."""
    while await hits(key, **body) != wanted:
        pass


async def test_the_same_question_has_the_same_answer_at_its_own_price(
    key: str, host: Host, acme: Organization
) -> None:
    with serving(host):
        first, second = [await ask(key) for _ in range(2)]
    assert (first["X-Cache"], second["X-Cache"]) == ("miss", "hit")
    made, found = first.json(), second.json()
    assert (found["text"], found["finish_reason"]) == (made["text"], made["finish_reason"])
    assert made["request_id"] != found["request_id"]
    assert ("cache" in made, found["cache"]) == (False, "exact")
    tokens = found["usage"]["total_tokens"]
    assert tokens == made["usage"]["total_tokens"]
    assert found["cost"]["amount_nanos"] == tokens * 100

    def booked() -> tuple[Any, Any]:
        entry = LedgerEntry.objects.for_org(acme).get(request=found["request_id"])
        with schema_context(acme.schema_name):
            return entry, Request.objects.get(pk=found["request_id"])

    entry, row = await in_schema("public", booked)
    assert entry.units == {"response_cache_tokens": tokens}
    assert (entry.amount, row.amount, row.cache) == (tokens * 100, tokens * 100, "exact")


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "hello  there"},
        {"max_tokens": 7},
        {"temperature": 0.5},
        {"top_p": 0.5},
        {"top_k": 5},
        {"min_p": 0.1},
        {"seed": 5},
        {"stop": ["x"]},
        {"presence_penalty": 0.5},
        {"frequency_penalty": 0.5},
        {"repetition_penalty": 1.1},
        {"logit_bias": {"104": 1.0}},
        {"stop_token_ids": [99]},
        {"structured_outputs": {"choice": ["a", "b"]}},
        {"n": 2},
    ],
    ids=str,
)
async def test_whatever_differs_makes_another_question(
    other: dict[str, Any], key: str, host: Host
) -> None:
    with serving(host):
        assert await hits(key) == "miss"
        assert [await hits(key, **other) for _ in range(2)] == ["miss", "hit"]


async def test_another_organization_finds_nothing_and_takes_nothing_away(
    key: str, host: Host, globex: Organization
) -> None:
    def others() -> str:
        factories.account(globex)
        return factories.api_key(globex)[1]

    theirs = await in_schema("public", others)
    with serving(host):
        assert [await hits(key), await hits(theirs), await hits(theirs)] == ["miss", "miss", "hit"]
        mine = await ask(key)
        gone = await forget(theirs, f"?key={mine['X-Cache-Key']}")
        assert gone.json()["forgotten"] == 0
        gone = await forget(theirs, f"?request={mine.json()['request_id']}")
        assert gone.status_code == 404
        assert (await forget(theirs)).json()["forgotten"] == 1
        assert await hits(key) == "hit"
        replays.replays.shelf.clear()
        assert await hits(key) == "hit"


async def test_streams_are_replayed_and_say_so_before_they_begin(key: str, host: Host) -> None:
    chat = {
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "model": "echo",
        "logprobs": True,
        "n": 2,
        "temperature": 1,
    }
    said = []
    with serving(host):
        for _ in range(2):
            answer = await post("/v1/chat/completions", chat, key, **EXACT)
            texts, logprobs = {0: "", 1: ""}, {0: 0, 1: 0}
            for line in await events(answer):
                if line != "data: [DONE]":
                    for choice in json.loads(line.removeprefix("data: "))["choices"]:
                        texts[choice["index"]] += choice["delta"].get("content") or ""
                        told = (choice["logprobs"] or {}).get("content") or []
                        logprobs[choice["index"]] += len(told)
            said.append((answer["X-Cache"], texts, logprobs))
        plain = await ask(key, "/api/v1/infer/stream")
        assert (plain["X-Cache"], len(await events(plain)) > 2) == ("miss", True)
        again = await ask(key, "/api/v1/infer/stream")
        assert again["X-Cache"] == "hit"
        done = (await events(again))[-1]
    assert said[0][1:] == said[1][1:]
    assert [each[0] for each in said] == ["miss", "hit"]
    assert '"cache":"exact"' in done


async def test_a_request_decides_before_its_organization_and_that_before_its_plan(
    key: str, host: Host, acme: Organization
) -> None:
    def chosen(mode: str) -> None:
        organizations.cache_answers(acme, mode, seconds=60, now=NOW, by=audit.SYSTEM)

    def planned() -> None:
        acme.plan = Plan.objects.create(name="Cached", caching="exact")
        acme.save()

    with serving(host):
        assert [await hits(key, headers={}) for _ in range(2)] == [None, None]
        await in_schema("public", planned)
        await followed(key, "miss", headers={})
        assert await hits(key, headers={}) == "hit"
        assert await hits(key, headers={"X-Cache": "off"}) is None
        assert await hits(key, headers={"X-Cache": "refresh"}) == "miss"
        await in_schema("public", lambda: chosen("off"))
        await followed(key, None, headers={})
        assert await hits(key) == "hit"
        wrong = await ask(key, headers={"X-Cache": "always"})
    assert (wrong.status_code, wrong.json()["param"]) == (400, "X-Cache")


async def test_a_cache_that_was_emptied_gives_nothing(
    key: str, host: Host, acme: Organization
) -> None:
    with serving(host):
        assert [await hits(key) for _ in range(2)] == ["miss", "hit"]
        await in_schema(
            "public", lambda: organizations.forget_answers(acme, now=NOW, by=audit.SYSTEM)
        )
        replays.replays.heed()
        assert await hits(key) == "miss"
        await followed(key, "hit")


async def forget(key: str, which: str = "") -> Any:
    headers = {"Authorization": f"Bearer {key}"}
    answer = await AsyncClient().delete(f"/api/v1/cache{which}", headers=headers)
    replays.replays.heed()
    return answer


async def test_one_answer_is_forgotten_by_its_key_or_by_a_request_that_had_it(
    key: str, host: Host, acme: Organization
) -> None:
    with serving(host):
        made, found = [await ask(key) for _ in range(2)]
        await ask(key, prompt="another")
        assert made["X-Cache-Key"] == found["X-Cache-Key"]
        gone = await forget(key, f"?key={made['X-Cache-Key']}")
        assert (gone.status_code, gone.json()["forgotten"]) == (200, 1)
        assert [await hits(key), await hits(key, prompt="another")] == ["miss", "hit"]
        for ways in (made, found):
            gone = await forget(key, f"?request={ways.json()['request_id']}")
            assert gone.json()["forgotten"] == 1
            assert [await hits(key), await hits(key)] == ["miss", "hit"]
        stream = await ask(key, "/api/v1/infer/stream")
        assert stream["X-Cache-Key"] == made["X-Cache-Key"]
        uncached = (await ask(key, headers={})).json()["request_id"]

    def noted() -> list[Any]:
        rows = AuditEntry.objects.for_org(acme).filter(action="organization.answer_forgotten")
        return list(rows.values_list("after", flat=True))

    assert await in_schema("public", noted) == [{"key": made["X-Cache-Key"]}] * 3
    for which, status, code in (
        (f"?request={uncached}", 404, "answer_not_cached"),
        (f"?request={uuid4()}", 404, "request_not_found"),
        ("?key=nothing", 400, "invalid_value"),
        ("?model=none", 404, "model_not_found"),
        (f"?model=echo&key={made['X-Cache-Key']}", 400, "invalid_value"),
    ):
        refused = await forget(key, which)
        assert (refused.status_code, refused.json()["code"]) == (status, code), which


async def test_a_response_that_is_deleted_is_forgotten_by_the_cache_too(
    key: str, host: Host
) -> None:
    """However long ago it was: its row knows the answer for longer than Redis."""
    body = {"model": "echo", "input": "hello", "temperature": 0}
    headers = {"Authorization": f"Bearer {key}"}
    with serving(host):
        for forgets in (lambda _: None, lambda request: state().delete(f"job:{request}")):
            made = [await post("/v1/responses", body, key, **EXACT) for _ in range(2)]
            assert [each["X-Cache"] for each in made] == ["miss", "hit"]
            name = made[1].json()["id"]
            forgets(UUID(name.removeprefix("resp_")))
            gone = await AsyncClient().delete(f"/v1/responses/{name}", headers=headers)
            assert (gone.status_code, cached().keys("answer:*")) == (200, [])
            replays.replays.heed()


async def test_a_models_answers_are_forgotten_alone(
    key: str, host: Host, acme: Organization, settings: Any
) -> None:
    """And whoever forgets all after that, forgets what was made in between, too."""

    def started() -> Host:
        add_model(settings.MODELS_DIR, name="other")
        offers.forget()
        host = Host([offers.published()["other"]], slots=4)
        host.start()
        return host

    others = await in_schema("public", started)
    with ExitStack() as stack, serving(host), serving(others, model="other"):
        stack.callback(others.drain, 0)
        asked: list[dict[str, Any]] = [{}, {"model": "other"}]
        assert [await hits(key, **each) for each in asked] == ["miss", "miss"]
        gone = (await forget(key, "?model=other")).json()
        assert gone["forgotten"] == 1
        assert await hits(key, **asked[1]) == "miss"
        await followed(key, "hit", **asked[1])
        assert await hits(key) == "hit"
        gone = (await forget(key)).json()
        assert gone["forgotten"] >= 2
        assert [await hits(key, **each) for each in asked] == ["miss", "miss"]

    def chosen() -> tuple[int, Any]:
        acme.refresh_from_db()
        rows = AuditEntry.objects.for_org(acme).filter(action="organization.cache_emptied")
        return acme.cache_epoch, list(rows.order_by("sequence").values_list("after", flat=True))

    assert await in_schema("public", chosen) == (2, [{"model": "other"}, {}])


async def test_an_answer_made_anew_takes_the_old_ones_place_in_every_worker(
    key: str, host: Host
) -> None:
    elsewhere = replays.Replays()
    with serving(host):
        assert await hits(key) == "miss"
        [name] = cast("list[bytes]", cached().keys("answer:*"))
        organization, entry = name.decode().removeprefix("answer:").split(":", 1)
        elsewhere.heed()
        elsewhere.shelf.put(int(organization), entry, b"the old one", seconds=60)
        elsewhere.shelf.put(int(organization), "echo:x", b"another", seconds=60)
        assert await hits(key, headers={"X-Cache": "refresh"}) == "miss"
    elsewhere.heed()
    found = [elsewhere.shelf.get(int(organization), each) for each in (entry, "echo:x")]
    assert found == [None, b"another"]


def test_a_worker_that_was_away_forgets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("inference.worker.replays.monotonic", lambda: clock[0])
    away = replays.Replays()
    away.heed()
    away.shelf.put(1, "echo:x", b"one", seconds=60)
    clock[0] += 29
    away.heed()
    assert away.shelf.get(1, "echo:x") == b"one"
    clock[0] += 31
    away.heed()
    assert away.shelf.get(1, "echo:x") is None
    away.shelf.put(1, "echo:x", b"one", seconds=60, since=0)
    assert away.shelf.get(1, "echo:x") is None, "it was read before something was forgotten"


async def test_where_nothing_is_kept_nothing_is_cached(
    key: str, host: Host, acme: Organization
) -> None:
    def nothing() -> None:
        organizations.keep(acme, Retention.NOTHING, days=1, now=NOW, by=audit.SYSTEM)
        organizations.cache_answers(acme, "exact", seconds=60, now=NOW, by=audit.SYSTEM)

    await in_schema("public", nothing)
    with serving(host):
        assert await hits(key, headers={}) is None
        refused = await ask(key)
    assert (refused.status_code, refused.json()["code"]) == (409, "answers_not_kept")
    assert cached().keys("answer*:*:*") == [f"answers:{acme.pk}:epoch".encode()]


async def test_who_keeps_less_than_before_has_no_older_answer_left(
    key: str, host: Host, acme: Organization
) -> None:
    """Nor one that was asked for before, and made after; a longer time takes nothing away."""

    def keep(retention: Retention, days: int) -> int:
        organizations.keep(acme, retention, days=days, now=NOW, by=audit.SYSTEM)
        organizations.cache_answers(acme, "exact", seconds=3 * 86_400, now=NOW, by=audit.SYSTEM)
        acme.refresh_from_db()
        return acme.reuse_seconds // 86_400

    def keeps(retention: Retention, days: int) -> Awaitable[int]:
        return in_schema("public", lambda: keep(retention, days))

    with serving(host):
        assert await keeps(Retention.TEXTS, 7) == 3
        await followed(key, "miss", headers={})
        made = await ask(key)
        assert made["X-Cache"] == "hit"
        assert await keeps(Retention.TEXTS, 9) == 3
        assert await hits(key) == "hit"
        assert await keeps(Retention.TEXTS, 2) == 2
        assert cached().keys("answer:*") == []
        entry = made["X-Cache-Key"]
        assert not answers.put(acme.pk, entry, b"late", seconds=60, epoch=acme.cache_epoch - 1)
        replays.replays.heed()
        assert await hits(key) == "miss"
        await followed(key, "hit")
        assert await keeps(Retention.NOTHING, 2) == 0
        replays.replays.heed()
        assert replays.replays.shelf.get(acme.pk, entry) is None
        assert cached().keys("answer:*") == []
        assert await keeps(Retention.ANSWERS, 2) == 1
        await followed(key, "miss")


def test_nobody_is_given_more_than_their_own_answer_to_their_own_question(
    monkeypatch: pytest.MonkeyPatch, redis: Redis
) -> None:
    """Whoever else asks, of whatever version, edition and epoch of the model; and none too old."""
    clock = [1000.0]
    monkeypatch.setattr("inference.worker.replays.time", lambda: clock[0])
    kept: dict[Any, str] = {}
    for number in range(400):
        draw = Random(number)  # noqa: S311
        organization, version, edition, epoch, prompt = (draw.choice((1, 2)) for _ in range(5))
        which = (organization, version, edition, epoch, prompt)
        asked = job(
            organization=organization,
            model_version=str(version),
            cache_epoch=epoch,
            prompt=(prompt,),
            caching="exact",
            cache_seconds=60,
        )
        worker = replays.replays if draw.random() < 0.5 else replays.Replays()
        ring = Ring({1: bytes([organization]) * 32})
        entry = replays.entry_of(asked, ring, str(edition))
        found = worker.find(asked, ring, entry)
        assert (found.deltas[0].text if found else None) == kept.get(which)
        shorter = worker.find(replace(asked, cache_seconds=5), ring, entry)
        assert shorter is None or kept[which].endswith(str(clock[0]))
        if found is None:
            kept[which] = f"{number} at {clock[0]}"
            end = Outcome(FinishReason.stop, 1, 0, 1)
            worker.keep(asked, ring, entry, [[Delta("", 0, (1,), kept[which], end)]])
            sealed, _ = answers.fetch(organization, entry) or (b"", 0)
            answers.put(3 - organization, entry, sealed, seconds=60)
            others = replace(asked, organization=3 - organization)
            assert replays.Replays().find(others, ring, entry) is None, "moved, it does not open"
            answers.forget(3 - organization, entry)
        if number % 40 == 39:
            clock[0] += 10
        if number % 200 == 199:
            clock[0] += 61
            kept.clear()


@pytest.mark.parametrize("other", ["version", "tokenizer", "weights", "adapter", "server"])
def test_an_edition_is_of_all_that_answers_depend_on(other: str, tmp_path: Path) -> None:
    for name in ("model", "adapter", "another"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text("{}")
        with (tmp_path / name / "weights").open("wb") as file:
            file.truncate(20 * 1024 * 1024)
    (tmp_path / "another" / "tokenizer.json").write_text('{"b": 1}')
    offer = Offer(
        *("a", "A", "us", "torch", tmp_path / "model", "1", "cpu", "q", 512, 64, 1.0, 1.0),
        created_at=NOW,
        adapter=tmp_path / "adapter",
    )
    before = edition(offer)
    assert edition(offer) == before
    match other:
        case "version":
            offer = replace(offer, version="2")
        case "tokenizer":
            (tmp_path / "model" / "tokenizer.json").write_text("[]")
        case "weights":
            with (tmp_path / "model" / "weights").open("r+b") as file:
                file.seek(-8, 2)
                file.write(b"finetune")
        case "adapter":
            offer = replace(offer, adapter=tmp_path / "another")
        case _:
            offer = replace(offer, remote=Remote("https://there/v1", "a", "", counted=True))
    assert edition(offer) != before


async def test_a_model_whose_answers_are_not_cached_makes_each_anew(
    key: str, host: Host, acme: Organization
) -> None:
    def for_all() -> None:
        organizations.cache_answers(acme, "exact", seconds=60, now=NOW, by=audit.SYSTEM)

    def but_one() -> None:
        Model.objects.update(caching=False)
        offers.forget()

    await in_schema("public", for_all)
    with serving(host):
        await followed(key, "hit", headers={})
        await in_schema("public", but_one)
        assert await hits(key, headers={}) is None
        refused = await ask(key)
    assert (refused.status_code, refused.json()["code"]) == (409, "answers_not_kept")


async def test_what_lies_in_redis_is_found_by_another_worker_and_says_nothing(
    key: str, host: Host
) -> None:
    with serving(host):
        first = await ask(key)
        [name] = cached().keys("answer:*")
        stored = cached().get(name)
        assert first.json()["text"].encode() not in (stored or b"")
        assert 0 < cached().ttl(name) <= 3600
        replays.replays.shelf.clear()
        assert await hits(key) == "hit"
        replays.replays.shelf.clear()
        cached().set(name, b"rubbish that is long enough to be no sealed text at all")
        assert [await hits(key), await hits(key)] == ["miss", "hit"]


async def test_without_the_cache_answers_are_made(
    key: str, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = 0

    class Away:
        def __getattr__(self, name: str) -> Any:
            nonlocal tried
            tried += 1
            raise RedisGone("away")

    monkeypatch.setattr(answers, "cached", Away)
    with serving(host):
        assert [await hits(key) for _ in range(2)] == ["miss", "hit"], "from memory"
        replays.replays.shelf.clear()
        assert await hits(key) == "miss"
    assert tried == 1, "a cache that hangs is not waited for again and again"


async def test_answers_that_were_cut_short_are_not_kept(key: str, host: Host) -> None:
    with serving(host):
        stream = await ask(key, "/api/v1/infer/stream", prompt="x" * 200, max_tokens=200)
        request = stream["X-Request-ID"]
        await post(f"/api/v1/requests/{request}/cancel", {}, key)
        await events(stream)
        assert fields(UUID(request))["reason"] in ("cancelled", "stop", "length")
        if fields(UUID(request))["reason"] == "cancelled":
            assert cached().keys("answer:*") == []


def test_the_shelf_forgets_the_least_used_and_the_old(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("inference.worker.shelf.monotonic", lambda: clock[0])
    shelf = Shelf(most=10)
    shelf.put(1, "a", b"12345", seconds=60)
    shelf.put(1, "b", b"12345", seconds=5)
    assert shelf.get(1, "a") == b"12345"
    shelf.put(1, "c", b"1234", seconds=60)
    assert [shelf.get(1, name) for name in "abc"] == [b"12345", None, b"1234"]
    shelf.put(1, "d", b"12345678901", seconds=60)
    assert [shelf.get(1, name) for name in "acd"] == [None, None, None]
    shelf.put(1, "b", b"1", seconds=5)
    clock[0] = 6.0
    assert shelf.get(1, "b") is None


_puts = st.lists(st.tuples(st.integers(1, 4), st.sampled_from("abcdef"), st.integers(1, 40)))


@given(puts=_puts)
def test_an_organizations_answers_are_its_own_and_keep_an_even_share(
    puts: list[tuple[int, str, int]],
) -> None:
    """Whoever has no more than an even share loses nothing, and nobody meets another's."""
    shelf, most = Shelf(most=120), 120
    put: dict[int, dict[str, bytes]] = {}
    peaks: dict[int, int] = {}
    for organization, entry, size in puts:
        sealed = f"{organization}{entry}".encode() * size
        shelf.put(organization, entry, sealed, seconds=60)
        mine = put.setdefault(organization, {})
        mine[entry] = sealed
        peaks[organization] = max(peaks.get(organization, 0), sum(map(len, mine.values())))
        found = {(each, name): shelf.get(each, name) for each in range(1, 5) for name in "abcdef"}
        assert sum(map(len, filter(None, found.values()))) <= most
        for (each, name), has in found.items():
            wrote = put.get(each, {}).get(name)
            assert has == wrote or (has is None and peaks[each] > most // 4)


_kept = st.lists(
    st.tuples(st.integers(1, 2), st.sampled_from("abcdef"), st.integers(1, 900)), max_size=30
)


@profile(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=_kept)
def test_in_redis_an_organizations_answers_keep_within_its_share(
    kept: list[tuple[int, str, int]], settings: Any
) -> None:
    """What it kept last is there, the others' stays whole, and sizes are those of what is there."""
    settings.ANSWERS_MEMORY, least = 3000, 256
    cached().flushdb()
    answers.put(3, "echo:x", b"another's", seconds=60)
    for organization, entry, size in kept:
        sealed = f"{organization}{entry}".encode() * size
        fits = len(sealed) + least <= 3000
        assert answers.put(organization, entry, sealed, seconds=60) is fits
        found = answers.fetch(organization, entry)
        assert found == ((sealed, 60) if fits else None)
    for organization in (1, 2):
        names = cast("list[bytes]", cached().keys(f"answer:{organization}:*"))
        sizes = [least + len(cast("bytes", cached().get(name))) for name in names]
        assert sum(sizes) == int(cached().hget(f"answers:{organization}:sizes", "total") or 0)
        assert sum(sizes) <= 3000
    assert answers.fetch(3, "echo:x") == (b"another's", 60)
