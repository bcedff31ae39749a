"""Budgets over HTTP, what operators do with money, and both sides of the payments compared."""

import json
from io import StringIO
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.management import CommandError, call_command
from django.test import AsyncClient, Client
from redis import Redis

from billing import budgets, credit, grants, subscriptions
from billing.allowances import AutoTopUp, Budget
from billing.models import Account, Invoice
from billing.receivables import Collection, Payment, ProviderEvent
from kit import origin
from kit.money import NANOS
from tenants.models import AuditEntry, User
from tests import factories
from tests.billing import rows
from tests.billing.rows import NOW, entry
from tests.billing.test_invoicing import close
from tests.billing.test_ledger import booked
from tests.billing.test_payments import GOOD, collect, receive, save_card
from tests.billing.test_subscriptions import BY, terms
from tests.stripe.server import Double
from tests.tenants.test_doors import _access

pytestmark = [pytest.mark.urls("tests.billing.urls"), pytest.mark.usefixtures("redis")]


@pytest.fixture
def acme(transactional_db: None, redis: Redis) -> Account:
    """Acme's account, alice its owner."""
    return rows.account("acme")


@pytest.fixture
def alice(acme: Account) -> str:
    """Her access token."""
    person = factories.user("alice")
    factories.member(person, acme.organization)
    return _access(person)


def call(method: str, path: str, bearer: str, form: Any = None) -> tuple[int, Any]:
    @async_to_sync
    async def run() -> Any:
        return await AsyncClient().generic(
            method,
            f"/api/v1/{path}",
            "" if form is None else json.dumps(form),
            content_type="application/json",
            headers={"Authorization": f"Bearer {bearer}", "X-Organization": "acme"},
        )

    answer = run()
    return answer.status_code, answer.json() if answer.content else None


@pytest.mark.django_db(transaction=True)
def test_a_budget_is_set_read_changed_and_taken_away(acme: Account, alice: str) -> None:
    wanted = {"scope": "project", "subject": "site", "amount": "12.50", "hard": True}
    status, made = call("POST", "budgets", alice, wanted)
    assert (status, made["amount"], made["left"]) == (201, "12.500000000", "12.500000000")
    assert call("POST", "budgets", alice, wanted)[1]["code"] == "budget_exists"
    found = credit.counters(acme.organization_id)
    assert found is not None
    assert found.budgets == {made["id"]: (0, 0)}
    path = f"budgets/{made['id']}"
    assert call("PATCH", path, alice, {"amount": "1", "hard": False})[1]["amount"] == "1.000000000"
    assert [each["hard"] for each in call("GET", "budgets", alice)[1]["data"]] == [False]
    assert call("DELETE", path, alice)[0] == 204
    assert call("DELETE", path, alice)[0] == 404
    actions = AuditEntry.objects.for_org(acme.organization_id).values_list("action", flat=True)
    assert list(actions) == ["budget.created", "budget.changed", "budget.deleted"]


@pytest.mark.django_db(transaction=True)
def test_there_are_no_more_budgets_than_may_be(
    acme: Account, alice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "MOST", 2)
    wanted = {"scope": "project", "amount": "1"}
    said = [call("POST", "budgets", alice, {**wanted, "subject": name}) for name in "abca"]
    assert [(status, body.get("code")) for status, body in said] == [
        (201, None),
        (201, None),
        (409, "too_many_budgets"),
        (409, "budget_exists"),
    ]
    assert said[2][1]["param"] == "subject"
    assert call("DELETE", f"budgets/{said[0][1]['id']}", alice)[0] == 204
    assert call("POST", "budgets", alice, {**wanted, "subject": "c"})[0] == 201


@pytest.mark.django_db(transaction=True)
def test_automatic_top_ups_are_decided_stopped_and_decided_again(acme: Account, alice: str) -> None:
    path, mine = "billing/auto-top-up", acme.organization_id
    assert call("GET", path, alice)[0] == 404
    wanted = {"below": "10", "amount": "50.00"}
    assert call("PUT", path, alice, wanted)[1]["amount"] == "50.000000000"
    AutoTopUp.objects.for_org(mine).update(stopped="declined")
    assert call("GET", path, alice)[1]["stopped"] == "declined"
    assert call("PUT", path, alice, {**wanted, "below": "20"})[1]["stopped"] == ""
    row = AutoTopUp.objects.for_org(mine).get()
    assert (row.below, row.amount_minor) == (20 * NANOS, 5_000)
    for name in wanted:
        for worth in ("0", "1.001" if name == "amount" else "0.0", "much", "9999999999"):
            status, said = call("PUT", path, alice, {**wanted, name: worth})
            assert (status, said["param"]) == (400, name)
    assert [call("DELETE", path, alice)[0] for _ in range(2)] == [204, 204]
    actions = AuditEntry.objects.for_org(mine).values_list("action", flat=True)
    assert list(actions) == ["auto_top_up.changed"] * 2 + ["auto_top_up.deleted"]


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"scope": "project", "amount": "1"}, "subject"),
        ({"scope": "organization", "subject": "x", "amount": "1"}, "subject"),
        ({"scope": "key", "subject": "nobody", "amount": "1"}, "subject"),
        ({"scope": "organization", "amount": "much"}, "amount"),
        ({"scope": "organization", "amount": "999999999"}, "amount"),
        ({"scope": "team", "amount": "1"}, "scope"),
        ({"scope": "project", "subject": "\u200b ", "amount": "1"}, "subject"),
    ],
)
@pytest.mark.django_db(transaction=True)
def test_what_is_no_budget_is_refused(
    acme: Account, alice: str, form: dict[str, Any], param: str
) -> None:
    status, said = call("POST", "budgets", alice, form)
    assert (status, said["param"]) == (400, param)


