"""Who belongs to an organization: roles given, people removed, ownership passed on.

An organization always has an owner, and only an owner makes or unmakes one.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from django.db import transaction

from kit.errors import Refused
from tenants import audit, organizations, shutting
from tenants.audit import Actor, Change
from tenants.auth import Caller
from tenants.models import Membership, Organization, Role
from tenants.roles import Action

MOST = 10_000
"""Of one organization."""


class NoSuchMember(Refused):
    """Nobody of this organization."""

    status, code = 404, "member_not_found"


class TooManyMembers(Refused):
    """As many as one organization may have."""

    status, code = 409, "too_many_members"


class LastOwner(Refused):
    """The organization would be nobody's."""

    status, code = 409, "last_owner"


def refuse_crowd(organization: int) -> None:
    """Raise `TooManyMembers` where nobody else has a place; in a transaction, whose lock holds."""
    Organization.objects.select_for_update(no_key=True).get(pk=organization)
    if Membership.objects.for_org(organization).count() >= MOST:
        raise TooManyMembers(
            f"The organization has {MOST:,} members, the most it may; an admin can remove some."
        )


def listed(organization: int) -> Sequence[Membership]:
    """Everyone, by address."""
    rows = Membership.objects.for_org(organization).select_related("user")
    return list(rows.order_by("user__email"))


def give_role(by: Caller, actor: Actor, *, user: int, role: Role, now: datetime) -> Membership:
    """The member in their new role; raises `NoSuchMember`, `NotYourRole`, `LastOwner`,
    `TooManyOrganizations`."""
    with transaction.atomic():
        member = _locked(by.organization, user)
        if Role.OWNER in (member.role, role):
            by.allow(Action.MANAGE_OWNERS)
        if role is not Role.OWNER:
            _refuse_last_owner(member)
        elif member.role != Role.OWNER:
            organizations.refuse_more_than_a_share(member.user)
        _change(member, role, actor, now)
    return member


def limit(
    by: Caller, actor: Actor, *, user: int, limits: Mapping[str, int], now: datetime
) -> Membership:
    """The member with other limits, by name; raises `NoSuchMember`, `NotYourRole`.

    They hold for the person and all of their keys together; an owner's are set by owners.
    """
    with transaction.atomic():
        member = _locked(by.organization, user)
        if member.role == Role.OWNER:
            by.allow(Action.MANAGE_OWNERS)
        before = {name: getattr(member, name) for name in limits}
        was, became = audit.differences(before, limits)
        if became:
            for name, value in became.items():
                setattr(member, name, value)
            member.save(update_fields=[*became])
            _record("membership.limited", member, was, became, actor, now)
    return member


def remove(by: Caller, actor: Actor, *, user: int, now: datetime) -> None:
    """Out within a second; raises `NoSuchMember`, `NotYourRole`, `LastOwner`."""
    with transaction.atomic():
        member = _locked(by.organization, user)
        if member.role == Role.OWNER:
            by.allow(Action.MANAGE_OWNERS)
        _end(member, "membership.removed", actor, now)


def leave(by: Caller, actor: Actor, *, user: int, now: datetime) -> None:
    """By one's own will; raises `LastOwner`."""
    with transaction.atomic():
        _end(_locked(by.organization, user), "membership.left", actor, now)


def pass_ownership(by: Caller, actor: Actor, *, giver: int, taker: int, now: datetime) -> None:
    """The giver becomes an admin; raises `NoSuchMember`, `TooManyOrganizations`."""
    with transaction.atomic():
        old = _locked(by.organization, giver)
        new = _locked(by.organization, taker)
        if giver != taker:
            if new.role != Role.OWNER:
                organizations.refuse_more_than_a_share(new.user)
            _change(new, Role.OWNER, actor, now)
            _change(old, Role.ADMIN, actor, now)


def _locked(organization: int, user: int) -> Membership:
    """All of the organization's owners are locked with it, so that two cannot leave at once."""
    rows = Membership.objects.for_org(organization).order_by("pk").select_for_update()
    list(rows.filter(role=Role.OWNER))
    member = rows.filter(user=user).first()
    if member is None:
        raise NoSuchMember(f"Nobody with the id {user} belongs to your organization.")
    return member


def _change(member: Membership, role: Role, actor: Actor, now: datetime) -> None:
    before = member.role
    if before == role:
        return
    member.role = role
    member.save(update_fields=["role"])
    _record("membership.changed", member, {"role": before}, {"role": role.value}, actor, now)


def _end(member: Membership, action: str, actor: Actor, now: datetime) -> None:
    _refuse_last_owner(member)
    user = member.user_id
    member.delete()
    member.user_id = user
    _record(action, member, {"user_id": user, "role": member.role}, {}, actor, now)
    shutting.look_again(member.organization_id)


def _refuse_last_owner(member: Membership) -> None:
    owners = Membership.objects.for_org(member.organization_id).filter(role=Role.OWNER)
    if member.role == Role.OWNER and not owners.exclude(pk=member.pk).exists():
        raise LastOwner("This is the organization's only owner; make another member owner first.")


def _record(
    action: str,
    member: Membership,
    before: dict[str, object],
    after: dict[str, object],
    actor: Actor,
    now: datetime,
) -> None:
    change = Change(action, f"user:{member.user_id}", before, after)
    audit.record(change, by=actor, organization=member.organization_id, now=now)
