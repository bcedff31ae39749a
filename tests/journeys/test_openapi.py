"""Schemathesis over our own OpenAPI, on a platform that runs: as alice, beside bob.

A longer run, of about 10,000 cases, nothing left out (some three minutes):
  FUZZ_EXAMPLES=40 make test ARGS=tests/journeys/test_openapi.py
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from config.stack.apart import ROOT, Stack, running

LONG = os.environ.get("FUZZ_EXAMPLES", "")
pytestmark = pytest.mark.timeout(7_200 if LONG else 600)

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
MAY_REFUSE = {
    "DELETE /api/v1/auth/sessions/{identifier}",
    "GET /api/v1/invoices/{number}",
    "GET /api/v1/invoices/{number}.csv",
    "GET /api/v1/invoices/{number}.pdf",
    "GET /api/v1/invoices/{number}/proof",
    "GET /v1/files/{name}",
    "PATCH /api/v1/keys/{identifier}",
    "POST /api/v1/auth/invitations",
    "POST /api/v1/auth/logout",
    "POST /api/v1/auth/refresh",
    "POST /api/v1/auth/token",
    "POST /api/v1/billing/checkouts",
    "POST /api/v1/infer/batch/{name}/cancel",
    "POST /api/v1/invitations",
    "POST /api/v1/members/leave",
    "POST /api/v1/ownership",
    "POST /v1/batches",
    "POST /v1/batches/{name}/cancel",
    "POST /v1/responses/{name}/cancel",
}
"""Operations that need what no schema says: a password, a token from a letter, a closed month, a
provider of cards. Every other one succeeds at least once."""
MAKE = """
import uuid
from datetime import timedelta
from django.utils import timezone
from billing.models import Account
from billing.receivables import Checkout
from tenants import keys
from tenants.models import Invitation, Membership, Organization, Role, Scope, User
from tenants.webhooks.models import Delivery, Event, Webhook
for slug, email in (("acme", "alice@example.com"), ("globex", "{bobs}@example.com")):
    row = Organization.objects.create(slug=slug, name="{bobs}" if slug == "globex" else "Acme")
    Account.objects.create(organization=row, currency="EUR", credit_limit=10**15)
    owner = User.objects.create_user(email, "{password}")
    Membership.objects.create(user=owner, organization=row, role=Role.OWNER)
    key, text = keys.mint(organization=row, name=row.name, scopes=list(Scope))
    print("KEY", slug, text)
    if slug == "globex":
        continue
    now = timezone.now()
    for name in ("mia", "noa"):
        guest = User.objects.create_user(f"{{name}}@example.com")
        Membership.objects.create(user=guest, organization=row, role=Role.DEVELOPER)
        invited = Invitation.objects.create(
            organization=row, email=f"{{name}}@example.org", token_hash=name, created_at=now,
            sent_at=now - timedelta(hours=1), expires_at=now + timedelta(days=1))
        print("THING members/", guest.pk)
        print("THING invitations/", invited.pk)
    page = Checkout.objects.create(
        organization=row, kind="card", status="ready", url="https://x.example/", created_at=now)
    print("THING billing/checkouts/", page.pk)
    hook = Webhook.objects.create(
        organization=row, url="https://x.example/", kinds=["key.leaked"], created_at=now)
    event = Event.objects.create(
        id=uuid.uuid4(), organization=row, kind="key.leaked", data={{}}, at=now)
    Delivery.objects.create(webhook=hook, event=event, due_at=now, state="failed", ended_at=now)
    print("THING webhooks/", hook.pk)
    print("THING event", event.pk)
