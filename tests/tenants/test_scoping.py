from collections.abc import Callable
from typing import Any

import pytest
from django.apps import apps
from django.db.models import Count, Exists, Model, OuterRef, Subquery
from redis import Redis

from billing.models import PriceVersion
from inference import catalog
from tenants.models import ApiKey, Domain, Membership, Organization, User
from tenants.scoping import Unscoped
from tests import factories

UNSCOPED: dict[str, Callable[[Any], Any]] = {
    "iterate": list,
    "bool": bool,
    "get": lambda rows: rows.get(pk="x"),
    "first": lambda rows: rows.first(),
    "slice": lambda rows: rows[0],
    "count": lambda rows: rows.count(),
    "exists": lambda rows: rows.exists(),
    "contains": lambda rows: rows.contains(ApiKey(pk="x")),
    "aggregate": lambda rows: rows.aggregate(Count("pk")),
    "iterator": lambda rows: next(rows.iterator()),
    "values": lambda rows: list(rows.values("pk")),
    "in_bulk": lambda rows: rows.in_bulk(["x"]),
    "update": lambda rows: rows.update(name="x"),
    "delete": lambda rows: rows.delete(),
    "union": lambda rows: list(rows.across_organizations().union(rows)),
    "or": lambda rows: list(rows.across_organizations() | rows),
    "subquery": lambda rows: list(Organization.objects.filter(api_keys__in=rows)),
    "exists in a filter": lambda rows: list(Organization.objects.filter(Exists(rows))),
    "subquery in an annotation": lambda rows: list(
        Organization.objects.annotate(name_of_a_key=Subquery(rows.values("name")[:1]))
    ),
    "raw": lambda rows: list(rows.raw("SELECT * FROM tenants_apikey")),
    "exclude": lambda rows: list(rows.exclude(organization=1)),
    "several": lambda rows: list(rows.filter(organization__in=[1, 2])),
    "nobody": lambda rows: list(rows.filter(organization=None)),
}


@pytest.mark.parametrize("query", UNSCOPED.values(), ids=UNSCOPED)
def test_an_unscoped_query_raises(db: None, query: Callable[[Any], Any]) -> None:
    with pytest.raises(Unscoped, match=r"begin with ApiKey\.objects\.for_org"):
        query(ApiKey.objects.all())


def test_a_scope_shows_its_own_rows_alone(
    redis: Redis, acme: Organization, globex: Organization
) -> None:
    ours, _ = factories.api_key(acme)
    theirs, _ = factories.api_key(globex)
    assert list(ApiKey.objects.for_org(acme)) == [ours]
    assert list(ApiKey.objects.for_org(globex.pk)) == [theirs]
    assert ApiKey.objects.for_org(acme).order_by("name").filter(pk=theirs.pk).count() == 0
    assert ApiKey.objects.across_organizations().count() == 2


def test_a_scoped_query_may_stand_in_another(redis: Redis, acme: Organization) -> None:
    factories.api_key(acme)
    of_each = ApiKey.objects.filter(organization=OuterRef("pk"))
    for keys in (of_each, ApiKey.objects.across_organizations(), ApiKey.objects.for_org(acme)):
        assert Organization.objects.filter(Exists(keys)).count() == 1


def test_an_organizations_own_rows_are_a_scope(alice: User, acme: Organization) -> None:
    assert [each.user for each in acme.memberships.all()] == [alice]


def test_a_persons_memberships_span_organizations_on_purpose(alice: User) -> None:
    with pytest.raises(Unscoped):
        alice.memberships.count()
    assert alice.memberships.across_organizations().count() == 1


def test_a_second_membership_of_a_pair_is_found_by_validation(
    alice: User, acme: Organization
) -> None:
    again = Membership(user=alice, organization=acme)
    with pytest.raises(Exception, match="already exists"):
        again.full_clean()


APART = {
    Domain: "a host is looked up by its name alone",
    catalog.models.Model: "the catalog is one list, kept in memory; who sees what is said there",
    PriceVersion: "everyone's prices and one organization's are one list, kept in memory",
}
"""Models with an organization in them that may be read without one, and why."""


def organizations_rows() -> list[type[Model]]:
    """Every public model with a row's organization in it."""
    return [
        model
        for model in apps.get_models()
        if any(
            each.is_relation and each.concrete and each.related_model is Organization
            for each in model._meta.get_fields()
        )
        and model not in APART
    ]


def test_there_are_models_of_organizations_to_look_at() -> None:
    assert {"ApiKey", "Membership", "LedgerEntry", "Invoice", "Account"} <= {
        model.__name__ for model in organizations_rows()
    }


@pytest.mark.parametrize("model", organizations_rows(), ids=lambda model: model.__name__)
def test_every_model_of_an_organizations_rows_raises_when_unscoped(
    db: None, model: type[Model]
) -> None:
    with pytest.raises(Unscoped):
        model._default_manager.exists()
    with pytest.raises(Unscoped):
        list(model.objects.all())  # type: ignore[attr-defined]
