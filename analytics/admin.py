"""The operators' view of the books: what the last comparison of each month has found."""

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import display

from analytics.comparing import compare
from analytics.models import Comparison
from billing.admin_rows import Everyones, MonthFilter, OfMonth, ReadOnly

_MOST_AT_ONCE = 20


@admin.register(Comparison)
class ComparisonAdmin(ReadOnly, OfMonth, Everyones):
    """Nightly, of the last and the running month; again whenever somebody asks."""

    list_display = ("organization", "booked_to", "verdict", "count", "rows", "at")
    list_filter = (("organization", AutocompleteSelectFilter), MonthFilter)
    search_fields = ("organization__slug", "organization__name")
    search_help_text = "An organization"
    fields = ("organization", "booked_to", "at", "rows", "count", "found", "error")
    readonly_fields = ("booked_to", "found")
    actions = ("again",)

    @display(  # type: ignore[untyped-decorator]
        description="books",
        label={"agree": "success", "disagree": "danger", "not compared": "warning"},
    )
    def verdict(self, row: Comparison) -> str:
        """In a word."""
        if row.error:
            return "not compared"
        return "disagree" if row.count else "agree"

    @admin.display(description="differences")
    def found(self, row: Comparison) -> str:
        """Each difference, a line."""
        lines = format_html_join(
            "", "<li><b>{}</b> {}: {}</li>", (tuple(each) for each in row.differences)
        )
        more = row.count - len(row.differences)
        rest = format_html("<li>and {} more: manage.py reconcile</li>", more) if more > 0 else ""
        return format_html("<ul>{}{}</ul>", lines, rest) if row.count else "None."

    @admin.action(description="Compare them again, now")
    def again(self, request: HttpRequest, queryset: QuerySet[Comparison]) -> None:
        """The months that are chosen, some at a time."""
        rows = list(queryset[: _MOST_AT_ONCE + 1])
        if len(rows) > _MOST_AT_ONCE:
            self.message_user(
                request,
                f"Choose at most {_MOST_AT_ONCE} at once; manage.py reconcile takes them all.",
                messages.ERROR,
            )
            return
        now = timezone.now()
        differences = sum(
            len(compare(row.organization, row.month, now=now).differences) for row in rows
        )
        level = messages.ERROR if differences else messages.SUCCESS
        self.message_user(request, f"{len(rows)} compared, {differences} differences.", level)
