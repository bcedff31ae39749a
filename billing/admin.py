"""The operators' view of money. Only accounts and prices to come can be changed here."""

from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Model, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.admin import ModelAdmin, TabularInline
from unfold.contrib.filters.admin import AutocompleteSelectFilter, DropdownFilter
from unfold.paginator import InfinitePaginator
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
)

from billing import credit, lifecycle
from billing.documents import invoice_pdf
from billing.invoicing import shown
from billing.models import (
    LARGEST,
    Account,
    BillingDetails,
    Invoice,
    InvoiceLine,
    InvoiceMove,
    LedgerEntry,
    Meter,
    Period,
    PriceVersion,
    State,
    TaxRate,
)
from billing.months import month_after, month_before, month_of, parse_month
from kit.errors import Refused
from kit.money import NANOS, decimal, show
from tenants.admin_audit import Audited

_MONTHS_LISTED = 24
_CREDIT = "credit"


class ReadOnly:
    """Mixed in before an admin: look, don't touch."""

    def has_add_permission(self, *args: Any) -> bool:
        """Nobody."""
        return False

    def has_change_permission(self, *args: Any) -> bool:
        """Nobody."""
        return False

    def has_delete_permission(self, *args: Any) -> bool:
        """Nobody."""
        return False


class MonthFilter(DropdownFilter):  # type: ignore[misc]
    """One month, of the last two years."""

    title, parameter_name = "month", "month"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        """The newest first; one ahead, for what an early closing put off."""
        month = month_after(month_of(timezone.now()))
        for _ in range(_MONTHS_LISTED):
            yield f"{month:%Y-%m}", f"{month:%B %Y}"
            month = month_before(month)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> QuerySet[Model]:
        """Rows booked to the month."""
        if not self.value():
            return queryset
        return queryset.filter(month=parse_month(str(self.value())))


class ModelFilter(DropdownFilter):  # type: ignore[misc]
    """One of the models that have ever had a price."""

    title, parameter_name = "model", "model"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        """From the small table; the ledger is not searched for its models."""
        names = PriceVersion.objects.order_by("model").values_list("model", flat=True).distinct()
        return [(name, name) for name in names]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> QuerySet[Model]:
        """Rows of the model."""
        return queryset.filter(model=self.value()) if self.value() else queryset


class StateFilter(DropdownFilter):  # type: ignore[misc]
    """How requests ended."""

    title, parameter_name = "state", "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        """All there are."""
        return [(str(value), str(label)) for value, label in State.choices]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> QuerySet[Model]:
        """Rows that ended so."""
        return queryset.filter(state=self.value()) if self.value() else queryset


class OfMonth:
    """Mixed in before an admin: its rows' months, as people write them."""

    @admin.display(description="month", ordering="month")
    def booked_to(self, row: Any) -> str:
        """Like 2026-11."""
        return f"{row.month:%Y-%m}"


def _money(help_text: str, *, required: bool = True) -> forms.DecimalField:
    """A field for an amount in the currency's unit: nobody types nanos."""
    return forms.DecimalField(
        min_value=0,
        max_value=LARGEST // NANOS,
        max_digits=16,
        decimal_places=9,
        required=required,
        widget=UnfoldAdminDecimalFieldWidget,
        help_text=help_text,
    )


def _units(nanos: int) -> str:
    """What such a field shows."""
    return f"{Decimal(decimal(nanos)).normalize():f}"


class AccountForm(forms.ModelForm):  # type: ignore[type-arg]
    """The limit in the currency's unit."""

    credit_limit = _money("The most that may be owed at once, in the account's currency.")

    class Meta:
        model = Account
        fields = ("organization", "currency", "credit_limit")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            self.initial["credit_limit"] = _units(self.instance.credit_limit)

    def clean_credit_limit(self) -> int:
        """In nanos."""
        return int(self.cleaned_data["credit_limit"] * NANOS)


