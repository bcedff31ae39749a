"""Every list that operators have, at once: who may open it, and that it shows everyone's rows."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.test import Client
from django.urls import reverse

from billing.models import Period
from config.navigation import sidebar
from inference.history import Row
from tenants.models import Organization, User
from tests import factories
from tests.billing import rows
from tests.billing.test_invoicing import close
from tests.billing.test_ledger import booked

LISTS = sorted(model._meta.label_lower for model in admin.site._registry)
OF_ORGANIZATIONS = [
    "tenants.organization",
    "tenants.user",
    "tenants.membership",
    "tenants.apikey",
    "billing.account",
    "billing.ledgerentry",
    "billing.invoice",
    "billing.period",
]


@pytest.fixture
def everything(
    acme: Organization, globex: Organization, alice: User, bob: User, job: Callable[..., Row]
) -> None:
    """A row of each kind, of both organizations."""
    for of in (acme, globex):
        factories.api_key(of)
        account = factories.account(of)
        booked(rows.entry(of.pk))
        close(account)
        Period.objects.create(organization=of, month=date(2027, 1, 1))
        job(of)
    rows.price("echo", effective_from=datetime(2020, 1, 1, tzinfo=UTC))


def url(label: str) -> str:
    meta = apps.get_model(label)._meta
    return reverse(f"admin:{meta.app_label}_{meta.model_name}_changelist")


@pytest.mark.parametrize("label", LISTS)
@pytest.mark.parametrize("query", ["", "?q=acme", "?q=%00%27", "?o=1", "?o=zz", "?p=zz", "?e=1"])
def test_every_list_opens(operator: Client, everything: None, label: str, query: str) -> None:
    answer = operator.get(url(label) + query, follow=True)
    assert answer.status_code == 200
    assert "nanos" not in answer.content.decode()


@pytest.mark.parametrize("label", OF_ORGANIZATIONS)
def test_operators_see_both_organizations(operator: Client, everything: None, label: str) -> None:
    page = operator.get(url(label)).content.decode().lower()
    assert "acme" in page
    assert "globex" in page


@pytest.mark.parametrize("label", LISTS)
def test_nobody_else_enters(client: Client, alice: User, redis: Any, label: str) -> None:
    assert client.get(url(label)).status_code == 302
    client.force_login(alice)
    assert client.get(url(label)).status_code == 302


@pytest.mark.parametrize("label", LISTS)
def test_every_list_is_in_the_side_bar(operator: Client, rf: Any, label: str) -> None:
    request = rf.get("/admin/")
    links = [item["link"] for group in sidebar(request) for item in group["items"]]
    assert url(label) in links
