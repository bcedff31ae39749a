"""Keepers of the key-encryption key: local ones, Vault's transit over real HTTP, and KMS."""

import base64
import json
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar

import pytest

from kit import keepers
from kit.keepers import KeeperFailed
from kit.keepers.local import Local, of_file, of_text

KEY = os.urandom(32)
ONE, TWO = (f"{n}:{base64.b64encode(os.urandom(32)).decode()}" for n in (1, 2))


class Transit(BaseHTTPRequestHandler):
    """Vault's encrypt and decrypt calls, as its HTTP API describes them; refuses another token."""

    kept: ClassVar[dict[str, dict[str, str]]] = {}
    asked: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        Transit.asked.append(self.path)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["X-Vault-Token"] != "good":
            self._answer(403, {"errors": ["permission denied"]})
        elif self.path == "/v1/transit/encrypt/kek":
            base64.b64decode(body["plaintext"], validate=True)
            text = f"vault:v1:{base64.b64encode(os.urandom(12)).decode()}"
            Transit.kept[text] = body
            self._answer(200, {"data": {"ciphertext": text, "key_version": 1}})
        elif self.path == "/v1/transit/decrypt/kek":
            known = Transit.kept.get(body["ciphertext"])
            if known is None or known["associated_data"] != body["associated_data"]:
                self._answer(400, {"errors": ["cipher: message authentication failed"]})
            else:
                self._answer(200, {"data": {"plaintext": known["plaintext"]}})
        else:
            self._answer(404, {"errors": []})

    def _answer(self, status: int, body: Any) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Vault that speaks transit, and the keeper's name for it."""
    monkeypatch.setenv("VAULT_TOKEN", "good")
    monkeypatch.delenv("VAULT_TOKEN_FILE", raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Transit)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"vault+http://127.0.0.1:{server.server_port}/transit/kek"
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_vault_wraps_and_unwraps_and_the_key_stays_there(vault: str) -> None:
    keeper = keepers.keeper(vault)
    wrapped = keeper.wrap(KEY, about="data key 1")
    assert wrapped.startswith("vault:v1:")
    assert keeper.unwrap(wrapped, about="data key 1") == KEY
    assert keeper.has_wrapped(wrapped)
    with pytest.raises(KeeperFailed, match="did not unwrap data key 2"):
        keeper.unwrap(wrapped, about="data key 2")


def test_vaults_token_is_read_anew_from_its_file(
    vault: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    monkeypatch.setenv("VAULT_TOKEN_FILE", str(token))
    keeper = keepers.keeper(vault)
    with pytest.raises(KeeperFailed, match="permission denied"):
        keeper.wrap(KEY, about="x")
    token.write_text("good\n")
    assert keeper.unwrap(keeper.wrap(KEY, about="x"), about="x") == KEY


def test_a_vault_that_is_not_there_is_said_to_be_so() -> None:
    with pytest.raises(KeeperFailed, match="Vault did not wrap"):
        keepers.keeper("vault+http://127.0.0.1:1/transit/kek").wrap(KEY, about="x")


def test_from_the_environment_to_vault_without_a_pause(vault: str, settings: Any) -> None:
    settings.KEY_ENCRYPTION, settings.KEY_ENCRYPTION_KEYS = "env", ONE
    before = keepers.wrap(KEY, about="x")
    settings.KEY_ENCRYPTION = f"{vault},env"
    assert keepers.unwrap(before, about="x") == KEY
    assert not keepers.is_current(before)
    assert keepers.wrap(KEY, about="x").startswith("vault:")
    keepers.check()


def test_the_first_key_wraps_and_every_key_unwraps() -> None:
    old = Local("env", of_text(ONE, "X")).wrap(KEY, about="x")
    both = Local("env", of_text(f"{TWO},{ONE}", "X"))
    assert both.unwrap(old, about="x") == KEY
    assert not both.would_wrap_alike(old)
    assert both.would_wrap_alike(both.wrap(KEY, about="x"))
    assert KEY.hex() not in old
    with pytest.raises(KeeperFailed):
        both.unwrap(old, about="y")


def test_keys_in_a_file(tmp_path: Any) -> None:
    path = tmp_path / "kek"
    path.write_text(f"{TWO}\n{ONE}\n")
    assert list(of_file(str(path))) == ["2", "1"]
    with pytest.raises(KeeperFailed, match="No such file"):
        of_file(str(tmp_path / "none"))


@pytest.mark.parametrize("text", ["", "abc", "1:", "1:YWJj", ":" + "A" * 44, "1:*"])
def test_what_is_no_key_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(KeeperFailed, match="KEY_ENCRYPTION_KEYS"):
        of_text(text, "KEY_ENCRYPTION_KEYS")


@pytest.mark.parametrize("name", ["", "nobody", "vault+https://host/kek", "http://host/transit/k"])
def test_what_is_no_keeper_is_refused(name: str) -> None:
    with pytest.raises(KeeperFailed, match="KEY_ENCRYPTION"):
        keepers.keeper(name)
