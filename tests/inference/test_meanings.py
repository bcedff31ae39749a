"""Answers to the same in other words: by the encoder that ships, in a worker that has it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from time import time
from typing import Any

import pytest
from django.test import AsyncClient
from hypothesis import given
from hypothesis import strategies as st

from billing import pricing
from billing.models import LedgerEntry, PriceVersion
from inference.engine import Delta, FinishReason, Logprob, Outcome
from inference.engine.text import ByteText
from inference.gist import gist
from inference.worker import Host, meanings, replays
from kit.redis import cached
from tenants import answers, audit, organizations
from tenants.models import Organization, Retention
from tests import factories
from tests.inference.parts import NOW, RING, in_schema, job, serving
from tests.inference.test_api import events, post

pytestmark = pytest.mark.django_db(transaction=True)

FRANCE = "What is the capital of France?"
SAME = "Please tell me the capital of France."
OTHERS = ("What is the capital of Finland?", "What isn't the capital of France?")
ASKED = job(caching="exact", cache_seconds=60)
SEMANTIC = {"X-Cache": "semantic"}


@pytest.fixture(autouse=True)
def _empty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With all the time that the encoder may need on a machine that has other things to do."""
    monkeypatch.setattr(meanings, "_PATIENCE", 60)
    cached().flushdb()
    replays.replays.clear()
    yield
    cached().flushdb()
    replays.replays.clear()


@pytest.fixture
def key(account: Any, acme: Organization) -> str:
    """Acme's program's key; what the cache has costs a tenth."""
    price = PriceVersion.objects.get(model="echo")
    PriceVersion.objects.create(
        model=price.model,
        currency=price.currency,
        rates={**price.rates, "response_cache_tokens": 100_000_000},
        effective_from=price.effective_from + timedelta(days=1),
    )
    pricing.forget()
    return factories.api_key(acme)[1]


def chat(*turns: str, **more: Any) -> dict[str, Any]:
    """Turns of user and assistant by turns; the last is the user's."""
    roles = ["user", "assistant"] * len(turns)
    messages = [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]
    return {"model": "echo", "max_tokens": 16, "messages": messages, **more}


async def ask(key: str, *turns: str, headers: Any = SEMANTIC, **more: Any) -> Any:
    return await post("/v1/chat/completions", chat(*turns, **more), key, **headers)


async def said(key: str, *turns: str, **more: Any) -> str | None:
    found: str | None = (await ask(key, *turns, **more)).get("X-Cache")
    return found


async def test_the_same_in_other_words_has_the_answer_at_the_caches_price(
    key: str, encoding: Host, acme: Organization
) -> None:
    with serving(encoding):
        made = await ask(key, FRANCE)
        found = await ask(key, SAME)
        again = await ask(key, FRANCE)
        for other in OTHERS:
            assert await said(key, other) == "miss"
        assert await said(key, SAME, headers={"X-Cache": "exact"}) == "miss"
    assert [each["X-Cache"] for each in (made, found, again)] == ["miss", "semantic", "hit"]
    assert found["X-Cache-Key"] == made["X-Cache-Key"]
    assert found.json()["choices"] == made.json()["choices"]
    usage = found.json()["usage"]
    assert usage["prompt_tokens"] > made.json()["usage"]["prompt_tokens"], "of its own question"

    def booked() -> LedgerEntry:
        return LedgerEntry.objects.for_org(acme).get(request=found["X-Request-ID"])

    entry = await in_schema("public", booked)
    assert entry.units == {"response_cache_tokens": usage["total_tokens"]}
    assert entry.amount == usage["total_tokens"] * 100
    looked = replays.replays.counts("echo")
    assert looked == (6, 2, 1)


async def test_everything_but_what_was_asked_last_must_be_the_same(
    key: str, encoding: Host, acme: Organization, globex: Organization
) -> None:
    def others() -> str:
        factories.account(globex)
        return factories.api_key(globex)[1]

    theirs = await in_schema("public", others)
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    with serving(encoding):
        assert await said(key, FRANCE) == "miss"
        assert await said(key, SAME) == "semantic"
        for more in (
            {"max_tokens": 15},
            {"temperature": 0.3},
            {"n": 2},
            {"seed": 3},
            {"tools": [tool], "tool_choice": "required"},
            {"response_format": {"type": "json_object"}},
        ):
            assert await said(key, SAME, **more) == "miss", more
        assert await said(key, SAME, "Paris.") == "miss", "an assistant's turn ends it"
        assert await said(theirs, SAME) == "miss"


