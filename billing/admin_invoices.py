"""The operators' view of invoices: each step in their life, whom they are made out to, the tax."""

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.admin import ModelAdmin, TabularInline
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from billing import buyers, invoicing, lifecycle
from billing.admin_rows import (
    Everyones,
    MonthFilter,
    OfMonth,
    ReadOnly,
    money_field,
    typed_minor,
)
from billing.documents import invoice_pdf, measured, named
from billing.invoicing import shown
from billing.models import BillingDetails, Invoice, InvoiceLine, InvoiceMove, TaxRate
from kit.errors import Refused
from kit.money import show
from tenants.admin_audit import Audited

_CREDIT = "credit"
_AGAIN = "again"


class InvoiceLineInline(ReadOnly, TabularInline):  # type: ignore[misc]
    """An invoice's lines."""

    model = InvoiceLine
    fields = ("of_what", "of_meter", "detail", "of_units", "exact", "invoiced")
    readonly_fields = ("of_what", "of_meter", "detail", "of_units", "exact", "invoiced")
    extra = 0
    hide_title = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[InvoiceLine]:
        """With the invoice, whose currency each line is shown in."""
        return super().get_queryset(request).select_related("invoice")  # type: ignore[no-any-return]

    @admin.display(description="model")
    def of_what(self, line: InvoiceLine) -> str:
        """For people."""
        return named(line)

    @admin.display(description="meter")
    def of_meter(self, line: InvoiceLine) -> str:
        """For people."""
        return measured(line)

    @admin.display(description="project")
    def detail(self, line: InvoiceLine) -> str:
        """Or what time it is for."""
        return line.project or line.label

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
    """The next step in an invoice's life, or a credit note over some or all that is left of it."""

    minor: int | None = None
    step = forms.ChoiceField(required=False, widget=UnfoldAdminSelectWidget)
    reason = forms.CharField(
        required=False,
        max_length=300,
        widget=UnfoldAdminTextInputWidget,
        help_text="Kept with the step: a transfer's reference, why it is void or credited.",
    )

    credited = money_field(
        "With “credit”: so much of it, net, in its currency. Empty: all that is left of it.",
        required=False,
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
        if given.get("credited") is not None:
            if given.get("step") != _CREDIT:
                raise ValidationError({"credited": "Only a credit is of an amount."})
            self.minor = typed_minor(given["credited"], self.instance.currency, "credited")
        return given


def _steps(invoice: Invoice) -> list[tuple[str, str]]:
    moves = lifecycle.LEGAL[Invoice.Status(invoice.status)]
    if invoice.kind != Invoice.Kind.INVOICE:
        moves = ()
    names = {Invoice.Status.OPEN: "issue it", Invoice.Status.PAID: "mark as paid"}
    steps = [(to.value, names.get(to, f"mark as {to.label.lower()}")) for to in moves]
    is_issued = invoice.number and invoice.status != Invoice.Status.VOID
    if invoice.kind == Invoice.Kind.INVOICE and is_issued and invoice.taxed_minor > 0:
        steps.append((_CREDIT, "credit it"))
    is_void = invoice.kind == Invoice.Kind.INVOICE and invoice.status == Invoice.Status.VOID
    if is_void and invoicing.standing(invoice.organization_id, invoice.month) is None:
        steps.append((_AGAIN, "invoice its month again"))
    return [("", "leave it as it is"), *steps]


@admin.register(Invoice)
class InvoiceAdmin(Audited, OfMonth, Everyones):
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
        ("Next step", {"fields": ("step", "credited", "reason")}),
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
        self.audit_before(request, obj, change)
        step, reason = form.cleaned_data.get("step"), form.cleaned_data.get("reason", "")
        by, now = request.user.get_username(), timezone.now()
        if step == _CREDIT:
            of = {"invoice": obj.pk, "minor": form.minor}
            self._attempt(request, lifecycle.credit_note, reason=reason, now=now, by=by, **of)
        elif step == _AGAIN:
            how = {"organization": obj.organization_id, "month": obj.month}
            self._attempt(request, invoicing.invoice_again, now=now, note=reason, by=by, **how)
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


@admin.register(BillingDetails)
class BillingDetailsAdmin(Audited, Everyones):
    """Whom invoices are made out to."""

    list_display = ("organization", "name", "country", "vat_id", "email")
    search_fields = ("name", "vat_id", "organization__name", "organization__slug")
    autocomplete_fields = ("organization",)

    def save_model(
        self, request: HttpRequest, obj: BillingDetails, form: Any, change: bool
    ) -> None:
        """Save, and have the payment provider know."""
        obj.version += int(change)
        super().save_model(request, obj, form, change)
        buyers.tell_on_commit(obj.organization_id)


@admin.register(TaxRate)
class TaxRateAdmin(Audited, ModelAdmin):  # type: ignore[misc]
    """What countries take; what is on an invoice stays there."""

    list_display = ("country", "name", "percent", "effective_from")
    list_filter = ("country",)

    @admin.display(description="rate", ordering="rate")
    def percent(self, rate: TaxRate) -> str:
        """For people."""
        return f"{rate.rate // 1000}.{rate.rate % 1000:03d} %"
