"""Files and batches by OpenAI's client; whatever dies, each line is carried out exactly once."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Literal
from uuid import uuid4

import httpx2 as httpx
import pytest
from django.db import OperationalError
from django.utils import timezone
from openai import AsyncOpenAI, AuthenticationError, BadRequestError, ConflictError, NotFoundError
from openai.types import Batch, FileObject
from openai.types.chat import ChatCompletion

from billing.models import Account, LedgerEntry
from inference import batching, jobs
from inference.batches import batch as life
from inference.batches import files, results
from inference.batches.models import Batch as Row
from inference.batches.models import BatchLine, FileFrame, StoredFile
from inference.live import Listener
from inference.models import Request
from inference.tasks import run_batches
from inference.worker import Host
from kit import redis as kit_redis
from kit.envelope import Unreadable
from tenants import keys, watch
from tenants.models import ApiKey, Organization, User
from tests import factories
from tests.inference.clients import ENCODER
from tests.inference.parts import ECHO, NOW, RATES, in_schema, serving

pytestmark = pytest.mark.django_db(transaction=True)

CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"


@pytest.fixture
def key(account: Account, acme: Organization) -> str:
    """Acme's program's key."""
    return factories.api_key(acme)[1]


def line(name: str, body: Mapping[str, Any], url: str = CHAT, **more: Any) -> Mapping[str, Any]:
    return {"custom_id": name, "method": "POST", "url": url, "body": body, **more}


def chat(text: str, **more: Any) -> Mapping[str, Any]:
    return {"model": ECHO, "messages": [{"role": "user", "content": text}], **more}


def loops() -> set[Any]:
    """The event loops of which something is kept."""
    return {*Listener._by_loop, *kit_redis._by_loop, *watch._Watch._by_loop}


async def upload(openai: AsyncOpenAI, lines: Iterable[Any]) -> FileObject:
    content = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines)
    return await openai.files.create(file=("in.jsonl", content.encode()), purpose="batch")


async def begin(openai: AsyncOpenAI, lines: Iterable[Any], url: Any = CHAT) -> Batch:
    file = await upload(openai, lines)
    return await openai.batches.create(
        input_file_id=file.id, endpoint=url, completion_window="24h", metadata={"project": "p"}
    )


async def carried_out() -> None:
    await in_schema("public", run_batches)


async def lines_of(openai: AsyncOpenAI, file: str | None) -> list[Any]:
    assert file is not None
    content = await openai.files.content(file)
    return [json.loads(each) for each in content.text.splitlines()]


async def booked(acme: Organization) -> list[LedgerEntry]:
    return await in_schema("public", lambda: list(LedgerEntry.objects.for_org(acme.pk)))


async def test_a_file_comes_back_as_it_was_and_lies_sealed(
    openai: AsyncOpenAI, acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_READ_AT_ONCE", 2)
    content = b"prompt in a file\n" * 40_000
    raw = await openai.files.with_raw_response.create(file=("a.txt", content), purpose="user_data")
    body = raw.http_response.json()
    made = FileObject.model_validate(body, strict=True)
    assert made.model_dump() == body
    assert (made.bytes, made.filename, made.purpose) == (len(content), "a.txt", "user_data")
    assert (await openai.files.content(made.id)).content == content
    frames = await in_schema("public", lambda: [bytes(f.sealed) for f in FileFrame.objects.all()])
    assert len(frames) == 3
    assert not any(b"prompt" in frame for frame in frames)
    assert (await openai.files.retrieve(made.id)) == made
    stored = await in_schema("public", lambda: files.one(acme.pk, made.id))
    read = files.content(stored)
    assert await in_schema("public", lambda: next(read))
    assert (await openai.files.delete(made.id)).deleted
    with pytest.raises(Unreadable, match="deleted while it was read"):
        await in_schema("public", lambda: list(read))
    assert await in_schema("public", FileFrame.objects.count) == 0
    with pytest.raises(NotFoundError):
        await openai.files.retrieve(made.id)


async def test_files_are_listed_by_pages(openai: AsyncOpenAI) -> None:
    made = [(await upload(openai, [str(n)])).id for n in range(3)]
    assert [each.id async for each in openai.files.list(limit=2)] == made[::-1]
    assert [each.id async for each in openai.files.list(limit=2, order="asc")] == made
    assert [each.id async for each in openai.files.list(purpose="user_data")] == []


async def test_files_that_are_not_right_are_refused_by_name(
    openai: AsyncOpenAI, http: httpx.AsyncClient, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadRequestError, match="purpose"):
        await openai.files.create(file=b"x", purpose="fine-tune")
    with pytest.raises(BadRequestError, match="empty"):
        await openai.files.create(file=b"", purpose="batch")
    said = {"Authorization": f"Bearer {key}"}
    plain = await http.post("/v1/files", headers=said, json={"purpose": "batch"})
    assert (plain.status_code, plain.json()["error"]["param"]) == (400, "file")
    monkeypatch.setattr(files, "MOST_BYTES", 10)
    with pytest.raises(ConflictError, match="10 bytes"):
        await openai.files.create(file=b"more than ten bytes", purpose="batch")
    monkeypatch.setattr(files, "MOST", 0)
    with pytest.raises(ConflictError, match="0 is the most"):
        await openai.files.create(file=b"few bytes", purpose="batch")


async def test_a_batch_is_carried_out_at_the_price_of_batches(
    openai: AsyncOpenAI, host: Host, acme: Organization
) -> None:
    made = await begin(
        openai,
        [
            line("first", chat("hello")),
            line("wrong", chat("hello", temperature=9)),
            line("streamed", chat("hello", stream=True)),
            line("last", chat("bye")),
        ],
    )
    assert (made.status, made.metadata) == ("validating", {"project": "p"})
    with serving(host):
        await carried_out()
    raw = await openai.batches.with_raw_response.retrieve(made.id)
    body = raw.http_response.json()
    ended = Batch.model_validate(body, strict=True)
    assert ended.model_dump(exclude_unset=True) == body
    assert ended.status == "completed"
    assert ended.request_counts is not None
    assert ended.request_counts.model_dump() == {"total": 4, "completed": 2, "failed": 2}
    first, last = await lines_of(openai, ended.output_file_id)
    assert (first["custom_id"], first["error"]) == ("first", None)
    answer = ChatCompletion.model_validate(first["response"]["body"], strict=True)
    assert answer.choices[0].message.content == "hello"
    assert last["response"]["body"]["choices"][0]["message"]["content"] == "bye"
    wrong, streamed = await lines_of(openai, ended.error_file_id)
    assert wrong["response"]["status_code"] == 400
    assert wrong["response"]["body"]["error"]["param"] == "temperature"
    assert streamed["response"]["body"]["error"]["param"] == "stream"
    rows = await booked(acme)
    assert {str(row.request) for row in rows} == {
        each["response"]["request_id"] for each in (first, last)
    }
    for row in rows:
        assert set(row.units) == {"batch_input_tokens", "batch_output_tokens"}
        tokens = row.units["batch_input_tokens"], row.units["batch_output_tokens"]
        each = RATES["input_tokens"] // 10**6, RATES["output_tokens"] // 10**6
        assert row.amount == tokens[0] * each[0] + tokens[1] * each[1]
        assert row.project == "p"
    assert await in_schema("public", BatchLine.objects.count) == 0


async def test_embeddings_in_a_batch_cost_the_batchs_rate(
    openai: AsyncOpenAI, encoding: Host, acme: Organization
) -> None:
    url = "/v1/embeddings"
    made = await begin(openai, [line("a", {"model": ENCODER, "input": "a cat"}, url)], url=url)
    with serving(encoding, model=ENCODER):
        await carried_out()
    ended = await openai.batches.retrieve(made.id)
    [found] = await lines_of(openai, ended.output_file_id)
    assert len(found["response"]["body"]["data"][0]["embedding"]) == 384
    [row] = await booked(acme)
    assert (row.units, row.amount) == ({"batch_embedding_tokens": 4}, 4 * 1_500)


async def test_a_file_that_is_no_batch_fails_with_its_lines(openai: AsyncOpenAI) -> None:
    made = await begin(
        openai,
        [
            "{",
            line("a", chat("x"), url="/v1/completions"),
            line("b", chat("x")),
            line("b", chat("x")),
            line("c", chat("x"), more=1),
        ],
    )
    await carried_out()
    ended = await openai.batches.retrieve(made.id)
    assert ended.status == "failed"
    assert ended.errors is not None
    assert [(each.line, each.code) for each in ended.errors.data or []] == [
        (1, "invalid_json_line"),
        (2, "mismatched_url"),
        (4, "duplicate_custom_id"),
        (5, "unknown_field"),
    ]


async def test_whoever_takes_a_batch_over_carries_no_line_out_twice(
    openai: AsyncOpenAI, host: Host, acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await begin(openai, [line(str(n), chat(f"text {n}")) for n in range(20)])
    note, noted = life.note, list[str]()

    def dies_after_five(*args: Any, **kwargs: Any) -> None:
        if len(noted) == 5:
            raise RuntimeError("PostgreSQL has gone away")
        note(*args, **kwargs)
        noted.append("one")

    monkeypatch.setattr(life, "note", dies_after_five)
    before = loops()
    with serving(host):
        first = await in_schema("public", lambda: life.claim(now=timezone.now()))
        assert first is not None
        await in_schema(
            "public",
            lambda: batching.carry(first, turn=3.0, stopping=lambda: len(noted) == 5),
        )
        assert loops() <= before
        monkeypatch.setattr(life, "note", note)
        await carried_out()
        ended = await openai.batches.retrieve(made.id)
        answers = await lines_of(openai, ended.output_file_id)
    assert [each["custom_id"] for each in answers] == [str(n) for n in range(20)]
    texts = [each["response"]["body"]["choices"][0]["message"]["content"] for each in answers]
    assert texts == [f"text {n}" for n in range(20)]
    assert len(await booked(acme)) == 20
    assert await in_schema(acme.schema_name, Request.objects.count) == 20


async def test_a_turn_whose_end_cannot_be_written_keeps_no_connections(
    openai: AsyncOpenAI, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await begin(openai, [line("a", chat("x"))])
    release = life.release

    def gone(*_: Any, **__: Any) -> None:
        raise OperationalError("PostgreSQL has gone away")

    monkeypatch.setattr(life, "release", gone)
    before = loops()
    with serving(host):
        first = await in_schema("public", lambda: life.claim(now=timezone.now()))
        assert first is not None
        with pytest.raises(OperationalError):
            await in_schema("public", lambda: batching.carry(first, stopping=lambda: False))
    assert loops() <= before
    monkeypatch.setattr(life, "release", release)
    assert (await openai.batches.retrieve(made.id)).status == "completed"


async def test_who_lost_a_batch_ends_it_no_more(openai: AsyncOpenAI, host: Host) -> None:
    await begin(openai, [line("a", chat("x"))])
    later = timezone.now() + timedelta(minutes=1)
    first = await in_schema("public", lambda: life.claim(now=timezone.now()))
    assert await in_schema("public", lambda: life.claim(now=timezone.now())) is None
    second = await in_schema("public", lambda: life.claim(now=later))
    assert first is not None
    assert second is not None
    assert await in_schema("public", lambda: life.renew(first, now=later)) is None
    with serving(host):
        await in_schema("public", lambda: batching.carry(first, turn=1.0, stopping=lambda: False))
    left = await in_schema("public", Row.objects.across_organizations().get)
    assert (left.state, left.completed) == ("validating", 0)


async def test_a_cancelled_batch_keeps_what_was_done(openai: AsyncOpenAI, host: Host) -> None:
    made = await begin(openai, [line(str(n), chat("text")) for n in range(3)])
    with pytest.raises(NotFoundError):
        await openai.batches.cancel("batch_none")
    assert (await openai.batches.cancel(made.id)).status == "cancelling"
    with serving(host):
        await carried_out()
    ended = await openai.batches.retrieve(made.id)
    assert (ended.status, ended.output_file_id) == ("cancelled", None)
    assert ended.cancelled_at
    assert (await openai.batches.cancel(made.id)).status == "cancelled"


async def test_a_batch_whose_time_is_over_says_so_of_each_line_left(
    openai: AsyncOpenAI, host: Host
) -> None:
    made = await begin(openai, [line(str(n), chat("text")) for n in range(3)])
    past = timezone.now() - timedelta(hours=25)
    await in_schema("public", lambda: Row.objects.across_organizations().update(expires_at=past))
    with serving(host):
        await carried_out()
    ended = await openai.batches.retrieve(made.id)
    assert ended.status == "expired"
    left = await lines_of(openai, ended.error_file_id)
    assert [each["error"]["code"] for each in left] == ["batch_expired"] * 3


async def test_a_batch_of_a_revoked_key_fails(openai: AsyncOpenAI, acme: Organization) -> None:
    made = await begin(openai, [line("a", chat("x"))])

    def revoke() -> None:
        keys.revoke(ApiKey.objects.for_org(acme).get(), now=NOW)

    await in_schema("public", revoke)
    async with asyncio.timeout(5):
        while True:
            try:
                await openai.files.list()
            except AuthenticationError:
                break
    await carried_out()
    left = await in_schema("public", Row.objects.across_organizations().get)
    assert made.id == f"batch_{left.pk.hex}"
    assert (left.state, left.errors[0]["code"]) == ("failed", "invalid_api_key")


async def test_whose_person_is_shut_out_meanwhile_ends_at_once(
    openai: AsyncOpenAI, acme: Organization
) -> None:
    """Its lines are in line, and its worker's turn lasts long yet."""

    def person() -> User:
        dora = factories.user("dora")
        factories.member(dora, acme)
        key = ApiKey.objects.for_org(acme).get()
        key.person = dora
        key.save()
        return dora

    def shut_out(dora: User) -> None:
        dora.is_active = False
        dora.save()

    dora = await in_schema("public", person)
    made = await begin(openai, [line(str(n), chat("x")) for n in range(2)])
    turn = asyncio.create_task(carried_out())
    async with asyncio.timeout(20):
        while True:
            begun = await in_schema("public", lambda: list(BatchLine.objects.all()))
            if begun and all([await jobs.exists(each.request) for each in begun]):
                break
            await asyncio.sleep(0.05)
        await in_schema("public", lambda: shut_out(dora))
        await turn
    left = await in_schema("public", Row.objects.across_organizations().get)
    assert made.id == f"batch_{left.pk.hex}"
    assert (left.state, left.errors[0]["code"]) == ("failed", "invalid_api_key")
    for each in begun:
        head = await jobs.head(request=each.request, organization=acme.pk)
        assert head is None or head.state != "waiting"