class Everyones(ModelAdmin):  # type: ignore[misc]
    """Rows that belong to organizations, of them all."""

    list_select_related = ("organization",)
    list_filter_submit = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Operators see across organizations, on purpose."""
        return super().get_queryset(request).across_organizations()  # type: ignore[no-any-return]


@admin.register(Account)
class AccountAdmin(Audited, Everyones):
    """What an organization may owe."""

    list_display = ("organization", "currency", "limit")
    search_fields = ("organization__name", "organization__slug")
    search_help_text = "An organization's name or slug"
    autocomplete_fields = ("organization",)
    form = AccountForm
    readonly_fields = ("owed",)

    @admin.display(description="credit limit", ordering="credit_limit")
    def limit(self, account: Account) -> str:
        """For people."""
        return show(account.credit_limit, account.currency)

    @admin.display(description="owed now")
    def owed(self, account: Account) -> str:
        """The ledger's rows that no settled invoice covers."""
        return show(credit.owed(account.organization_id), account.currency)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Whose account it is, and in what currency, stays as it is."""
        fixed = ("organization", "currency") if obj else ()
        return (*fixed, *(self.readonly_fields if obj else ()))

    def save_model(self, request: HttpRequest, obj: Account, form: Any, change: bool) -> None:
        """Save, and let Redis know."""
        super().save_model(request, obj, form, change)
        transaction.on_commit(partial(credit.renew, obj.organization_id))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """An account outlives everything that was booked to it."""
        return False


class PriceForm(forms.ModelForm):  # type: ignore[type-arg]
    """A rate a meter, in the currency's unit."""

    input_tokens = _money("For a million; empty: free of charge.", required=False)
    output_tokens = _money("For a million; empty: free of charge.", required=False)

    class Meta:
        model = PriceVersion
        fields = ("model", "currency", "effective_from")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for meter, nanos in (self.instance.rates or {}).items():
            self.initial[meter] = _units(nanos)

    def clean(self) -> dict[str, Any]:
        """The rates, in nanos."""
        given = super().clean() or {}
        rates = {m.value: given[m] for m in Meter if given.get(m) is not None}
        if not rates:
            raise ValidationError("Name a rate for at least one meter.")
        elsewhere = PriceVersion.objects.filter(model=given.get("model", ""))
        other = elsewhere.exclude(currency=given.get("currency", "")).first()
        if other:
            raise ValidationError(f"{other.model} is priced in {other.currency} already.")
        self.instance.rates = {meter: int(rate * NANOS) for meter, rate in rates.items()}
        return given

    def _post_clean(self) -> None:
        """The row itself is checked once it has rates: it would complain of no field here."""
        if not self.errors:
            super()._post_clean()  # type: ignore[misc]


@admin.register(PriceVersion)
class PriceVersionAdmin(Audited, ModelAdmin):  # type: ignore[misc]
    """Price lists; to change a price, add a version."""

    audit_noun = "price"
    list_display = ("model", "currency", "effective_from", "per_million")
    list_filter = (ModelFilter, "currency")
    search_fields = ("model",)
    search_help_text = "A model's name"
    form = PriceForm

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """A form, or what stands for good."""
        rates = ("per_million",) if _has_begun(obj) else tuple(Meter)
        return ("model", "currency", *rates, "effective_from")

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


