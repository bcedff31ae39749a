"""The isolation drill: many organizations at once through one platform, each with its own canary.

A platform of its own is started, with as many organizations as asked for, and as many clients of
each, who answer prompts whole, as events, over sockets, in background, in batches and by OpenAI's
API, keep files, share idempotency keys and labels across organizations, read what is theirs and
reach for what is not. An
organization's canary stands in all that it sends: prompts, labels, names. Afterwards no answer, no
row of PostgreSQL and nothing in Redis may hold a canary of another's. Exits with 1 if any does.

  .venv/bin/python benchmarks/isolation.py                      20 organizations of 50 clients, 60 s
  .venv/bin/python benchmarks/isolation.py --seconds 20 --organizations 4 --clients 10
  .venv/bin/python benchmarks/isolation.py --record             appended to RESULTS.md
"""

import argparse
import asyncio
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

import aiohttp  # noqa: E402
import redis  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import Progress, track  # noqa: E402

from config.stack.apart import Stack, running  # noqa: E402

_RESULTS = ROOT / "benchmarks" / "RESULTS.md"
_CANARY = re.compile(r"canary-[0-9a-f]{12}")
_SHARED_KEYS = 40
_PASSWORD = "correct horse battery staple"  # noqa: S105  of people who live a minute
_MAKE = """
import json
from billing.models import Account
from tenants import keys
from tenants.models import Membership, Organization, Role, Scope, User
made = {}
for slug, canary in json.loads(%r).items():
    row = Organization.objects.create(slug=slug, name=canary)
    Account.objects.create(organization=row, currency='EUR', credit_limit=10**15)
    owner = User.objects.create_user(f'{canary}@example.com', %r)
    Membership.objects.create(user=owner, organization=row, role=Role.OWNER)
    _, text = keys.mint(organization=row, name=canary, scopes=list(Scope))
    made[slug] = [row.pk, row.schema_name, text]
print('MADE' + json.dumps(made))
"""


@dataclass(frozen=True, slots=True)
class Tenant:
    """An organization, its canary, and its ways in."""

    slug: str
    canary: str
    pk: int
    schema: str
    key: str


@dataclass
class Findings:
    """What was looked at, and what should not have been there."""

    answers: Counter[str] = field(default_factory=Counter)
    checked: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    foreign: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)

    def look(self, where: str, text: str, own: str, *, must: bool = False) -> None:
        """Every canary in a text must be `own`; with `must` there has to be one."""
        self.checked[where] += 1
        found = set(_CANARY.findall(text))
        if found - {own}:
            self.foreign.append(f"{where}: {sorted(found - {own})} where {own} is")
        if must and own not in found:
            self.odd.append(f"{where}: {own} is missing in {text[:200]!r}")