"""


@dataclass(frozen=True, slots=True)
class World:
    """A platform, alice's access token, log-in and things, and words that are bob's alone."""

    stack: Stack
    alice: str
    refresh: str
    login: str
    things: dict[str, list[dict[str, str]]]
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
            tokens = client.post("/api/v1/auth/token", json=log_in).json()
            alice = tokens["access"]
            asked = client.post(
                "/api/v1/infer",
                json={"prompt": BOBS},
                headers={"Authorization": f"Bearer {texts['globex']}", "X-Request-ID": BOBS},
            ).json()
            mine = {"Authorization": f"Bearer {alice}"}
            things = _things(client, mine | {"X-Organization": "acme"}, said)
            [login] = client.get("/api/v1/auth/sessions", headers=mine).json()["data"]
        bobs = (BOBS, texts["globex"].split("_")[2], asked["request_id"])
        yield World(stack, alice, tokens["refresh"], login["id"], things, bobs)


def _things(
    client: httpx.Client, mine: dict[str, str], said: list[str]
) -> dict[str, list[dict[str, str]]]:
    """What is alice's, by how its path begins: what stays, and what may go."""
    rows: dict[str, list[str]] = {}
    for _, name, pk in (line.split() for line in said if line.startswith("THING")):
        rows.setdefault(name, []).append(pk)

    def made(path: str, form: Any) -> Any:
        answer = client.post(path, json=form, headers=mine)
        assert answer.status_code < 300, answer.text
        return answer.json()

    line = {"custom_id": "a", "method": "POST", "url": "/v1/completions"}
    content = json.dumps(line | {"body": {"model": "echo", "prompt": "hi"}}).encode()
    some = {"purpose": "batch"}, {"file": ("a.jsonl", content)}
    uploads = [client.post("/v1/files", data=d, files=f, headers=mine) for d, f in [some] * 2]
    files = [each.json()["id"] for each in uploads]
    wanted = {"endpoint": "/v1/completions", "completion_window": "24h"}
    batch = made("/v1/batches", {"input_file_id": files[0], **wanted})["id"]
    prompts = made("/api/v1/infer/batch", {"requests": [{"prompt": "hi"}]})["batch_id"]
    request = made("/api/v1/infer", {"prompt": "hi"})["request_id"]
    hook = {"identifier": rows["webhooks/"][0], "event": rows["event"][0]}
    return {
        "/v1/files/": [{"name": each} for each in files],
        "/v1/batches/": [{"name": batch}] * 2,
        "/v1/models/": [{"name": "echo"}] * 2,
        "/api/v2/models/": [{"name": "echo"}] * 2,
        "/api/v1/infer/batch/": [{"name": prompts}] * 2,
        "/api/v1/requests/": [{"identifier": request}] * 2,
        "/api/v1/jobs/": [{"identifier": request}] * 2,
        "/api/v2/jobs/": [{"identifier": request}] * 2,
        "/api/v1/members/": [{"user": each} for each in rows["members/"]],
        "/api/v1/invitations/": [{"invitation": each} for each in rows["invitations/"]],
        "/api/v1/billing/checkouts/": [{"identifier": rows["billing/checkouts/"][0]}] * 2,
        "/api/v1/webhooks/": [hook, {}],
    }


def test_every_answer_is_as_the_schema_says_and_none_is_bobs(world: World, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{world.stack.url}/api/schema"),
        *("-H", f"Authorization: Bearer {world.alice}", "-H", "X-Organization: acme"),
        *("--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing,stateful"),
        *("--max-examples", LONG or "3", "--seed", "7"),
        *("--request-timeout", "60", "--suppress-health-check", "all", "--warnings", "off"),
        *("--continue-on-failure", "--no-color"),
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}",
        "SCHEMATHESIS_HOOKS": "tests.journeys.fuzzing",
        "FOREIGN": ",".join(world.bobs),
        "EACH": "1" if LONG else "8",
        "PLATFORM": world.stack.url,
        "ACCESS": world.alice,
        "REFRESH": world.refresh,
        "OWN_LOGIN": world.login,
        "ALICES": json.dumps(world.things),
        "SEEN": str(tmp_path / "seen"),
    }
    done = subprocess.run(  # noqa: S603
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-4_000:]
    assert "Tested:" in done.stdout
    lines = (tmp_path / "seen").read_text().splitlines()
    print(f"{len(lines):,} answers:", Counter(line[0] for line in lines))  # noqa: T201
    mine = "SELECT ended_at FROM tenants_login WHERE id = %s"
    assert world.stack.rows(mine, world.login) == [(None,)], "what was refused, was refused her"
    reached = {line[4:] for line in lines if line[0] == "2"}
    assert {line[4:] for line in lines} - reached - MAY_REFUSE == set()


def test_the_schema_is_what_openapi_3_1_allows(world: World) -> None:
    schema = httpx.get(f"{world.stack.url}/api/schema?format=json", timeout=30).json()
    assert schema["openapi"].startswith("3.1")
    assert "nullable" not in json.dumps(schema["components"])
