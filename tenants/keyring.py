"""An organization's API keys, as its members and its programs manage them.

Nobody makes, changes or renews a key into one that may do more than they may themselves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.core.mail import send_mail
from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Least, Now

from kit.errors import Refused
from kit.origin import network
from tenants import audit, keys, roles
from tenants.audit import Actor, Change
from tenants.auth import Caller
from tenants.models import ApiKey, Membership, Organization, Role
from tenants.roles import Action
from tenants.webhooks import events
from tenants.webhooks.events import Happened, Kind

MOST = 1_000
"""Living keys of an organization."""
MOST_KEPT = 10_000
"""All of them: of the revoked and the expired the oldest give way."""
_LIMITS = ("requests_per_minute", "tokens_per_minute", "concurrent_requests")
_COPIED = (
    "name", "environment", "scopes", "models", "networks", "expires_at", "signing_key", "person_id",
    *_LIMITS,
)  # fmt: skip


class NoSuchKey(Refused):
    """None of this organization's."""

    status, code = 404, "key_not_found"


class DeadKey(Refused):
    """Revoked or expired: it stays as it is."""

    status, code = 409, "key_not_active"


class NotYours(Refused):
    """Somebody else's key, and not one's role to manage."""

    status, code = 403, "not_your_key"


class MoreThanYours(Refused):
    """The key would be able to do what its maker cannot."""

    status, code = 403, "more_than_yours"


class TooManyKeys(Refused):
    """Living ones of one organization."""

    status, code = 409, "too_many_keys"


@dataclass(frozen=True, slots=True)
class Manager:
    """Who manages: the caller, and as the audit log names them."""

    caller: Caller
    actor: Actor


def listed(organization: int, *, after: str | None, most: int) -> Sequence[ApiKey]:
    """Up to `most` keys, newest first, that stand behind the key `after`."""
    rows = ApiKey.objects.for_org(organization).order_by("-created_at", "-pk")
    if after is not None:
        last = found(organization, after)
        same = Q(created_at=last.created_at, pk__lt=last.pk)
        rows = rows.filter(Q(created_at__lt=last.created_at) | same)
    return list(rows.select_related("created_by")[:most])


def found(organization: int, identifier: str) -> ApiKey:
    """The organization's key of this public id; raises `NoSuchKey`."""
    rows = ApiKey.objects.for_org(organization).select_related("created_by")
    key = rows.filter(pk=identifier).first()
    if key is None:
        raise NoSuchKey(f"Your organization has no API key {identifier!r}; list them to see.")
    return key


def make(
    by: Manager, fields: Mapping[str, Any], *, service_account: bool = False
) -> tuple[ApiKey, str]:
    """A new key, and its text to show once; raises `MoreThanYours`, `NotYours`, `TooManyKeys`.

    It is the caller's own, unless it is to be a service account's: that one is nobody's, and
    stays when its maker leaves.
    """
    caller = by.caller
    if service_account and not caller.may(Action.MANAGE_KEYS):
        raise NotYours(
            "Keys of service accounts are made by owners and admins; ask one, or leave out "
            "service_account."
        )
    key = ApiKey(
        organization_id=caller.organization,
        created_by_id=caller.user,
        person_id=None if service_account else caller.person,
        **fields,
    )
    _refuse_more(caller, key)
    with transaction.atomic():
        _refuse_crowd(caller.organization, MOST)
        return key, keys.issue(key, by=by.actor)


def change(by: Manager, identifier: str, fields: Mapping[str, Any], *, now: datetime) -> ApiKey:
    """The key with other fields; raises `NotYours`, `DeadKey`, `MoreThanYours`."""
    with transaction.atomic():
        key = _to_manage(by.caller, identifier, now)
        before = keys.facts(key)
        for name, value in fields.items():
            setattr(key, name, value)
        _refuse_more(by.caller, key)
        _save(key, before, fields, by.actor, now)
    return key


def rotate(by: Manager, identifier: str, *, grace: timedelta, now: datetime) -> tuple[ApiKey, str]:
    """A key like it, and its text to show once; the old one ends after `grace`, or when it would.

    Raises `NotYours`, `DeadKey`, `MoreThanYours`, `TooManyKeys`.
    """
    with transaction.atomic():
        old = _to_manage(by.caller, identifier, now)
        new = ApiKey(
            organization_id=old.organization_id,
            created_by_id=by.caller.user or old.created_by_id,
            replaces=old,
            **{name: getattr(old, name) for name in _COPIED},
        )
        _refuse_more(by.caller, new)
        _refuse_crowd(old.organization_id, 2 * MOST)
        text = keys.issue(new, by=by.actor)
        was = {"expires_at": old.expires_at}
        old.expires_at = min(old.expires_at or now + grace, now + grace)
        old.save(update_fields=["expires_at"])
        became = {"expires_at": old.expires_at, "replaced_by": new.pk}
        entry = Change("key.rotated", keys.target(old), was, became)
        audit.record(entry, by=by.actor, organization=old.organization_id, now=now)
    return new, text


def revoke(by: Manager, identifier: str, *, now: datetime) -> ApiKey:
    """Dead within a second, everywhere; again changes nothing. Raises `NotYours`."""
    key = found(by.caller.organization, identifier)
    _refuse_others(by.caller, key)
    keys.revoke(key, now=now, by=by.actor)
    return key


