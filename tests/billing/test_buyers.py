"""Whom invoices are made out to, and what the payment provider knows of it."""

from dataclasses import replace

import pytest
from redis import Redis

from billing import buyers, profiles, tasks
from billing.models import Account, BillingDetails
from kit.errors import Invalid
from tenants.models import AuditEntry
from tests.billing.rows import NOW
from tests.billing.test_subscriptions import BY
from tests.stripe.server import Double

SAID = buyers.Details("Acme Ltd", "Rue 1\n75001 Paris", "fr", "FR 123 456 789 01", "a@b.example")


def say(account: Account, details: buyers.Details) -> buyers.Details:
    return buyers.write(organization=account.organization_id, details=details, now=NOW, by=BY)


def test_what_members_change_of_their_details_reaches_the_provider(
    double: Double, account: Account, redis: Redis
) -> None:
    profiles.ensure(account.organization)
    for vat_id in (SAID.vat_id, "", SAID.vat_id):
        say(account, replace(SAID, vat_id=vat_id))
        tasks.tell_details(str(account.organization_id))
        (customer,) = double.of("customer")
        assert (customer["name"], customer["email"]) == ("Acme Ltd", "a@b.example")
        assert customer["address"]["country"] == "FR"
        values = [each["value"] for each in double.of("tax_id")]
        assert values == (["FR12345678901"] if vat_id else [])
    before = len(double.calls)
    tasks.tell_details(str(account.organization_id))
    assert len(double.calls) == before


def test_the_same_again_changes_nothing_and_each_change_is_audited(account: Account) -> None:
    assert say(account, SAID) == say(account, SAID) == buyers.read(account.organization_id)
    row = BillingDetails.objects.for_org(account.organization_id).get()
    assert (row.version, row.country, row.vat_id) == (1, "FR", "FR12345678901")
    entries = AuditEntry.objects.for_org(account.organization_id)
    assert entries.filter(action="billing_details.changed").count() == 1


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"vat_id": "DE123456789"}, "vat_id"),
        ({"country": "France"}, "country"),
        ({"name": " "}, "name"),
        ({"address": ""}, "address"),
        ({"email": "nobody"}, "email"),
        ({"name": "x" * 201}, "name"),
    ],
)
def test_what_cannot_stand_on_an_invoice_is_refused(
    account: Account, wrong: dict[str, str], param: str
) -> None:
    with pytest.raises(Invalid) as refusal:
        say(account, replace(SAID, **wrong))
    assert refusal.value.param == param