async def test_prompts_in_one_body_have_each_their_outcome(
    http: httpx.AsyncClient, key: str, host: Host
) -> None:
    said = {"Authorization": f"Bearer {key}"}
    some = [{"prompt": "one"}, {"prompt": ""}, {"prompt": "three", "temprature": 1}]
    made = await http.post("/api/v1/infer/batch", headers=said, json={"requests": some})
    assert (made.status_code, made.json()["progress"]) == (202, 0)
    where = made.headers["Location"]
    with serving(host):
        await carried_out()
    found = (await http.get(where, headers=said)).json()
    assert (found["state"], found["progress"], found["next"]) == ("completed", 1, None)
    one, two, three = found["results"]
    assert (one["state"], one["answer"]["text"]) == ("done", "one")
    assert one["answer"]["request_id"] == one["request_id"]
    assert (two["state"], two["error"]["code"]) == ("failed", "empty_prompt")
    assert (three["status"], three["error"]["param"]) == (400, "temprature")
    page = (await http.get(f"{where}?limit=1&after=0", headers=said)).json()
    assert ([each["index"] for each in page["results"]], page["next"]) == ([1], 1)
    assert (await http.post(f"{where}/cancel", headers=said)).status_code == 409
    asked = await in_schema("public", lambda: {bytes(row.asked) for row in BatchLine.objects.all()})
    assert asked == {b""}, "prompts go when the answer is there"
    later = timezone.now() + files.LONGEST
    early = later - timedelta(hours=1)
    assert await in_schema("public", lambda: life.purge(now=early)) == 0
    assert await in_schema("public", lambda: life.purge(now=later)) == 1
    assert await in_schema("public", BatchLine.objects.count) == 0
    assert (await http.get(where, headers=said)).status_code == 404


