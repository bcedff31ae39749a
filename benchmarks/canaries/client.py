"""One of an organization's clients: one thing after another, until it is over."""

import asyncio
import json
import random
import traceback
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import aiohttp

from benchmarks.canaries.answers import BROKEN, Unanswered, request_id, streamed, whole
from benchmarks.canaries.findings import Kind
from benchmarks.canaries.ways import Way

if TYPE_CHECKING:
    from benchmarks.canaries.drill import Drill
    from benchmarks.canaries.platform import Tenant

_SHARED, _PROMPTS = 40, 12
"""Idempotency keys, and prompts, that all organizations use."""
_READ = ("/api/v1/usage", "/api/v1/keys", "/api/v1/members", "/api/v1/audit", "/api/v1/billing")
NOBODYS = "nobody's words, number"
"""How a prompt begins that many organizations send alike."""

_CHANGES: dict[str, Callable[[str], tuple[str, str, Any]]] = {
    "files": lambda path: ("DELETE", path, None),
    "responses": lambda path: ("DELETE", path, None),
    "batches": lambda path: ("POST", f"{path}/cancel", {}),
}
"""What would end another's thing, by its kind."""

Act = Callable[[], Awaitable[None]]


class Client:
    """What it does is drawn by its number; what it says has its organization's canary."""

    def __init__(self, drill: "Drill", tenant: "Tenant", number: int) -> None:
        self._drill = drill
        self._tenant = tenant
        self._chance = random.Random(f"{tenant.slug}/{number}")  # noqa: S311
        self._way = Way(drill, tenant, self._chance)
        self.doing = ""

    async def run(self) -> None:
        """Until it is over; a client that breaks is told of."""
        acts: list[Act] = [
            *[self.whole, self.events, self.chat] * 3,
            *[self.socket, self.again, self.person, self.reach] * 2,
            *(self.background, self.file, self.batch, self.prompts, self.response, self.cached),
        ]
        while not await self._drill.pause(self._chance):
            act = self._chance.choice(acts)
            try:
                await self.do(act)
            except Exception:
                told = traceback.format_exc()[-1000:]
                self._drill.found.add(Kind.DEAD, self._way.at(self.doing), told)
                return

    async def do(self, act: Act) -> None:
        """One thing; it counts as an answer, or as refused."""
        self.doing = act.__name__
        try:
            await act()
        except Unanswered as reason:
            self._drill.found.refused[str(reason)] += 1
            if BROKEN in str(reason):
                self._drill.found.add(Kind.UNEXPECTED, self._way.at(self.doing), str(reason))
        except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
            self._drill.found.refused[type(error).__name__] += 1
        else:
            self._drill.found.answers[act.__name__] += 1

    async def whole(self) -> None:
        """A prompt's answer at once."""
        text = await self._way.ask("POST", "/api/v1/infer", self._body(), what="infer")
        self._see("infer", whole(text).checked())

    async def chat(self) -> None:
        """OpenAI's way, whole or as events."""
        turns = [{"role": "user", "content": self._body()["prompt"]}]
        as_events = self._chance.random() < 0.5
        body = {"model": "echo", "messages": turns, "max_tokens": 400, "temperature": 0}
        text = await self._way.ask(
            "POST", "/v1/chat/completions", {**body, "stream": as_events}, what="chat"
        )
        self._see("chat", (streamed(text) if as_events else whole(text)).checked())

    async def events(self) -> None:
        """As events; now and then read once more from the beginning."""
        text = await self._way.ask("POST", "/api/v1/infer/stream", self._body(), what="events")
        self._see("events", streamed(text).checked())
        if (request := request_id(text)) and self._chance.random() < 0.3:
            path = f"/api/v1/requests/{request}/stream?after="
            again = await self._way.ask("GET", path, what="events again")
            self._see("events again", streamed(again).checked())

    async def socket(self) -> None:
        """Two at once over a WebSocket."""
        url = f"{self._drill.url.replace('http', 'ws')}/ws/v1/infer"
        names = [f"{self._tenant.canary} {each}" for each in "ab"]
        said, ends = dict.fromkeys(names, ""), list[str]()
        async with self._drill.session.ws_connect(url, headers=self._way.headers()) as socket:
            for name in names:
                await socket.send_json({"type": "infer", "id": name, **self._body()})
            while len(ends) < len(names):
                message = await socket.receive(timeout=120)
                if message.type != aiohttp.WSMsgType.TEXT:
                    raise Unanswered(f"the socket ended with {socket.close_code}")
                self._way.look(self._way.at("socket"), message.data)
                data = json.loads(message.data)
                if data["type"] == "token":
                    said[data["id"]] += data["text"]
                elif data["type"] == "done":
                    ends.append("")
                    self._see("socket's text", said[data["id"]])
                elif data["type"] == "error":
                    ends.append(str(data["error"]["code"]))
        if errors := " ".join(filter(None, ends)):
            raise Unanswered(errors)

    async def again(self) -> None:
        """Under an idempotency key that other organizations use too, for what they ask too."""
        number = self._chance.randrange(_SHARED)
        body = {"prompt": f"{self._tenant.canary} shared {number}", "max_tokens": 200}
        headers = {"Idempotency-Key": f"shared-{number}"}
        text = await self._way.ask("POST", "/api/v1/infer", body, headers, what="idempotent")
        self._see("idempotent", whole(text).checked())

    async def cached(self) -> None:
        """A prompt that others send alike: nobody finds it in the cache but after their own."""
        number = self._chance.randrange(_PROMPTS)
        self._drill.sent[self._tenant.slug, number] += 1
        body = {"prompt": f"{NOBODYS} {number}", "max_tokens": 100, "temperature": 0}
        way = {"X-Cache": "exact"}
        text = await self._way.ask("POST", "/api/v1/infer", body, way, what="cached")
        whole(text).checked()
        if json.loads(text).get("cache"):
            self._drill.found.checked["found in the cache"] += 1
            if self._drill.sent[self._tenant.slug, number] == 1:
                self._drill.found.add(Kind.LEAK, self._way.at("cached"), text)

    async def background(self) -> None:
        """Asked for, and looked for until it is there; then it gets a word of thanks."""
        body = {**self._body(), "background": True}
        started = await self._way.ask("POST", "/api/v1/infer", body, what="background")
        request = json.loads(started)["request_id"]
        self._drill.requests[self._tenant.slug].append(request)
        path = f"/api/v1/requests/{request}"
        for _ in range(200):
            text = await self._way.ask("GET", path, what="background")
            if "finish_reason" in json.loads(text):
                break
            await asyncio.sleep(0.1)
        else:
            raise Unanswered("a background request took too long")
        self._see("background", whole(text).checked())
        thanks = {"rating": "good", "comment": f"{self._tenant.canary} says so"}
        await self._way.ask("PUT", f"{path}/feedback", thanks, what="feedback")

    async def response(self) -> None:
        """Stored by OpenAI's API, and read again with what was asked."""
        body = {"model": "echo", "input": self._body()["prompt"], "max_output_tokens": 400}
        text = await self._way.ask("POST", "/v1/responses", body, what="response")
        data = json.loads(text)
        if data["status"] not in {"completed", "incomplete"}:
            raise Unanswered(f"a response {data['status']}")
        self._see("response", text)
        path = f"/v1/responses/{data['id']}"
        self._drill.things[self._tenant.slug].append(path)
        self._see("response again", await self._way.ask("GET", path, what="response again"))
        items = await self._way.ask("GET", f"{path}/input_items", what="input items")
        self._see("input items", items)

    async def file(self) -> None:
        """Kept, listed among those of the organization alone, and read."""
        name = await self._upload(f"{self._tenant.canary} in a file\n" * 40, "user_data")
        await self._way.ask("GET", "/v1/files?limit=20", what="files")
        content = await self._way.ask("GET", f"/v1/files/{name}/content", what="a file")
        self._see("a file", content)

    async def batch(self) -> None:
        """Two lines, and what came of them."""
        lines = [
            {
                "custom_id": f"{self._tenant.canary} {number}",
                "method": "POST",
                "url": "/v1/completions",
                "body": {"model": "echo", **self._body()},
            }
            for number in range(2)
        ]
        asked = {
            "input_file_id": await self._upload("\n".join(map(json.dumps, lines)), "batch"),
            "endpoint": "/v1/completions",
            "completion_window": "24h",
            "metadata": {"of": self._tenant.canary},
        }
        made = await self._way.ask("POST", "/v1/batches", asked, what="batch")
        path = f"/v1/batches/{json.loads(made)['id']}"
        self._drill.things[self._tenant.slug].append(path)
        text, batch = await self._ended(path, "status")
        self._see("batch", text)
        if output := batch.get("output_file_id"):
            path = f"/v1/files/{output}/content"
            self._see("batch output", await self._way.ask("GET", path, what="batch output"))

    async def prompts(self) -> None:
        """Two prompts in a batch without files: their lines stay."""
        asked = {"requests": [self._body(), self._body()]}
        made = await self._way.ask("POST", "/api/v1/infer/batch", asked, what="prompts")
        path = json.loads(made)["url"]
        text, batch = await self._ended(path, "state")
        if batch["failed"]:
            raise Unanswered(f"{batch['failed']} of a batch's prompts failed")
        self._see("prompts", text)

    async def person(self) -> None:
        """What an owner reads of their organization."""
        path = self._chance.choice(_READ)
        await self._way.person(path, what=path, must=path.endswith(("/keys", "/members")))

    async def reach(self) -> None:
        """For what is another's, to read it and to change it."""
        other = self._chance.choice([each for each in self._drill.tenants if each != self._tenant])
        key = f"/api/v1/keys/{other.key.split('_')[2]}"
        reaches: list[tuple[str, str, Any]] = [("GET", key, None), ("DELETE", key, None)]
        if things := self._drill.things[other.slug]:
            thing = self._chance.choice(things)
            reaches += [("GET", f"{thing}/content", None)] if "/files/" in thing else []
            reaches += [("GET", thing, None), _CHANGES[thing.split("/")[2]](thing)]
        if known := self._drill.requests[other.slug]:
            request = f"/api/v1/requests/{self._chance.choice(known)}"
            reaches += [("GET", request, None), ("GET", f"{request}/stream", None)]
            reaches += [("POST", f"{request}/cancel", {})]
            reaches += [("PUT", f"{request}/feedback", {"rating": "bad"})]
        for method, path, body in reaches:
            await self._way.reach(method, path, other, body)
        await self._way.reach("GET", "/api/v1/members", other, as_person=True)

    async def _upload(self, content: str, purpose: str) -> str:
        form = aiohttp.FormData({"purpose": purpose})
        form.add_field("file", content.encode(), filename=f"{self._tenant.canary}.jsonl")
        name = str(json.loads(await self._way.ask("POST", "/v1/files", form, what="file"))["id"])
        self._drill.things[self._tenant.slug].append(f"/v1/files/{name}")
        return name

    async def _ended(self, path: str, name: str) -> tuple[str, dict[str, Any]]:
        """A batch that has come to its end, as text and as it is."""
        for _ in range(120):
            text = await self._way.ask("GET", path, what="batch")
            batch: dict[str, Any] = json.loads(text)
            if batch[name] not in {"validating", "in_progress", "finalizing"}:
                return text, batch
            await asyncio.sleep(0.5)
        raise Unanswered("a batch took too long")

    def _see(self, what: str, text: str) -> None:
        self._way.look(self._way.at(what), text, must=True)

    def _body(self) -> dict[str, Any]:
        number = self._chance.randrange(1, 30)
        words = " ".join(str(self._chance.randrange(10**6)) for _ in range(number))
        prompt = f"{self._tenant.canary} {words} {self._tenant.canary}"
        return {"prompt": prompt, "max_tokens": 400, "temperature": 0}
