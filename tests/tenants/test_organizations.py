"""An organization's life: founded, its schema made in the background, deleted, restored, erased."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django_tenants.utils import schema_exists

from billing.models import Account
from kit.errors import Invalid
from tenants import erasure, organizations, schemas, tasks
from tenants.audit import Actor
from tenants.models import Membership, Organization, Role, User
from tenants.organizations import NotLeaving, SlugTaken, TooManyOrganizations
from tests.tenants.test_portal_doors import NOW

BY = Actor("user:1", "alice@example.com")

pytestmark = [pytest.mark.usefixtures("redis"), pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def _no_static_files(settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path


@pytest.fixture
def wood(charlie: User) -> Any:
    """Founded by charlie; its schema is yet to be made."""
    yield organizations.found(slug="wood", name="Wood", owner=charlie, now=NOW)
    with connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA IF EXISTS org_wood CASCADE")


def test_the_portal_founds_and_a_task_makes_the_schema(charlie: User) -> None:
    client = Client()
    client.force_login(charlie)
    answer = client.post("/organizations/new", {"name": "Wood & Sons", "slug": "wood"})
    assert answer["Location"] == "/o/wood/making"
    wood = Organization.objects.get(slug="wood")
    assert not schema_exists("org_wood")
    assert Account.objects.for_org(wood).get().credit_limit == 5 * 10**9
    assert Membership.objects.for_org(wood).get().role == Role.OWNER
    assert client.get("/o/wood/")["Location"] == "/o/wood/making", "nothing is there yet"
    progress = client.get("/o/wood/making?as=json").json()
    assert progress == {"ready": False, "working": False, "percent": 0}
    assert tasks.make_schema(wood.pk)
    assert client.get("/o/wood/making?as=json").json()["ready"]
    assert client.get("/o/wood/").status_code == 200
    with connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA org_wood CASCADE")


def test_two_tasks_make_one_schema(wood: Organization) -> None:
    def make() -> bool:
        try:
            return schemas.make(wood.pk, now=NOW)
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        did = [each.result() for each in [pool.submit(make) for _ in range(2)]]
    assert sorted(did) == [False, True]
    assert not schemas.make(wood.pk, now=NOW), "again changes nothing"


def test_what_a_dead_task_left_is_finished_by_another(wood: Organization) -> None:
    Organization.objects.filter(pk=wood.pk).update(making_until=NOW + schemas.LEASE)
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA org_wood")
    wood.refresh_from_db()
    assert schemas.progress(wood, now=NOW).working
    assert schemas.unfinished(now=NOW) == []
    assert not schemas.make(wood.pk, now=NOW), "it may live"
    later = NOW + schemas.LEASE
    assert schemas.unfinished(now=later) == [wood.pk]
    assert schemas.make(wood.pk, now=later)
    wood.refresh_from_db()
    assert schemas.progress(wood, now=later).percent == 100


@pytest.mark.parametrize("slug", ["Wood", "wo--od", "a_b", "x" * 41, "", "-a"])
def test_a_bad_slug_is_refused(slug: str, charlie: User) -> None:
    with pytest.raises(Invalid, match="slug"):
        organizations.found(slug=slug, name="Wood", owner=charlie, now=NOW)


def test_a_taken_or_reserved_slug_is_refused(wood: Organization, charlie: User) -> None:
    for slug in ("wood", "admin"):
        with pytest.raises(SlugTaken):
            organizations.found(slug=slug, name="Wood", owner=charlie, now=NOW)


def test_one_person_owns_so_many(charlie: User, settings: Any) -> None:
    settings.ORGANIZATIONS_EACH = 1
    organizations.found(slug="one", name="One", owner=charlie, now=NOW)
    with pytest.raises(TooManyOrganizations):
        organizations.found(slug="two", name="Two", owner=charlie, now=NOW)
    assert not Organization.objects.filter(slug="two").exists()


def test_a_deleted_organization_is_shut_and_can_be_restored(acme: Organization) -> None:
    organizations.ask_deletion(acme, now=NOW, by=BY)
    assert acme.suspended_at == NOW
    assert acme.erase_at == NOW + timedelta(days=30)
    assert organizations.due(now=NOW + timedelta(days=29)) == []
    organizations.restore(acme, now=NOW, by=BY)
    assert acme.suspended_at is acme.erase_at is None
    with pytest.raises(NotLeaving):
        organizations.restore(acme, now=NOW, by=BY)


def test_what_an_operator_suspended_stays_so_when_it_is_restored(acme: Organization) -> None:
    organizations.suspend(acme, now=NOW, reason="unpaid")
    organizations.ask_deletion(acme, now=NOW, by=BY)
    organizations.restore(acme, now=NOW, by=BY)
    assert (acme.suspended_at, acme.suspended_reason) == (NOW, "unpaid")


def test_after_the_grace_period_its_data_is_erased(wood: Organization, charlie: User) -> None:
    schemas.make(wood.pk, now=NOW)
    wood.refresh_from_db()
    organizations.ask_deletion(wood, now=NOW - timedelta(days=31), by=BY)
    assert tasks.erase_organizations() == 1
    assert tasks.erase_organizations() == 0
    assert not schema_exists("org_wood")
    assert not schemas.make(wood.pk, now=NOW), "nothing makes it anew"
    client = Client()
    client.force_login(charlie)
    assert client.get("/o/wood/").status_code == 404
    with pytest.raises(SlugTaken):
        organizations.found(slug="wood", name="Wood", owner=charlie, now=NOW)


@pytest.fixture
def bad(wood: Organization, charlie: User) -> Any:
    """Older than wood, with a schema that nobody can make anything of."""
    found = organizations.found(slug="bad", name="Bad", owner=charlie, now=NOW)
    Organization.objects.filter(pk=found.pk).update(created_at=NOW - timedelta(days=60))
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA org_bad CREATE TABLE django_migrations (nothing int)")
    yield found
    with connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA IF EXISTS org_bad CASCADE")


def test_one_that_cannot_be_made_or_erased_stops_no_other(
    bad: Organization, wood: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tasks.make_schemas() == 1
    wood.refresh_from_db()
    assert wood.ready_at is not None
    for each, days in ((bad, 40), (wood, 31)):
        organizations.ask_deletion(each, now=NOW - timedelta(days=days), by=BY)
    real = erasure.erase

    def erase(organization: Organization, **more: Any) -> Any:
        if organization.pk == bad.pk:
            raise OSError("its key is out of reach")
        return real(organization, **more)

    monkeypatch.setattr(erasure, "erase", erase)
    assert tasks.erase_organizations() == 1
    assert not schema_exists("org_wood")
    assert [each.pk for each in organizations.due(now=NOW)] == [bad.pk]


def test_the_command_founds_as_the_portal_does(charlie: User) -> None:
    call_command("create_organization", "steel", "--owner", charlie.email, "--credit", "7.5")
    steel = Organization.objects.get(slug="steel")
    assert steel.ready_at
    assert Account.objects.for_org(steel).get().credit_limit == 7_500_000_000
    assert Membership.objects.for_org(steel).get().user == charlie
    with connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA org_steel CASCADE")
