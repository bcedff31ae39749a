"""A client's way in: what it sends, and each answer searched as it comes."""

import asyncio
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import aiohttp

from benchmarks.canaries.answers import UNDECIDED, Unanswered, code
from benchmarks.canaries.findings import Kind, Where

if TYPE_CHECKING:
    from benchmarks.canaries.drill import Drill
    from benchmarks.canaries.platform import Tenant

_TRIES = 6
_LONGEST_WAIT = 5.0


class Way:
    """Of one client of one organization."""

    def __init__(self, drill: "Drill", tenant: "Tenant", chance: random.Random) -> None:
        self.drill = drill
        self.tenant = tenant
        self.chance = chance

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        what: str,
    ) -> str:
        """What was said to what is one's own. Raises `Unanswered` for a refusal."""
        at, text, _ = await self._send(method, path, body, headers, what)
        if at.status >= 400:
            raise Unanswered(f"{at.status} {code(text)}")
        return text

    async def person(self, path: str, *, what: str, must: bool) -> None:
        """What an owner reads of their own organization."""
        headers = self._person(self.tenant.slug)
        at, text, _ = await self._send("GET", path, None, headers, what)
        if at.status == 401:
            await self.drill.log_in(self.tenant)
        if at.status >= 400:
            raise Unanswered(f"{at.status} {code(text)}")
        self.look(at, text, must=must)

    async def reach(
        self, method: str, path: str, other: "Tenant", body: Any = None, *, as_person: bool = False
    ) -> None:
        """For a thing of another's: to be told that there is none, or to have no place there."""
        expected = 403 if as_person else 404
        for _ in range(_TRIES):
            headers = self._person(other.slug) if as_person else None
            at, text, wait = await self._send(method, path, body, headers, "reached for")
            if at.status == 401 and as_person:
                await self.drill.log_in(self.tenant)
            elif at.status not in UNDECIDED:
                break
            await asyncio.sleep(min(wait, _LONGEST_WAIT))
        else:
            self.drill.found.reached["undecided"] += 1
            return
        self.drill.found.reached["decided"] += 1
        if at.status != expected:
            kind = Kind.LEAK if at.status < 300 else Kind.UNEXPECTED
            self.drill.found.add(kind, at, text[:400], other.slug)

    def look(self, at: Where, text: str, *, must: bool = False) -> None:
        """No canary but one's own."""
        self.drill.found.look(at, text, self.tenant.canary, must=must)

    def at(self, what: str) -> Where:
        """A place of this organization's."""
        return Where(self.tenant.slug, what)

    def headers(self) -> dict[str, str]:
        """Of a key's requests; its label is the canary."""
        return {
            "Authorization": f"Bearer {self.tenant.key}",
            "X-Request-ID": self.tenant.canary,
        }

    def _person(self, slug: str) -> dict[str, str]:
        token = self.drill.tokens[self.tenant.slug]
        return {"Authorization": f"Bearer {token}", "X-Organization": slug}

    async def _send(
        self, method: str, path: str, body: Any, headers: Mapping[str, str] | None, what: str
    ) -> tuple[Where, str, float]:
        """Where it was, what was said, and the seconds after which to try again."""
        sent = {**self.headers(), **(headers or {})}
        content = {"data": body} if isinstance(body, aiohttp.FormData) else {"json": body}
        url = self.drill.url + path
        async with self.drill.session.request(method, url, headers=sent, **content) as response:
            text = await response.text()
            request = response.headers.get("X-Request-ID", "")
            at = Where(self.tenant.slug, what, method, path, response.status, request)
            self.look(at, f"{response.headers}\n{text}")
            wait = response.headers.get("Retry-After", "1")
            return at, text, float(wait) if wait.isdigit() else 1.0
