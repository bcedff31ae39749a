"""Log-ins through an organization's own identity provider, as allauth does them."""

from datetime import UTC, datetime
from typing import Any

import requests
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.models import SocialApp
from django.http import HttpRequest
from django.shortcuts import render

from kit import outbound
from tenants import saml, single_sign_on
from tenants.models import Protocol, User
from tenants.single_sign_on import NotVouchedFor, Provider


class SocialAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
    """A provider is named by its organization's slug; there are no others."""

    def list_apps(
        self, request: HttpRequest, provider: str | None = None, client_id: str | None = None
    ) -> list[SocialApp]:
        """The one that is asked for, by its organization; nobody may list them."""
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
        """The organization brings its people."""
        return True

    def is_email_verified(self, provider: Any, email: str) -> bool:
        """At the organization's confirmed domains, whatever the provider itself claims."""
        return single_sign_on.vouches(provider.app.provider_id, email)

    def can_authenticate_by_email(self, login: Any, email: str) -> bool:
        """A person who registered before is the same person."""
        return single_sign_on.vouches(login.account.provider, email)

    def pre_social_login(self, request: HttpRequest, sociallogin: Any) -> None:
        """Refuse addresses that are not the organization's; a known person belongs to it."""
        slug = sociallogin.account.provider
        emails = [address.email for address in sociallogin.email_addresses]
        if not emails or not all(single_sign_on.vouches(slug, email) for email in emails):
            refusal = NotVouchedFor(
                f"The provider of {slug!r} did not name an address at the domains that are "
                "confirmed to be the organization's. Ask its owner, or the operator."
            )
            page = render(request, "portal/refused.html", {"refusal": refusal}, status=403)
            raise ImmediateHttpResponse(page)
        for address in sociallogin.email_addresses:
            address.verified = True
        if sociallogin.is_existing:
            single_sign_on.let_in(slug, sociallogin.user, now=datetime.now(UTC))

    def save_user(self, request: HttpRequest, sociallogin: Any, form: Any = None) -> User:
        """A new person, who belongs to the organization."""
        user: User = super().save_user(request, sociallogin, form)
        single_sign_on.let_in(sociallogin.account.provider, user, now=datetime.now(UTC))
        return user


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
                "x509cert": found.certificate,
            },
        },
    )