@pytest.mark.parametrize("name", ["a|b", " site", "café", "x" * 64])
@pytest.mark.django_db(transaction=True)
def test_a_projects_budget_binds_whoever_names_it_so(acme: Account, alice: str, name: str) -> None:
    status, made = call(
        "POST", "budgets", alice, {"scope": "project", "subject": name, "amount": "1"}
    )
    sent = name.encode().decode("latin1")
    assert (status, made["subject"]) == (201, origin.of_meta({"HTTP_X_PROJECT": sent}).project)


@pytest.mark.django_db(transaction=True)
def test_nobody_elses_budget_is_seen(acme: Account, alice: str) -> None:
    other = rows.account("globex")
    row = Budget.objects.create(
        organization=other.organization, scope="organization", amount=1, hard=True
    )
    assert call("GET", "budgets", alice)[1]["data"] == []
    assert call("DELETE", f"budgets/{row.pk}", alice)[0] == 404


@pytest.fixture
def operator(db: None, client: Client) -> Client:
    """Logged in."""
    client.force_login(User.objects.create_superuser("operator@example.com", "unused"))
    return client


def test_an_operator_gives_credit_with_a_reason(operator: Client, account: Account) -> None:
    data = {"organization": account.organization_id, "worth": "25", "reason": "an outage"}
    data |= {"expires_at_0": "", "expires_at_1": ""}
    answer = operator.post("/admin/billing/grant/add/", data, follow=True)
    assert answer.status_code == 200
    assert grants.left(account.organization_id, now=NOW) == 25 * NANOS
    entry_ = AuditEntry.objects.for_org(account.organization_id).get()
    assert (entry_.action, entry_.after["reason"]) == ("credit.given", "an outage")


def test_an_operator_sees_a_budget_as_it_is_and_names_its_project_as_requests_do(
    operator: Client, account: Account
) -> None:
    form = {
        "organization": account.organization_id,
        "scope": "project",
        "subject": " a|b",
        "worth": "12.50",
    }
    assert operator.post("/admin/billing/budget/add/", form).status_code == 302
    row = Budget.objects.for_org(account.organization_id).get()
    assert (row.subject, row.amount) == ("a/b", 12_500_000_000)
    page = operator.get(f"/admin/billing/budget/{row.pk}/change/").content.decode()
    assert 'value="12.5"' in page


def test_an_operator_has_a_webhook_handled_again(
    operator: Client, double: Double, account: Account
) -> None:
    save_card(double, account, GOOD)
    event = receive(double, double.state.events[0])
    ProviderEvent.objects.update(handled_at=NOW, tries=1)
    data = {"action": "replay", "_selected_action": [event]}
    assert operator.post("/admin/billing/providerevent/", data, follow=True).status_code == 200
    assert ProviderEvent.objects.get().handled_at is None


def compared(*arguments: str) -> tuple[int, str]:
    out = StringIO()
    try:
        call_command("stripe_sync", *arguments, stdout=out)
    except SystemExit as end:
        return int(str(end.code)), out.getvalue()
    return 0, out.getvalue()


@pytest.fixture
def paid(double: Double, account: Account) -> Invoice:
    """By card."""
    booked(
        entry(
            account.organization_id, amounts={"input_tokens": 9 * NANOS}, units={"input_tokens": 1}
        )
    )
    invoice = close(account)
    save_card(double, account, GOOD)
    collect()
    return invoice


def test_two_sides_that_agree_are_compared_with_0(double: Double, paid: Invoice) -> None:
    assert compared("--check") == (0, "1 organizations compared, 0 differences.\n")
    assert compared()[0] == 0
    assert compared("--check", "--organization", "acme")[0] == 0


def test_fees_and_what_tiers_take_off_agree_on_both_sides(
    double: Double, account: Account, redis: Redis
) -> None:
    """The invoice there has our lines, the negative one of the tiers too."""
    mine = account.organization_id
    terms("Team", fee=30 * NANOS)
    subscriptions.choose(organization=mine, plan="Team", now=NOW, by=BY)
    steps = [[0, 0], [1_000_000, 600_000_000]]
    tiers = {"output_tokens": {"mode": "graduated", "steps": steps}}
    wide = rows.price("wide", tiers=tiers)
    amounts = {"input_tokens": 0, "output_tokens": 2 * 600_000_000}
    units = {"input_tokens": 0, "output_tokens": 2_000_000}
    booked(entry(mine, model="wide", price_version=wide.pk, amounts=amounts, units=units))
    invoice = close(account)
    assert sorted(line.nanos for line in invoice.lines.all()) == [
        -600_000_000,
        1_200_000_000,
        30 * NANOS,
    ]
    save_card(double, account, GOOD)
    collect()
    assert sorted(each["amount"] for each in double.of("invoiceitem")) == [-60, 120, 3_000]
    assert [each["total"] for each in double.of("invoice")] == [3_060]
    assert compared("--check") == (0, "1 organizations compared, 0 differences.\n")
    double.of("invoice")[0]["total"] = 3_061
    assert "3061 EUR" in compared("--check")[1]


def test_each_difference_is_a_row_and_the_command_fails(
    double: Double, paid: Invoice, account: Account
) -> None:
    Invoice.objects.for_org(account.organization_id).update(status="open", total_minor=901)
    Payment.objects.for_org(account.organization_id).delete()
    code, said = compared("--check")
    assert code == 1
    for word in (f"{paid} status", "open", "paid", f"{paid} total", "901 EUR", "900 EUR", "pi_"):
        assert word in said
    Collection.objects.for_org(account.organization_id).delete()
    assert "missing" in compared("--check")[1]


def test_without_a_key_there_is_nothing_to_compare(account: Account) -> None:
    with pytest.raises(CommandError, match="STRIPE_KEY"):
        compared("--check")
