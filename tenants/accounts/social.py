"""Log-ins through an organization's own identity provider, and by services that anybody may have
an account with, as allauth does them."""

from datetime import UTC, datetime
from typing import Any, NoReturn

import requests
from allauth.account.adapter import get_adapter as get_account_adapter
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.models import SocialAccount, SocialApp
from allauth.socialaccount.providers.openid_connect.provider import OpenIDConnectProvider
from django.http import HttpRequest
from django.shortcuts import render

from kit import outbound
from kit.errors import Refused
from tenants import saml, single_sign_on
from tenants.accounts import services
from tenants.accounts.services import GITHUB, Service
from tenants.models import Protocol, User
from tenants.single_sign_on import NotVouchedFor, Provider

MOST = 20
"""Accounts elsewhere that let one person in."""


class AddressNotConfirmedThere(Refused):
    """The service does not say that it has confirmed the person's address."""

    status, code = 403, "address_not_confirmed_there"


class OperatorsLogInHere(Refused):
    """What an account elsewhere is worth is not ours to know, and theirs opens everything."""

    status, code = 403, "operators_log_in_here"


class TooManyAccounts(Refused):
    """As many accounts elsewhere let the person in as may."""

    status, code = 409, "too_many_connected_accounts"


class SocialAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
    """A provider is named by its organization's slug, a service by its identifier."""

    def list_apps(
        self, request: HttpRequest, provider: str | None = None, client_id: str | None = None
    ) -> list[SocialApp]:
        """The one that is asked for; of those that are organizations' nobody may list them."""
        if provider is None and client_id is None:
            return [_service(each) for each in services.known()]
        if provider is not None and services.is_one(provider):
            service = services.find(provider)
            return [_service(service)] if service else []
        slug = client_id if provider == Protocol.SAML.value else provider
        found = single_sign_on.provider(slug) if slug else None
        if found is None:
            return []
        if found.protocol is Protocol.SAML:
            return [_saml(found)]
        if provider == Protocol.SAML.value:
            return []
        return [
            SocialApp(
                provider="openid_connect",
                provider_id=found.slug,
                name=found.name,
                client_id=found.client_id,
                secret=found.client_secret,
                settings={"server_url": found.issuer, "oauth_pkce_enabled": True},
            )
        ]

    def get_requests_session(self) -> requests.Session:
        """That never calls our own network."""
        return outbound.session()

    def is_open_for_signup(self, request: HttpRequest, sociallogin: Any) -> bool:
        """The organization brings its people; else as with a password."""
        if services.is_one(sociallogin.account.provider):
            return bool(get_account_adapter().is_open_for_signup(request))
        return True

    def is_email_verified(self, provider: Any, email: str) -> bool:
        """At the organization's confirmed domains, whatever the provider itself claims."""
        return single_sign_on.vouches(provider.app.provider_id, email)

    def can_authenticate_by_email(self, login: Any, email: str) -> bool:
        """A person who registered before is the same person; asked of confirmed addresses alone."""
        provider = login.account.provider
        return services.is_one(provider) or single_sign_on.vouches(provider, email)

    def pre_social_login(self, request: HttpRequest, sociallogin: Any) -> None:
        """Refuse operators, and addresses that are not the provider's to vouch for."""
        connects = sociallogin.state.get("process") == "connect"
        person = request.user if connects else sociallogin.user
        if getattr(person, "is_staff", False) and (connects or sociallogin.is_existing):
            _refuse(
                request,
                OperatorsLogInHere(
                    "Operators log in with their password and second factor here, and by no "
                    "account elsewhere."
                ),
            )
        if sociallogin.account.pk is None and person.pk is not None:
            _refuse_crowd(request, person)
        if services.is_one(sociallogin.account.provider):
            _by_service(request, sociallogin)
        else:
            _by_organization(request, sociallogin)

    def save_user(self, request: HttpRequest, sociallogin: Any, form: Any = None) -> User:
        """A new person, who belongs to the organization that vouched for them."""
        user: User = super().save_user(request, sociallogin, form)
        if not services.is_one(sociallogin.account.provider):
            single_sign_on.let_in(sociallogin.account.provider, user, now=datetime.now(UTC))
        return user


class OpenIDProvider(OpenIDConnectProvider):  # type: ignore[misc]
    """Found again by its own identifier: two organizations may be known by one client ID."""

    def serialize(self) -> dict[str, Any]:
        """What a log-in that waits for its second factor keeps of it."""
        return {"id": self.sub_id}


def _refuse_crowd(request: HttpRequest, person: Any) -> None:
    if SocialAccount.objects.filter(user=person).count() >= MOST:
        _refuse(
            request,
            TooManyAccounts(
                f"{MOST} accounts elsewhere are connected with yours, the most there may be; "
                "disconnect one first."
            ),
        )


def _by_service(request: HttpRequest, login: Any) -> None:
    """Who is new comes by an address that the service has confirmed, and by no other."""
    if login.is_existing or login.state.get("process") == "connect":
        return
    login.email_addresses = [each for each in login.email_addresses if each.verified]
    if not login.email_addresses:
        name = login.provider.name
        _refuse(
            request,
            AddressNotConfirmedThere(
                f"{name} does not say that your e-mail address is confirmed. Confirm it there, or "
                "register here with a password."
            ),
        )
    login.user.email = login.email_addresses[0].email


def _by_organization(request: HttpRequest, login: Any) -> None:
    """By addresses at the organization's domains; a known person belongs to it."""
    slug = login.account.provider
    emails = [address.email for address in login.email_addresses]
    if not emails or not all(single_sign_on.vouches(slug, email) for email in emails):
        _refuse(
            request,
            NotVouchedFor(
                f"The provider of {slug!r} did not name an address at the domains that are "
                "confirmed to be the organization's. Ask its owner, or the operator."
            ),
        )
    for address in login.email_addresses:
        address.verified = True
    if login.is_existing:
        single_sign_on.let_in(slug, login.user, now=datetime.now(UTC))


def _refuse(request: HttpRequest, refusal: Refused) -> NoReturn:
    page = render(request, "portal/refused.html", {"refusal": refusal}, status=refusal.status)
    raise ImmediateHttpResponse(page)


def _service(found: Service) -> SocialApp:
    kind = GITHUB if found.identifier == GITHUB else "openid_connect"
    return SocialApp(
        provider=kind,
        provider_id=found.identifier,
        name=found.name,
        client_id=found.client_id,
        secret=found.client_secret,
        settings={"server_url": found.issuer, "oauth_pkce_enabled": True},
    )


def _saml(found: Provider) -> SocialApp:
    """Its answers, or what is asserted in them, must be signed; it answers our requests alone."""
    return SocialApp(
        provider="saml",
        provider_id=found.slug,
        name=found.name,
        client_id=found.slug,
        settings={
            "attribute_mapping": saml.ATTRIBUTES,
            "advanced": {"allow_single_label_domains": True},
            "idp": {
                "entity_id": found.issuer,
                "sso_url": found.address,
                "x509cert": found.certificates[0],
                "certificates": found.certificates,
            },
        },
    )