def report_leaked(presented: keys.Presented, *, now: datetime) -> ApiKey | None:
    """Revoke a key that somebody found, and proves so by showing it; None: not one of ours."""
    key = ApiKey.objects.across_organizations().filter(pk=presented.id).first()
    if key is None or not presented.is_of(key.secret_hash):
        return None
    with transaction.atomic():
        keys.revoke(key, now=now, by=audit.NOBODY, action="key.reported_leaked")
        shown = {"key": key.pk, "name": key.name, "environment": key.environment}
        events.tell([Happened(key.organization_id, Kind.KEY_LEAKED, key.pk, shown)], now=now)
    return key


def tell_of_leak(identifier: str) -> int:
    """Write to the organization's owners, and to whose key it was; how many letters were sent."""
    key = ApiKey.objects.across_organizations().select_related("organization").get(pk=identifier)
    owners = Membership.objects.for_org(key.organization_id).filter(
        Q(role=Role.OWNER) | Q(user=key.person_id)
    )
    people = sorted(owners.values_list("user__email", flat=True))
    shown = f"aip_{key.environment}_{key.pk}_…"
    subject = f"An API key of {key.organization.name} was reported as leaked"
    text = (
        f"Somebody found the API key {key.name!r} ({shown}) where it should not be, and reported "
        "it.\nIt was revoked at once: programs that use it are refused from now on.\n\n"
        "Make another key, look in the audit log and in the usage for what was done with the old "
        "one, and find out how it got out.\n"
    )
    return sum(send_mail(subject, text, None, [address], fail_silently=False) for address in people)


def _to_manage(caller: Caller, identifier: str, now: datetime) -> ApiKey:
    """Locked, so that two changes don't mix."""
    ApiKey.objects.for_org(caller.organization).select_for_update().filter(pk=identifier).first()
    key = found(caller.organization, identifier)
    _refuse_others(caller, key)
    if key.revoked_at is not None or key.has_expired(now):
        raise DeadKey(f"The API key {key.pk!r} was revoked or has expired; make another.")
    return key


def _refuse_others(caller: Caller, key: ApiKey) -> None:
    own = caller.user is not None and caller.user in (key.person_id, key.created_by_id)
    if not own and not caller.may(Action.MANAGE_KEYS):
        raise NotYours("Somebody else made this API key; ask them, an owner or an admin.")


def _save(key: ApiKey, before: Mapping[str, Any], names: Any, actor: Actor, now: datetime) -> None:
    was, became = audit.differences(audit.plain(before), audit.plain(keys.facts(key)))
    if became:
        key.save(update_fields=list(names))
        entry = Change("key.changed", keys.target(key), was, became)
        audit.record(entry, by=actor, organization=key.organization_id, now=now)


def _refuse_more(caller: Caller, key: ApiKey) -> None:
    """A person gives what their role has; a key nothing wider than itself in any respect."""
    more = set(key.scopes) - caller.scopes
    if caller.role is not None:
        more = set(key.scopes) - roles.scopes_of(caller.role)
    if more:
        raise MoreThanYours(
            f"You cannot give the scopes {', '.join(sorted(more))}; leave them out."
        )
    if caller.user is not None:
        return
    own = ApiKey.objects.for_org(caller.organization).get(pk=caller.key)
    wider = [name for name, within in _within(key, own).items() if not within]
    if wider:
        raise MoreThanYours(
            f"Your key is bounded in {', '.join(wider)}; bound this one as tightly, or tighter.",
            param=wider[0],
        )


def _within(key: ApiKey, own: ApiKey) -> dict[str, bool]:
    return {
        "models": not own.models or (bool(key.models) and set(key.models) <= set(own.models)),
        "networks": not own.networks or _inside(key.networks, own.networks),
        "signing_key": not own.signing_key or bool(key.signing_key),
        "expires_at": own.expires_at is None
        or (key.expires_at is not None and key.expires_at <= own.expires_at),
        **{
            name: not getattr(own, name) or 0 < getattr(key, name) <= getattr(own, name)
            for name in _LIMITS
        },
    }


def _inside(networks: Sequence[str], bounds: Sequence[str]) -> bool:
    outer = [network(each) for each in bounds]
    return bool(networks) and all(
        any(inner.version == each.version and inner.subnet_of(each) for each in outer)  # type: ignore[arg-type]
        for inner in map(network, networks)
    )


def _refuse_crowd(organization: int, most: int) -> None:
    """Under a lock, so that two at once are not both the last. A rotated key lives beside its
    successor for a while."""
    Organization.objects.select_for_update().get(pk=organization)
    living = ApiKey.objects.for_org(organization).filter(revoked_at=None)
    if living.exclude(expires_at__lte=Now()).count() >= most:
        raise TooManyKeys(
            f"Your organization has {most:,} API keys, the most it may; revoke some first."
        )
    _forget_dead(organization)


def _forget_dead(organization: int) -> None:
    """The audit log keeps what was done with them."""
    mine = ApiKey.objects.for_org(organization)
    over = mine.count() + 1 - MOST_KEPT
    if over > 0:
        dead = mine.filter(Q(revoked_at__isnull=False) | Q(expires_at__lte=Now()))
        first = dead.annotate(ended=Least("revoked_at", "expires_at")).order_by("ended", "pk")
        mine.filter(pk__in=list(first.values_list("pk", flat=True)[:over])).delete()
