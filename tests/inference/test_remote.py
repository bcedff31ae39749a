"""Models that another server runs: against a second HTTP server, with its faults."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.test import AsyncClient
from prometheus_client import REGISTRY
from redis import Redis

from billing.models import Account, LedgerEntry, PriceVersion
from inference import jobs, stream
from inference.catalog import offers
from inference.catalog.models import Model, is_base_url
from inference.catalog.offers import Offer
from inference.engine import Sampling
from inference.engine.work import Grammar, GrammarKind
from inference.finish import finish
from inference.jobs import Job
from inference.remote import Unsupported, body, refuse_unknown
from inference.stream import Piece
from inference.worker import Host, openai
from tenants.models import Organization
from tests import factories
from tests.inference.far import WORDS, FarServer
from tests.inference.parts import NOW, RATES, fields, job, serving, submit
from tests.inference.test_worker import until

pytestmark = pytest.mark.django_db(transaction=True)

FAR = "far"
SECRET = "sk-far-away"


@pytest.fixture
def server() -> Iterator[FarServer]:
    server = FarServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def far(
    server: FarServer,
    transactional_db: None,
    redis: Redis,
    tmp_path: Path,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Offer:
    """The remote model, published and priced; its tokenizer is not here."""
    settings.MODELS_DIR = tmp_path
    monkeypatch.setenv("REMOTE_FAR_KEY", SECRET)
    monkeypatch.setattr(openai, "_FIRST_PAUSE", 0.01)
    PriceVersion.objects.create(
        model=FAR, currency="EUR", rates=RATES, effective_from=datetime(2026, 1, 1, tzinfo=UTC)
    )
    add(server.url)
    return offers.published()[FAR]


def add(url: str, **more: Any) -> Model:
    return Model.objects.create(
        **{
            "name": FAR,
            "title": "Far",
            "backend": "remote",
            "remote_url": url,
            "remote_model": "llama-far",
            "remote_secret": "REMOTE_FAR_KEY",
            "version": "1",
            "context": 4096,
            "published": True,
            **more,
        }
    )


@pytest.fixture
def account(far: Offer, acme: Organization) -> Account:
    return factories.account(acme, credit_limit=1_000_000_000)


@pytest.fixture
def host(far: Offer, announced: list[str]) -> Iterator[Host]:
    host = Host([far], slots=1)
    host.start()
    yield host
    host.drain(0)


@pytest.fixture
def one(far: Offer, account: Account, acme: Organization) -> Job:
    """A request of acme's, in line."""
    made = request_of(acme)
    submit(made)
    return made


def request_of(acme: Organization, **more: Any) -> Job:
    return job(
        **{
            "organization": acme.pk,
            "schema": acme.schema_name,
            "model": FAR,
            "prompt": (),
            "messages": ({"role": "user", "content": "Say numbers."},),
            "prompt_tokens": 30,
            "sampling": Sampling(max_tokens=50, temperature=0.5, seed=3, stop=("END",)),
            "price_version": PriceVersion.objects.get().pk,
            **more,
        }
    )


def ended(request: UUID) -> bool:
    return fields(request).get("state") == "done"


def entries() -> dict[UUID, LedgerEntry]:
    return {each.request: each for each in LedgerEntry.objects.across_organizations().iterator()}


def told(request: UUID) -> str:
    events = stream.read(owner(request), request)
    return "".join(event.text for event in events if isinstance(event, Piece))


def owner(request: UUID) -> int:
    return int(fields(request)["org"])


def counted(name: str, kind: str) -> float:
    return REGISTRY.get_sample_value(name, {"model": FAR, "kind": kind}) or 0.0