@admin.register(LedgerEntry)
class LedgerEntryAdmin(OfMonth, ReadOnly, Everyones):
    """Every request that was ever billed. Pages without a count: the table is large."""

    list_display = (
        "request",
        "organization",
        "model",
        "state",
        "used",
        "charged",
        "booked_to",
        "label",
        "created_at",
    )
    list_filter = (
        ("organization", AutocompleteSelectFilter),
        MonthFilter,
        ModelFilter,
        StateFilter,
    )
    search_fields = ("request",)
    search_help_text = "Request, label or key id, whole"
    fieldsets = (
        (None, {"fields": ("request", "organization", "state", "booked_to", "created_at")}),
        ("Amount", {"fields": ("charged", "parts", "used", "price_version")}),
        ("Request", {"fields": ("model", "key", "label", "region")}),
    )
    paginator = InfinitePaginator
    show_full_result_count = False
    ordering = ("-request",)
    sortable_by = ()

    @admin.display(description="units")
    def used(self, entry: LedgerEntry) -> str:
        """For people."""
        return " · ".join(f"{n:,} {meter.replace('_', ' ')}" for meter, n in entry.units.items())

    @admin.display(description="of which")
    def parts(self, entry: LedgerEntry) -> str:
        """By meter, exact."""
        return " · ".join(
            f"{meter.replace('_', ' ')} {show(nanos, entry.currency)}"
            for meter, nanos in entry.amounts.items()
        )

    @admin.display(description="amount")
    def charged(self, entry: LedgerEntry) -> str:
        """For people, exact."""
        return show(entry.amount, entry.currency)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Whole terms, so that indexes answer."""
        term = search_term.strip()
        if not term:
            return queryset, False
        try:
            return queryset.filter(request=UUID(term)), False
        except ValueError:
            return queryset.filter(Q(label=term) | Q(key=term)), False


class InvoiceLineInline(ReadOnly, TabularInline):  # type: ignore[misc]
    """An invoice's lines."""

    model = InvoiceLine
    fields = ("model", "of_meter", "of_units", "exact", "invoiced")
    readonly_fields = ("of_meter", "of_units", "exact", "invoiced")
    extra = 0
    hide_title = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[InvoiceLine]:
        """With the invoice, whose currency each line is shown in."""
        return super().get_queryset(request).select_related("invoice")  # type: ignore[no-any-return]

    @admin.display(description="meter")
    def of_meter(self, line: InvoiceLine) -> str:
        """For people."""
        return line.meter.replace("_", " ")

    @admin.display(description="units")
    def of_units(self, line: InvoiceLine) -> str:
        """For people."""
        return f"{line.units:,}"

    @admin.display
    def exact(self, line: InvoiceLine) -> str:
        """The ledger's sum."""
        return show(line.nanos, line.invoice.currency)

    @admin.display
    def invoiced(self, line: InvoiceLine) -> str:
        """Rounded to the currency's minor unit."""
        return shown(line.minor, line.invoice.currency)


class InvoiceMoveInline(ReadOnly, TabularInline):  # type: ignore[misc]
    """What became of an invoice, and why."""

    model = InvoiceMove
    fields = ("source", "target", "at", "by", "note")
    extra = 0
    hide_title = True


class InvoiceForm(forms.ModelForm):  # type: ignore[type-arg]
    """The next step in an invoice's life, or a credit note over what is left of it."""

    step = forms.ChoiceField(required=False, widget=UnfoldAdminSelectWidget)
    reason = forms.CharField(
        required=False,
        max_length=300,
        widget=UnfoldAdminTextInputWidget,
        help_text="Kept with the step: a transfer's reference, why it is void or credited.",
    )

    class Meta:
        model = Invoice
        fields = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["step"].choices = _steps(self.instance)  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        """What takes money off the books says why."""
        given = super().clean() or {}
        if given.get("step") not in ("", Invoice.Status.OPEN) and not given.get("reason"):
            raise ValidationError({"reason": "Say why, or the payment's reference."})
        return given


def _steps(invoice: Invoice) -> list[tuple[str, str]]:
    moves = lifecycle.LEGAL[Invoice.Status(invoice.status)]
    if invoice.kind != Invoice.Kind.INVOICE:
        moves = ()
    names = {Invoice.Status.OPEN: "issue it", Invoice.Status.PAID: "mark as paid"}
    steps = [(to.value, names.get(to, f"mark as {to.label.lower()}")) for to in moves]
    if invoice.kind == Invoice.Kind.INVOICE and invoice.number and invoice.total_minor > 0:
        steps.append((_CREDIT, "credit what is left of it"))
    return [("", "leave it as it is"), *steps]


