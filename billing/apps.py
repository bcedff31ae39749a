"""Money: prices, ledger, credit, invoices, payments."""

from importlib import import_module
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import Error, Tags, register


class BillingConfig(AppConfig):
    """Lives in the public schema. Its models are in more than one module."""

    name = "billing"
    label = "billing"
    verbose_name = "Money"
    kept_when_erased = "tax law, and what is still to be paid"
    """Of each model that does not say otherwise; see `tenants.owned`."""

    def ready(self) -> None:
        """Refuse to start on a currency that is none; see how the payment provider is set up."""
        import_module("billing.customers").offered()
        register(webhooks_are_signed, Tags.security, deploy=True)

    def import_models(self) -> None:
        """Those of `models`, and of the modules beside it."""
        super().import_models()
        import_module("billing.receivables")
        import_module("billing.allowances")
        import_module("billing.offers")
        import_module("billing.days")


def webhooks_are_signed(**_: Any) -> list[Error]:
    """Whether the provider's webhooks can be told from forged ones, where it is used at all."""
    if settings.STRIPE_KEY and not settings.STRIPE_WEBHOOK_SECRET:
        said = "STRIPE_KEY is set and STRIPE_WEBHOOK_SECRET is not: every webhook is refused."
        hint = "Give the signing secret of the webhook's endpoint (whsec_…)."
        return [Error(said, hint=hint, id="billing.E001")]
    return []
