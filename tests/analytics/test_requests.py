"""The history over REST: filtered, paged, exported, searched, and what is thought of it."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django_tenants.utils import schema_context

from inference import history, texts, words
from inference.jobs import asked_place
from inference.models import RequestDue, RequestFeedback, RequestText
from inference.texts import SealedTexts, answered_place
from kit.ids import first_id
from tenants import audit, datakeys, organizations
from tenants.models import Organization, Retention, Scope
from tests import factories
from tests.inference.clients import http as http
from tests.inference.parts import in_schema

pytestmark = [pytest.mark.usefixtures("redis"), pytest.mark.django_db(transaction=True)]

START = datetime(2026, 11, 24, 12, tzinfo=UTC)


def row(number: int, **fields: Any) -> history.Row:
    """A request that began so many seconds after START."""
    at = START + timedelta(seconds=number)
    values = {
        "id": UUID(int=first_id(at).int + number),
        "state": "finished",
        "reason": "stop",
        "error": "",
        "endpoint": "infer",
        "model": "echo",
        "model_version": "1",
        "key": "key000000000",
        "label": f"r{number}",
        "region": "local",
        "prompt_tokens": 10,
        "cached_tokens": 0,
        "completion_tokens": number,
        "amount": number * 1_000,
        "currency": "EUR",
        "attempts": 1,
        "created_at": at,
        "started_at": at + timedelta(milliseconds=10),
        "first_token_at": at + timedelta(milliseconds=40),
        "finished_at": at + timedelta(milliseconds=250),
        "project": "",
        "cache": "",
    }
    return history.Row(**{**values, **fields})


@pytest.fixture
def rows(acme: Organization, globex: Organization) -> list[history.Row]:
    """Ten of acme's, one every second, and one of globex's."""
    made = [
        row(n, model="big" if n == 3 else "echo", state="failed" if n == 4 else "finished")
        for n in range(9)
    ]
    made.append(row(9, key="another00000", project="site", label="=1+1"))
    history.write([(acme.schema_name, each) for each in made])
    history.write([(globex.schema_name, row(5))])
    return made


@pytest.fixture
def key(acme: Organization) -> str:
    return factories.api_key(acme)[1]


def numbers(said: Any) -> list[int]:
    return [each["completion_tokens"] for each in said["data"]]


async def ask(http: Any, bearer: str, path: str = "", **query: Any) -> Any:
    headers = {"Authorization": f"Bearer {bearer}"}
    return await http.get(f"/api/v1/requests{path}", params=query, headers=headers)


async def test_pages_follow_each_other_and_new_requests_move_none(
    http: Any, key: str, rows: list[history.Row], acme: Organization
) -> None:
    first = (await ask(http, key, limit=4)).json()
    assert numbers(first) == [9, 8, 7, 6]
    await in_schema("public", lambda: history.write([(acme.schema_name, row(20))]))
    second = (await ask(http, key, limit=4, cursor=first["next"])).json()
    third = (await ask(http, key, limit=4, cursor=second["next"])).json()
    assert (numbers(second), numbers(third), third["next"]) == ([5, 4, 3, 2], [1, 0], None)
    told = second["data"][0]
    assert (told["latency_ms"], told["first_token_ms"], told["amount"]) == (250, 40, "0.000005000")
    assert told["rating"] is None


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"model": "big"}, [3]),
        ({"key": "another00000"}, [9]),
        ({"project": "site"}, [9]),
        ({"status": "failed"}, [4]),
        ({"status": "failed,cancelled"}, [4]),
        ({"min_cost": "0.000006", "max_cost": "0.000007"}, [7, 6]),
        ({"since": "2026-11-24T12:00:07Z"}, [9, 8, 7]),
        ({"until": "2026-11-24T13:00:02+01:00"}, [1, 0]),
        ({"model": "big", "status": "failed"}, []),
        ({"since": "0001-01-01T00:00:00Z", "until": "1969-01-01T00:00:00Z"}, []),
    ],
    ids=str,
)
async def test_filters_let_through_what_they_say(
    query: dict[str, str], found: list[int], http: Any, key: str, rows: list[history.Row]
) -> None:
    assert numbers((await ask(http, key, **query)).json()) == found


@pytest.mark.parametrize(
    "query",
    [
        {"status": "done"},
        {"min_cost": "1e9"},
        {"since": "yesterday"},
        {"cursor": "9"},
        {"limit": "0"},
        {"team": "x"},
        {"model": "a\0"},
    ],
    ids=str,
)
async def test_a_parameter_that_does_not_fit_is_refused(
    query: dict[str, str], http: Any, key: str
) -> None:
    answer = await ask(http, key, **query)
    assert answer.status_code == 400, answer.text
    if "a\0" not in query.values():
        assert answer.json()["param"] == next(iter(query))


async def test_the_export_has_every_row_once_and_no_formula(
    http: Any, key: str, rows: list[history.Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analytics.requests._CHUNK", 3)
    lines = [json.loads(line) for line in (await ask(http, key, "/export")).text.splitlines()]
    assert [each["label"] for each in lines] == [each.label for each in rows]
    answer = await ask(http, key, "/export", format="csv", since="2026-11-24T12:00:08Z")
    assert answer.headers["content-disposition"].endswith('.csv"')
    found = list(csv.DictReader(io.StringIO(answer.text)))
    assert [each["label"] for each in found] == ["r8", "'=1+1"]
    assert found[0]["created_at"] == "2026-11-24T12:00:08.000+00:00"


def test_each_row_is_due_to_be_counted_once(acme: Organization) -> None:
    for _ in range(2):
        history.write([(acme.schema_name, row(1)), (acme.schema_name, row(2))])
    with schema_context(acme.schema_name):
        assert RequestDue.objects.count() == 2


def keep(acme: Organization, number: int, asked: str, answered: str) -> None:
    """A request's texts, as booking keeps them."""
    ring, made = datakeys.ring(acme.pk), row(number)
    messages = json.dumps([{"role": "user", "content": asked}]).encode()
    sealed = SealedTexts(
        made.id,
        ring.seal(messages, asked_place(acme.pk, made.id)),
        ring.seal(json.dumps([answered]).encode(), answered_place(acme.pk, made.id)),
        START,
        words.marked(ring, acme.pk, messages, [answered]),
    )
    texts.write([(acme.schema_name, sealed)])


