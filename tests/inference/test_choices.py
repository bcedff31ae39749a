"""Several answers to one request: drawn apart, streamed together, counted once."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from threading import Event, Thread
from typing import Any, cast
from uuid import UUID

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from billing.models import Account, LedgerEntry
from inference import jobs
from inference.catalog.offers import Offer
from inference.engine import Delta, Engine, FinishReason, Outcome, Sampling
from inference.engine.text import ByteText
from inference.jobs import Claim, Job
from inference.models import Request
from inference.stream import Part
from inference.worker import Host
from inference.worker.choices import Choices, Seeds
from kit.redis import state
from tenants.models import Organization
from tests import factories
from tests.engine.parts import RAISES, HashRunner, finish, work
from tests.inference.parts import ECHO, in_schema, job, serving
from tests.inference.test_api import CHAT, events, post
from tests.inference.test_consumers import connect, hear, hear_until_done, say
from tests.inference.test_reading import ask
from tests.inference.test_worker import until

pytestmark = pytest.mark.django_db(transaction=True)

DRAWN = CHAT | {"temperature": 1.5, "seed": 7, "max_tokens": 24}


@pytest.fixture
def key(account: Any, acme: Organization) -> str:
    """Acme's program's key."""
    return factories.api_key(acme)[1]


class Gated(HashRunner):
    """Draws random bytes; after `steps` decodes it waits to be let go on."""

    def __init__(self, *, steps: int = 10**9, **options: Any) -> None:
        super().__init__(endless=True, **options)
        self.steps = steps
        self.stands, self.open = Event(), Event()

    def decode(self, *args: Any) -> Any:
        if self.steps == 0:
            self.stands.set()
            assert self.open.wait(10)
        self.steps -= 1
        return super().decode(*args)


def of_engines(monkeypatch: pytest.MonkeyPatch, *runners: HashRunner) -> None:
    """The next workers' engines run these."""
    left = iter(runners)

    def load(folder: Any, *, slots: int, **_: Any) -> Engine:
        return Engine(next(left), ByteText(512), slots=slots)

    monkeypatch.setattr("inference.worker.host.load_engine", load)


@pytest.fixture
def drawing(echo: Offer, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Host, HashRunner]]:
    """A worker whose model draws bytes, and its runner."""
    runner = Gated(slots=8, context=512)
    of_engines(monkeypatch, runner)
    host = Host([echo], slots=8)
    host.start()
    yield host, runner
    host.drain(0)


async def test_answers_are_what_each_seed_alone_would_give_and_are_booked_together(
    key: str, drawing: tuple[Host, HashRunner]
) -> None:
    seeds = Seeds(Sampling(max_tokens=1, seed=7))
    with serving(drawing[0]):
        several = (await post("/v1/chat/completions", DRAWN | {"n": 4}, key)).json()
        alone = [
            (await post("/v1/chat/completions", DRAWN | {"seed": seeds[n].seed}, key)).json()
            for n in range(4)
        ]
    found = ChatCompletion.model_validate(several, strict=False)
    assert several == found.model_dump(exclude_unset=True)
    texts = [choice.message.content for choice in found.choices]
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    assert texts == [one["choices"][0]["message"]["content"] for one in alone]
    assert len({*texts}) == 4
    prompt = alone[0]["usage"]["prompt_tokens"]
    assert (several["usage"]["prompt_tokens"], several["usage"]["completion_tokens"]) == (
        prompt,
        4 * 24,
    )
    request = several["id"].removeprefix("chatcmpl-")
    row = await in_schema("org_acme", lambda: Request.objects.get(pk=request))
    entry = await in_schema(
        "public", lambda: LedgerEntry.objects.across_organizations().get(request=request)
    )
    assert (row.prompt_tokens, row.completion_tokens) == (prompt, 4 * 24)
    assert entry.units == {"input_tokens": prompt, "output_tokens": 4 * 24}


async def test_a_prompt_has_several_answers_over_every_way_in(
    key: str, drawing: tuple[Host, HashRunner]
) -> None:
    body = {"prompt": "x", "temperature": 1.5, "seed": 7, "max_tokens": 24, "n": 3}
    with serving(drawing[0]):
        whole = (await ask("POST", "/api/v1/infer", key, body)).json()
        lines = await events(await post("/api/v1/infer/stream", body, key))
        socket = await connect(key)
        await hear(socket)
        await say(socket, type="infer", id="a", **body)
        heard = await hear_until_done(socket, 1)
        await socket.disconnect()
    assert whole["text"] == whole["texts"][0]
    assert len({*whole["texts"]}) == 3
    assert whole["finish_reasons"] == ["length"] * 3
    assert whole["usage"]["completion_tokens"] == 3 * 24
    told = [json.loads(line.split("data: ")[1]) for line in lines if "event: token" in line]
    said = [each for each in heard if each["type"] == "token"]
    for tokens in (told, said):
        texts = defaultdict[int, str](str)
        for each in tokens:
            texts[each.get("choice", 0)] += each["text"]
        assert [texts[choice] for choice in range(3)] == whole["texts"]


