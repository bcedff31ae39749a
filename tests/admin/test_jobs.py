"""Jobs: each organization's history, seen by operators one organization at a time."""

import re
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from inference.admin import job_url
from inference.catalog.models import Model
from inference.history import Row
from tenants import reading
from tenants.audit import Actor
from tenants.models import AuditEntry, Organization, User
from tests import factories
from tests.admin.conftest import NOW

LIST = "/admin/inference/request/"
Job = Callable[..., Row]


def listed(operator: Client, **query: str) -> set[str]:
    """Ids on a page of the list; the connection has to be back on public after it."""
    answer = operator.get(LIST, query)
    assert answer.status_code == 200
    assert connection.schema_name == "public"  # type: ignore[attr-defined]
    return {str(each.pk) for each in answer.context["cl"].result_list}


def test_one_organizations_jobs_never_show_under_another(
    operator: Client, acme: Organization, globex: Organization, job: Job
) -> None:
    ours, theirs = str(job(acme).id), str(job(globex).id)
    assert listed(operator, organization="acme") == {ours}
    assert listed(operator, organization="globex") == {theirs}
    assert listed(operator, organization="acme", q=theirs) == set()
    page = operator.get(LIST, {"organization": "acme"}).content.decode()
    assert ours in page
    assert theirs not in page


def test_reading_them_leaves_one_mark_a_day_in_the_organizations_log(
    operator: Client, acme: Organization, globex: Organization, job: Job
) -> None:
    made = job(acme)
    for _ in range(2):
        listed(operator, organization="acme")
        operator.get(job_url(made.id, "acme"))
    [mark] = AuditEntry.objects.for_org(acme).filter(action="operator.read")
    assert (mark.actor_name, mark.target) == ("operator@example.com", "organization:acme")
    assert mark.after == {"read": "jobs"}
    assert not AuditEntry.objects.for_org(globex).exists()
    now = mark.at
    assert reading.note(acme, what="jobs", by=Actor(mark.actor), now=now + timedelta(days=1))
    assert reading.note(acme, what="jobs", by=Actor("operator:0"), now=now), "another operator"
    assert not reading.note(acme, what="jobs", by=Actor("operator:0"), now=now)


def test_the_last_organization_is_remembered(
    operator: Client, acme: Organization, globex: Organization, job: Job
) -> None:
    ours, theirs = str(job(acme).id), str(job(globex).id)
    assert listed(operator) == {ours}
    listed(operator, organization="globex")
    assert listed(operator) == {theirs}


def test_a_job_is_shown_with_what_it_cost_and_how_long_it_took(
    operator: Client, acme: Organization, job: Job
) -> None:
    key, _ = factories.api_key(acme, name="ci")
    made = job(acme, key=key.pk, label="ticket-7")
    page = operator.get(job_url(made.id, "acme")).content.decode()
    for part in ("Acme", "EUR 0.0000123", "1.525 s", "0.025 s", "ci (aip_live_", "ticket-7"):
        assert part in page
    assert "6.7 tokens/s" in page
    assert f"/admin/billing/ledgerentry/{made.id}/change/" in page


def test_the_list_links_to_jobs_of_its_organization(
    operator: Client, acme: Organization, globex: Organization, job: Job
) -> None:
    made = job(globex)
    page = operator.get(LIST, {"organization": "globex", "state": "finished"}).content.decode()
    [link] = re.findall(rf'href="({LIST}{made.id}/change/[^"]*)"', page)
    assert ("organization", "globex") in parse_qsl(urlsplit(unescape(link)).query)
    assert operator.get(unescape(link)).status_code == 200
    assert "1,234 → 11" in page
    answer = operator.get(job_url(made.id, "acme"))
    assert answer.status_code == 302
    kept = {"_changelist_filters": "organization=globex"}
    assert operator.get(f"{LIST}{made.id}/change/", kept).status_code == 200


@pytest.mark.parametrize("path", ["", "{}/change/", "{}/history/"])
def test_an_unknown_organization_is_said_to_be_unknown(
    operator: Client, acme: Organization, job: Job, path: str
) -> None:
    url = LIST + path.format(job(acme).id)
    answer = operator.get(url, {"organization": "no-such"}, follow=True)
    assert answer.status_code == 200
    assert answer.redirect_chain == [(LIST, 302)]
    assert "There is no organization “no-such”." in answer.content.decode()


