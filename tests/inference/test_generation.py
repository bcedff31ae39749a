"""Requests end to end inside one process: admitted, run by the echo model, booked, followed."""

from datetime import UTC, datetime

import pytest

from billing.models import LedgerEntry
from inference.admission import Wish
from inference.catalog.offers import Offer
from inference.engine import Sampling
from inference.generation import Generation, generation
from inference.models import Request
from inference.worker import Host
from kit.ids import request_id
from tenants.auth import Caller
from tests.inference.parts import in_schema, serving

pytestmark = pytest.mark.django_db(transaction=True)


def wish(offer: Offer, text: str = "hello", **sampling: object) -> Wish:
    return Wish(
        offer=offer,
        prompt=tuple(offer.text.chat([{"role": "user", "content": text}])),
        sampling=Sampling(**{"max_tokens": 64, **sampling}),  # type: ignore[arg-type]
        endpoint="test",
        label="mine",
    )


async def answer(caller: Caller, wished: Wish) -> tuple[Generation, str]:
    now = datetime.now(UTC)
    async with generation(caller=caller, wish=wished, request=request_id(now), now=now) as run:
        return run, (await run.whole()).text


async def test_an_answer_is_booked_once_in_history_and_ledger(
    caller: Caller, echo: Offer, host: Host
) -> None:
    with serving(host):
        run, text = await answer(caller, wish(echo))
    assert text == "hello"
    entry = await in_schema("public", lambda: LedgerEntry.objects.across_organizations().get())
    assert entry.units == {"input_tokens": 6, "output_tokens": run.ended.completion_tokens}
    assert entry.amount == run.ended.amount == 6 * 1000 + 2000 * run.ended.completion_tokens
    row = await in_schema("org_acme", lambda: Request.objects.get(pk=run.job.id))
    assert (row.amount, row.completion_tokens) == (entry.amount, run.ended.completion_tokens)
