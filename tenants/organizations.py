"""An organization's life: founded, renamed, shut out and let back in, deleted, restored.

`tenants.erasure` erases it when its grace period is over.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from redis.exceptions import RedisError

from kit.errors import Invalid, Refused
from tenants import answers, audit, shutting
from tenants.audit import Actor, Change
from tenants.models import Membership, Organization, Retention, Role, User

_CACHING = ("caching", "cache_seconds", "cache_likeness", "cache_adaptive")
_EPOCHS = ("cache_epoch", "cache_epochs")
_RETENTION = ("retention", "kept_days", "texts_searchable")
_SUSPENSION = ("suspended_at", "suspended_reason", "erase_at")
_DELETED = "its owner deleted it"
_RESERVED = frozenset({"admin", "api", "billing", "new", "public", "static"})

log = structlog.get_logger()


class SlugTaken(Refused):
    """Another organization has it, or had it."""

    status, code = 409, "slug_taken"


class TooManyOrganizations(Refused):
    """As many as one person may own."""

    status, code = 409, "too_many_organizations"


class SetYoursUpFirst(Refused):
    """Who asks for second factors has none."""

    status, code = 409, "second_factor_not_set"


class NotLeaving(Refused):
    """Nobody asked to delete it, or its data has gone already."""

    status, code = 409, "not_being_deleted"


def found(
    *, slug: str, name: str, owner: User | None, now: datetime, by: Actor = audit.SYSTEM
) -> Organization:
    """A new organization's row and its owner's membership; `schemas.make` makes the schema.

    Raises `Invalid`, `SlugTaken`, and `TooManyOrganizations` where `owner` has their share.
    """
    organization = Organization(slug=slug, name=name)
    organization.schema_at_once = False
    _refuse_name(organization)
    with transaction.atomic():
        if owner is not None:
            refuse_more_than_a_share(owner)
        organization.save()
        if owner is not None:
            Membership.objects.create(user=owner, organization=organization, role=Role.OWNER)
        after = {"name": name, "owner": owner.email if owner else ""}
        _record("organization.created", organization, {}, after, by, now)
    return organization


def rename(organization: Organization, *, name: str, now: datetime, by: Actor) -> None:
    """Another name to show; the slug stays. Raises `Invalid`."""
    before = organization.name
    organization.name = name
    _refuse_fields(organization, "name")
    if name == before:
        return
    with transaction.atomic():
        organization.save(update_fields=["name"])
        _record("organization.renamed", organization, {"name": before}, {"name": name}, by, now)


def suspend(
    organization: Organization, *, now: datetime, reason: str = "", by: Actor = audit.SYSTEM
) -> None:
    """Refuse its callers within a second, telling them the reason. Again changes nothing."""
    if organization.suspended_at is not None:
        return
    before = _suspension(organization)
    organization.suspended_at, organization.suspended_reason = now, reason
    _save(organization, Change("organization.suspended", target(organization), before), by, now)


def reinstate(organization: Organization, *, now: datetime, by: Actor = audit.SYSTEM) -> None:
    """Serve its callers again. Again changes nothing."""
    if organization.suspended_at is None or organization.erased_at is not None:
        return
    before = _suspension(organization)
    organization.suspended_at, organization.suspended_reason = None, ""
    organization.erase_at = None
    _save(organization, Change("organization.reinstated", target(organization), before), by, now)


def keep(
    organization: Organization,
    retention: Retention,
    *,
    days: int,
    searchable: bool = False,
    now: datetime,
    by: Actor,
) -> None:
    """Keep from now on what `retention` says, texts for so many days. Again changes nothing.

    `searchable`: those can be found by their words, as of now. Every process follows within a
    second; texts that are kept no more go with the next purge, and where answers are kept for a
    shorter time than before, the cache forgets all of them at once.
    """
    shorter = False
    with transaction.atomic():
        organization = Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
        before = {name: getattr(organization, name) for name in _RETENTION}
        kept = organization.answers_kept_seconds
        organization.retention, organization.kept_days = retention, days
        organization.texts_searchable = searchable and retention == Retention.TEXTS
        after = {name: getattr(organization, name) for name in _RETENTION}
        before, after = audit.differences(before, after)
        if after:
            if shorter := organization.answers_kept_seconds < kept:
                _begin_epoch(organization)
            organization.save(update_fields=[*_RETENTION, *_EPOCHS])
            change = Change("organization.retention", target(organization), before, after)
            audit.record(change, by=by, organization=organization.pk, now=now)
    if shorter:
        _take_away(organization)


def cache_answers(
    organization: Organization,
    caching: str,
    *,
    seconds: int,
    likeness: float | None = None,
    adaptive: bool | None = None,
    now: datetime,
    by: Actor,
) -> None:
    """Give answers again from now on as `caching` says ("": as the plan does), for so long.

    `likeness`, `adaptive`: see the organization's fields; None leaves them. Within a second
    everywhere. Again changes nothing.
    """
    with transaction.atomic():
        organization = Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
        before = {name: getattr(organization, name) for name in _CACHING}
        organization.caching, organization.cache_seconds = caching, seconds
        if likeness is not None:
            organization.cache_likeness = likeness
        if adaptive is not None:
            organization.cache_adaptive = adaptive
        after = {name: getattr(organization, name) for name in _CACHING}
        before, after = audit.differences(before, after)
        if after:
            organization.save(update_fields=list(_CACHING))
            change = Change("organization.caching", target(organization), before, after)
            audit.record(change, by=by, organization=organization.pk, now=now)


def forget_answers(organization: Organization, *, model: str = "", now: datetime, by: Actor) -> int:
    """Give none of the answers again that were made so far, or none that `model` made; within a
    second everywhere. How many the cache had: what it does not let go of is never found."""
    with transaction.atomic():
        organization = Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
        if model:
            organization.cache_epochs[model] = organization.cache_epochs.get(model, 0) + 1
        else:
            _begin_epoch(organization)
        organization.save(update_fields=list(_EPOCHS))
        after = {"model": model} if model else {}
        change = Change("organization.cache_emptied", target(organization), after=after)
        audit.record(change, by=by, organization=organization.pk, now=now)
    return _take_away(organization, model=model)


def forget_answer(organization: Organization, *, entry: str, now: datetime, by: Actor) -> int:
    """Give one answer no more; 1 if the cache had it, else 0. Raises RedisError, then it stays."""
    with transaction.atomic():
        gone = answers.forget(organization.pk, entry)
        change = Change("organization.answer_forgotten", target(organization), after={"key": entry})
        audit.record(change, by=by, organization=organization.pk, now=now)
    return gone


def require_two_factors(
    organization: Organization, *, required: bool, is_set: bool, now: datetime, by: Actor
) -> None:
    """Let members in with a second factor alone, or no more; within a second everywhere.

    `is_set`: whether who asks has one; raises `SetYoursUpFirst`. Again changes nothing.
    """
    before = {"two_factors_required": organization.two_factors_required}
    if before["two_factors_required"] == required:
        return
    if required and not is_set:
        raise SetYoursUpFirst(
            "Set your own second factor up first, at /accounts/2fa/: you would be shut out."
        )
    with transaction.atomic():
        organization.two_factors_required = required
        organization.save(update_fields=["two_factors_required"])
        after = {"two_factors_required": required}
        _record("organization.two_factors", organization, before, after, by, now)


def ask_deletion(organization: Organization, *, now: datetime, by: Actor) -> None:
    """Shut out now, erased after `settings.DELETION_GRACE_DAYS`. Again changes nothing."""
    if organization.erase_at is not None or organization.erased_at is not None:
        return
    before = _suspension(organization)
    organization.erase_at = now + timedelta(days=settings.DELETION_GRACE_DAYS)
    if organization.suspended_at is None:
        organization.suspended_at = now
        organization.suspended_reason = _DELETED
    entry = Change("organization.deletion_asked", target(organization), before)
    _save(organization, entry, by, now)


def restore(organization: Organization, *, now: datetime, by: Actor) -> None:
    """As it was before its deletion was asked for; raises `NotLeaving`.

    What an operator had suspended before stays suspended.
    """
    if organization.erase_at is None or organization.erased_at is not None:
        raise NotLeaving(f"The organization {organization.slug!r} is not being deleted.")
    before = _suspension(organization)
    organization.erase_at = None
    if organization.suspended_reason == _DELETED:
        organization.suspended_at, organization.suspended_reason = None, ""
    _save(organization, Change("organization.restored", target(organization), before), by, now)


def due(*, now: datetime) -> list[Organization]:
    """Those whose grace period is over."""
    rows = Organization.objects.filter(erase_at__lte=now, erased_at=None)
    return list(rows.order_by("erase_at"))


def target(organization: Organization) -> str:
    """How the audit log names it."""
    return f"organization:{organization.slug}"


def _refuse_name(organization: Organization) -> None:
    organization.name = organization.name.strip()
    _refuse_fields(organization, "slug", "name")
    if organization.slug in _RESERVED:
        raise SlugTaken(f"The slug {organization.slug!r} is reserved; take another.", param="slug")
    schema = f"org_{organization.slug.replace('-', '_')}"
    if Organization.objects.filter(schema_name=schema).exists():
        raise SlugTaken(f"The slug {organization.slug!r} is taken; take another.", param="slug")


def _refuse_fields(organization: Organization, *names: str) -> None:
    others = {field.name for field in organization._meta.fields} - set(names)
    try:
        organization.clean_fields(exclude=others)
    except ValidationError as error:
        field, messages = next(iter(error.message_dict.items()))
        raise Invalid(f"{field}: {messages[0]}", param=field) from error
    if not organization.name.isprintable():
        raise Invalid("name: use printable characters only.", param="name")


def refuse_more_than_a_share(owner: User) -> None:
    """Raise `TooManyOrganizations` where they may own no other one; in a transaction, whose lock
    has two at once not both see room."""
    User.objects.select_for_update().get(pk=owner.pk)
    owned = Membership.objects.across_organizations().filter(user=owner, role=Role.OWNER)
    most = settings.ORGANIZATIONS_EACH
    if owned.count() >= most:
        raise TooManyOrganizations(
            f"{owner.email} owns {most} organizations, the most that one person may; delete one, "
            "or ask the operator."
        )


def _suspension(organization: Organization) -> dict[str, object]:
    return {name: getattr(organization, name) for name in _SUSPENSION}


def _begin_epoch(organization: Organization) -> None:
    """Higher than all that any model's answers were found by."""
    organization.cache_epoch += 1 + max(organization.cache_epochs.values(), default=0)
    organization.cache_epochs = {}


def _take_away(organization: Organization, *, model: str = "") -> int:
    """Answers that are found no more; how many the cache had."""
    epoch = None if model else organization.cache_epoch
    try:
        return answers.forget(organization.pk, f"{model}:" if model else "", epoch=epoch)
    except RedisError as error:
        log.warning("forgotten answers stay in the cache, for nobody", error=str(error))
        return 0


def _save(organization: Organization, change: Change, by: Actor, now: datetime) -> None:
    with transaction.atomic():
        organization.save(update_fields=list(_SUSPENSION))
        before, after = audit.differences(
            audit.plain(change.before), audit.plain(_suspension(organization))
        )
        _record(change.action, organization, before, after, by, now)
        if organization.suspended_at is not None:
            shutting.look_again(organization.pk)


def _record(
    action: str,
    organization: Organization,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    by: Actor,
    now: datetime,
) -> None:
    change = Change(action, target(organization), before, after)
    audit.record(change, by=by, organization=organization.pk, now=now)