def test_an_answer_is_streamed_through_counted_and_booked(
    one: Job, host: Host, server: FarServer
) -> None:
    host.serve(FAR)
    until(lambda: ended(one.id))
    assert told(one.id) == "".join(WORDS)
    entry = entries()[one.id]
    assert entry.units == {"input_tokens": 7, "output_tokens": 4}
    assert entry.amount == 7 * 1000 + 4 * 2000
    [(headers, asked)] = server.seen
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert headers["X-Request-ID"] == f"{one.id}/1"
    assert asked == {
        "model": "llama-far",
        "messages": [{"role": "user", "content": "Say numbers."}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 50,
        "temperature": 0.5,
        "top_p": 1.0,
        "seed": 3,
        "stop": ["END"],
    }


def test_thinking_and_what_was_read_before_are_meters_of_their_own(
    one: Job, host: Host, server: FarServer
) -> None:
    server.faults.append("thinks")
    host.serve(FAR)
    until(lambda: ended(one.id))
    assert told(one.id) == "<think>\nhm so\n</think>\n\n" + "".join(WORDS)
    entry = entries()[one.id]
    assert entry.units == {
        "input_tokens": 4,
        "cached_input_tokens": 3,
        "output_tokens": 3,
        "reasoning_tokens": 3,
    }
    assert entry.amount == 7 * 1000 + 6 * 2000


@pytest.fixture
def key(account: Account, acme: Organization) -> str:
    return factories.api_key(acme)[1]


async def test_any_client_gets_it_by_its_name(key: str, host: Host) -> None:
    chat = {"model": FAR, "messages": [{"role": "user", "content": "Say numbers."}]}
    with serving(host, model=FAR):
        response = await AsyncClient().post(
            "/v1/chat/completions",
            data=json.dumps(chat),
            content_type="application/json",
            headers={"Authorization": f"Bearer {key}"},
        )
    answer = response.json()
    assert answer["choices"][0]["message"]["content"] == "one two three four"
    assert answer["usage"]["completion_tokens"] == 4
    assert answer["usage"]["prompt_tokens"] == 7


@pytest.mark.parametrize("fault", ["429", "500", "503", "nothing", "html"])
def test_what_fails_before_its_first_token_is_tried_again(
    one: Job, host: Host, server: FarServer, fault: str
) -> None:
    kind = "busy" if fault == "429" else "broken"
    before = counted("inference_remote_retries_total", kind)
    server.faults.extend([fault, fault])
    host.serve(FAR)
    until(lambda: ended(one.id))
    assert told(one.id) == "".join(WORDS)
    assert len(server.seen) == 3
    assert counted("inference_remote_retries_total", kind) == before + 2


@pytest.mark.parametrize(
    ("faults", "kind", "said"),
    [
        (["500"] * 3, "broken", "answered 500"),
        (["400"], "refused", "answered 400: too long by half"),
        (["401"], "denied", "answered 401"),
        (["redirect"], "redirected", "not followed"),
        (["cut"], "broken", "broke off"),
        (["garbage"], "broken", "no event"),
        (["error"], "broken", "reported an error"),
        (["endless-line"], "broken", "too long a line"),
        (["unended"], "broken", "broke off"),
    ],
)
def test_what_breaks_fails_for_free_and_is_not_told_twice(
    one: Job, host: Host, server: FarServer, faults: list[str], kind: str, said: str
) -> None:
    before = counted("inference_remote_failures_total", kind)
    server.faults.extend(faults)
    host.serve(FAR)
    until(lambda: ended(one.id))
    entry = entries()[one.id]
    assert (entry.state, entry.amount) == ("failed", 0)
    assert len(server.seen) == len(faults)
    error = fields(one.id)["error"]
    assert said in error
    assert "secret" not in error
    assert counted("inference_remote_failures_total", kind) == before + 1
    assert "".join(WORDS).startswith(told(one.id))


def test_a_server_that_says_nothing_is_given_up(
    one: Job, far: Offer, server: FarServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "SILENT_SECONDS", 0.1)
    server.faults.extend(["silent"] * 3)
    impatient = Host([far], slots=1)
    impatient.start()
    impatient.serve(FAR)
    until(lambda: ended(one.id))
    impatient.drain(0)
    assert "did not answer in time" in fields(one.id)["error"]
    assert len(server.seen) == 3


def test_a_server_that_is_not_there_and_a_key_that_is_not_set_are_named(
    one: Job, host: Host, server: FarServer, acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.stop()
    host.serve(FAR)
    until(lambda: ended(one.id))
    assert "not reachable" in fields(one.id)["error"]
    monkeypatch.delenv("REMOTE_FAR_KEY")
    two = request_of(acme)
    submit(two)
    host.serve(FAR)
    until(lambda: ended(two.id))
    assert "REMOTE_FAR_KEY" in fields(two.id)["error"]


def test_a_cancel_closes_the_connection_and_bills_what_was_delivered(
    one: Job, host: Host, server: FarServer
) -> None:
    server.faults.append("hold")
    host.serve(FAR)
    until(lambda: told(one.id) == "one two")
    assert asyncio.run(jobs.cancel(request=one.id, organization=one.organization))
    until(lambda: ended(one.id))
    assert server.left.wait(5)
    entry = entries()[one.id]
    assert (entry.state, entry.units["output_tokens"]) == ("cancelled", 2)
    assert entry.amount > 0


def test_a_drained_workers_unbegun_answer_is_anothers_and_a_begun_one_fails_for_free(
    one: Job, far: Offer, server: FarServer, acme: Organization, announced: list[str]
) -> None:
    first, second = Host([far], slots=1), Host([far], slots=1)
    first.start()
    second.start()
    two = request_of(acme)
    submit(two)
    server.faults.extend(["hold", "silent"])
    first.serve(FAR)
    until(lambda: told(one.id) == "one two" and len(server.seen) == 2)
    first.drain(0)
    assert {fields(each.id)["state"] for each in (one, two)} == {"waiting"}
    second.serve(FAR)
    until(lambda: ended(one.id) and ended(two.id))
    second.drain(0)
    booked = entries()
    assert (booked[one.id].state, booked[one.id].amount) == ("failed", 0)
    assert "cannot be resumed" in fields(one.id)["error"]
    assert booked[two.id].units["output_tokens"] == 4


def test_a_full_station_claims_what_waits_as_soon_as_a_stream_ends(
    far: Offer, account: Account, acme: Organization, server: FarServer, settings: Any
) -> None:
    """One announcement for all; nobody repeats it."""
    settings.REMOTE_STREAMS = 3
    many = [request_of(acme) for _ in range(20)]
    submit(*many)
    host = Host([far], slots=1)
    host.start()
    try:
        host.serve(FAR)
        until(lambda: all(ended(each.id) for each in many))
        assert host._stations[FAR].free == 3
        assert len(server.seen) == 20
    finally:
        host.drain(0)


def test_hundreds_run_at_once_in_one_thread(
    far: Offer, account: Account, acme: Organization, server: FarServer, host: Host
) -> None:
    many = [request_of(acme) for _ in range(300)]
    submit(*many)
    server.faults.extend(["gated"] * 300)
    host.serve(FAR)
    until(lambda: all(told(each.id) == "one two" for each in many), 30)
    assert len(host._stations[FAR].held()) == 300
    server.open()
    until(lambda: all(ended(each.id) for each in many), 30)
    assert {told(each.id) for each in many} == {"".join(WORDS)}
    assert sum(each.units["output_tokens"] for each in entries().values()) == 1200


def test_another_count_than_ours_is_counted_and_ours_is_billed(
    one: Job, host: Host, server: FarServer
) -> None:
    before = counted("inference_remote_mismatches_total", "completion")
    server.faults.append("miscount")
    host.serve(FAR)
    until(lambda: ended(one.id))
    assert entries()[one.id].units["output_tokens"] == 4
    assert counted("inference_remote_mismatches_total", "completion") == before + 1


def test_no_more_is_counted_than_was_asked_for_and_all_is_delivered(
    far: Offer, account: Account, acme: Organization, host: Host
) -> None:
    short = request_of(acme, sampling=Sampling(max_tokens=2))
    submit(short)
    host.serve(FAR)
    until(lambda: ended(short.id))
    assert told(short.id) == "".join(WORDS)
    assert entries()[short.id].units["output_tokens"] == 2


def test_with_the_tokenizer_here_tokens_are_its_own(
    far: Offer,
    account: Account,
    acme: Organization,
    tmp_path: Path,
    tokenizer: None,
    announced: list[str],
) -> None:
    """The echo model's text counts bytes, and one more an event."""
    Model.objects.filter(name=FAR).update(folder="bytes")
    offers.forget()
    offer = offers.published()[FAR]
    assert len(offer.text.chat([{"role": "user", "content": "abc"}])) == 4
    made = request_of(acme)
    submit(made)
    host = Host([offer], slots=1)
    host.start()
    host.serve(FAR)
    until(lambda: ended(made.id))
    host.drain(0)
    length = len("".join(WORDS)) + len(WORDS)
    assert entries()[made.id].units == {"input_tokens": 30, "output_tokens": length}


@pytest.fixture
def tokenizer(tmp_path: Path) -> None:
    from inference.engine import Manifest, write_manifest

    (tmp_path / "bytes").mkdir()
    write_manifest(tmp_path / "bytes", Manifest("bytes", "echo", 4096, (256,), "1", "none", 0))


def test_a_prompt_is_estimated_from_above_where_its_tokenizer_is_not_here(far: Offer) -> None:
    for text in ("Say numbers.", "def main() -> None: ...", "知识就是力量" * 20):
        estimate = len(far.text.chat([{"role": "user", "content": text}]))
        assert len(text.encode()) / 2 <= estimate <= len(text.encode()) / 2 + 40


def test_what_another_server_cannot_be_told_is_refused() -> None:
    for sampling in (
        Sampling(max_tokens=1, logprobs=0),
        Sampling(max_tokens=1, logit_bias=((5, 1.0),)),
        Sampling(max_tokens=1, stop_token_ids=(5,)),
        Sampling(max_tokens=1, grammar=Grammar(GrammarKind.regex, "a+")),
    ):
        with pytest.raises(Unsupported):
            refuse_unknown(sampling)
    schema = Sampling(max_tokens=1, grammar=Grammar(GrammarKind.json_schema, '{"type":"object"}'))
    refuse_unknown(schema)
    told_of = body(job(sampling=schema, messages=()), model="m")["response_format"]
    assert told_of["json_schema"]["schema"] == {"type": "object"}


def test_a_base_url_is_all_there_is_to_call() -> None:
    assert is_base_url("https://models.example.com/v1")
    assert is_base_url("http://10.0.0.5:8000/v1")
    for url in (
        "ftp://host/v1",
        "file:///etc/passwd",
        "https://user:pass@host/v1",
        "https://host/v1?to=else",
        "https://host/v1#x",
        "https:///v1",
        "host/v1",
        "https://host:99999/v1",
    ):
        assert not is_base_url(url), url


def test_a_row_is_remote_or_has_a_folder_and_names_no_secret_of_ours(far: Offer) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        add("", name="nowhere")
    with pytest.raises(IntegrityError), transaction.atomic():
        add("http://host/v1", name="both", backend="onnx", folder="x")
    row = Model.objects.get(name=FAR)
    row.remote_secret = "SECRET_KEY"
    row.remote_url = "file:///etc/passwd"
    with pytest.raises(ValidationError) as refused:
        row.full_clean()
    assert set(refused.value.message_dict) == {"remote_secret", "remote_url"}


def test_a_job_of_an_older_version_still_parses() -> None:
    import orjson

    stored = orjson.loads(job().dump()) | {"prompt": [1, 2], "sampling": {"max_tokens": 8}}
    del stored["prompt_tokens"], stored["retention"]
    assert Job.load(orjson.dumps(stored)).input_tokens == 2


def test_booking_a_remote_request_twice_changes_nothing(one: Job, host: Host) -> None:
    host.serve(FAR)
    until(lambda: ended(one.id))
    finish([one.id], now=NOW)
    assert len(entries()) == 1
