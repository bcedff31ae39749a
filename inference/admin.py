"""The history of requests, which operators know as jobs: one organization's at a time.

History lives in each organization's own schema, so every page here runs, and is rendered, inside
that schema; without one there are no rows.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode
from uuid import UUID

from django.contrib import admin, messages
from django.db import connection
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.text import Truncator
from django_tenants.utils import schema_context
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import DropdownFilter, RangeDateFilter
from unfold.decorators import display
from unfold.paginator import InfinitePaginator
from unfold.views import ChangeList

from inference.catalog.models import Model as CatalogModel
from inference.models import Request
from kit.ids import first_id
from kit.money import show
from tenants import audit, reading
from tenants.models import ApiKey, Organization

_ORGANIZATION = "organization"
"""The parameter of every address here, and where a session keeps the last one: a slug."""
_LINK = '<a class="text-primary-600 dark:text-primary-500" href="{}">{}</a>'
_LABEL = 24
_COLORS = {"finished": "success", "cancelled": "warning", "failed": "danger"}


class OrganizationFilter(DropdownFilter):  # type: ignore[misc]
    """Whose jobs are listed; there is always one. The schema is the filter."""

    title, parameter_name, all_option = "organization", _ORGANIZATION, None

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        """All organizations by name."""
        return (
            Organization.objects.filter(erased_at=None).order_by("name").values_list("slug", "name")
        )

    def value(self) -> str | None:
        """The one that the page shows, asked for or not."""
        return self.shown

    def __init__(self, request: HttpRequest, *args: Any) -> None:
        shown = _organization_of(request)
        self.shown = shown.slug if shown else None
        super().__init__(request, *args)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> QuerySet[Model]:
        """As it is: these are only its rows."""
        return queryset


class StateFilter(DropdownFilter):  # type: ignore[misc]
    """How requests ended."""

    title, parameter_name = "state", "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        """All there are."""
        return Request.State.choices

    def queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> QuerySet[Model]:
        """Rows that ended so."""
        return queryset.filter(state=self.value()) if self.value() else queryset


class ModelFilter(DropdownFilter):  # type: ignore[misc]
    """One of the catalog's models."""

    title, parameter_name = "model", "model"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        """From the small table; history is not searched for its models."""
        names = CatalogModel.objects.order_by("name").values_list("name", flat=True)
        return [(name, name) for name in names]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> QuerySet[Model]:
        """Rows of the model."""
        return queryset.filter(model=self.value()) if self.value() else queryset


class DayFilter(RangeDateFilter):  # type: ignore[misc]
    """From one day to another (UTC), by the primary key: its first bits are the time."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> QuerySet[Model]:
        """Rows of requests that came on these days; a day that is none does not count."""
        for end, lookup, days in (("from", "pk__gte", 0), ("to", "pk__lt", 1)):
            with suppress(ValueError, OverflowError):
                text = str(self.used_parameters.get(f"{self.parameter_name}_{end}", ""))
                day = date.fromisoformat(text) + timedelta(days=days)
                midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
                queryset = queryset.filter(**{lookup: first_id(midnight)})
        return queryset


class Jobs(ChangeList):  # type: ignore[misc]
    """A page of one organization's history."""

    def __init__(self, request: HttpRequest, *args: Any) -> None:
        self.organization = _organization_of(request)
        super().__init__(request, *args)

    def url_for_result(self, result: Request) -> str:
        """A job's page, which has to be told whose it is."""
        assert self.organization is not None  # noqa: S101  without one there is no result
        return job_url(result.pk, self.organization.slug)


