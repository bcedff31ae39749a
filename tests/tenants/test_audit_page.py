"""The audit log as an organization's people look through it."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html import unescape
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import AsyncClient, Client

from kit.origin import Origin
from tenants import audit
from tenants.audit import Change
from tenants.models import Organization, Role, User
from tests import factories

pytestmark = [pytest.mark.usefixtures("redis"), pytest.mark.django_db]

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
ANN = audit.Actor("user:7", "ann@example.com")


@pytest.fixture
def look(client: Client, alice: User, acme: Organization, settings: Any, tmp_path: Path) -> Any:
    """Its page as acme's owner has it: the status and the text."""
    settings.STATIC_ROOT = tmp_path
    client.force_login(alice)

    def seen(query: str = "") -> tuple[int, str]:
        answer = client.get(f"/o/acme/audit{query}")
        return answer.status_code, answer.content.decode()

    return seen


def write(of: Organization, count: int, **fields: Any) -> None:
    for number in range(count):
        at = NOW + timedelta(minutes=number)
        change = Change("test.done", f"{of.slug}:{number}", {"n": number}, {"n": number + 1})
        audit.record(change, **{"by": audit.SYSTEM, "organization": of.pk, "now": at, **fields})


def numbers(page: tuple[int, str]) -> list[int]:
    assert page[0] == 200
    return [int(each) for each in re.findall(r'data-label="No.">(\d+)<', page[1])]


def link(page: tuple[int, str], name: str) -> str:
    [found] = re.findall(rf'href="/o/acme/audit(\??[^"]*)"[^>]*>(?:← )?{name}', page[1])
    return unescape(found)


def test_an_entry_is_shown_with_who_when_where_what_and_its_place_in_the_chain(
    look: Callable[..., tuple[int, str]], acme: Organization, globex: Organization
) -> None:
    write(globex, 3)
    where = Origin(ip_address("203.0.113.9"), "curl/<b>8</b>")
    change = Change("key.changed", "key:<i>k</i>", {"name": None}, {"name": "<script>1</script>"})
    made = audit.record(change, by=ANN, organization=acme.pk, now=NOW, where=where)
    status, text = look()
    assert status == 200
    for part in ("ann@example.com", "2026-11-01 12:00:00", "203.0.113.9", "key.changed", made.hash):
        assert part in text
    assert "<code>null</code> → <code>&lt;script&gt;1&lt;/script&gt;</code>" in text
    assert "curl/&lt;b&gt;8" in text
    assert "globex" not in text
    assert not re.search(r"<script(?! src)|<style|style=|\son\w+=", text)


def test_it_is_filtered_and_what_cannot_be_read_is_said_and_never_obeyed(
    look: Callable[..., tuple[int, str]], acme: Organization
) -> None:
    write(acme, 3)
    audit.record(Change("a.b", "x"), by=ANN, organization=acme.pk, now=NOW - timedelta(days=1))
    for query, found in {
        "?q=ANN%40ex": [4],
        "?action=test.": [3, 2, 1],
        "?actor=user:7": [4],
        "?since=2026-11-01T12:01&until=2026-11-01T12:02": [2],
        "?since=2026-11-01T13:01%2B01:00&q=&actor=": [3, 2],
        "?q=%25": [],
    }.items():
        assert numbers(look(query)) == found, query
    hostile = '?q="><script>alert(1)</script>&action="onmouseover=x'
    status, text = look(hostile)
    assert (status, "<script>" in text, 'value=""' in text) == (200, False, False)
    assert "%22%3E%3Cscript" in text
    for bad in ("since=yesterday", "before=0", "before=x", "q=a%00", f"actor={'x' * 65}"):
        status, text = look(f"?{bad}")
        assert (status, "errorlist" in text, "data-label" in text) == (400, True, False), bad


def test_its_pages_lead_to_older_and_newer_entries_and_keep_the_filter(
    look: Callable[..., tuple[int, str]], acme: Organization
) -> None:
    write(acme, 60)
    audit.record(Change("a.b", "x"), by=ANN, organization=acme.pk, now=NOW)
    write(acme, 60)
    first = look("?action=test.")
    assert numbers(first)[0] == 121
    second = look(link(first, "Older"))
    third = look(link(second, "Older"))
    seen = [*numbers(first), *numbers(second), *numbers(third)]
    assert seen == [each for each in range(121, 0, -1) if each != 61]
    assert "Older" not in third[1]
    assert "Newer" not in first[1]
    assert numbers(look(link(third, "Newer"))) == numbers(second)
    assert link(second, "Newer") == "?action=test."


@pytest.mark.django_db(transaction=True)
def test_what_is_filtered_is_exported_by_people_and_of_their_organization_alone(
    look: Callable[..., tuple[int, str]],
    acme: Organization,
    globex: Organization,
    alice: User,
) -> None:
    write(acme, 4)
    write(globex, 4)
    page = look("?since=2026-11-01T12:02&action=test.")
    browser = AsyncClient()
    browser.force_login(alice)

    @async_to_sync
    async def export(path: str) -> tuple[Any, str]:
        answer: Any = await browser.get(path)
        return answer, b"".join([part async for part in answer]).decode()

    answer, text = export(f"/o/acme/audit{link(page, 'JSON lines')}")
    assert [json.loads(line)["target"] for line in text.splitlines()] == ["acme:2", "acme:3"]
    assert answer["Content-Disposition"].startswith('attachment; filename="audit-acme-')
    _, text = export(f"/o/acme/audit{link(page, 'CSV')}")
    assert [line.split(",")[0] for line in text.splitlines()] == ["sequence", "3", "4"]
    for bad in ("format=xml", "since=2026-11-01T12:00", "organization=2"):
        assert async_to_sync(browser.get)(f"/o/acme/audit/export?{bad}").status_code == 400


def test_it_stands_in_the_navigation_of_those_who_may_read_it(
    client: Client, acme: Organization, look: Callable[..., tuple[int, str]]
) -> None:
    assert 'href="/o/acme/audit" aria-current="page"' in look()[1]
    viewer = factories.user("viewer")
    factories.member(viewer, acme, Role.VIEWER)
    client.force_login(viewer)
    assert "/o/acme/audit" not in client.get("/o/acme/members").content.decode()
