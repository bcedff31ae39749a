"""Plans over HTTP: the API, the portal's page, the operators' admin."""

from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import Client
from redis import Redis

from billing.models import Account, PriceVersion
from billing.offers import PlanTerms, Subscription
from kit.money import NANOS
from tenants.models import Plan, Role, User
from tests import factories
from tests.billing import rows
from tests.billing.test_subscriptions import terms


@pytest.fixture
def account(db: None, redis: Redis) -> Account:
    """Acme's, beside two plans."""
    terms("Team", fee=30 * NANOS, seat_fee=10 * NANOS, included_seats=2, summary="For <teams>.")
    terms("Secret", fee=NANOS, self_service=False)
    return rows.account("acme")


@pytest.fixture
def alice(account: Account, client: Client) -> Client:
    """The owner, logged in."""
    person = factories.user("alice")
    factories.member(person, account.organization, Role.OWNER)
    client.force_login(person)
    return client


def test_a_plan_is_quoted_chosen_and_cancelled_on_the_billing_page(
    alice: Client, account: Account
) -> None:
    page = alice.get("/o/acme/billing").content.decode()
    assert "For &lt;teams&gt;." in page
    assert "Secret" not in page
    quoted = alice.post("/o/acme/billing/plan", {"plan": "Team", "seats": "3"}).content.decode()
    assert "EUR 40.00" in quoted
    assert not Subscription.objects.for_org(account.organization_id).exists()
    wanted = {"plan": "Team", "seats": "3", "confirmed": "1"}
    assert alice.post("/o/acme/billing/plan", wanted).status_code == 302
    assert "EUR 40.00 a month" in alice.get("/o/acme/billing").content.decode()
    assert alice.post("/o/acme/billing/plan/cancel").status_code == 302
    assert "It ends then." in alice.get("/o/acme/billing").content.decode()


def test_seats_that_are_no_number_are_told_on_the_page(alice: Client, account: Account) -> None:
    answer = alice.post("/o/acme/billing/plan", {"plan": "Team", "seats": "٣"}, follow=True)
    assert "is no number" in answer.content.decode()


@pytest.fixture
def operator(db: None, client: Client) -> Client:
    """Logged in."""
    client.force_login(User.objects.create_superuser("operator@example.com", "unused"))
    return client


@pytest.mark.urls("tests.billing.urls")
def test_operators_offer_plans_and_put_organizations_on_them(
    operator: Client, account: Account
) -> None:
    plan = Plan.objects.create(name="Custom")
    form: dict[str, Any] = {
        "plan": str(plan.pk),
        "currency": "EUR",
        "effective_from_0": "2020-01-01",
        "effective_from_1": "00:00:00",
        "fee": "12.5",
        "seat_fee": "0",
        "allowance": "0",
        "minimum": "0",
        "included_seats": "0",
        "trial_days": "0",
        "summary": "",
    }
    answer = operator.post("/admin/billing/planterms/add/", form)
    assert answer.status_code == 302, answer.content.decode()
    assert PlanTerms.objects.get(plan=plan).fee == 12_500_000_000
    wanted = {
        "organization": str(account.organization_id),
        "wanted": str(plan.pk),
        "seats": "2",
        "zone": "Europe/Berlin",
    }
    answer = operator.post("/admin/billing/subscription/add/", wanted)
    assert answer.status_code == 302, answer.content.decode()
    row = Subscription.objects.for_org(account.organization_id).get()
    assert (row.plan, row.seats, row.zone) == (plan, 2, "Europe/Berlin")
    page = f"/admin/billing/subscription/{row.pk}/change/"
    assert operator.get(page).status_code == 200
    answer = operator.post(page, {"wanted": str(plan.pk), "seats": "5000000"})
    assert "are not possible" in answer.content.decode()
    chosen = {"action": "cancel", "_selected_action": [str(row.pk)]}
    operator.post("/admin/billing/subscription/", chosen)
    row.refresh_from_db()
    assert row.cancel_at_end
    assert operator.get("/admin/billing/planterms/").status_code == 200


@pytest.mark.urls("tests.billing.urls")
def test_operators_write_tiers_a_meter_a_line(operator: Client, account: Account) -> None:
    form = {
        "model": "wide",
        "currency": "EUR",
        "input_tokens": "0.15",
        "by_quantity": "input_tokens graduated 0:0 1000000:0.15 9000000:0.1",
        "effective_from_0": "2099-01-01",
        "effective_from_1": "00:00:00",
    }
    bad = {**form, "by_quantity": "input_tokens graduated 0-0"}
    assert (
        "write it like" in operator.post("/admin/billing/priceversion/add/", bad).content.decode()
    )
    dear = {**form, "by_quantity": "input_tokens volume 0:0.2"}
    assert "dearer" in operator.post("/admin/billing/priceversion/add/", dear).content.decode()
    assert operator.post("/admin/billing/priceversion/add/", form).status_code == 302
    row = PriceVersion.objects.get(model="wide", effective_from=datetime(2099, 1, 1, tzinfo=UTC))
    steps = [[0, 0], [1_000_000, 150_000_000], [9_000_000, 100_000_000]]
    assert row.tiers == {"input_tokens": {"mode": "graduated", "steps": steps}}
    page = operator.get(f"/admin/billing/priceversion/{row.pk}/change/").content.decode()
    assert "9000000:0.1" in page
