"""What happened, written down beside what made it happen, for every address that wants to know."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid5

from kit.snapshot import Snapshot
from tenants.webhooks.models import Delivery, Event, Webhook

_NAMES = UUID("5f0c8bb7-6b0e-4c55-9a59-0b8f2f6d1e77")


class Kind(StrEnum):
    """What can happen."""

    REQUEST_FINISHED = "request.finished"
    BATCH_FINISHED = "batch.finished"
    BUDGET_REACHED = "budget.reached"
    INVOICE_ISSUED = "invoice.issued"
    INVOICE_PAID = "invoice.paid"
    INVOICE_VOIDED = "invoice.voided"
    INVOICE_UNCOLLECTIBLE = "invoice.uncollectible"
    KEY_LEAKED = "key.leaked"


@dataclass(frozen=True, slots=True)
class Happened:
    """In an organization; `subject` is of what, so that the same one twice is one event."""

    organization: int
    kind: Kind
    subject: str
    data: Mapping[str, Any]

    @property
    def id(self) -> UUID:
        """The event's."""
        return uuid5(_NAMES, f"{self.organization}\0{self.kind}\0{self.subject}")


def tell(happened: Iterable[Happened], *, now: datetime) -> int:
    """Write down what somebody wants to know, in the caller's transaction; how many were new.

    Again changes nothing. Who wants nothing of the kind costs no query and no id: that is
    remembered for some seconds, so a new webhook is told within seconds. Nobody is called here: see
    `tenants.webhooks.sending`.
    """
    known_kinds = _kinds.get()
    asked = [each for each in happened if each.kind in known_kinds.get(each.organization, ())]
    if not asked:
        return 0
    wanted = _wanted({each.organization for each in asked})
    told = {
        each.id: each
        for each in asked
        if any(each.kind in hook.kinds for hook in wanted.get(each.organization, ()))
    }
    if not told:
        return 0
    known = set(
        Event.objects.across_organizations().filter(pk__in=list(told)).values_list("pk", flat=True)
    )
    Event.objects.bulk_create(
        (
            Event(id=key, organization_id=each.organization, kind=each.kind, data=each.data, at=now)
            for key, each in told.items()
        ),
        ignore_conflicts=True,
    )
    Delivery.objects.bulk_create(
        (
            Delivery(webhook=hook, event_id=key, due_at=now)
            for key, each in told.items()
            for hook in wanted[each.organization]
            if each.kind in hook.kinds
        ),
        ignore_conflicts=True,
    )
    return len(told.keys() - known)


def forget() -> None:
    """Look anew at who wants to know what, in this process."""
    _kinds.forget()


def _wanted(organizations: Set[int]) -> dict[int, list[Webhook]]:
    """Webhooks by organization; locked, so that none goes before it is told."""
    found: dict[int, list[Webhook]] = {}
    hooks = Webhook.objects.across_organizations().select_for_update(no_key=True)
    for hook in hooks.filter(organization_id__in=organizations, enabled=True).order_by("pk"):
        found.setdefault(hook.organization_id, []).append(hook)
    return found


def _load() -> Mapping[int, frozenset[str]]:
    kinds: dict[int, frozenset[str]] = {}
    rows = Webhook.objects.across_organizations().filter(enabled=True)
    for organization, wanted in rows.values_list("organization_id", "kinds"):
        kinds[organization] = kinds.get(organization, frozenset()) | frozenset(wanted)
    return kinds


_kinds: Snapshot[Mapping[int, frozenset[str]]] = Snapshot(_load, seconds=5)
