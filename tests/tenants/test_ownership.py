"""Every route that names a thing, with a real one of acme's: bob neither sees nor changes it.

`test_doors` and `test_portal_doors` hold who may come in; here everybody may, to what is theirs.
A route with a name in it and without a row here fails the suite.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client
from redis import Redis

from analytics import exports
from billing.models import Account
from billing.receivables import Checkout
from inference.batches import files
from inference.worker import Host
from tenants import datakeys
from tenants.audit import Actor
from tenants.models import Invitation, Membership, Organization, Scope, User
from tenants.webhooks.models import Delivery, Event, Webhook
from tests import factories
from tests.billing import rows
from tests.billing.test_invoicing import close
from tests.billing.test_ledger import booked
from tests.inference.conftest import _fresh_snapshots as _fresh_snapshots
from tests.inference.conftest import account as account
from tests.inference.conftest import announced as announced
from tests.inference.conftest import echo as echo
from tests.inference.conftest import host as host
from tests.inference.parts import serving
from tests.tenants import test_doors, test_portal_doors
from tests.tenants.test_doors import _access, ask

NOW = datetime.now(UTC)
BY = Actor("user:1", "alice@example.com")

WHOSE = {
    "v1/responses/": "response",
    "v1/files/": "file",
    "v1/batches/": "batch",
    "api/v1/infer/batch/": "prompts",
    "api/v1/jobs/": "request",
    "api/v1/requests/": "request",
    "api/v2/jobs/": "request",
    "api/v1/billing/checkouts/": "checkout",
    "api/v1/budgets/": "budget",
    "api/v1/invoices/": "invoice",
    "api/v1/keys/": "key",
    "api/v1/invitations/": "invitation",
    "api/v1/members/": "member",
    "api/v1/exports/": "export",
    "api/v1/webhooks/": "webhook",
    "api/v1/auth/sessions/": "login",
    "keys/": "key",
    "webhooks/": "webhook",
    "members/": "member",
    "invitations/": "invitation",
    "billing/checkouts/": "checkout",
    "billing/invoices/": "invoice",
    "billing/budgets/": "budget",
}
"""What the first name in a route is of, by how the route begins."""
EVERYBODYS = ("v1/models/", "api/v2/models/")
_NAME = re.compile(r"<[a-z]+:(\w+)>")
_ORDER = ("GET", "PUT", "PATCH", "POST", "DELETE")
_ENDS = ("/remove", "/revoke", "/withdraw", "/cancel")
"""In which their owner goes through them: what a thing does not outlive comes last."""

pytestmark = pytest.mark.django_db(transaction=True)


@dataclass(frozen=True)
class Row:
    """A method of a route that names a thing, and the body that would do."""

    method: str
    route: str
    form: Any

    def path(self, things: Mapping[str, str]) -> str:
        """Of these things."""
        [thing] = [name for start, name in WHOSE.items() if self.route.startswith(start)]
        path = self.route.replace("<uuid:event>", things["event"])
        return _NAME.sub(things[thing], path)

    def __str__(self) -> str:
        return f"{self.method} {self.route}"


def _rows(doors: Any) -> list[Row]:
    some = [Row(each.method, each.route, each.form) for each in doors if "<" in each.route]
    return sorted(some, key=lambda row: (_ORDER.index(row.method), row.route.endswith(_ENDS)))


REST = [
    row
    for row in _rows(
        [*test_doors.DOORS, *(Row(method, route, None) for method, route in test_doors.PEOPLE)]
    )
    if not row.route.startswith(EVERYBODYS)
]
PAGES = _rows(test_portal_doors.DOORS)
FORMS = {
    "PATCH api/v1/webhooks/<uuid:identifier>": {"enabled": False},
    "PATCH api/v1/budgets/<int:identifier>": {"hard": True},
}
"""Bodies that change something, where the table of doors has one that does not."""


@pytest.fixture
def things(
    account: Account,
    acme: Organization,
    alice: User,
    host: Host,
    settings: Any,
    tmp_path: Path,
) -> dict[str, str]:
    """One of each, of acme's; a request that has ended, and a response that runs."""
    settings.STATIC_ROOT, settings.EXPORTS_DIR = tmp_path, tmp_path / "exports"
    key, text = factories.api_key(acme, scopes=list(Scope.values))
    access = _access(alice)

    def made(path: str, form: Any, bearer: str = text) -> Any:
        status, said = ask("POST", path, form, bearer, "" if bearer == text else "acme")
        assert status < 300, said
        return json.loads(said)

    with serving(host):
        request = made("api/v1/infer", {"prompt": "acme's"})["request_id"]
    praise = {"rating": "good", "comment": "acme's"}
    assert ask("PUT", f"api/v1/requests/{request}/feedback", praise, text)[0] == 200
    response = made("v1/responses", {"model": "echo", "input": "acme's", "background": True})["id"]
    line = {"custom_id": "a", "method": "POST", "url": "/v1/completions"}
    line["body"] = {"model": "echo", "prompt": "acme's"}  # type: ignore[assignment]
    file = files.keep(
        acme.pk, name="acme's", purpose="batch", content=[json.dumps(line).encode()], now=NOW
    )
    named = f"file-{file.pk.hex}"
    batch = {"input_file_id": named, "endpoint": "/v1/completions", "completion_window": "24h"}
    webhook = Webhook.objects.create(
        organization=acme, url="https://x.example/", kinds=["key.leaked"], created_at=NOW
    )
    event = Event.objects.create(
        id=uuid4(), organization=acme, kind="key.leaked", data={"of": "acme's"}, at=NOW
    )
    Delivery.objects.create(
        webhook=webhook, event=event, due_at=NOW, state=Delivery.State.FAILED, ended_at=NOW
    )
    member = factories.member(factories.user("mia"), acme, Membership.role.field.default)
    invitation = Invitation.objects.create(
        organization=acme,
        email="ivy@example.com",
        token_hash="x",
        created_at=NOW,
        sent_at=NOW - timedelta(hours=1),
        expires_at=NOW + timedelta(days=1),
    )
    checkout = Checkout.objects.create(
        organization=acme, kind="card", status="ready", url="https://x.example/", created_at=NOW
    )
    booked(rows.entry(acme.pk))
    export = exports.ask(acme.pk, by=BY, now=NOW)
    exports.write_waiting(now=NOW)
    budget = {"scope": "organization", "amount": "5"}
    return {
        "request": request,
        "response": response,
        "file": named,
        "batch": made("v1/batches", batch)["id"],
        "prompts": made("api/v1/infer/batch", {"requests": [{"prompt": "acme's"}]})["batch_id"],
        "checkout": str(checkout.pk),
        "budget": str(made("api/v1/budgets", budget, access)["id"]),
        "invoice": close(account).number,
        "key": key.pk,
        "invitation": str(invitation.pk),
        "member": str(member.user_id),
        "export": str(export.pk),
        "webhook": str(webhook.pk),
        "event": str(event.pk),
        "login": _login(alice),
        "owner": access,
    }


