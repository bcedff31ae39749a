"""/accounts/sso/, /accounts/oidc/<slug>/, /accounts/github/: the ways in through an organization's
own log-in, and by an account elsewhere."""

import re
from typing import Any

import requests
import structlog
from allauth.account.internal.flows.reauthentication import raise_if_reauthentication_required
from allauth.socialaccount.models import SocialApp
from allauth.socialaccount.providers.github import views as github
from allauth.socialaccount.providers.openid_connect import views
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.views import View

from kit.errors import Refused
from tenants import single_sign_on
from tenants.accounts.services import APP
from tenants.models import Protocol

_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
log = structlog.get_logger()


class ProviderSilent(Refused):
    """The provider does not answer, or not as OpenID Connect wants it."""

    status, code = 502, "provider_does_not_answer"


class SingleSignOnDoor(View):
    """For those whose organization has a log-in of its own."""

    def get(self, request: HttpRequest) -> HttpResponse:
        """Which organization; then a link, since no form of ours may lead elsewhere.

        Whether an organization has one is not told: the link is there for every name.
        """
        slug = request.GET.get("organization", "").strip().lower()
        known = bool(_SLUG.fullmatch(slug))
        return render(request, "portal/sso.html", {"slug": slug, "known": known})


class Onward(View):
    """To the provider of an organization, whichever it speaks."""

    def get(self, request: HttpRequest, organization: str) -> HttpResponse:
        """Where there is none, to where none is found."""
        found = single_sign_on.provider(organization)
        if found is not None and found.protocol is Protocol.SAML:
            return HttpResponseRedirect(reverse("saml_login", args=[organization]))
        return HttpResponseRedirect(reverse("openid_connect_login", args=[organization]))


class Away(View):
    """To the provider."""

    def get(self, request: HttpRequest, provider_id: str) -> HttpResponse:
        """With a state and a challenge that only this browser can answer for."""
        _shown_lately(request)
        return _asked(views.login, request, provider_id)


class Back(View):
    """From the provider."""

    def get(self, request: HttpRequest, provider_id: str) -> HttpResponse:
        """The provider is asked, by us, who it was."""
        return _asked(views.callback, request, provider_id)


class AwayToGitHub(View):
    """To GitHub, which speaks OAuth 2.0 without OpenID."""

    def get(self, request: HttpRequest) -> HttpResponse:
        """With a state and a challenge that only this browser can answer for."""
        _shown_lately(request)
        return _asked(github.oauth2_login, request)


class BackFromGitHub(View):
    """From GitHub."""

    def get(self, request: HttpRequest) -> HttpResponse:
        """GitHub is asked, by us, who it was."""
        return _asked(github.oauth2_callback, request)


def _shown_lately(request: HttpRequest) -> None:
    """Whoever connects another way in has shown a moment ago that the account is theirs."""
    if request.GET.get("process") == "connect" and request.user.is_authenticated:
        raise_if_reauthentication_required(request, app=APP)


def _asked(view: Any, request: HttpRequest, provider: str = "") -> HttpResponse:
    try:
        response: HttpResponse = view(request, provider) if provider else view(request)
    except SocialApp.DoesNotExist as error:
        raise Http404 from error
    except (requests.RequestException, KeyError) as error:
        log.warning("a provider of log-ins failed", provider=provider, error=str(error))
        refusal = ProviderSilent(
            f"The log-in of {provider!r} does not answer as it should; try again, or tell whose it "
            "is."
        )
        return render(request, "portal/refused.html", {"refusal": refusal}, status=refusal.status)
    return response
