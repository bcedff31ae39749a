"""Inviting people by e-mail: offered, sent again, withdrawn, accepted.

The mail's link has a random token; kept is its SHA-256 under `KEY_PEPPER`. It is good once, until
it expires, and for whoever has shown that the invited address is theirs.
"""

import hmac
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.db.models import Q

from kit.errors import Invalid, Refused
from tenants import audit, members, organizations, throttle
from tenants.accounts import addresses
from tenants.audit import Actor, Change
from tenants.auth import Caller
from tenants.models import Invitation, Membership, Organization, Role, User
from tenants.roles import Action

_MOST_OPEN = 100
KEPT = timedelta(days=90)
"""How long one stays that is over; the audit log has it for good."""


class NoSuchInvitation(Refused):
    """None of this organization's that is open."""

    status, code = 404, "invitation_not_found"


class NotInvited(Refused):
    """A link that is wrong, used, withdrawn, replaced or too old."""

    status, code = 404, "invitation_not_valid"


class AnotherAddress(Refused):
    """The invitation is somebody else's."""

    status, code = 403, "invitation_for_another_address"


class AlreadyInvited(Refused):
    """There is an open invitation to this address."""

    status, code = 409, "already_invited"


class AlreadyMember(Refused):
    """They belong to the organization."""

    status, code = 409, "already_a_member"


class TooManyInvitations(Refused):
    """Open ones."""

    status, code = 409, "too_many_invitations"


@dataclass(frozen=True, slots=True)
class Letter:
    """What goes by mail; `token` is in it alone."""

    email: str
    organization: str
    inviter: str
    role: Role
    token: str
    expires_at: datetime


Send = Callable[[Letter], None]


def listed(organization: int) -> Sequence[Invitation]:
    """The open ones, newest first; those that expired too."""
    rows = Invitation.objects.for_org(organization).select_related("invited_by")
    return list(rows.filter(accepted_at=None, revoked_at=None).order_by("-created_at"))


def offer(
    by: Caller, actor: Actor, *, email: str, role: Role, send: Send, now: datetime
) -> Invitation:
    """A new invitation, its letter sent after the commit.

    Raises `Invalid`, `NotYourRole` (owners are invited by owners), `AlreadyMember`,
    `AlreadyInvited`, `TooManyInvitations`, `TooManyLetters`.
    """
    if role is Role.OWNER:
        by.allow(Action.MANAGE_OWNERS)
    email = _address(email)
    if Membership.objects.for_org(by.organization).filter(user__email=email).exists():
        raise AlreadyMember(f"{email} belongs to your organization already.", param="email")
    token = secrets.token_urlsafe(32)
    invitation = Invitation(
        organization_id=by.organization,
        email=email,
        role=role,
        invited_by_id=by.user,
        created_at=now,
    )
    _renew(invitation, token, now)
    try:
        with transaction.atomic():
            _refuse_crowd(by.organization)
            invitation.save(force_insert=True)
            throttle.letter_now(by.organization, email)
            _record("invitation.sent", invitation, {}, {"role": role.value}, actor, now)
            _mail(invitation, token, actor, send)
    except IntegrityError:
        raise AlreadyInvited(
            f"{email} has an open invitation; send that one again, or withdraw it.", param="email"
        ) from None
    return invitation


def resend(by: Caller, actor: Actor, *, invitation: int, send: Send, now: datetime) -> Invitation:
    """Another letter, with a new token and time; the old link is good no more.

    Raises `NoSuchInvitation` and `TooManyLetters`.
    """
    token = secrets.token_urlsafe(32)
    with transaction.atomic():
        row = _open(by, invitation)
        throttle.letter_now(by.organization, row.email)
        _renew(row, token, now)
        row.save(update_fields=["token_hash", "sent_at", "expires_at"])
        _record("invitation.sent", row, {}, {"role": row.role}, actor, now)
        _mail(row, token, actor, send)
    return row


def withdraw(by: Caller, actor: Actor, *, invitation: int, now: datetime) -> None:
    """Its link is good no more; raises `NoSuchInvitation`."""
    with transaction.atomic():
        row = _open(by, invitation)
        row.revoked_at = now
        row.save(update_fields=["revoked_at"])
        _record("invitation.withdrawn", row, {"role": row.role}, {}, actor, now)