class Client:
    """One of an organization's: one thing after another, until it is over."""

    def __init__(self, drill: "Drill", tenant: Tenant, number: int) -> None:
        self._drill = drill
        self._tenant = tenant
        self._chance = random.Random(f"{tenant.slug}/{number}")  # noqa: S311
        self._token = ""

    async def run(self) -> None:
        """Until it is over."""
        work: list[Callable[[], Awaitable[None]]] = [
            *[self._whole, self._events, self._chat] * 3,
            *[self._socket, self._again, self._person] * 2,
            self._background,
            self._file,
            self._batch,
            self._reach,
        ]
        while not await self._drill.pause(self._chance):
            act = self._chance.choice(work)
            try:
                await act()
                self._drill.found.answers[act.__name__.strip("_")] += 1
            except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
                self._drill.found.refused[type(error).__name__] += 1

    async def _whole(self) -> None:
        text = await self._ask("POST", "/api/v1/infer", self._body())
        self._see("infer", text)

    async def _chat(self) -> None:
        turns = [{"role": "user", "content": self._body()["prompt"]}]
        body = {"model": "echo", "messages": turns, "max_tokens": 400, "temperature": 0}
        stream = self._chance.random() < 0.5
        text = await self._ask("POST", "/v1/chat/completions", {**body, "stream": stream})
        self._see("chat", _said(text) if stream else text)

    async def _events(self) -> None:
        text = await self._ask("POST", "/api/v1/infer/stream", self._body())
        self._see("events", _said(text))
        if (request := _request_id(text)) and self._chance.random() < 0.3:
            path = f"/api/v1/requests/{request}/stream?after="
            self._see("events again", _said(await self._ask("GET", path)))

    async def _socket(self) -> None:
        url = f"{self._drill.url.replace('http', 'ws')}/ws/v1/infer"
        async with self._drill.session.ws_connect(url, headers=self._headers()) as socket:
            names = [f"{self._tenant.canary} {each}" for each in "ab"]
            for name in names:
                await socket.send_json({"type": "infer", "id": name, **self._body()})
            heard, ends = dict.fromkeys(names, ""), 0
            async for message in socket:
                data = json.loads(message.data)
                self._look("socket", message.data)
                ends += data["type"] in {"done", "error"}
                if data["type"] == "token":
                    heard[data["id"]] += data["text"]
                if ends == 2:
                    break
            for said in heard.values():
                self._look("socket's text", said)

    async def _again(self) -> None:
        """Under an idempotency key that other organizations use too, for what they ask too."""
        number = self._chance.randrange(_SHARED_KEYS)
        body = {"prompt": f"{self._tenant.canary} shared {number}", "max_tokens": 200}
        headers = {"Idempotency-Key": f"shared-{number}"}
        self._see("idempotent", await self._ask("POST", "/api/v1/infer", body, headers))

    async def _background(self) -> None:
        body = {**self._body(), "background": True}
        request = json.loads(await self._ask("POST", "/api/v1/infer", body)).get("request_id")
        if request is None:
            return
        self._drill.known[self._tenant.slug].append(request)
        for _ in range(200):
            text = await self._ask("GET", f"/api/v1/requests/{request}")
            if json.loads(text).get("state") == "done":
                self._see("background", text)
                return
            await asyncio.sleep(0.05)

    async def _file(self) -> None:
        """Kept, listed among those of the organization alone, and read."""
        name = await self._upload(f"{self._tenant.canary} in a file\n" * 40, "user_data")
        self._see("files", await self._ask("GET", "/v1/files?limit=20"))
        self._see("a file", await self._ask("GET", f"/v1/files/{name}/content"))

    async def _batch(self) -> None:
        lines = [
            {
                "custom_id": f"{self._tenant.canary} {number}",
                "method": "POST",
                "url": "/v1/completions",
                "body": {"model": "echo", **self._body()},
            }
            for number in range(2)
        ]
        file = await self._upload("\n".join(json.dumps(each) for each in lines), "batch")
        asked = {
            "input_file_id": file,
            "endpoint": "/v1/completions",
            "completion_window": "24h",
            "metadata": {"of": self._tenant.canary},
        }
        batch = json.loads(await self._ask("POST", "/v1/batches", asked))
        self._drill.things[self._tenant.slug].append(f"/v1/batches/{batch['id']}")
        for _ in range(120):
            text = await self._ask("GET", f"/v1/batches/{batch['id']}")
            batch = json.loads(text)
            if batch["status"] not in {"validating", "in_progress", "finalizing"}:
                break
            await asyncio.sleep(0.5)
        self._see("batches", text)
        if output := batch.get("output_file_id"):
            self._see("batch output", await self._ask("GET", f"/v1/files/{output}/content"))

    async def _upload(self, content: str, purpose: str) -> str:
        form = aiohttp.FormData({"purpose": purpose})
        form.add_field("file", content.encode(), filename=f"{self._tenant.canary}.jsonl")
        name = str(json.loads(await self._ask("POST", "/v1/files", form))["id"])
        self._drill.things[self._tenant.slug] += [f"/v1/files/{name}", f"/v1/files/{name}/content"]
        return name

    async def _reach(self) -> None:
        """For another's requests, files, keys and organization: nothing is there."""
        other = self._chance.choice([each for each in self._drill.tenants if each != self._tenant])
        paths = [f"/api/v1/keys/{other.key.split('_')[2]}"]
        if things := self._drill.things[other.slug]:
            paths.append(self._chance.choice(things))
        if known := self._drill.known[other.slug]:
            request = self._chance.choice(known)
            paths += [f"/api/v1/requests/{request}", f"/api/v1/requests/{request}/stream"]
        for path in paths:
            status, text = await self._send("GET", path)
            self._look("reached for", text)
            if status not in {404, 503}:  # A refusal of a full platform shows nothing.
                self._drill.found.foreign.append(f"GET {path} of {other.slug} gave {status}")
        if self._token:
            headers = {"Authorization": f"Bearer {self._token}", "X-Organization": other.slug}
            status, text = await self._send("GET", "/api/v1/members", None, headers)
            self._look("reached for", text)
            if status not in {401, 403, 503}:
                self._drill.found.foreign.append(f"members of {other.slug} gave {status}")

    async def _person(self) -> None:
        """What an owner reads of their organization."""
        self._token = self._drill.tokens[self._tenant.slug]
        headers = {"Authorization": f"Bearer {self._token}", "X-Organization": self._tenant.slug}
        path = self._chance.choice(
            ["/api/v1/usage", "/api/v1/keys", "/api/v1/members", "/api/v1/audit", "/api/v1/billing"]
        )
        must = path in {"/api/v1/keys", "/api/v1/members"}
        self._look(path, await self._ask("GET", path, None, headers), must=must)

    def _body(self) -> dict[str, Any]:
        words = " ".join(
            str(self._chance.randrange(10**6)) for _ in range(self._chance.randrange(1, 30))
        )
        prompt = f"{self._tenant.canary} {words} {self._tenant.canary}"
        return {"prompt": prompt, "max_tokens": 400, "temperature": 0}

    def _headers(self) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {self._tenant.key}",
            "X-Request-ID": self._tenant.canary,
        }

    async def _ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> str:
        status, text = await self._send(method, path, body, headers)
        if status >= 400:
            self._look("refusals", text)
            self._drill.found.refused[f"{status} {_code(text)}"] += 1
            raise aiohttp.ClientError
        return text

    async def _send(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        sent = {**self._headers(), **(headers or {})}
        url = self._drill.url + path
        what = {"data": body} if isinstance(body, aiohttp.FormData) else {"json": body}
        async with self._drill.session.request(method, url, headers=sent, **what) as response:
            text = await response.text()
            self._look("headers", str(response.headers))
            return response.status, text

    def _see(self, where: str, text: str) -> None:
        self._look(where, text, must=True)

    def _look(self, where: str, text: str, *, must: bool = False) -> None:
        self._drill.found.look(where, text, self._tenant.canary, must=must)


class Drill:
    """All clients, on one session of pooled connections."""

    def __init__(self, url: str, tenants: list[Tenant], *, pause: float) -> None:
        self.url = url
        self._pause = pause
        self._over = asyncio.Event()
        self.tenants = tenants
        self.tokens: dict[str, str] = {}
        self.known: dict[str, list[str]] = {each.slug: [] for each in tenants}
        self.things: dict[str, list[str]] = {each.slug: [] for each in tenants}
        self.found = Findings()

    async def run(self, *, clients: int, seconds: float, console: Console) -> None:
        """So many of each organization, for so long; what was begun comes to its end."""
        timeout = aiohttp.ClientTimeout(total=120)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as self.session:
            for each in self.tenants:
                self.tokens[each.slug] = await self._log_in(each)
            work = [
                asyncio.create_task(Client(self, each, number).run())
                for each in self.tenants
                for number in range(clients)
            ]
            began = time.monotonic()
            with Progress(console=console) as bar:
                task = bar.add_task("Load", total=seconds)
                while (passed := time.monotonic() - began) < seconds:
                    told = (
                        f"{self.found.answers.total()} answers, {len(self.found.foreign)} foreign"
                    )
                    bar.update(task, completed=passed, description=told)
                    await asyncio.sleep(0.5)
            self._over.set()
            await asyncio.wait(work, timeout=180)

    async def pause(self, chance: random.Random) -> bool:
        """Between two acts of a client; whether it is over."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), chance.uniform(0, 2 * self._pause))
        return self._over.is_set()

    async def _log_in(self, tenant: Tenant) -> str:
        body = {"email": f"{tenant.canary}@example.com", "password": _PASSWORD}
        async with self.session.post(f"{self.url}/api/v1/auth/token", json=body) as response:
            return str((await response.json())["access"])


def main() -> int:
    """0 if no canary was seen where it does not belong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--organizations", type=int, default=20)
    parser.add_argument("--clients", type=int, default=50, help="of each organization")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pause", type=float, default=10, help="of a client, in the mean (10 s)")
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    options = parser.parse_args()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="platform-isolation-") as folder:
        models = str(Path(folder) / "models")
        quiet = {"DEFAULT_MODEL": "echo", "LOG_LEVEL": "WARNING", "MODELS_DIR": models}
        console.print("Starting a platform …")
        with running(Path(folder), **quiet) as stack:
            tenants = make(stack, options.organizations)
            drill = Drill(stack.url, tenants, pause=options.pause)
            began = time.monotonic()
            asyncio.run(
                drill.run(clients=options.clients, seconds=options.seconds, console=console)
            )
            seconds = time.monotonic() - began
            console.print("Looking through PostgreSQL and Redis …")
            look_at_rows(stack, tenants, drill.found)
            look_at_state(stack, tenants, drill.found)
    return report(options, drill.found, seconds, console)


