"""The operators' view of prices: lists that stand once they are in force, and tiers on them."""

import re
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.utils import timezone
from unfold.admin import ModelAdmin
from unfold.widgets import UnfoldAdminTextareaWidget

from billing import tiers
from billing.admin_rows import ModelFilter, money_field, shown_units
from billing.models import Meter, PriceVersion
from billing.prices import rates_problem
from kit.money import NANOS, parse, show
from tenants.admin_audit import Audited

_STEP = re.compile(r"(\d{1,15}):(\d[\d.]*)", re.ASCII)


class PriceForm(forms.ModelForm):  # type: ignore[type-arg]
    """A rate a meter, in the currency's unit."""

    input_tokens = money_field("For a million; empty: free of charge.", required=False)
    output_tokens = money_field("For a million; empty: free of charge.", required=False)
    embedding_tokens = money_field("For a million; empty: free of charge.", required=False)
    batch_input_tokens = money_field("For a million; empty: as outside batches.", required=False)
    batch_output_tokens = money_field("For a million; empty: as outside batches.", required=False)
    batch_embedding_tokens = money_field(
        "For a million; empty: as outside batches.", required=False
    )
    response_cache_tokens = money_field(
        "For a million of an answer that the cache had; empty: free of charge.", required=False
    )
    cached_input_tokens = money_field(
        "For a million that the model had read before; empty: as input.", required=False
    )
    reasoning_tokens = money_field(
        "For a million in which the model thought; empty: as output.", required=False
    )
    storage_byte_hours = money_field(
        "For a million, under the model “storage”: EUR 0.000000137 is EUR 0.10 for a gigabyte and "
        "a month.",
        required=False,
    )
    device_seconds = money_field(
        "For a million seconds that a worker holds the model for the organization it is dedicated "
        "to: EUR 500 is EUR 1.80 an hour.",
        required=False,
    )
    by_quantity = forms.CharField(
        required=False,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text=(
            "A meter a line: input_tokens graduated 0:0 1000000:0.15 10000000:0.10. From so many "
            "units a month on, the price of a million; graduated or volume. None may be dearer "
            "than the price above, which requests are booked at: the month's end takes the "
            "difference off."
        ),
    )

    class Meta:
        model = PriceVersion
        fields = ("model", "currency", "organization", "plan", "effective_from")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for meter, nanos in (self.instance.rates or {}).items():
            self.initial[meter] = shown_units(nanos)
        self.initial["by_quantity"] = _as_text(self.instance.tiers or {})

    def clean(self) -> dict[str, Any]:
        """The rates, in nanos."""
        given = super().clean() or {}
        rates = {m.value: given[m] for m in Meter if given.get(m) is not None}
        if not rates:
            raise ValidationError("Name a rate for at least one meter.")
        self.instance.rates = {meter: int(rate * NANOS) for meter, rate in rates.items()}
        if problem := rates_problem(self.instance.rates):
            raise ValidationError(problem)
        self.instance.tiers = self._tiers(given.get("by_quantity", ""))
        return given

    def _tiers(self, text: str) -> dict[str, Any]:
        try:
            found = _as_tiers(text)
        except ValueError as error:
            self.add_error("by_quantity", str(error))
            return {}
        if problem := tiers.problem(found, self.instance.rates):
            self.add_error("by_quantity", problem)
        return found

    def _post_clean(self) -> None:
        """The row itself is checked once it has rates: it would complain of no field here."""
        if not self.errors:
            super()._post_clean()  # type: ignore[misc]


@admin.register(PriceVersion)
class PriceVersionAdmin(Audited, ModelAdmin):  # type: ignore[misc]
    """Price lists; to change a price, add a version."""

    audit_noun = "price"
    list_display = ("model", "currency", "whose", "effective_from", "per_million", "quantities")
    list_filter = (ModelFilter, "currency")
    list_select_related = ("organization", "plan")
    autocomplete_fields = ("organization", "plan")
    search_fields = ("model",)
    search_help_text = "A model's name"
    form = PriceForm

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """A form, or what stands for good."""
        rates = ("per_million", "quantities") if _has_begun(obj) else (*Meter, "by_quantity")
        return ("model", "currency", "organization", "plan", *rates, "effective_from")

    @admin.display(description="whose")
    def whose(self, price: PriceVersion) -> str:
        """An organization's, a plan's, or everybody's."""
        return str(price.organization or price.plan or "everybody's")

    @admin.display(description="by quantity")
    def quantities(self, price: PriceVersion) -> str:
        """For people."""
        return _as_text(price.tiers)

    @admin.display(description="for a million units")
    def per_million(self, price: PriceVersion) -> str:
        """For people."""
        return " · ".join(
            f"{meter.replace('_', ' ')} {show(nanos, price.currency)}"
            for meter, nanos in price.rates.items()
        )

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Until it takes effect."""
        return super().has_change_permission(request, obj) and not _has_begun(obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Until it takes effect."""
        return super().has_delete_permission(request, obj) and not _has_begun(obj)


def _as_text(found: dict[str, Any]) -> str:
    return "\n".join(
        " ".join([meter, each["mode"], *(f"{n}:{shown_units(rate)}" for n, rate in each["steps"])])
        for meter, each in found.items()
    )


def _as_tiers(text: str) -> dict[str, Any]:
    found = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        meter, *rest = line.split()
        matches = [_STEP.fullmatch(step) for step in rest[1:]]
        if not matches or not all(matches):
            raise ValueError(f"{line!r}: write it like input_tokens graduated 0:0 1000000:0.15.")
        steps = [[int(match[1]), parse(match[2])] for match in matches if match]
        found[meter] = {"mode": rest[0], "steps": steps}
    return found


def _has_begun(price: PriceVersion | None) -> bool:
    return price is not None and price.is_effective(timezone.now())
