"""A client that has a file of requests carried out, and reads what came of each line."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import aiohttp

from config.drill.client import UNAVAILABLE, Gone, Turned, check, is_lost
from config.drill.heard import LOST, Heard

_PAUSE = 0.5
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})


class BatchClient:
    """One batch, seen through whatever happens: each of `lines` is one of its requests."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, key: str, lines: Sequence[Heard]
    ) -> None:
        self._session = session
        self._url = url
        self._lines = lines
        self._headers = {"Authorization": f"Bearer {key}"}
        self._once = {"Idempotency-Key": uuid4().hex}
        self._file = ""
        self._batch = ""

    async def see_through(self) -> None:
        """Again and again, until each line has ended."""
        while not all(line.reason for line in self._lines):
            try:
                await self._go_on()
            except Turned as refusal:
                for line in self._lines:
                    line.reason = line.reason or f"a refusal: {refusal}"
            except (Gone, *UNAVAILABLE) as error:
                self._lines[0].breaks += 1
                for line in self._lines:
                    line.trouble = repr(error)[:300]
                await asyncio.sleep(_PAUSE)

    async def _go_on(self) -> None:
        if not self._file:
            form = aiohttp.FormData({"purpose": "batch"})
            form.add_field("file", self._written(), filename="lines.jsonl")
            self._file = json.loads(await self._ask("POST", "/v1/files", data=form))["id"]
        if not self._batch:
            body = {
                "input_file_id": self._file,
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
            }
            self._batch = json.loads(await self._ask("POST", "/v1/batches", json=body))["id"]
        while True:
            batch = json.loads(await self._ask("GET", f"/v1/batches/{self._batch}"))
            if batch["status"] in _ENDED:
                break
            await asyncio.sleep(_PAUSE)
        results: list[dict[str, Any]] = []
        for name in filter(None, (batch["output_file_id"], batch["error_file_id"])):
            content = await self._ask("GET", f"/v1/files/{name}/content")
            results += map(json.loads, content.splitlines())
        self._note(results)

    def _written(self) -> str:
        lines = (
            {
                "custom_id": str(number),
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {
                    "messages": [{"role": "user", "content": line.wish.prompt}],
                    **line.wish.sampling,
                },
            }
            for number, line in enumerate(self._lines)
        )
        return "".join(json.dumps(line) + "\n" for line in lines)

    def _note(self, results: Sequence[dict[str, Any]]) -> None:
        for number, line in enumerate(self._lines):
            mine = [each for each in results if each["custom_id"] == str(number)]
            if len(mine) != 1:
                line.reason = f"{len(mine)} results"
                continue
            response = mine[0]["response"] or {"request_id": "", "body": mine[0]}
            line.request = response["request_id"]
            self._note_answer(line, response["body"])

    def _note_answer(self, line: Heard, body: dict[str, Any]) -> None:
        if "choices" not in body:
            line.reason = LOST if is_lost(body) else f"an error: {body['error']}"
            line.lost = [line.request]
            return
        line.text = body["choices"][0]["message"]["content"]
        line.reason = body["choices"][0]["finish_reason"]
        line.usage = body["usage"]

    async def _ask(self, method: str, path: str, **sent: Any) -> bytes:
        headers = self._headers | (self._once if path == "/v1/batches" else {})
        url = self._url + path
        async with self._session.request(method, url, headers=headers, **sent) as response:
            await check(response)
            return await response.read()