def make(stack: Stack, count: int) -> list[Tenant]:
    """The organizations, each with an owner, a key and credit, named by its canary."""
    canaries = {f"drill-{number}": f"canary-{os.urandom(6).hex()}" for number in range(count)}
    made: dict[str, list[Any]] = {}
    names = list(canaries)
    batches = [names[at : at + 4] for at in range(0, count, 4)]
    for slugs in track(batches, "Organizations", console=Console(stderr=True)):
        code = _MAKE % (json.dumps({slug: canaries[slug] for slug in slugs}), _PASSWORD)
        said = stack.manage("shell", "--no-imports", "-c", code)
        made |= json.loads(said.partition("MADE")[2])
    return [Tenant(slug, canaries[slug], *made[slug]) for slug in canaries]


def look_at_rows(stack: Stack, tenants: list[Tenant], found: Findings) -> None:
    """Every row of every tenant schema, and the public rows that carry an organization."""
    for each in tenants:
        for (text,) in stack.rows(
            f"SELECT to_jsonb(r)::text FROM {each.schema}.inference_request r"  # noqa: S608
        ):
            found.look("history rows", text, each.canary, must=True)
        for table in (
            "batches_batch",
            "batches_storedfile",
            "billing_ledgerentry",
            "tenants_apikey",
            "tenants_auditentry",
        ):
            query = f"SELECT to_jsonb(r)::text FROM public.{table} r WHERE organization_id = %s"  # noqa: S608
            for (text,) in stack.rows(query, each.pk):
                found.look(f"{table} rows", text, each.canary)


