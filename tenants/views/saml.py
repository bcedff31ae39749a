"""/accounts/saml/<slug>/: the way in through an organization's SAML provider, by allauth."""

from typing import Any

from allauth.core.internal import httpkit
from allauth.socialaccount.adapter import get_adapter
from allauth.socialaccount.models import SocialApp
from allauth.socialaccount.providers.saml import views
from allauth.socialaccount.sessions import LoginSession
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import render
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt

from kit.errors import Refused
from tenants import saml

_KEPT = ("saml_acs_session", "saml-acs-session")
"""Under which name, and in which cookie, allauth keeps an answer on its way."""


class NotSigned(Refused):
    """What came is not the provider's word, or is too old."""

    status, code = 400, "answer_not_signed"


@method_decorator(csrf_exempt, name="dispatch")
class Answer(View):
    """Where the browser brings the provider's answer.

    It is kept only once its signature is right, so that nobody else fills the sessions' table.
    """

    def post(self, request: HttpRequest, organization_slug: str) -> HttpResponse:
        """On to where the browser's own session is at hand (allauth's way past SameSite)."""
        if not saml.is_signed(request, _provider(request, organization_slug)):
            return _refused(request, organization_slug)
        response: HttpResponse = views.acs(request, organization_slug=organization_slug)
        return response


class Finish(views.FinishACSView):  # type: ignore[misc]
    """Where the browser comes back with its own session, and the answer is read."""

    def get_provider(self, organization_slug: str) -> Any:
        """With the certificate by which the answer is signed, of those that it may have."""
        provider = super().get_provider(organization_slug)
        kept = LoginSession(self.request, *_KEPT).store.get("request")
        if kept:
            saml.is_signed(httpkit.deserialize_request(kept, HttpRequest()), provider)
        return provider


class LogOut(views.SLSView):  # type: ignore[misc]
    """Where the provider sends whoever logs out there: signed requests alone are obeyed."""

    def dispatch(self, request: HttpRequest, organization_slug: str) -> HttpResponse:
        """Nobody else may log people out."""
        if request.method != "GET":
            return HttpResponseNotAllowed(["GET"])
        if not saml.is_log_out(request, self.get_provider(organization_slug)):
            return _refused(request, organization_slug)
        response: HttpResponse = super().dispatch(request, organization_slug)
        return response

    def get_provider(self, organization_slug: str) -> Any:
        """The same within a request: it remembers the certificate."""
        if not hasattr(self, "_provider"):
            self._provider = super().get_provider(organization_slug)
        return self._provider


def _provider(request: HttpRequest, slug: str) -> Any:
    try:
        app = get_adapter().get_app(request, provider="saml", client_id=slug)
    except SocialApp.DoesNotExist as error:
        raise Http404 from error
    return app.get_provider(request)


def _refused(request: HttpRequest, slug: str) -> HttpResponse:
    refusal = NotSigned(
        f"This is not an answer of {slug!r}'s log-in, or is too old. Begin again; should it go on, "
        "its owner checks the metadata in the settings."
    )
    return render(request, "portal/refused.html", {"refusal": refusal}, status=refusal.status)
