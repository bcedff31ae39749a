"""The stack's environment: addresses are this run's, secrets are for good."""

from pathlib import Path

import pytest

from config.stack import environment
from config.stack.banner import Demo, banner
from kit.keepers.local import of_text


@pytest.fixture(autouse=True)
def _no_secrets_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*environment.SECRETS, environment.ENCRYPTION):
        monkeypatch.delenv(name, raising=False)


def test_secrets_are_made_once_and_kept_while_addresses_change(tmp_path: Path) -> None:
    path = tmp_path / "stack.env"
    first = environment.write(path, {"REDIS_URL": "redis://:p=w@there/0", "OLD": "1"})
    second = environment.write(path, {"REDIS_URL": "redis://elsewhere/0"})
    assert environment.read(path) == second
    assert second["REDIS_URL"] == "redis://elsewhere/0"
    assert "OLD" not in second
    for name in environment.SECRETS:
        assert first[name] == second[name]
        assert len(first[name]) >= 64
    assert len({first[name] for name in environment.SECRETS}) == 2
    assert first[environment.ENCRYPTION] == second[environment.ENCRYPTION]
    assert len(of_text(first[environment.ENCRYPTION], "")["1"]) == 32
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_value_may_hold_an_equals_sign(tmp_path: Path) -> None:
    path = tmp_path / "stack.env"
    environment.write(path, {"REDIS_URL": "redis://:p=w@there/0"})
    assert environment.read(path)["REDIS_URL"] == "redis://:p=w@there/0"


def test_a_secret_of_the_operators_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "ours")
    assert environment.write(tmp_path / "stack.env", {})["SECRET_KEY"] == "ours"


def test_the_banners_command_carries_the_key_and_the_model() -> None:
    demo = Demo(
        portal="/o/demo/",
        owner_email="ow@x",
        owner_password="ow",
        admin_email="op@x",
        admin_password="pw",
        api_key="aip_live_k",
    )
    text = banner("http://127.0.0.1:8000", demo, model="smol")
    assert "http://127.0.0.1:8000/o/demo/" in text
    assert "op@x   pw" in text
    assert "curl -N http://127.0.0.1:8000/v1/chat/completions \\\n" in text
    assert "-H 'Authorization: Bearer aip_live_k'" in text
    assert '"model": "smol", "stream": true' in text