def look_at_state(stack: Stack, tenants: list[Tenant], found: Findings) -> None:
    """Every job and stream in Redis, against the organization that the job is of."""
    state: Any = redis.Redis.from_url(stack.redis_url)
    canaries = {each.pk: each.canary for each in tenants}
    for name in state.scan_iter("job:*", count=1000):
        spec = state.hget(name, "spec")
        if spec is None:
            continue
        own = canaries.get(json.loads(spec)["organization"], "nobody's")
        found.look("jobs in Redis", spec.decode(), own)
        stream = state.xrange(name.replace(b"job:", b"stream:"))
        said = b"".join(value for _, fields in stream for value in fields.values())
        found.look("streams in Redis", said.decode("utf-8", "replace"), own)


def report(options: argparse.Namespace, found: Findings, seconds: float, console: Console) -> int:
    """Print what was found, record it where that was asked for; the exit status."""
    figures = {
        "organizations": options.organizations,
        "clients": options.organizations * options.clients,
        "seconds": f"{seconds:.0f}",
        "answers": found.answers.total(),
        "texts and rows looked at": found.checked.total(),
        "refused": found.refused.total(),
        "own canary missing": len(found.odd),
        "foreign canaries": len(found.foreign),
    }
    for name, value in figures.items():
        console.print(f"{name:>26}  {value}")
    for title, counts in (
        ("answers", found.answers),
        ("looked at", found.checked),
        ("refused", found.refused),
    ):
        console.print(f"{title}: " + ", ".join(f"{name} {n}" for name, n in sorted(counts.items())))
    for problem in [*found.foreign, *found.odd][:20]:
        console.print(f"  {problem}")
    if options.record:
        record(figures)
    return 1 if found.foreign or found.odd or not found.answers else 0


def record(figures: Mapping[str, Any]) -> None:
    """Append the figures with the command and the date."""
    command = " ".join([".venv/bin/python benchmarks/isolation.py", *sys.argv[1:]])
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    names, values = (" | ".join(str(each) for each in some) for some in (figures, figures.values()))
    lines = [
        f"\n## Isolation drill, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n",
        f"`{command}`; {os.cpu_count()} CPUs, load average {load}.\n",
        f"| {names} |\n|{' --- |' * len(figures)}\n| {values} |",
    ]
    with _RESULTS.open("a") as file:
        file.write("\n".join(lines) + "\n")


def _said(events: str) -> str:
    """The text of a stream of events."""
    said = []
    for line in events.splitlines():
        if line.startswith("data: {"):
            data = json.loads(line[6:])
            choices = data.get("choices") or [{}]
            said.append(data.get("text") or choices[0].get("delta", {}).get("content") or "")
    return "".join(said)


def _request_id(events: str) -> str:
    found = re.search(r'"request_id":"([0-9a-f-]{36})"', events)
    return found[1] if found else ""


def _code(text: str) -> str:
    found = re.search(r'"code":"(\w+)"', text)
    return found[1] if found else "?"


if __name__ == "__main__":
    sys.exit(main())
