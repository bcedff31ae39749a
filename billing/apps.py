"""Money: prices, ledger, credit, invoices, payments."""

from importlib import import_module

from django.apps import AppConfig


class BillingConfig(AppConfig):
    """Lives in the public schema. Its models are in more than one module."""

    name = "billing"
    label = "billing"
    verbose_name = "Money"
    kept_when_erased = "tax law, and what is still to be paid"
    """Of each model that does not say otherwise; see `tenants.owned`."""

    def import_models(self) -> None:
        """Those of `models`, and of the modules beside it."""
        super().import_models()
        import_module("billing.receivables")
        import_module("billing.allowances")
        import_module("billing.offers")
        import_module("billing.days")
