"""Charges that the provider tells of, and the payments here that stand for them."""

from billing import gateway
from billing.receivables import Payment, PaymentProfile


class Unwritten(Exception):
    """It is one of our customers', and nothing is written of it here yet: ask again later."""


def is_written(intent: str) -> bool:
    """Whether a payment here stands for the provider's; False for what is none of ours.

    Raises `Unwritten`: what is told of a charge may arrive before the charge's own answer.
    """
    if not intent:
        return False
    if Payment.objects.across_organizations().filter(reference=intent).exists():
        return True
    customer = gateway.payment(intent).customer
    profiles = PaymentProfile.objects.across_organizations()
    if customer and profiles.filter(customer=customer).exists():
        raise Unwritten(f"No payment here stands for {intent} yet.")
    return False
