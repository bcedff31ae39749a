"""Reconciliation: nothing found where all is well, and the exact row where it is not."""

from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
import yaml
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test import Client
from django_tenants.utils import schema_context
from prometheus_client import REGISTRY
from redis import Redis

from analytics import comparing, tasks
from analytics.models import Comparison
from analytics.reconciliation import Difference, Kind, reconcile
from billing import credit, ledger
from billing.days import UsageDay
from billing.ledger import Entry
from billing.models import Account, Invoice, InvoiceLine, LedgerEntry, Period
from inference.models import Request
from kit.ids import request_id
from kit.redis import pipeline
from tenants.models import User
from tests.billing import rows
from tests.billing.rows import NOW, entry
from tests.billing.test_credit import reserve
from tests.billing.test_invoicing import AFTER, close
from tests.billing.test_ledger import DECEMBER, NOVEMBER

RULES = Path(__file__).parents[2] / "ops" / "prometheus" / "billing.rules.yml"


@pytest.fixture(autouse=True)
def _one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's transaction stays open."""
    monkeypatch.setattr("kit.snapshot.close_old_connections", lambda: None)


@pytest.fixture
def account(db: None, redis: Redis) -> Account:
    """Acme's, with counters."""
    found = rows.account("acme")
    credit.rebuild(found.organization_id)
    return found


def remember(each: Entry, schema: str = "org_acme", **fields: Any) -> None:
    """The history row that belongs to a ledger row."""
    with schema_context(schema):
        Request.objects.create(
            **{
                "id": each.request,
                "state": each.state,
                "reason": "stop",
                "endpoint": "infer",
                "model": each.model,
                "model_version": "1",
                "key": each.key,
                "region": each.region,
                "prompt_tokens": each.units.get("input_tokens", 0),
                "completion_tokens": each.units.get("output_tokens", 0),
                "amount": each.amount,
                "currency": each.currency,
                "attempts": 1,
                "created_at": NOW,
                "finished_at": NOW,
                **fields,
            }
        )


def settled(row: Entry, epoch: int) -> None:
    """As `inference.finish` does it."""
    pipeline(
        lambda pipe: credit.settle(
            pipe,
            organization=row.organization,
            request=row.request,
            amount=row.amount,
            epoch=epoch,
        )
    )


def done(account: Account, *, settle: bool = True, **fields: Any) -> Entry:
    """A request all the way: held, booked with its history, settled."""
    row = entry(account.organization_id, request=request_id(datetime.now(UTC)), **fields)
    assert reserve(row.request, 9_000, organization=row.organization) == [b"ok"]
    with transaction.atomic():
        stands = ledger.book([row], now=NOW)[row.request]
        remember(row)
    if settle:
        settled(row, stands.epoch)
    return row


def found(account: Account) -> list[Difference]:
    return list(reconcile(account.organization, NOVEMBER).differences)


def only(account: Account) -> tuple[Kind, str, str]:
    (difference,) = found(account)
    return difference.kind, difference.subject, difference.found


def change_ledger(statement: str, *values: Any) -> None:
    """What nobody can do: the trigger is away meanwhile."""
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute(statement, values)
        cursor.execute("SET session_replication_role = origin")


def test_books_that_agree_show_nothing(account: Account) -> None:
    done(account)
    done(account, state="failed", amounts={"input_tokens": 0, "output_tokens": 0})
    done(account, settle=False)
    reserve(request_id(datetime.now(UTC)), 77, organization=account.organization_id)
    assert found(account) == []
    close(account)
    credit.renew(account.organization_id)
    assert found(account) == []
    assert reconcile(account.organization, NOVEMBER).requests == 3


def test_a_month_without_anything_agrees(account: Account) -> None:
    assert found(account) == []


def test_a_ledger_row_without_history_is_named(account: Account) -> None:
    row = done(account)
    with schema_context("org_acme"):
        Request.objects.all().delete()
    assert only(account) == (Kind.HISTORY, str(row.request), "in the ledger, not in history")