def shown(token: str, *, now: datetime) -> Invitation:
    """The open invitation whose link has this token; raises `NotInvited`."""
    rows = Invitation.objects.across_organizations().select_related("organization", "invited_by")
    row = rows.filter(token_hash=_hash(token), accepted_at=None, revoked_at=None).first()
    if row is None or row.organization.erased_at is not None:
        raise NotInvited(
            "This invitation is not good: it was used, withdrawn or sent again, or the link is not "
            "whole. Ask whoever invited you for another."
        )
    if row.has_expired(now):
        raise NotInvited("This invitation has expired; ask whoever invited you for another.")
    return row


def accept(token: str, *, user: User, now: datetime) -> Membership:
    """The person's place; again, or by two at once, one place.

    Raises `NotInvited`, `TooManyMembers`, `TooManyOrganizations`, and `AnotherAddress` unless the
    invited address is the person's and they have confirmed it.
    """
    with transaction.atomic():
        invitation = shown(token, now=now)
        Organization.objects.select_for_update(no_key=True).get(pk=invitation.organization_id)
        locked = Invitation.objects.for_org(invitation.organization_id).select_for_update()
        locked.get(pk=invitation.pk)
        invitation = shown(token, now=now)
        if not addresses.are_confirmed(user, invitation.email):
            raise AnotherAddress(
                "This invitation is for another e-mail address than yours. Log in with that one, "
                "or ask to be invited as who you are."
            )
        places = Membership.objects.for_org(invitation.organization_id)
        member = places.filter(user=user).select_related("organization").first()
        if member is None:
            if invitation.role == Role.OWNER:
                organizations.refuse_more_than_a_share(user)
            members.refuse_crowd(invitation.organization_id)
            member = Membership(
                user=user, organization=invitation.organization, role=invitation.role
            )
            member.save(force_insert=True)
        invitation.accepted_at, invitation.accepted_by = now, user
        invitation.save(update_fields=["accepted_at", "accepted_by"])
        after = {"user_id": user.pk, "role": member.role}
        actor = audit.person(user)
        _record("invitation.accepted", invitation, {}, after, actor, now)
    return member


def purge(*, now: datetime) -> int:
    """Forget those that were accepted or withdrawn long ago; how many there were."""
    border, purged = now - KEPT, 0
    over = Q(accepted_at__lte=border) | Q(revoked_at__lte=border)
    rows = Invitation.objects.across_organizations()
    while some := list(rows.filter(over).values_list("pk", flat=True)[:1000]):
        purged += rows.filter(pk__in=some).delete()[0]
    return purged


def _refuse_crowd(organization: int) -> None:
    """Under a lock, so that two at once are not both the last."""
    Organization.objects.select_for_update(no_key=True).get(pk=organization)
    if len(listed(organization)) >= _MOST_OPEN:
        raise TooManyInvitations(f"{_MOST_OPEN} invitations are open; withdraw some first.")


def _address(text: str) -> str:
    email = User.objects.normalize_email(text)
    try:
        validate_email(email)
    except ValidationError as error:
        raise Invalid(f"email: {text[:100]!r} is not an e-mail address.", param="email") from error
    return email


def _renew(invitation: Invitation, token: str, now: datetime) -> None:
    invitation.token_hash, invitation.sent_at = _hash(token), now
    invitation.expires_at = now + timedelta(days=settings.INVITATION_DAYS)


def _hash(token: str) -> str:
    key = f"invitation:{settings.KEY_PEPPER}".encode()
    return hmac.digest(key, token.encode(errors="replace"), "sha256").hex()


def _open(by: Caller, identifier: int) -> Invitation:
    rows = Invitation.objects.for_org(by.organization).select_for_update(of=("self",))
    rows = rows.select_related("organization")
    row = rows.filter(pk=identifier, accepted_at=None, revoked_at=None).first()
    if row is None:
        raise NoSuchInvitation(f"Your organization has no open invitation {identifier}.")
    if row.role == Role.OWNER:
        by.allow(Action.MANAGE_OWNERS)
    return row


def _mail(invitation: Invitation, token: str, actor: Actor, send: Send) -> None:
    letter = Letter(
        email=invitation.email,
        organization=invitation.organization.name,
        inviter=actor.name,
        role=Role(invitation.role),
        token=token,
        expires_at=invitation.expires_at,
    )
    transaction.on_commit(lambda: send(letter))


def _record(
    action: str,
    invitation: Invitation,
    before: dict[str, object],
    after: dict[str, object],
    actor: Actor,
    now: datetime,
) -> None:
    change = Change(action, f"invitation:{invitation.email}", before, after)
    audit.record(change, by=actor, organization=invitation.organization_id, now=now)