@pytest.mark.parametrize(("retention", "hours"), [("answers", 30 * 24), ("nothing", 24)])
def test_results_of_a_batch_go_with_its_files_and_soon_where_nothing_is_kept(
    acme: Organization, retention: str, hours: int
) -> None:
    Organization.objects.filter(pk=acme.pk).update(retention=retention)
    with_files, without = (
        life.make(
            factories.caller(organization=acme.pk),
            endpoint=CHAT,
            input_file=file,
            lines=[life.Asked("a", b"{}")],
            now=NOW,
            identifier=uuid4(),
        )
        for file in (uuid4(), None)
    )
    for each in (with_files, without):
        life.note(each, each.lines.get(), status=200, answer=b"{}")
        assert results.finalize(each, "completed", now=NOW)
    end = NOW + timedelta(hours=hours)
    assert {each.expires_at for each in StoredFile.objects.for_org(acme)} == {end}
    assert life.purge(now=end - timedelta(seconds=1)) == 0
    assert life.purge(now=end) == 2
    assert not StoredFile.objects.for_org(acme).exists()
    assert BatchLine.objects.count() == FileFrame.objects.count() == 0


async def test_files_and_batches_of_others_do_not_exist(
    openai: AsyncOpenAI, http: httpx.AsyncClient, globex: Organization
) -> None:
    file = await upload(openai, [line("a", chat("x"))])
    made = await begin(openai, [line("a", chat("x"))])
    _, theirs = await in_schema("public", lambda: factories.api_key(globex))
    bob = AsyncOpenAI(base_url="http://testserver/v1", api_key=theirs, http_client=http)
    for ask in (
        bob.files.retrieve(file.id),
        bob.files.content(file.id),
        bob.files.delete(file.id),
        bob.batches.retrieve(made.id),
        bob.batches.cancel(made.id),
        bob.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h"),
    ):
        with pytest.raises(NotFoundError):
            await ask
    assert [each.id async for each in bob.files.list()] == []
    assert [each.id async for each in bob.batches.list()] == []
    with pytest.raises(NotFoundError):
        await openai.batches.retrieve(f"batch_{uuid4().hex}")


def test_files_that_are_kept_no_more_are_purged(acme: Organization) -> None:
    for hours in (1, 24):
        files.keep(
            acme.pk,
            name="a",
            purpose="user_data",
            content=[b"x"],
            now=NOW,
            kept_for=timedelta(hours=hours),
        )
    assert files.purge(now=NOW + timedelta(hours=2)) == 1
    assert FileFrame.objects.count() == 1