@pytest.mark.parametrize("query", [{}, {"organization": "acme"}, {"q": "x"}])
def test_without_an_organization_the_page_says_so(operator: Client, query: dict[str, str]) -> None:
    answer = operator.get(LIST, query, follow=True)
    assert answer.status_code == 200
    assert "There is no organization yet." in answer.content.decode()
    assert operator.get(f"{LIST}{uuid4()}/change/", follow=True).status_code == 200


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"q": "ticket-7"}, {"labelled"}),
        ({"q": "key111111111"}, {"keyed"}),
        ({"q": "  "}, {"labelled", "keyed", "old", "failed"}),
        ({"q": "nothing"}, set()),
        ({"q": "a' OR 1=1"}, set()),
        ({"state": "failed"}, {"failed"}),
        ({"state": "no-such"}, set()),
        ({"model": "big"}, {"keyed"}),
        ({"created_at_from": "2026-11-24"}, {"labelled", "keyed", "failed"}),
        ({"created_at_to": "2026-11-23"}, {"old"}),
        (
            {"created_at_from": "2026-11-24", "created_at_to": "2026-11-24", "model": "big"},
            {"keyed"},
        ),
        ({"created_at_from": "yesterday"}, {"labelled", "keyed", "old", "failed"}),
        ({"created_at_to": "9999-12-31"}, {"labelled", "keyed", "old", "failed"}),
        ({"o": "-1"}, {"labelled", "keyed", "old", "failed"}),
        ({"_facets": "True"}, {"labelled", "keyed", "old", "failed"}),
        ({"p": "2"}, set()),
    ],
)
def test_jobs_are_searched_and_filtered(
    operator: Client, acme: Organization, job: Job, query: dict[str, str], found: set[str]
) -> None:
    Model.objects.create(name="big", title="Big", backend="echo", folder="big", context=64)
    names = {
        str(job(acme, label="ticket-7").id): "labelled",
        str(job(acme, key="key111111111", model="big").id): "keyed",
        str(job(acme, at=NOW - timedelta(days=1)).id): "old",
        str(job(acme, state="failed", error="lost", amount=0).id): "failed",
    }
    shown = listed(operator, organization="acme", **query)
    assert {names[each] for each in shown} == found


def test_a_job_is_found_by_its_id(operator: Client, acme: Organization, job: Job) -> None:
    made = job(acme)
    job(acme)
    assert listed(operator, q=str(made.id)) == {str(made.id)}
    assert listed(operator, q=made.id.hex) == {str(made.id)}


def test_pages_follow_each_other(
    operator: Client, acme: Organization, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.admin.RequestAdmin.list_per_page", 2)
    made = {str(job(acme).id) for _ in range(3)}
    first, second = listed(operator, p="1"), listed(operator, p="2")
    assert (len(first), len(second), first | second) == (2, 1, made)


def test_nothing_can_be_changed(operator: Client, acme: Organization, job: Job) -> None:
    made = job(acme)
    for path in ("add/", f"{made.id}/delete/"):
        answer = operator.post(f"{LIST}{path}?organization=acme", {"post": "yes"})
        assert answer.status_code in (302, 403)
    answer = operator.post(job_url(made.id, "acme"), {"state": "failed"})
    assert answer.status_code == 403
    assert connection.schema_name == "public"  # type: ignore[attr-defined]
    assert listed(operator) == {str(made.id)}


def test_an_error_on_the_way_leaves_the_connection_on_public(
    operator: Client, acme: Organization, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> str:
        raise RuntimeError("broken")

    job(acme)
    monkeypatch.setattr("inference.admin.show", broken)
    with pytest.raises(RuntimeError, match="broken"):
        operator.get(LIST)
    assert connection.schema_name == "public"  # type: ignore[attr-defined]


def test_the_list_takes_as_many_queries_for_many_rows_as_for_few(
    operator: Client, acme: Organization, job: Job
) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as found:
            listed(operator)
        return len(found)

    job(acme)
    listed(operator)
    few = queries()
    for _ in range(9):
        job(acme)
    assert queries() == few <= 16


@pytest.mark.parametrize("who", ["alice", "nobody", "staff"])
def test_only_operators_who_may_see_jobs_do(
    client: Client, acme: Organization, alice: User, job: Job, who: str
) -> None:
    if who == "alice":
        client.force_login(alice)
    elif who == "staff":
        client.force_login(factories.user("clerk", is_staff=True))
    made = job(acme)
    for url in (LIST, job_url(made.id, "acme")):
        assert client.get(url).status_code == (403 if who == "staff" else 302)