async def test_what_is_forgotten_is_forgotten_with_its_meaning(
    key: str, encoding: Host, acme: Organization
) -> None:
    def keep(retention: Retention) -> None:
        organizations.keep(acme, retention, days=1, now=NOW, by=audit.SYSTEM)

    with serving(encoding):
        made = await ask(key, FRANCE)
        assert len(cached().keys("asked:*")) == 1
        [name] = cached().keys("asked:*")
        assert b"France" not in (cached().get(name) or b""), "sealed"
        assert cached().ttl(name) <= 3600
        headers = {"Authorization": f"Bearer {key}"}
        path = f"/api/v1/cache?key={made['X-Cache-Key']}"
        gone = await AsyncClient().delete(path, headers=headers)
        assert (gone.json()["forgotten"], cached().keys("asked:*")) == (1, [])
        replays.replays.heed()
        assert await said(key, SAME) == "miss"
        await in_schema("public", lambda: keep(Retention.NOTHING))
        assert cached().keys("asked:*") == []


async def test_an_organization_chooses_it_and_how_alike_is_alike_enough(
    key: str, encoding: Host, acme: Organization
) -> None:
    headers = {"Authorization": f"Bearer {key}"}

    async def choose(**form: Any) -> Any:
        answer = await AsyncClient().put(
            "/api/v1/cache", form, content_type="application/json", headers=headers
        )
        return answer.json()

    refused = await choose(mode="semantic", threshold=0.5)
    assert refused["param"] == "threshold"
    found = await choose(mode="semantic", threshold=0.95, adaptive=True)
    chosen = ("semantic", "semantic", 0.95, True)
    names = ("mode", "effective", "threshold", "adaptive")
    assert tuple(found[name] for name in names) == chosen
    with serving(encoding):
        while await said(key, FRANCE, headers={}) is None:
            pass  # it is everywhere within a second
        assert cached().ttl(cached().keys("asked:*")[0]) <= 3600 // 8
        strict, loose, wrong = [
            await ask(key, SAME, headers={"X-Cache": "semantic", "X-Cache-Threshold": each})
            for each in ("0.999", "0.8", "0.79")
        ]
        assert (strict["X-Cache"], loose["X-Cache"]) == ("miss", "hit")
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "X-Cache-Threshold")


async def test_a_worker_without_the_encoder_looks_for_the_very_question(
    key: str, host: Host
) -> None:
    with serving(host):
        assert [await said(key, each) for each in (FRANCE, SAME, FRANCE)] == ["miss", "miss", "hit"]


