"""What an installation in production is held to."""

import base64
import os
import re
import subprocess
import sys

import pytest
from django.conf import settings

ROOT = settings.BASE_DIR
PRODUCTION = {
    "PRODUCTION": "1",
    "SECRET_KEY": base64.b64encode(os.urandom(48)).decode(),
    "KEY_ENCRYPTION_KEYS": "1:" + base64.b64encode(os.urandom(32)).decode(),
    "ALLOWED_HOSTS": "platform.example",
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
    "DATABASE_POOL": "0",
}


def checked(**changed: str) -> subprocess.CompletedProcess[str]:
    command = [
        *(sys.executable, "-W", "ignore", "manage.py", "check", "--deploy"),
        *("--tag", "security", "--fail-level", "WARNING"),
    ]
    environment = {**os.environ, **PRODUCTION, **changed}
    return subprocess.run(  # noqa: S603
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_production_settings_pass_djangos_checks() -> None:
    done = checked()
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"KEY_ENCRYPTION_KEYS": ""}, "KEY_ENCRYPTION_KEYS has no key"),
        ({"KEY_ENCRYPTION": "vault+http://127.0.0.1:1/transit/kek"}, "Vault did not wrap"),
        ({"SECRET_KEY": "short"}, "security.W009"),
        ({"REDIS_URL": "redis://state.example:6379/0"}, "BROKER_URL reaches state.example in the"),
    ],
)
def test_what_is_not_fit_for_production_fails_them(changed: dict[str, str], said: str) -> None:
    done = checked(**changed)
    assert done.returncode != 0
    assert said in done.stderr


def test_what_the_silenced_checks_look_for_is_there() -> None:
    from django.contrib.sessions.middleware import SessionMiddleware
    from django.middleware.csrf import CsrfViewMiddleware
    from django.middleware.security import SecurityMiddleware
    from django.utils.module_loading import import_string

    found = [import_string(name) for name in settings.MIDDLEWARE]
    for wanted in (SecurityMiddleware, CsrfViewMiddleware, SessionMiddleware):
        assert any(isinstance(each, type) and issubclass(each, wanted) for each in found), wanted


def test_every_row_of_the_threat_model_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    table = page[page.index("## Threats") :]
    rows = [line for line in table.splitlines() if re.match(r"\| [STRIDE] \|", line)]
    assert {row[2] for row in rows} == set("STRIDE")
    for row in rows:
        named = re.findall(r"`(tests/[\w/.]+)::(test_\w+)`", row)
        assert named, row
        for path, test in named:
            assert f"def {test}(" in (ROOT / path).read_text(), f"{path}::{test}"
