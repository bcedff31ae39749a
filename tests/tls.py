"""TLS in front of a real server: certificates, and a front that ends TLS and counts handshakes.

The servers that come with the platform are built without TLS; in front of them stands what
stands in front of many in production.
"""

import select
import socket
import ssl
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")
"""PostgreSQL's, which comes before TLS (its protocol, "SSL Session Encryption")."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA's certificate, and one of 127.0.0.1 by it with its key."""

    ca: Path
    host: Path


def authority(folder: Path, *, host: str = "127.0.0.1") -> Authority:
    """A new CA in `folder`."""
    folder.mkdir()
    key, name = ec.generate_private_key(ec.SECP256R1()), _name(f"CA of {folder.name}")
    ca = _certificate(name, name, key.public_key(), key, x509.BasicConstraints(True, None), None)
    own = ec.generate_private_key(ec.SECP256R1())
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))])
    leaf = _certificate(
        _name(host), name, own.public_key(), key, x509.BasicConstraints(False, None), alternative
    )
    found = Authority(folder / "ca.pem", folder / "host.pem")
    found.ca.write_bytes(ca.public_bytes(Encoding.PEM))
    secret = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    found.host.write_bytes(leaf.public_bytes(Encoding.PEM) + secret)
    return found


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    basic: x509.BasicConstraints,
    alternative: x509.SubjectAlternativeName | None,
) -> x509.Certificate:
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(basic, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )
    of = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    made = made.add_extension(of, critical=False)
    if alternative is not None:
        made = made.add_extension(alternative, critical=False)
    return made.sign(signer, hashes.SHA256())


class Front:
    """Ends TLS in front of a server of 127.0.0.1."""

    def __init__(self, behind: int, shown: Authority, *, postgres: bool = False) -> None:
        self.opened = 0
        """Handshakes that came to their end: the client verified us, or did not care."""
        self.refused = 0
        """Those that the client broke off."""
        self.plain = 0
        """Clients of PostgreSQL's that did not ask for TLS."""
        self._behind, self._postgres = behind, postgres
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listening.getsockname()[1])
        self.show(shown)
        threading.Thread(target=self._accept, daemon=True).start()

    def show(self, authority: Authority) -> None:
        """Have that certificate from now on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority.host)
        self._context = context

    def cut(self) -> None:
        """End every connection."""
        with self._lock:
            for each in self._open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End, and listen no more."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with ExitStack() as stack, suppress(OSError):
            stack.enter_context(client)
            server = stack.enter_context(socket.create_connection(("127.0.0.1", self._behind)))
            secured = self._shake(client)
            if secured is None:
                return
            stack.enter_context(secured)
            with self._lock:
                self._open |= {secured, server}
            try:
                _carry(secured, server)
            finally:
                with self._lock:
                    self._open -= {secured, server}

    def _shake(self, client: socket.socket) -> ssl.SSLSocket | None:
        client.settimeout(30)
        if self._postgres:
            if client.recv(8, socket.MSG_WAITALL) != _SSL_REQUEST:
                self.plain += 1
                return None
            client.sendall(b"S")
        try:
            secured = self._context.wrap_socket(client, server_side=True)
        except OSError:
            with self._lock:
                self.refused += 1
            return None
        with self._lock:
            self.opened += 1
        return secured


def _carry(secured: ssl.SSLSocket, server: socket.socket) -> None:
    """What each says to the other, until one ends."""
    while True:
        ready = [secured] if secured.pending() else select.select([secured, server], [], [])[0]
        for each, other in ((secured, server), (server, secured)):
            if each in ready:
                data = each.recv(65536)
                if not data:
                    return
                other.sendall(data)
