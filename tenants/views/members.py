"""/o/<slug>/members: the people of an organization, and those who are invited."""

from collections.abc import Mapping
from typing import Any, ClassVar

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from kit.errors import Invalid
from tenants import invitations, members
from tenants.accounts import letters
from tenants.models import Membership, Role
from tenants.roles import Action, actions_of
from tenants.views.access import OrganizationPage

_MANAGE = Action.MANAGE_MEMBERS


class InvitationForm(forms.Form):
    """Whom, and as what."""

    email = forms.EmailField(label="E-mail address", max_length=254)
    role = forms.ChoiceField(choices=Role.choices, initial=Role.DEVELOPER)


class MembersPage(OrganizationPage):
    """What these pages share."""

    here = "members"

    def listing(self, form: InvitationForm) -> HttpResponse:
        """The page."""
        may = self.caller.may
        owner = may(Action.MANAGE_OWNERS)
        if not owner:
            form.fields["role"].choices = [  # type: ignore[attr-defined]
                each for each in Role.choices if each[0] != Role.OWNER
            ]
        rows = members.listed(self.caller.organization)
        invite = may(Action.INVITE)
        context = {
            "members": [self._row(each, owner) for each in rows],
            "roles": [each for each in Role.choices if owner or each[0] != Role.OWNER],
            "invitations": invitations.listed(self.caller.organization) if invite else (),
            "may_invite": invite,
            "may_pass": owner and len(rows) > 1,
            "form": form,
            "now": self.now,
            "meanings": {role: "; ".join(a.value for a in actions_of(role)) for role in Role},
        }
        return self.page("portal/members.html", context)

    def _row(self, member: Membership, owner: bool) -> Mapping[str, Any]:
        me = member.user_id == self.person.pk
        manage = self.caller.may(_MANAGE) and (owner or member.role != Role.OWNER)
        return {"member": member, "me": me, "manage": manage}

    def link(self, token: str) -> str:
        """Where an invitation is accepted."""
        return self.request.build_absolute_uri(reverse("invitation", args=[token]))


class Members(MembersPage):
    """All of them; and inviting another."""

    actions: ClassVar[Mapping[str, Action]] = {"GET": Action.READ_MEMBERS, "POST": Action.INVITE}

    def get(self, request: HttpRequest) -> HttpResponse:
        """By address."""
        return self.listing(InvitationForm())

    def post(self, request: HttpRequest) -> HttpResponse:
        """Invite."""
        form = InvitationForm(request.POST)
        if not form.is_valid():
            return self.listing(form)
        email, role = form.cleaned_data["email"], Role(form.cleaned_data["role"])
        invitations.offer(
            self.caller,
            self.actor,
            email=email,
            role=role,
            send=letters.invitation(self.link),
            now=self.now,
        )
        return self.done(f"An invitation is on its way to {email}.")


class InvitationResending(MembersPage):
    """The same invitation in another letter."""

    actions: ClassVar[Mapping[str, Action]] = {"POST": Action.INVITE}

    def post(self, request: HttpRequest, invitation: int) -> HttpResponse:
        """Its old link is good no more."""
        row = invitations.resend(
            self.caller,
            self.actor,
            invitation=invitation,
            send=letters.invitation(self.link),
            now=self.now,
        )
        return self.done(f"Another letter is on its way to {row.email}.")


class InvitationWithdrawal(MembersPage):
    """The end of an invitation."""

    actions: ClassVar[Mapping[str, Action]] = {"POST": Action.INVITE}

    def post(self, request: HttpRequest, invitation: int) -> HttpResponse:
        """Its link is good no more."""
        invitations.withdraw(self.caller, self.actor, invitation=invitation, now=self.now)
        return self.done("The invitation is withdrawn.")


class MemberRole(MembersPage):
    """A member's role."""

    actions: ClassVar[Mapping[str, Action]] = {"POST": _MANAGE}

    def post(self, request: HttpRequest, user: int) -> HttpResponse:
        """Another one."""
        if request.POST.get("role") not in Role.values:
            raise Invalid("role: choose one of the roles.", param="role")
        role = Role(request.POST["role"])
        member = members.give_role(self.caller, self.actor, user=user, role=role, now=self.now)
        return self.done(f"{member.user} is {role.value} now.")


class MemberRemoval(MembersPage):
    """The end of a membership."""

    actions: ClassVar[Mapping[str, Action]] = {"POST": _MANAGE}

    def post(self, request: HttpRequest, user: int) -> HttpResponse:
        """Out within a second."""
        members.remove(self.caller, self.actor, user=user, now=self.now)
        return self.done(
            "The member is removed. Their own API keys open nothing any more; those that they made "
            "for service accounts stay."
        )


class Leaving(MembersPage):
    """The end of one's own membership."""

    actions: ClassVar[Mapping[str, Action]] = {"POST": Action.READ_MEMBERS}
    open_while_suspended = True

    def post(self, request: HttpRequest) -> HttpResponse:
        """Out."""
        members.leave(self.caller, self.actor, user=self.person.pk, now=self.now)
        messages.success(request, f"You have left {self.organization.name}.")
        return HttpResponseRedirect(reverse("organizations"))


class Ownership(MembersPage):
    """Passed on to another member."""

    actions: ClassVar[Mapping[str, Action]] = {"POST": Action.MANAGE_OWNERS}

    def post(self, request: HttpRequest) -> HttpResponse:
        """One becomes an admin oneself."""
        taker = request.POST.get("user", "")
        if not taker.isdigit() or len(taker) > 18:
            raise Invalid("user: choose the member who is to own it.", param="user")
        members.pass_ownership(
            self.caller, self.actor, giver=self.person.pk, taker=int(taker), now=self.now
        )
        return self.done("The ownership is passed on; you are an admin now.")