@admin.register(Request)
class RequestAdmin(ModelAdmin):  # type: ignore[misc]
    """Look, don't touch. Pages without a count: the table is large."""

    list_display = (
        "id",
        "how",
        "model",
        "endpoint",
        "tokens",
        "charged",
        "took",
        "said",
        "created_at",
    )
    list_before_template = "admin/inference/request/organization.html"
    show_facets = admin.ShowFacets.NEVER
    list_filter = (OrganizationFilter, StateFilter, ModelFilter, ("created_at", DayFilter))
    list_filter_submit = True
    search_fields = ("id",)
    search_help_text = "Request, label or key id, whole"
    paginator = InfinitePaginator
    show_full_result_count = False
    ordering = ("-id",)
    sortable_by = ()
    list_per_page = 50
    fieldsets = (
        (None, {"fields": ("id", "state", "reason", "error", "owner", "usage")}),
        ("Asked", {"fields": ("endpoint", "model", "model_version", "key_used", "label")}),
        ("Used", {"fields": ("prompt_tokens", "cached_tokens", "completion_tokens", "charged")}),
        (
            "Ran",
            {
                "fields": (
                    "created_at",
                    "started_at",
                    "first_token_at",
                    "finished_at",
                    "waited",
                    "first_token",
                    "took",
                    "speed",
                    "attempts",
                    "region",
                )
            },
        ),
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody."""
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Request]:
        """Nothing where no organization was chosen: public has no such table."""
        chosen = _organization_of(request)
        return super().get_queryset(request) if chosen else Request.objects.none()

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[Jobs]:
        """With links that name the organization."""
        return Jobs

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponseBase:
        """One organization's jobs, the newest first."""

        def listed() -> Any:
            chosen = _organization_of(request)
            title = f"Jobs of {chosen}" if chosen else "Jobs"
            context = {"title": title, **(extra_context or {})}
            return super(RequestAdmin, self).changelist_view(request, context)

        return self._inside(request, listed)

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """One job."""
        view = super().changeform_view
        return self._inside(request, lambda: view(request, *args, **kwargs))

    def history_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """What operators changed of it: nothing."""
        view = super().history_view
        return self._inside(request, lambda: view(request, *args, **kwargs))

    def _inside(self, request: HttpRequest, view: Callable[[], Any]) -> HttpResponseBase:
        slug = _slug_in(request)
        chosen = _choose(slug, str(request.session.get(_ORGANIZATION, "")))
        if slug and (chosen is None or chosen.slug != slug):
            self.message_user(request, f"There is no organization “{slug}”.", messages.ERROR)
            return redirect("admin:inference_request_changelist")
        if chosen is None:
            self.message_user(request, "There is no organization yet.", messages.INFO)
            return _rendered(view())
        if request.session.get(_ORGANIZATION) != chosen.slug:
            request.session[_ORGANIZATION] = chosen.slug
        reading.note(chosen, what="jobs", by=audit.operator(request.user), now=datetime.now(UTC))
        request.jobs_of = chosen  # type: ignore[attr-defined]
        with schema_context(chosen.schema_name):
            return _rendered(view())

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Whole terms."""
        term = search_term.strip()
        if not term:
            return queryset, False
        found = Q(label=term) | Q(key=term)
        with suppress(ValueError):
            found |= Q(pk=UUID(term))
        return queryset.filter(found), False

    @display(description="state", label=_COLORS)  # type: ignore[untyped-decorator]
    def how(self, job: Request) -> str:
        """How it ended."""
        return job.state

    @admin.display(description="label")
    def said(self, job: Request) -> str | None:
        """As much as a list has room for."""
        return Truncator(job.label).chars(_LABEL) or None

    @admin.display
    def tokens(self, job: Request) -> str:
        """In and out."""
        return f"{job.prompt_tokens:,} → {job.completion_tokens:,}"

    @admin.display(description="amount")
    def charged(self, job: Request) -> str:
        """For people, exact."""
        return show(job.amount, job.currency)

    @admin.display(description="took")
    def took(self, job: Request) -> str | None:
        """From its arrival to its end."""
        return _seconds(job.created_at, job.finished_at)

    @admin.display
    def waited(self, job: Request) -> str | None:
        """From its arrival to a worker's beginning."""
        return _seconds(job.created_at, job.started_at)

    @admin.display(description="first token after")
    def first_token(self, job: Request) -> str | None:
        """From its arrival."""
        return _seconds(job.created_at, job.first_token_at)

    @admin.display
    def speed(self, job: Request) -> str | None:
        """Of the tokens after the first."""
        if not job.first_token_at or job.completion_tokens < 2:
            return None
        seconds = (job.finished_at - job.first_token_at).total_seconds()
        return f"{(job.completion_tokens - 1) / seconds:,.1f} tokens/s" if seconds > 0 else None

    @admin.display(description="organization")
    def owner(self, job: Request) -> str:
        """Whose schema this is."""
        schema = connection.schema_name  # type: ignore[attr-defined]
        return str(Organization.objects.filter(schema_name=schema).first())

    @admin.display(description="API key")
    def key_used(self, job: Request) -> str:
        """By name, where it is still there."""
        key = ApiKey.objects.across_organizations().filter(pk=job.key).first()
        if key is None:
            return job.key
        return format_html(_LINK, reverse("admin:tenants_apikey_change", args=[key.pk]), key)

    @admin.display(description="ledger")
    def usage(self, job: Request) -> str:
        """Its row there."""
        return format_html(
            _LINK,
            reverse("admin:billing_ledgerentry_change", args=[job.pk]),
            "What was booked",
        )


def job_url(request: UUID, organization: str) -> str:
    """The admin's page of a request of the organization with this slug."""
    path = reverse("admin:inference_request_change", args=[request])
    return f"{path}?{urlencode({_ORGANIZATION: organization})}"


def _slug_in(request: HttpRequest) -> str:
    """The slug that the address names, itself or in the filters of the list it came from."""
    kept = parse_qs(request.GET.get("_changelist_filters", "")).get(_ORGANIZATION, [""])
    return (request.GET.get(_ORGANIZATION) or kept[0])[:100]


def _choose(slug: str, last: str) -> Organization | None:
    """The organization asked for, or else the last one used, or else the first by name."""
    living = Organization.objects.filter(erased_at=None)
    if slug:
        return living.filter(slug=slug).first()
    used = living.filter(slug=last).first() if last else None
    return used or living.order_by("name").first()


def _organization_of(request: HttpRequest) -> Organization | None:
    return getattr(request, "jobs_of", None)


def _rendered(response: Any) -> HttpResponseBase:
    if hasattr(response, "render"):
        response.render()
    return response  # type: ignore[no-any-return]


def _seconds(since: datetime, until: datetime | None) -> str | None:
    return f"{(until - since).total_seconds():,.3f} s" if until else None
