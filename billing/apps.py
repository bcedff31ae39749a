"""Money: prices, ledger, credit, invoices."""

from django.apps import AppConfig


class BillingConfig(AppConfig):
    """Lives in the public schema."""

    name = "billing"
    label = "billing"
    verbose_name = "Money"