def _login(alice: User) -> str:
    _, said = ask("GET", "api/v1/auth/sessions", None, _access(alice))
    return str(json.loads(said)["data"][0]["id"])


def everything(redis: Redis) -> Iterator[tuple[str, Any]]:
    """All rows of acme's schema and of the public one, and all jobs in Redis, for comparing."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_schema, table_name FROM information_schema.tables"
            " WHERE table_schema IN ('public', 'org_acme') AND table_type = 'BASE TABLE'"
        )
        for schema, table in cursor.fetchall():
            cursor.execute(f'SELECT to_jsonb(r)::text FROM "{schema}"."{table}" r')  # noqa: S608
            yield f"{schema}.{table}", sorted(cursor.fetchall())
    for key in redis.scan_iter("job:*"):
        yield key.decode(), redis.hgetall(key)


def test_every_route_that_names_a_thing_has_a_row() -> None:
    every = [row.route for row in [*REST, *PAGES]]
    assert [route for route in every if not route.startswith(tuple(WHOSE))] == []


def test_nothing_of_anothers_is_there_nor_changes(
    things: dict[str, str], redis: Redis, globex: Organization, bob: User
) -> None:
    factories.account(globex)
    _, bobs_key = factories.api_key(globex, scopes=list(Scope.values))
    bobs = _access(bob)
    scoped = {str(door) for door in test_doors.DOORS if door.scope}
    datakeys.ring(globex.pk)  # Made at first use, which is nobody's business here.
    before = dict(everything(redis))
    found = {}
    for row in REST:
        path, form = row.path(things), FORMS.get(str(row), row.form)
        personal = row.route.startswith("api/v1/auth")
        found[f"{row} by bob"] = ask(row.method, path, form, bobs, "" if personal else "globex")[0]
        if str(row) in scoped:
            found[f"{row} by his key"] = ask(row.method, path, form, bobs_key)[0]
    assert {row: status for row, status in found.items() if status != 404} == {}
    after = dict(everything(redis))
    assert {name for name in before if before[name] != after.get(name)} == set()
    theirs = {}
    for row in REST:
        path, form = row.path(things), FORMS.get(str(row), row.form)
        theirs[str(row)] = ask(row.method, path, form, things["owner"], "acme")[0]
    refused = {row: status for row, status in theirs.items() if status in {401, 403, 404, 500}}
    assert refused == {}, "the things are real: their owner has them"


def test_no_page_shows_or_changes_what_is_anothers(
    things: dict[str, str], redis: Redis, globex: Organization, bob: User, alice: User
) -> None:
    factories.account(globex)
    found = {}
    bobs, alices = Client(), Client()
    bobs.force_login(bob)
    alices.force_login(alice)
    before = dict(everything(redis))
    for row in PAGES:
        found[str(row)] = _page(bobs, row, "globex", things).status_code
    assert {row: status for row, status in found.items() if status != 404} == {}
    after = dict(everything(redis))
    assert {name for name in before if before[name] != after.get(name)} == set()
    theirs = {str(row): _page(alices, row, "acme", things).status_code for row in PAGES}
    assert {row: status for row, status in theirs.items() if status >= 400} == {}


def _page(client: Client, row: Row, organization: str, things: Mapping[str, str]) -> Any:
    form = "&".join(f"{name}={value}" for name, value in row.form.items())
    return client.generic(
        row.method,
        f"/o/{organization}/{row.path(things)}",
        form,
        content_type="application/x-www-form-urlencoded",
    )
