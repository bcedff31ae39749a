"""AWS KMS as a keeper, against a server that speaks its protocol and checks each signature."""

import base64
import hashlib
import hmac
import json
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kit import keepers
from kit.keepers import KeeperFailed

KEY = os.urandom(32)
ACCESS, SECRET = "AKIDEXAMPLE", "a-secret-access-key"
ALIAS = "alias/kek"


class Kms(BaseHTTPRequestHandler):
    """`Encrypt` and `Decrypt` of the JSON 1.1 protocol; a ciphertext opens with its own context.

    Signatures are Signature Version 4's (docs.aws.amazon.com, "Create a signed AWS API request").
    """

    keys: ClassVar[list[bytes]] = []
    asked: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        operation = self.headers["X-Amz-Target"].removeprefix("TrentService.")
        Kms.asked.append(operation)
        if not self._is_signed(body):
            self._answer(400, {"__type": "InvalidSignatureException", "message": "no match"})
            return
        asked = json.loads(body)
        context = json.dumps(asked.get("EncryptionContext", {}), sort_keys=True).encode()
        if operation == "Encrypt":
            self._encrypt(asked, context)
        else:
            self._decrypt(asked, context)

    def _encrypt(self, asked: dict[str, Any], context: bytes) -> None:
        if asked["KeyId"] != ALIAS:
            self._answer(400, {"__type": "NotFoundException", "message": "no such key"})
            return
        nonce, version = os.urandom(12), len(Kms.keys) - 1
        sealed = AESGCM(Kms.keys[-1]).encrypt(nonce, base64.b64decode(asked["Plaintext"]), context)
        blob = base64.b64encode(bytes([version]) + nonce + sealed).decode()
        self._answer(200, {"CiphertextBlob": blob, "KeyId": "arn:aws:kms:eu-central-1:1:key/1"})

    def _decrypt(self, asked: dict[str, Any], context: bytes) -> None:
        blob = base64.b64decode(asked["CiphertextBlob"])
        try:
            plain = AESGCM(Kms.keys[blob[0]]).decrypt(blob[1:13], blob[13:], context)
        except (InvalidTag, IndexError):
            self._answer(400, {"__type": "InvalidCiphertextException", "message": ""})
            return
        self._answer(200, {"Plaintext": base64.b64encode(plain).decode()})

    def _is_signed(self, body: bytes) -> bool:
        """By our secret, over these headers and this body."""
        scheme, _, rest = self.headers["Authorization"].partition(" ")
        parts = dict(part.strip().split("=", 1) for part in rest.split(","))
        access, *scope = parts["Credential"].split("/")
        names = parts["SignedHeaders"].split(";")
        headers = "".join(f"{name}:{self.headers[name].strip()}\n" for name in names)
        digest = hashlib.sha256(body).hexdigest()
        request = f"POST\n/\n\n{headers}\n{';'.join(names)}\n{digest}"
        hashed = hashlib.sha256(request.encode()).hexdigest()
        signed = f"{scheme}\n{self.headers['X-Amz-Date']}\n{'/'.join(scope)}\n{hashed}"
        key = f"AWS4{SECRET}".encode()
        for part in scope:
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        good = hmac.new(key, signed.encode(), hashlib.sha256).hexdigest()
        place = [scope[1], scope[2], scope[3]] == ["eu-central-1", "kms", "aws4_request"]
        return access == ACCESS and place and hmac.compare_digest(good, parts["Signature"])

    def _answer(self, status: int, body: Any) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def kms(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A KMS with one key, whose credentials are in the environment, and the keeper's name."""
    Kms.keys[:] = [os.urandom(32)]
    Kms.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Kms)
    thread = Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    yield f"kms://eu-central-1/{ALIAS}"
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_kms_wraps_and_unwraps_what_it_is_about(kms: str) -> None:
    keeper = keepers.keeper(kms)
    wrapped = keeper.wrap(KEY, about="data key 1")
    assert wrapped.startswith("kms:")
    assert keeper.has_wrapped(wrapped)
    assert keeper.unwrap(wrapped, about="data key 1") == KEY
    with pytest.raises(KeeperFailed, match="did not unwrap data key 2"):
        keeper.unwrap(wrapped, about="data key 2")


def test_what_older_material_wrapped_opens_after_kms_has_rotated_it(kms: str) -> None:
    keeper = keepers.keeper(kms)
    old = keeper.wrap(KEY, about="x")
    Kms.keys.append(os.urandom(32))
    assert keeper.unwrap(old, about="x") == KEY
    assert keeper.unwrap(keeper.wrap(KEY, about="x"), about="x") == KEY


def test_whoever_has_not_the_secret_is_refused(kms: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(KeeperFailed, match="InvalidSignature"):
        keepers.keeper(kms).wrap(KEY, about="x")


def test_a_key_that_is_not_there_is_said_to_be_so(kms: str) -> None:
    with pytest.raises(KeeperFailed, match="NotFound"):
        keepers.keeper("kms://eu-central-1/alias/none").wrap(KEY, about="x")


def test_a_kms_that_is_not_there_is_said_to_be_so(
    kms: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:1")
    with pytest.raises(KeeperFailed, match="KMS did not wrap"):
        keepers.keeper(kms).wrap(KEY, about="x")


def test_from_the_environment_to_kms_without_a_pause(kms: str, settings: Any) -> None:
    one = f"1:{base64.b64encode(os.urandom(32)).decode()}"
    settings.KEY_ENCRYPTION, settings.KEY_ENCRYPTION_KEYS = "env", one
    before = keepers.wrap(KEY, about="x")
    settings.KEY_ENCRYPTION = f"{kms},env"
    assert keepers.unwrap(before, about="x") == KEY
    assert keepers.wrap(KEY, about="x").startswith("kms:")
    keepers.check()
