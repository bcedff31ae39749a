"""SAML 2.0 identity providers: their metadata read, and answers that they signed told from others.

The one module, beside allauth's own provider, that speaks to python3-saml.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from allauth.socialaccount.providers.saml.utils import build_auth
from django.http import HttpRequest
from lxml.etree import LxmlError
from onelogin.saml2.errors import OneLogin_Saml2_Error
from onelogin.saml2.idp_metadata_parser import OneLogin_Saml2_IdPMetadataParser

from kit.errors import Invalid

LONGEST = 256 * 1024
"""Characters of metadata or of an answer; both are some kilobytes."""
ATTRIBUTES = {
    "uid": [
        "urn:oasis:names:tc:SAML:attribute:subject-id",
        "http://schemas.microsoft.com/identity/claims/objectidentifier",
    ],
    "email": [
        "urn:oid:0.9.2342.19200300.100.1.3",
        "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/emailaddress",
        "email",
        "mail",
    ],
}
"""Where providers say who it is; the address else is the NameID, where that is one."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a log-in needs of a provider."""

    entity: str
    address: str
    certificates: tuple[str, ...]


def metadata(text: str) -> Metadata:
    """Of a provider's metadata (OASIS saml-metadata-2.0, §2.4.3); raises `Invalid`."""
    if not text or len(text) > LONGEST:
        raise Invalid("metadata: paste the XML that your provider shows.", param="metadata")
    try:
        found = OneLogin_Saml2_IdPMetadataParser.parse(text.encode())
    except (OneLogin_Saml2_Error, LxmlError, ValueError, KeyError) as error:
        raise Invalid(
            f"metadata: this is not a SAML provider's XML ({error}).", param="metadata"
        ) from error
    provider: dict[str, Any] = found.get("idp", {})
    signing = provider.get("x509certMulti", {}).get("signing") or [provider.get("x509cert", "")]
    made = Metadata(
        str(provider.get("entityId", "")),
        str(provider.get("singleSignOnService", {}).get("url", "")),
        tuple(dict.fromkeys("".join(each.split()) for each in signing if each.strip())),
    )
    for name, value in (
        ("entityID", made.entity),
        ("SingleSignOnService with the HTTP-Redirect binding", made.address),
        ("signing certificate", made.certificates),
    ):
        if not value:
            raise Invalid(f"metadata: it has no {name}.", param="metadata")
    return made


def is_signed(request: HttpRequest, provider: Any) -> bool:
    """Whether the request brings an answer that the provider has signed, now, for us.

    `provider` is left with the certificate by which it is.
    """
    answer = request.POST.get("SAMLResponse", "")
    if not answer or len(answer) > LONGEST:
        return False
    return _is_good(request, provider, lambda auth: auth.process_response())


def is_log_out(request: HttpRequest, provider: Any) -> bool:
    """Whether the request is a log-out, or the answer to one, that the provider has signed.

    `provider` is left with the certificate by which it is.
    """
    if "Signature" not in request.GET:
        return False
    return _is_good(request, provider, lambda auth: auth.process_slo(keep_local_session=True))


def _is_good(request: HttpRequest, provider: Any, process: Callable[[Any], object]) -> bool:
    """Tried with each certificate: while a provider changes its key, it has two."""
    reason = ""
    for certificate in provider.app.settings["idp"]["certificates"]:
        provider.app.settings["idp"]["x509cert"] = certificate
        auth = build_auth(request, provider)
        try:
            process(auth)
        except (OneLogin_Saml2_Error, LxmlError, ValueError) as error:
            log.warning("a SAML provider's message cannot be read", error=str(error))
            return False
        if not auth.get_errors():
            return True
        reason = auth.get_last_error_reason()
    log.warning("a SAML provider's message is not good", error=reason)
    return False
