"""`make run STRIPE=local`: the double of Stripe that the tests use, beside the platform."""

import os
import subprocess
import sys

from config.stack import ports
from config.stack.environment import MARK
from config.stack.layout import Layout
from kit.embedded import LOCAL

_KEY, _SECRET = "sk_test_double", "whsec_double"


class Double:
    """A process of its own; it posts its webhooks to `webhook`."""

    def __init__(self, layout: Layout, webhook: str) -> None:
        port = ports.remembered(layout.ports, "stripe")
        command = [sys.executable, "-m", "tests.stripe.server"]
        self._process = subprocess.Popen(  # noqa: S603
            [*command, "--port", str(port), "--webhook", webhook],
            cwd=layout.root,
            env={**os.environ, MARK: str(layout.var), "PYTHONPATH": str(layout.root)},
            start_new_session=True,
        )
        self.settings = {
            "STRIPE_KEY": _KEY,
            "STRIPE_WEBHOOK_SECRET": _SECRET,
            "STRIPE_API_BASE": f"http://{LOCAL}:{port}",
        }

    def stop(self) -> None:
        """End it; what it knew is gone."""
        self._process.terminate()
        self._process.wait(10)