@pytest.fixture
def searched(acme: Organization, rows: list[history.Row]) -> Organization:
    organizations.keep(acme, Retention.TEXTS, days=30, searchable=True, now=START, by=audit.SYSTEM)
    keep(acme, 1, "What is the capital of France?", "Paris is the capital.")
    datakeys.renew(acme.pk, now=START)
    keep(acme, 2, "Parlez-vous FRANÇAIS? the capital", "Oui.")
    return acme


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("capital", [2, 1]),
        ("CAPITAL france", [1]),
        ("paris", [1]),
        ("français", [2]),
        ("capit", []),
        ("user", []),
    ],
)
async def test_texts_are_found_by_whole_words_under_every_data_key(
    text: str, found: list[int], http: Any, key: str, searched: Organization
) -> None:
    assert numbers((await ask(http, key, q=text)).json()) == found


async def test_the_index_says_nothing_without_the_key_and_goes_when_it_is_not_wanted(
    http: Any, key: str, searched: Organization
) -> None:
    def stored() -> list[Any]:
        return list(RequestText.objects.exclude(words=None).values_list("words", flat=True))

    assert "capital" not in repr(await in_schema(searched.schema_name, stored))

    def stop() -> None:
        organizations.keep(searched, Retention.TEXTS, days=3650, now=START, by=audit.SYSTEM)
        searched.refresh_from_db()
        texts.purge(searched, now=START)

    await in_schema("public", stop)
    answer = await ask(http, key, q="capital")
    assert (answer.status_code, answer.json()["code"]) == (409, "texts_not_searchable")
    export = await ask(http, key, "/export", q="capital")
    assert export.status_code == 409
    assert await in_schema(searched.schema_name, stored) == []


async def test_words_are_looked_for_by_those_who_may_read_texts(
    http: Any, acme: Organization, searched: Organization
) -> None:
    _, usage = await in_schema(
        "public", lambda: factories.api_key(acme, scopes=[Scope.USAGE.value])
    )
    assert (await ask(http, usage)).status_code == 200
    assert (await ask(http, usage, q="capital")).status_code == 403


async def test_feedback_replaces_what_was_said_before_and_filters(
    http: Any, key: str, rows: list[history.Row], globex: Organization
) -> None:
    path = f"/api/v1/requests/{rows[3].id}/feedback"
    headers = {"Authorization": f"Bearer {key}"}
    for rating, comment in (("good", ""), ("bad", "It answered in Latin.")):
        answer = await http.put(path, json={"rating": rating, "comment": comment}, headers=headers)
        assert answer.status_code == 200, answer.text
    said = (await http.get(path, headers=headers)).json()
    assert (said["rating"], said["comment"]) == ("bad", "It answered in Latin.")
    assert said["given_by"].startswith("key:")
    assert numbers((await ask(http, key, rating="bad")).json()) == [3]
    assert numbers((await ask(http, key, rating="good")).json()) == []
    stored = await in_schema("org_acme", lambda: bytes(RequestFeedback.objects.get().comment))
    assert b"Latin" not in stored
    nowhere = f"/api/v1/requests/{row(77).id}/feedback"
    answer = await http.put(nowhere, json={"rating": "good"}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (404, "request_not_found")
    answer = await http.put(path, json={"rating": "meh"}, headers=headers)
    assert (answer.status_code, answer.json()["param"]) == (400, "rating")


async def test_where_nothing_is_kept_a_comment_is_refused(
    http: Any, key: str, rows: list[history.Row], acme: Organization
) -> None:
    await in_schema(
        "public",
        lambda: organizations.keep(acme, Retention.NOTHING, days=1, now=START, by=audit.SYSTEM),
    )
    path = f"/api/v1/requests/{rows[0].id}/feedback"
    headers = {"Authorization": f"Bearer {key}"}
    answer = await http.put(path, json={"rating": "good", "comment": "x"}, headers=headers)
    assert (answer.status_code, answer.json()["param"]) == (409, "comment")
    assert (await http.put(path, json={"rating": "good"}, headers=headers)).status_code == 200