async def test_an_answer_that_is_asked_for_again_is_kept_for_longer(
    key: str, encoding: Host, acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice as long as it is old, once half of that is over, and never beyond its time."""

    def adaptive() -> None:
        organizations.cache_answers(
            acme, "semantic", seconds=800, adaptive=True, now=NOW, by=audit.SYSTEM
        )

    await in_schema("public", adaptive)
    ages = []
    with serving(encoding):
        while await said(key, FRANCE, headers={}) is None:
            pass
        [name] = cached().keys("answer:*")
        now = time()
        for age in (0, 60, 200, 700):
            monkeypatch.setattr("inference.worker.replays.time", lambda age=age: now + age)
            replays.replays.clear()
            assert await said(key, FRANCE if age < 100 else SAME, headers={}) in {"hit", "semantic"}
            ages.append(cached().ttl(name))
    assert ages == [pytest.approx(age, abs=45) for age in (100, 100, 400, 400)]


async def test_a_stream_is_replayed_at_once_or_as_it_was_made(key: str, encoding: Host) -> None:
    with serving(encoding):
        await ask(key, FRANCE, stream=True)
        at_once = await ask(key, SAME, stream=True)
        natural = {**SEMANTIC, "X-Cache-Pace": "natural"}
        slowly = await ask(key, SAME, stream=True, headers=natural)
        assert (at_once["X-Cache"], slowly["X-Cache"]) == ("semantic", "semantic")
        texts = [_texts(await events(each)) for each in (at_once, slowly)]
        assert texts[0] == texts[1] != ""
        wrong = await ask(key, SAME, headers={**natural, "X-Cache-Pace": "slow"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "X-Cache-Pace")


def _texts(some: list[str]) -> str:
    chunks = [json.loads(each.removeprefix("data: ")) for each in some if "[DONE]" not in each]
    return "".join(each["choices"][0]["delta"].get("content") or "" for each in chunks)


def test_what_was_made_in_pieces_is_given_in_the_same() -> None:
    """An end that comes alone, with what was held back, goes with the piece before it."""
    end = Outcome(FinishReason.stop, 1, 0, 3)
    logprobs = (Logprob(-0.5),)
    made = [
        Delta("x", 0, (1,), "He", None, logprobs),
        Delta("x", 1, (2,), "", None, logprobs),
        Delta("x", 2, (3,), "llo", None, logprobs),
        Delta("x", 3, (), "!", end),
    ]
    replays.replays.keep(ASKED, RING, "echo:x", [made])
    found = replays.replays.find(ASKED, RING, "echo:x")
    assert found is not None
    [whole] = found.of(["y"])
    pieces = found.of(["y"], natural=True)
    assert [(each.position, each.tokens, each.text) for each in pieces] == [
        (0, (1,), "He"),
        (1, (2,), ""),
        (2, (3,), "llo!"),
    ]
    assert [each.outcome for each in pieces] == [None, None, whole.outcome]
    assert [each.logprobs for each in pieces] == [logprobs] * 3


@given(before=st.text(), after=st.text(), other=st.text(), which=st.booleans())
def test_what_stands_around_a_question_is_compared_to_the_letter(
    before: str, after: str, other: str, which: bool
) -> None:
    def around(first: str, asked: str, last: str) -> bytes | None:
        prompt = tuple(f"{first}\n{asked}\n{last}".encode())
        return meanings._around(replace(ASKED, prompt=prompt, meant=asked), ByteText(4096))

    mine = around(before, FRANCE, after)
    assert mine == around(before, SAME, after) is not None
    theirs = around(other, SAME, after) if which else around(before, SAME, other)
    assert (mine == theirs) is (other == (before if which else after))


def test_no_more_questions_meet_than_can_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_MOST_MET", 3)
    for number in range(5):
        meant = answers.Meant("echo:m", b"%d" % number)
        answers.put(1, f"echo:{number}", b"x", seconds=60 + number, meant=meant)
    assert [vector for _, vector in answers.near(1, "echo:m")] == [b"2", b"3", b"4"]
    answers.forget(1, "echo:3")
    assert [entry for entry, _ in answers.near(1, "echo:m")] == ["echo:2", "echo:4"]
    assert answers.near(2, "echo:m") == []
    assert answers.forget(1) == 4
    assert (answers.near(1, "echo:m"), cached().keys("asked:*")) == ([], [])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (FRANCE, SAME, True),
        ("How can I reset my password?", "How do I reset my password?", True),
        ("how to reset my password", "How do I reset my password", True),
        ("Convert 10 miles to kilometers", "Convert 10 kilometers to miles", False),
        ("Can I pay?", "Can't I pay?", False),
        ("Is it safe?", "Is it unsafe?", False),
        ("from A to B", "from B to A", False),
        ("the US", "the us", False),
        ('say "yes"', 'say "Yes"', False),
        ("version 2.1", "version 2.10", False),
        ("1,000 more", "1000 more", True),
        ("x += 1", "x -= 1", False),
        ("猫は何を食べますか", "犬は何を食べますか", False),
        ("Wie geht es dir?", "Wie ging es dir?", False),
        ("", "...", True),
    ],
)
def test_the_words_that_carry_meaning_are_the_same_or_not(one: str, other: str, same: bool) -> None:
    assert (gist(one) == gist(other)) is same