@admin.register(Invoice)
class InvoiceAdmin(OfMonth, Everyones):
    """Closed months; `close_month` makes them. Only their status moves."""

    list_display = ("named", "organization", "booked_to", "total", "tax", "due", "status", "due_on")
    list_filter = (("organization", AutocompleteSelectFilter), MonthFilter, "status", "kind")
    search_fields = ("number", "organization__name", "organization__slug")
    search_help_text = "A number, or an organization's name or slug"
    form = InvoiceForm
    readonly_fields = (
        *("named", "kind", "organization", "booked_to", "status", "issued_at", "due_on"),
        *("exact", "total", "tax", "due", "note", "corrects", "closed_at", "file"),
    )
    fieldsets = (
        (None, {"fields": readonly_fields[:7]}),
        ("Amount", {"fields": readonly_fields[7:]}),
        ("Next step", {"fields": ("step", "reason")}),
    )
    inlines = (InvoiceLineInline, InvoiceMoveInline)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Closing a month makes them."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A number that was given is never missing."""
        return False

    def get_urls(self) -> list[Any]:
        """The PDF beside the page."""
        pdf = path(
            "<path:object_id>/pdf/",
            self.admin_site.admin_view(self.pdf),
            name="billing_invoice_pdf",
        )
        return [pdf, *super().get_urls()]

    def pdf(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The document as its customer gets it."""
        invoice = self.get_object(request, object_id)
        if invoice is None or not self.has_view_permission(request, invoice):
            raise Http404
        return HttpResponse(invoice_pdf(invoice), content_type="application/pdf")

    def save_model(self, request: HttpRequest, obj: Invoice, form: Any, change: bool) -> None:
        """Take the step that was chosen."""
        step, reason = form.cleaned_data.get("step"), form.cleaned_data.get("reason", "")
        by, now = request.user.get_username(), timezone.now()
        if step == _CREDIT:
            credit_note = lifecycle.credit_note
            self._attempt(request, credit_note, invoice=obj.pk, reason=reason, now=now, by=by)
        elif step:
            move = lifecycle.move
            self._attempt(request, move, invoice=obj.pk, to=step, now=now, note=reason, by=by)

    def _attempt(self, request: HttpRequest, step: Callable[..., Any], **how: Any) -> None:
        try:
            step(**how)
        except Refused as refusal:
            self.message_user(request, refusal.message, messages.ERROR)

    @admin.display(description="number", ordering="number")
    def named(self, invoice: Invoice) -> str:
        """Drafts have none."""
        return invoice.number or "draft"

    @admin.display(description="PDF")
    def file(self, invoice: Invoice) -> str:
        """A link."""
        link = reverse("admin:billing_invoice_pdf", args=[invoice.pk])
        return format_html('<a href="{}">{}.pdf</a>', link, invoice.number or "draft")

    @admin.display
    def tax(self, invoice: Invoice) -> str:
        """In the currency's minor unit."""
        return shown(invoice.tax_minor, invoice.currency)

    @admin.display(description="total")
    def due(self, invoice: Invoice) -> str:
        """With tax."""
        return shown(invoice.due_minor, invoice.currency)

    @admin.display(description="subtotal, exact", ordering="subtotal")
    def exact(self, invoice: Invoice) -> str:
        """The ledger's sum."""
        return show(invoice.subtotal, invoice.currency)

    @admin.display(description="net", ordering="total_minor")
    def total(self, invoice: Invoice) -> str:
        """Rounded once."""
        return shown(invoice.total_minor, invoice.currency)


@admin.register(Period)
class PeriodAdmin(OfMonth, ReadOnly, Everyones):
    """Which months are open."""

    list_display = ("organization", "booked_to", "closed_at")
    fields = ("organization", "booked_to", "closed_at")
    list_filter = (("organization", AutocompleteSelectFilter), MonthFilter)
    search_fields = ("organization__name", "organization__slug")


@admin.register(BillingDetails)
class BillingDetailsAdmin(Everyones):
    """Whom invoices are made out to."""

    list_display = ("organization", "name", "country", "vat_id", "email")
    search_fields = ("name", "vat_id", "organization__name", "organization__slug")
    autocomplete_fields = ("organization",)


@admin.register(TaxRate)
class TaxRateAdmin(ModelAdmin):  # type: ignore[misc]
    """What countries take; what is on an invoice stays there."""

    list_display = ("country", "name", "percent", "effective_from")
    list_filter = ("country",)

    @admin.display(description="rate", ordering="rate")
    def percent(self, rate: TaxRate) -> str:
        """For people."""
        return f"{rate.rate // 1000}.{rate.rate % 1000:03d} %"


def _has_begun(price: PriceVersion | None) -> bool:
    return price is not None and price.is_effective(timezone.now())
