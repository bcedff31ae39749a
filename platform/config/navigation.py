"""The admin's side bar, its label of the installation, and what its search box finds."""

from collections.abc import Iterator
from functools import partial
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import Q
from django.http import HttpRequest
from django.urls import reverse
from unfold.dataclasses import SearchResult

from billing.models import LedgerEntry
from inference.admin import job_url
from tenants.models import ApiKey, Organization, User

_MOST = 5
_GROUPS = {
    "Organizations": (
        ("Organizations", "corporate_fare", "tenants.organization"),
        ("Plans", "speed", "tenants.plan"),
        ("Users", "person", "tenants.user"),
        ("Memberships", "badge", "tenants.membership"),
        ("API keys", "key", "tenants.apikey"),
        ("Single sign-on", "login", "tenants.singlesignon"),
        ("Audit log", "history_edu", "tenants.auditentry"),
    ),
    "Work": (
        ("Models", "neurology", "catalog.model"),
        ("Aliases", "alt_route", "catalog.alias"),
        ("Shadow runs", "compare_arrows", "catalog.shadowrun"),
        ("Jobs", "list_alt", "inference.request"),
        ("Dead letters", "mark_email_unread", "letters.deadletter"),
    ),
    "Money": (
        ("Accounts", "account_balance_wallet", "billing.account"),
        ("Prices", "sell", "billing.priceversion"),
        ("Plan prices", "workspace_premium", "billing.planterms"),
        ("Subscriptions", "event_repeat", "billing.subscription"),
        ("Usage", "receipt_long", "billing.ledgerentry"),
        ("Invoices", "request_quote", "billing.invoice"),
        ("Collections", "hourglass_top", "billing.collection"),
        ("Payments", "credit_card", "billing.payment"),
        ("Refunds", "undo", "billing.refund"),
        ("Grants", "redeem", "billing.grant"),
        ("Automatic top-ups", "autorenew", "billing.autotopup"),
        ("Budgets", "savings", "billing.budget"),
        ("Webhooks", "webhook", "billing.providerevent"),
        ("Mails", "mail", "billing.mail"),
        ("Books compared", "balance", "analytics.comparison"),
        ("Periods", "calendar_month", "billing.period"),
        ("Billing details", "contact_mail", "billing.billingdetails"),
        ("Tax rates", "percent", "billing.taxrate"),
    ),
    "Platform": (
        ("Task results", "task_alt", "django_celery_results.taskresult"),
        ("Groups", "admin_panel_settings", "auth.group"),
    ),
}


def sidebar(request: HttpRequest) -> list[dict[str, Any]]:
    """Unfold's groups of links; a link shows to those who may see its list."""
    home = {"title": "Overview", "icon": "monitoring", "link": reverse("admin:index")}
    groups = [
        {"title": title, "separator": True, "items": [_item(*item) for item in items]}
        for title, items in _GROUPS.items()
    ]
    return [{"title": "", "items": [home]}, *groups]


def environment(request: HttpRequest) -> tuple[str, str]:
    """What installation this is, and unfold's colour for it."""
    if settings.PRODUCTION:
        return "Production", "danger"
    return "Development", "info"


def search(request: HttpRequest, term: str) -> list[SearchResult]:
    """A request by its id, a key by its public id; organizations and people by their beginning."""
    found = [*_requests(request, term), *_keys(request, term)]
    return [*found, *_organizations(request, term), *_people(request, term)]


def _item(title: str, icon: str, model: str) -> dict[str, Any]:
    app, name = model.split(".")
    return {
        "title": title,
        "icon": icon,
        "link": reverse(f"admin:{app}_{name}_changelist"),
        "permission": partial(_may_view, model=model),
    }


def _may_view(request: HttpRequest, *, model: str) -> bool:
    app, name = model.split(".")
    return any(request.user.has_perm(f"{app}.{verb}_{name}") for verb in ("view", "change"))


def _requests(request: HttpRequest, term: str) -> Iterator[SearchResult]:
    try:
        identifier = UUID(term)
    except ValueError:
        return
    if not _may_view(request, model="inference.request"):
        return
    rows = LedgerEntry.objects.across_organizations().filter(pk=identifier)
    for row in rows.select_related("organization"):
        link = job_url(row.pk, row.organization.slug)
        yield _result(str(row.pk), f"Job of {row.organization}", link, "list_alt")


def _keys(request: HttpRequest, term: str) -> Iterator[SearchResult]:
    if not _may_view(request, model="tenants.apikey"):
        return
    rows = ApiKey.objects.across_organizations().filter(pk__iexact=term)
    for key in rows.select_related("organization"):
        link = reverse("admin:tenants_apikey_change", args=[key.pk])
        yield _result(str(key), f"API key of {key.organization}", link, "key")


def _organizations(request: HttpRequest, term: str) -> Iterator[SearchResult]:
    if not _may_view(request, model="tenants.organization"):
        return
    match = Q(slug__istartswith=term) | Q(name__istartswith=term)
    for organization in Organization.objects.filter(match)[:_MOST]:
        link = reverse("admin:tenants_organization_change", args=[organization.pk])
        yield _result(organization.name, "Organization", link, "corporate_fare")


def _people(request: HttpRequest, term: str) -> Iterator[SearchResult]:
    if not _may_view(request, model="tenants.user"):
        return
    for person in User.objects.filter(email__startswith=term)[:_MOST]:
        link = reverse("admin:tenants_user_change", args=[person.pk])
        yield _result(person.email, "Person", link, "person")


def _result(title: str, description: str, link: str, icon: str) -> SearchResult:
    return SearchResult(title=title, description=description, link=link, icon=icon)