def test_history_without_a_ledger_row_is_named(account: Account) -> None:
    row = entry(account.organization_id)
    remember(row)
    assert only(account) == (Kind.HISTORY, str(row.request), "in history, not in the ledger")
    assert reconcile(account.organization, DECEMBER).differences == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"amount": 4_499}, "amount 4499, not 4500"),
        ({"prompt_tokens": 11}, "11 tokens in, not 10"),
        ({"completion_tokens": 0}, "0 tokens out, not 5"),
        ({"state": "failed"}, "state failed, not finished"),
        ({"model": "big", "key": "k"}, "model big, not echo; key k, not key000000000"),
        ({"currency": "USD"}, "currency USD, not EUR"),
    ],
)
def test_rows_that_disagree_are_named_with_both_values(
    account: Account, change: dict[str, Any], said: str
) -> None:
    row = done(account)
    with schema_context("org_acme"):
        Request.objects.update(**change)
    assert only(account) == (Kind.HISTORY, str(row.request), said)


def test_an_amount_that_is_not_its_parts_is_named(account: Account) -> None:
    row = done(account)
    change_ledger(
        "UPDATE billing_ledgerentry SET amounts = '{\"input_tokens\": 1}' WHERE request = %s",
        row.request,
    )
    parts, days = found(account)
    assert (parts.kind, parts.subject) == (Kind.LEDGER, str(row.request))
    assert parts.found == "amount 4500, its parts come to 1"
    assert days.kind is Kind.USAGE


def test_days_that_are_not_the_ledgers_are_named_and_closing_sums_them_anew(
    account: Account,
) -> None:
    done(account)
    UsageDay.objects.for_org(account.organization_id).update(amount=1)
    kind, subject, said = only(account)
    assert (kind, subject.split()[1]) == (Kind.USAGE, "echo")
    assert "1 requests for 1, the ledger has 1 for 4500" in said
    assert close(account).subtotal == 4_500
    assert Kind.USAGE not in [each.kind for each in found(account)]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("spent", 9_000, "9000, not 4500"),
        ("reserved", 5, "5, not 0"),
        ("limit", 7, "7, not 100000000000"),
        ("currency", "USD", "USD, not EUR"),
    ],
)
def test_counters_that_drifted_are_named(
    account: Account, redis: Redis, name: str, value: Any, said: str
) -> None:
    done(account)
    redis.hset(f"credit:{account.organization_id}", name, value)
    assert only(account) == (Kind.CREDIT, name, said)


def test_counters_that_are_missing_or_old_are_no_difference(account: Account, redis: Redis) -> None:
    done(account)
    redis.hset(f"credit:{account.organization_id}", "spent", 1)
    redis.hset(f"credit:{account.organization_id}", "pending", 1)
    assert found(account) == []
    redis.flushdb()
    assert found(account) == []


def test_an_invoice_that_is_not_its_rows_is_named_line_by_line(account: Account) -> None:
    done(account)
    invoice = close(account)
    credit.renew(account.organization_id)
    InvoiceLine.objects.filter(invoice=invoice, meter="input_tokens").update(units=11, nanos=1_600)
    Invoice.objects.for_org(account.organization_id).update(subtotal=4_600, total_minor=1)
    said = {(each.subject, each.found) for each in found(account)}
    assert said == {
        (str(invoice.pk), "subtotal 4600, the ledger's rows come to 4500"),
        (f"{invoice.pk} echo input_tokens", "11 units for 1600, the ledger has 10 for 1500"),
        (str(invoice.pk), "lines round to 0, the total is 1"),
    }


