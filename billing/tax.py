"""What tax an invoice carries: by the buyer's country and VAT id, and the seller's country."""

import re
from dataclasses import dataclass
from datetime import date

from billing.models import BillingDetails, TaxRate
from kit import money

_EU = "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK"
EU = frozenset(_EU.split(" "))
_REVERSE_CHARGE = (
    "Reverse charge: the recipient accounts for the VAT (Article 196, Directive 2006/112/EC)."
)
_VAT_ID = re.compile(r"[A-Z]{2}[A-Z0-9+*]{2,12}\Z")


@dataclass(frozen=True, slots=True)
class Tax:
    """A name, a rate in thousandths of a percent, and what the invoice has to say about it."""

    name: str = ""
    rate: int = 0
    note: str = ""

    def of(self, minor: int) -> int:
        """The tax on a net amount, both in the currency's minor unit, rounded half to even."""
        return money.amount(minor, self.rate * 10)


def tax_for(details: BillingDetails | None, *, seller: str, on: date) -> Tax:
    """The tax on a sale of that day by a seller in the country `seller`.

    At home the country's rate, and so to whoever has not said where they are; inside the EU the
    buyer's country's, or none with reverse charge where the buyer has a VAT id; to anywhere else
    none.
    """
    if not seller:
        return Tax()
    if details is None or details.country == seller:
        return _rate(seller, on)
    if details.country in EU and seller in EU:
        if is_vat_id(details.vat_id, details.country):
            return Tax(note=_REVERSE_CHARGE)
        return _rate(details.country, on)
    return Tax()


def is_vat_id(text: str, country: str) -> bool:
    """Whether that looks like a VAT id of the country (Greece's begin with EL)."""
    prefix = "EL" if country == "GR" else country
    return text.startswith(prefix) and _VAT_ID.match(text) is not None


def _rate(country: str, on: date) -> Tax:
    rates = TaxRate.objects.filter(country=country, effective_from__lte=on)
    found = rates.order_by("-effective_from").first()
    return Tax(found.name, found.rate) if found else Tax()
