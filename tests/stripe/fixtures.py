"""The double as fixtures: started once a run, forgetful between tests."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.stripe.server import KEY, SECRET, Double


@pytest.fixture(scope="session")
def _running_double() -> Iterator[Double]:
    """A server in a thread."""
    double = Double()
    double.start()
    yield double
    double.stop()


@pytest.fixture
def double(_running_double: Double, settings: Any) -> Double:
    """Stripe, empty, and the platform told where it is."""
    _running_double.reset()
    settings.STRIPE_KEY = KEY
    settings.STRIPE_WEBHOOK_SECRET = SECRET
    settings.STRIPE_API_BASE = _running_double.url
    return _running_double