async def test_streamed_answers_come_side_by_side_and_end_each_by_itself(
    key: str, drawing: tuple[Host, HashRunner]
) -> None:
    body = DRAWN | {"n": 3, "logprobs": True}
    with serving(drawing[0]):
        whole = (await post("/v1/chat/completions", body, key)).json()
        options = {"stream": True, "stream_options": {"include_usage": True}}
        lines = await events(await post("/v1/chat/completions", body | options, key))
    assert lines.pop() == "data: [DONE]"
    chunks = [
        ChatCompletionChunk.model_validate_json(line.removeprefix("data: ")) for line in lines
    ]
    texts, ends, order = defaultdict[int, str](str), dict[int, str](), []
    for chunk in chunks:
        for choice in chunk.choices:
            assert choice.index not in ends, "nothing comes after an end"
            texts[choice.index] += choice.delta.content or ""
            order.append(choice.index)
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    told = {choice["index"]: choice for choice in whole["choices"]}
    assert texts == {index: choice["message"]["content"] for index, choice in told.items()}
    assert ends == {0: "length", 1: "length", 2: "length"}
    assert order != sorted(order)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole["usage"]["completion_tokens"]


async def test_a_worker_that_drains_hands_over_each_answer_where_it_was(
    key: str, echo: Offer, announced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = DRAWN | {"n": 3}
    first, second = Gated(steps=9, slots=4, context=512), Gated(slots=4, context=512)
    of_engines(monkeypatch, first, second, Gated(slots=4, context=512))
    hosts = [Host([echo], slots=4) for _ in range(3)]
    for host in hosts[:2]:
        host.start()
    asking = asyncio.create_task(post("/v1/chat/completions", body, key))
    with serving(hosts[0]):
        await asyncio.to_thread(first.stands.wait, 10)
        draining = Thread(target=hosts[0].drain, args=[0])
        draining.start()
        await asyncio.to_thread(until, lambda: "echo" in announced[1:])
        first.open.set()
        await asyncio.to_thread(draining.join, 10)
    with serving(hosts[1]):
        response = await asking
    hosts[1].drain(0)
    hosts[2].start()
    with serving(hosts[2]):
        undisturbed = await post("/v1/chat/completions", body, key)
    hosts[2].drain(0)
    assert response.json()["choices"] == undisturbed.json()["choices"]
    assert response.json()["usage"]["completion_tokens"] == 3 * 24
    request = response["X-Request-ID"]
    row = await in_schema("org_acme", lambda: Request.objects.get(pk=request))
    assert (row.attempts, row.completion_tokens) == (2, 3 * 24)


async def test_a_cancelled_request_stops_all_its_answers_and_bills_what_came(
    key: str, acme: Organization, echo: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Gated(steps=5, slots=4, context=512)
    of_engines(monkeypatch, runner)
    host = Host([echo], slots=4)
    host.start()
    asking = asyncio.create_task(
        post("/v1/chat/completions", DRAWN | {"n": 2, "max_tokens": 200}, key)
    )
    with serving(host):
        await asyncio.to_thread(runner.stands.wait, 10)
        names = cast("list[bytes]", state().keys("job:*"))
        [request] = [UUID(name[4:].decode()) for name in names]
        assert await jobs.cancel(request=request, organization=acme.pk)
        runner.open.set()
        response = await asking
    host.drain(0)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "request_cancelled")
    row = await in_schema("org_acme", Request.objects.get)
    assert row.state == "cancelled"
    assert 0 < row.completion_tokens < 400


async def test_sent_again_under_its_key_it_is_the_same_answers_and_one_bill(
    key: str, drawing: tuple[Host, HashRunner]
) -> None:
    body, once = DRAWN | {"n": 2}, {"Idempotency-Key": "mine"}
    with serving(drawing[0]):
        first = await post("/v1/chat/completions", body, key, **once)
    second = await post("/v1/chat/completions", body, key, **once)
    assert second.json() == first.json()
    assert await in_schema("public", LedgerEntry.objects.across_organizations().count) == 1
    kept = await ask("GET", f"/api/v1/requests/{first['X-Request-ID']}", key)
    assert kept.json()["texts"] == [
        choice["message"]["content"] for choice in first.json()["choices"]
    ]


async def test_credit_is_reserved_for_all_answers(
    key: str, echo: Offer, account: Account, announced: list[str]
) -> None:
    await in_schema(
        "public",
        lambda: Account.objects.across_organizations().update(credit_limit=200_000),
    )
    response = await post("/v1/chat/completions", CHAT | {"max_tokens": 64, "n": 2}, key)
    assert (response.status_code, response.json()["error"]["code"]) == (402, "insufficient_quota")
    body = CHAT | {"max_tokens": 64, "stream": True}
    assert (await post("/v1/chat/completions", body, key)).status_code == 200


async def test_a_request_of_many_answers_counts_as_many_slots(
    key: str, drawing: tuple[Host, HashRunner]
) -> None:
    station = drawing[0]._stations[ECHO]
    with serving(drawing[0]):
        await post("/v1/chat/completions", DRAWN | {"n": 8}, key)
    until(lambda: station.free == 8)
    assert station.take_slot()
    held = station.hold(Claim(job(n=8, sampling=Sampling(max_tokens=1)), attempt=1, position=0))
    station.begin(held)
    assert held.gone.wait(5)


async def test_tools_of_several_answers_have_ids_of_their_own(key: str, host: Host) -> None:
    call = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    body = {
        "model": ECHO,
        "messages": [{"role": "user", "content": call}],
        "tools": [{"type": "function", "function": {"name": "now"}}],
        "max_tokens": 100,
        "n": 2,
    }
    with serving(host):
        found = (await post("/v1/chat/completions", body, key)).json()
    assert [choice["finish_reason"] for choice in found["choices"]] == ["tool_calls"] * 2
    ids = [choice["message"]["tool_calls"][0]["id"] for choice in found["choices"]]
    assert ids[0] != ids[1]


def test_a_prompt_is_read_once_for_all_answers_and_none_differs_from_being_alone() -> None:
    prompt = [*range(10, 87)]
    runner = HashRunner(slots=8, context=256)
    engine = Engine(runner, ByteText(256))
    works = [
        replace(work(f"{n}", prompt, temperature=1.0, seed=n, max_tokens=9), group="g")
        for n in range(8)
    ]
    for each in works:
        engine.submit(each)
    together = finish(engine)
    assert [size for kind, size in runner.calls if kind == "prefill"] == [32, 32, 13]
    for each in works:
        alone = Engine(HashRunner(slots=1, context=256), ByteText(256))
        alone.submit(replace(each, group=""))
        assert finish(alone)[each.id] == together[each.id]


def delta(name: str, *tokens: int, end: FinishReason | None = None) -> Delta:
    outcome = None if end is None else Outcome(end, 3, 0, len(tokens))
    return Delta(name, 0, tokens, "", outcome)


def test_positions_count_all_answers_and_the_gravest_end_is_the_requests() -> None:
    choices = Choices(work="w", count=2, position=4)
    first = choices.merge(delta("w/1", 5, 6))
    second = choices.merge(delta("w/0", 7, end=FinishReason.stop))
    third = choices.merge(delta("w/1", end=FinishReason.failed))
    assert isinstance(first, Part)
    assert isinstance(second, Part)
    assert [each.position for each in (first, second, third)] == [4, 6, 7]
    assert (first.choice, second.choice) == (1, 0)
    assert (second.end, second.outcome) == ("stop", None)
    assert third.outcome is not None
    assert (third.outcome.reason, third.outcome.completion_tokens) == (FinishReason.failed, 7)


async def test_one_answer_that_fails_fails_the_request_which_is_free(
    key: str, echo: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_engines(monkeypatch, HashRunner(slots=4, context=512))
    host = Host([echo], slots=4)
    host.start()
    # The model's third draw of the second answer breaks it: a bias towards the token that raises.
    body = CHAT | {"logit_bias": {str(RAISES): 100}, "n": 2, "max_tokens": 30}
    with serving(host):
        response = await post("/v1/chat/completions", body, key)
    host.drain(0)
    assert response.status_code == 500
    [entry] = await in_schema("public", lambda: [*LedgerEntry.objects.across_organizations().all()])
    assert (entry.state, entry.amount) == ("failed", 0)


async def test_a_text_is_continued_in_openais_older_schema(key: str, host: Host) -> None:
    prompt = [*b"hey", 256]
    with serving(host):
        body = {"model": ECHO, "prompt": prompt, "n": 2, "logprobs": 1}
        whole = (await post("/v1/completions", body, key)).json()
        lines = await events(await post("/v1/completions", body | {"stream": True}, key))
    found = Completion.model_validate(whole)
    assert whole == found.model_dump(exclude_unset=True)
    assert [choice.text for choice in found.choices] == ["hey", "hey"]
    assert found.choices[0].logprobs is not None
    assert found.choices[0].logprobs.tokens == ["h", "e", "y"]
    assert found.choices[0].logprobs.text_offset == [0, 1, 2]
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (4, 8)
    assert lines.pop() == "data: [DONE]"
    texts = ["", ""]
    for line in lines:
        [choice] = json.loads(line.removeprefix("data: "))["choices"]
        texts[choice["index"]] += choice["text"]
    assert texts == ["hey", "hey"]


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"prompt": ["a"] * 22, "n": 3}, "prompt"),
        ({"prompt": [[1], [300]]}, "prompt.1"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [300]}, "prompt"),
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"n": 9}, "n"),
    ],
)
async def test_what_cannot_be_continued_is_refused_by_name(
    key: str, echo: Offer, wrong: dict[str, Any], param: str
) -> None:
    response = await post("/v1/completions", {"model": ECHO, "prompt": "hi", **wrong}, key)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_a_job_of_an_older_version_asks_for_one_answer() -> None:
    stored = json.loads(job(n=3).dump())
    assert Job.load(json.dumps(stored).encode()).n == 3
    del stored["n"]
    assert Job.load(json.dumps(stored).encode()).n == 1
