"""A small SAML 2.0 identity provider, real over HTTP: it signs who comes with its own key."""

# ruff: noqa: E501  XML has its own lines

import base64
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from lxml import etree
from onelogin.saml2.utils import OneLogin_Saml2_Utils

PROTOCOL = "urn:oasis:names:tc:SAML:2.0:protocol"
ASSERTION = "urn:oasis:names:tc:SAML:2.0:assertion"
REDIRECT = "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect"
BEARER = "urn:oasis:names:tc:SAML:2.0:cm:bearer"


def _pair() -> tuple[str, str]:
    """A key and its self-signed certificate, both PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "idp")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private.decode(), made.public_bytes(serialization.Encoding.PEM).decode()


@dataclass
class SamlProvider:
    """Says that whoever comes has the address `email`."""

    entity: str
    email: str
    key: str
    certificate: str
    lives: timedelta = timedelta(minutes=5)
    signs: bool = True
    audience: str = ""
    next_certificate: str = ""
    asked: list[str] = field(default_factory=list)

    @property
    def metadata(self) -> str:
        """As an owner would paste it."""
        keys = "".join(
            f"""<KeyDescriptor use="signing"><KeyInfo xmlns="http://www.w3.org/2000/09/xmldsig#">
      <X509Data><X509Certificate>{text.partition(" CERTIFICATE-----")[2].partition("-----END")[0]}</X509Certificate></X509Data></KeyInfo></KeyDescriptor>"""
            for text in (self.certificate, self.next_certificate)
            if text
        )
        return f"""<EntityDescriptor xmlns="urn:oasis:names:tc:SAML:2.0:metadata" entityID="{self.entity}">
  <IDPSSODescriptor protocolSupportEnumeration="{PROTOCOL}">
    {keys}
    <SingleSignOnService Binding="{REDIRECT}" Location="{self.entity}/sso"/>
  </IDPSSODescriptor>
</EntityDescriptor>"""

    def answer(self, request: str) -> dict[str, str]:
        """The form that the browser posts to us: for an AuthnRequest of the redirect binding."""
        asked = etree.fromstring(zlib.decompress(base64.b64decode(request), -15))
        self.asked.append(asked.get("ID"))
        acs = asked.get("AssertionConsumerServiceURL")
        issuer = asked.findtext(f"{{{ASSERTION}}}Issuer")
        text = self.response(asked.get("ID"), acs, self.audience or issuer)
        return {"acs": acs, "SAMLResponse": base64.b64encode(text).decode()}

    def response(self, request: str, acs: str, audience: str) -> bytes:
        """SAML core §3.3.3, the whole of it signed."""
        now = datetime.now(UTC)
        until = (now + self.lives).strftime("%Y-%m-%dT%H:%M:%SZ")
        since = (now - timedelta(minutes=10)).strftime("%Y-%m-%dT%H:%M:%SZ")
        at = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        text = f"""<samlp:Response xmlns:samlp="{PROTOCOL}" xmlns:saml="{ASSERTION}" ID="_{uuid4().hex}"
  Version="2.0" IssueInstant="{at}" Destination="{acs}" InResponseTo="{request}">
  <saml:Issuer>{self.entity}</saml:Issuer>
  <samlp:Status><samlp:StatusCode Value="urn:oasis:names:tc:SAML:2.0:status:Success"/></samlp:Status>
  <saml:Assertion ID="_{uuid4().hex}" Version="2.0" IssueInstant="{at}">
    <saml:Issuer>{self.entity}</saml:Issuer>
    <saml:Subject>
      <saml:NameID Format="urn:oasis:names:tc:SAML:2.0:nameid-format:persistent">ann-0042</saml:NameID>
      <saml:SubjectConfirmation Method="{BEARER}"><saml:SubjectConfirmationData
        InResponseTo="{request}" NotOnOrAfter="{until}" Recipient="{acs}"/></saml:SubjectConfirmation>
    </saml:Subject>
    <saml:Conditions NotBefore="{since}" NotOnOrAfter="{until}"><saml:AudienceRestriction>
      <saml:Audience>{audience}</saml:Audience></saml:AudienceRestriction></saml:Conditions>
    <saml:AuthnStatement AuthnInstant="{at}" SessionIndex="_1"><saml:AuthnContext>
      <saml:AuthnContextClassRef>urn:oasis:names:tc:SAML:2.0:ac:classes:Password</saml:AuthnContextClassRef>
    </saml:AuthnContext></saml:AuthnStatement>
    <saml:AttributeStatement><saml:Attribute Name="email">
      <saml:AttributeValue>{self.email}</saml:AttributeValue></saml:Attribute></saml:AttributeStatement>
  </saml:Assertion>
</samlp:Response>"""
        if not self.signs:
            return text.encode()
        signed: bytes = OneLogin_Saml2_Utils.add_sign(text, self.key, self.certificate)
        return signed


@contextmanager
def running(email: str) -> Iterator[SamlProvider]:
    """At a free port of this machine; its log-in page is a form that a browser would send on."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            form = provider.answer(query["SAMLRequest"][0])
            content = f"{form['acs']}\n{form['SAMLResponse']}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    key, certificate = _pair()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    provider = SamlProvider(address, email, key, certificate)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
