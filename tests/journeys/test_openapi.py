"""Schemathesis over our own OpenAPI, on a platform that runs: as alice, beside bob.

A longer run by hand, against this checkout's platform:
  SCHEMATHESIS_HOOKS=tests.journeys.fuzzing .venv/bin/schemathesis run \
      http://127.0.0.1:8000/api/schema -H 'Authorization: Bearer …' --max-examples 200
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from config.stack.apart import ROOT, Stack, running

pytestmark = pytest.mark.timeout(600)

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "use_after_free",
    "ignored_auth",
    "nothing_of_bobs",
)
PASSWORD = "correct horse battery staple"
BOBS = "canary-b0bb0bb0bb0b"
MAKE = """
from billing.models import Account
from tenants import keys
from tenants.models import Membership, Organization, Role, Scope, User
for slug, email in (("acme", "alice@example.com"), ("globex", "{bobs}@example.com")):
    row = Organization.objects.create(slug=slug, name="{bobs}" if slug == "globex" else "Acme")
    Account.objects.create(organization=row, currency="EUR", credit_limit=10**15)
    owner = User.objects.create_user(email, "{password}")
    Membership.objects.create(user=owner, organization=row, role=Role.OWNER)
    key, text = keys.mint(organization=row, name=row.name, scopes=list(Scope))
    print("KEY", slug, text)
"""


@dataclass(frozen=True, slots=True)
class World:
    """A platform, alice's access token, and words that are bob's alone."""

    stack: Stack
    alice: str
    bobs: tuple[str, ...]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Alice owns acme, bob owns globex; both have keys, and bob has asked something."""
    folder = tmp_path_factory.mktemp("fuzzed")
    models = str(folder / "models")
    with running(folder, DEFAULT_MODEL="echo", LOG_LEVEL="ERROR", MODELS_DIR=models) as stack:
        code = MAKE.format(bobs=BOBS, password=PASSWORD)
        said = stack.manage("shell", "--no-imports", "-c", code).splitlines()
        texts = dict(line.split()[1:] for line in said if line.startswith("KEY"))
        with httpx.Client(base_url=stack.url, timeout=60) as client:
            log_in = {"email": "alice@example.com", "password": PASSWORD}
            alice = client.post("/api/v1/auth/token", json=log_in).json()["access"]
            asked = client.post(
                "/api/v1/infer",
                json={"prompt": BOBS},
                headers={"Authorization": f"Bearer {texts['globex']}", "X-Request-ID": BOBS},
            ).json()
        bobs = (BOBS, texts["globex"].split("_")[2], asked["request_id"])
        yield World(stack, alice, bobs)


def test_every_answer_is_as_the_schema_says_and_none_is_bobs(world: World, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{world.stack.url}/api/schema"),
        *("-H", f"Authorization: Bearer {world.alice}", "-H", "X-Organization: acme"),
        *("--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing,stateful"),
        *("--max-examples", os.environ.get("FUZZ_EXAMPLES", "3"), "--seed", "7"),
        *("--request-timeout", "60", "--suppress-health-check", "all", "--warnings", "off"),
        *("--continue-on-failure", "--no-color"),
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}",
        "SCHEMATHESIS_HOOKS": "tests.journeys.fuzzing",
        "FOREIGN": ",".join(world.bobs),
    }
    done = subprocess.run(  # noqa: S603
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-4_000:]
    assert "Tested:" in done.stdout


def test_the_schema_is_what_openapi_3_1_allows(world: World) -> None:
    schema = httpx.get(f"{world.stack.url}/api/schema?format=json", timeout=30).json()
    assert schema["openapi"].startswith("3.1")
    assert "nullable" not in json.dumps(schema["components"])