def test_a_closed_month_without_its_invoice_and_the_reverse_are_named(account: Account) -> None:
    invoice = close(account)
    Period.objects.for_org(account.organization_id).update(closed_at=None)
    assert only(account)[2] == "an invoice of a month that is open"
    invoice.delete()
    assert found(account) == []
    Period.objects.for_org(account.organization_id).update(closed_at=AFTER)
    assert only(account)[2] == "closed without an invoice"


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("reconcile", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_prints_nothing_but_zero_and_succeeds(account: Account) -> None:
    done(account)
    said = run("--month", "2026-11")
    assert "1 organizations, 1 ledger rows, 0 differences" in said
    assert orjson.loads(run("--month", "2026-11", "--json"))["differences"] == []


def test_the_command_prints_the_row_and_fails(account: Account) -> None:
    row = entry(account.organization_id)
    remember(row)
    out = StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("reconcile", "--month", "2026-11", "--organization", "acme", stdout=out)
    assert ended.value.code == 1
    assert str(row.request) in out.getvalue()
    out = StringIO()
    with pytest.raises(SystemExit):
        call_command("reconcile", "--month", "2026-11", "--json", stdout=out)
    (difference,) = orjson.loads(out.getvalue())["differences"]
    assert UUID(difference["subject"]) == row.request
    assert run("--month", "2026-10").endswith("0 differences\n")


def test_the_command_refuses_who_does_not_exist(db: None) -> None:
    with pytest.raises(CommandError, match="nobody"):
        run("--organization", "nobody")
    with pytest.raises(CommandError, match="no month"):
        run("--month", "2026-13")


def gauge(name: str, **labels: str) -> float:
    value = REGISTRY.get_sample_value(name, labels)
    assert value is not None
    return value


def test_each_night_the_figures_are_exported_and_counters_mended(
    account: Account, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django.utils.timezone.now", lambda: NOW + timedelta(days=10))
    done(account)
    redis.hset(f"credit:{account.organization_id}", "spent", 1)
    assert tasks.reconcile_nightly() == {"credit": 1}
    assert gauge("reconciliation_differences", kind="credit") == 1
    assert tasks.reconcile_nightly() == {}
    assert gauge("reconciliation_differences", kind="credit") == 0
    assert gauge("reconciliation_failed_organizations") == 0
    assert redis.hget(f"credit:{account.organization_id}", "spent") == b"4500"


def test_a_book_that_cannot_be_read_does_not_keep_the_others_unread(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise OSError

    monkeypatch.setattr(comparing, "reconcile", broken)
    tasks.reconcile_nightly()
    assert gauge("reconciliation_failed_organizations") == 1
    kept = Comparison.objects.for_org(account.organization_id)
    assert kept.exclude(error="").count() == 1
    monkeypatch.undo()
    tasks.reconcile_nightly()
    assert not kept.exclude(error="").exists()
    assert gauge("reconciliation_failed_organizations") == 0


def test_operators_see_what_was_found_and_have_it_compared_again(
    account: Account, client: Client
) -> None:
    client.force_login(User.objects.create_superuser("operator@example.com", "unused"))
    row = done(account)
    with schema_context("org_acme"):
        Request.objects.all().delete()
    comparing.compare(account.organization, NOVEMBER, now=NOW)
    page = client.get("/admin/analytics/comparison/").content.decode()
    assert "disagree" in page
    kept = Comparison.objects.for_org(account.organization_id).get(count=1)
    page = client.get(f"/admin/analytics/comparison/{kept.pk}/change/").content.decode()
    assert "in the ledger, not in history" in page
    remember(row)
    data = {"action": "again", "_selected_action": [kept.pk]}
    said = client.post("/admin/analytics/comparison/", data, follow=True).content.decode()
    assert "1 compared, 0 differences." in said
    kept.refresh_from_db()
    assert (kept.count, kept.differences) == (0, [])


def test_an_answer_that_the_cache_had_is_counted_by_one_meter(account: Account) -> None:
    units = {"response_cache_tokens": 15}
    row = entry(account.organization_id, units=units, amounts={"response_cache_tokens": 7})
    with transaction.atomic():
        ledger.book([row], now=NOW)
    remember(row, prompt_tokens=10, completion_tokens=5)
    kinds = {each.kind for each in found(account)}
    assert Kind.HISTORY not in kinds
    with schema_context("org_acme"):
        Request.objects.update(prompt_tokens=11)
    assert Kind.HISTORY in {each.kind for each in found(account)}


def test_the_alerts_speak_of_metrics_that_exist(account: Account) -> None:
    tasks.reconcile_nightly()
    names = {family.name for family in REGISTRY.collect()}
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]:
        used = {name for name in names if name in rule["expr"]}
        assert any(name.startswith(("reconciliation_", "refunds_")) for name in used), rule["alert"]


def test_rows_of_others_do_not_count(account: Account) -> None:
    other = rows.account("globex")
    with transaction.atomic():
        ledger.book([entry(other.organization_id)], now=NOW)
    assert found(account) == []
    assert LedgerEntry.objects.across_organizations().count() == 1
