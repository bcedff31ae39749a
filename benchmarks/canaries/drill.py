"""All clients, on one session of pooled connections, watched to their end."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import aiohttp
from rich.console import Console
from rich.progress import Progress

from benchmarks.canaries.client import Client
from benchmarks.canaries.findings import Findings, Kind, Where
from benchmarks.canaries.platform import PASSWORD, Tenant

_TO_THE_END = 300.0
"""Seconds in which what was begun comes to its end."""


class Drill:
    """What its clients share: names of what is whose, and what was found."""

    def __init__(self, url: str, tenants: Sequence[Tenant], *, pause: float) -> None:
        self.url = url
        self.tenants = tenants
        self.tokens: dict[str, str] = {}
        self.requests: dict[str, list[str]] = {each.slug: [] for each in tenants}
        self.things: dict[str, list[str]] = {each.slug: [] for each in tenants}
        self.sent: Counter[tuple[str, int]] = Counter()
        """How often an organization has sent a prompt that all send alike."""
        self.found = Findings({each.canary: each.slug for each in tenants})
        self._pause = pause
        self._over = asyncio.Event()

    async def run(
        self,
        *,
        clients: int,
        seconds: float,
        midway: Callable[[], Iterable[str]],
        console: Console,
    ) -> None:
        """So many of each organization, for so long; what was begun comes to its end. `midway` is
        called once in a thread: what it found is taken, as JSON lines."""
        timeout = aiohttp.ClientTimeout(total=120)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as self.session:
            for each in self.tenants:
                await self.log_in(each)
            some = [Client(self, each, n) for each in self.tenants for n in range(clients)]
            work = {asyncio.create_task(each.run()): each for each in some}
            looking: asyncio.Task[Iterable[str]] | None = None
            began = time.monotonic()
            with Progress(console=console) as bar:
                task = bar.add_task("Load", total=seconds)
                while (passed := time.monotonic() - began) < seconds:
                    told = f"{self.found.answers.total()} answers, {len(self.found.wrong)} wrong"
                    bar.update(task, completed=passed, description=told)
                    if looking is None and passed > seconds / 2:
                        looking = asyncio.create_task(asyncio.to_thread(midway))
                    await asyncio.sleep(0.5)
            self._over.set()
            await self.ended(work)
            self.found.take(await looking if looking else ())

    async def ended(
        self, work: dict["asyncio.Task[None]", Client], *, within: float = _TO_THE_END
    ) -> None:
        """Wait for all clients; those that broke, or are still at something, are told of."""
        _, pending = await asyncio.wait(work, timeout=within)
        for task, client in work.items():
            if task in pending:
                task.cancel()
                at = Where("", client.doing)
                self.found.add(Kind.DEAD, at, f"did not come to its end within {within:.0f} s")
            elif error := task.exception():
                self.found.add(Kind.DEAD, Where("", client.doing), repr(error))
        await asyncio.gather(*work, return_exceptions=True)

    async def pause(self, chance: random.Random) -> bool:
        """Between two acts of a client; whether it is over."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), chance.uniform(0, 2 * self._pause))
        return self._over.is_set()

    async def log_in(self, tenant: Tenant) -> None:
        """Its owner, anew: an access token lives ten minutes."""
        body = {"email": f"{tenant.canary}@example.com", "password": PASSWORD}
        async with self.session.post(f"{self.url}/api/v1/auth/token", json=body) as response:
            if response.status == 200:
                self.tokens[tenant.slug] = str((await response.json())["access"])
            elif tenant.slug not in self.tokens:
                raise RuntimeError(f"no log-in: {response.status} {await response.text()}")
