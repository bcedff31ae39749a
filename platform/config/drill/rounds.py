"""The drill itself: for each seed a round of load and kills on one platform, then the verdict."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psycopg
import redis
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from config.drill.heard import EVERY, Habit, Heard
from config.drill.kills import Kill, Killer
from config.drill.leftovers import Resources, resources
from config.drill.load import Crowd
from config.drill.verdict import Verdict, judge, resumed
from config.stack.apart import Stack

ECHO = "echo"
_ORGANIZATIONS = ("drill-a", "drill-b", "drill-c")
_SCHEMAS = [f"org_{slug.replace('-', '_')}" for slug in _ORGANIZATIONS]
_LIMIT = "UPDATE tenants_organization SET concurrent_requests = %s WHERE slug LIKE 'drill-%%'"
_WARMING_SECONDS = 4.0
_END_SECONDS = 300.0
_SETTLE_SECONDS = 60.0
_SAME_SHARE = 0.99
"""Of resumed answers that equal the undisturbed ones, at least."""


class PlatformEnded(Exception):
    """Nothing to drill any more."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done, in a round for each seed."""

    seeds: Sequence[int]
    victims: Mapping[str, int | None]
    hows: Sequence[str]
    seconds: float
    most_kills: int | None
    every: float
    clients: int
    disconnects: int | None
    model: str

    @property
    def is_echo(self) -> bool:
        """Whether it is known beforehand what is answered."""
        return self.model == ECHO

    @property
    def said(self) -> str:
        """The seeds, as the command takes them."""
        return " ".join(map(str, self.seeds))

    @property
    def total(self) -> int:
        """Disconnects or kills of a round, where they are counted."""
        return self.disconnects or sum(filter(None, self.victims.values()))


class Drill:
    """One platform under load."""

    def __init__(self, stack: Stack, plan: Plan, console: Console) -> None:
        self._stack = stack
        self._plan = plan
        self._console = console
        self._heard: list[Heard] = []
        self._kills: list[Kill] = []
        self._troubles: list[str] = []
        self._before: Resources = {}

    @property
    def kills(self) -> dict[str, int]:
        """What was done, by victim and how."""
        done = Counter(f"{kill.victim} {kill.how}" for kill in self._kills)
        return dict(sorted(done.items()))

    async def run(self) -> Verdict:
        """All rounds; raises `PlatformEnded`."""
        keys = await asyncio.to_thread(self._make_organizations)
        for seed in self._plan.seeds:
            crowd = self._crowd(keys, seed)
            await self._round(crowd, seed)
        verdict = await asyncio.to_thread(self._judge_when_settled)
        if not self._plan.is_echo:
            await self._compare_resumed(crowd, verdict)
        return verdict

    def _make_organizations(self) -> dict[str, str]:
        """Keys by organization. Each has a limit, which is not often met, so that its requests are
        counted while they run."""
        with ThreadPoolExecutor() as threads:
            made = threads.map(self._stack.organization, _ORGANIZATIONS)
        keys = dict(zip(_ORGANIZATIONS, made, strict=True))
        most = max(2, self._plan.clients)
        self._stack.execute(_LIMIT, most)
        return keys

    def _crowd(self, keys: dict[str, str], seed: int) -> Crowd:
        leaving = self._plan.disconnects
        return Crowd(
            self._stack.url,
            keys,
            seed=seed,
            size=self._plan.clients,
            habits=[Habit.LEAVE] if leaving else EVERY,
            most=leaving,
            model=self._plan.model,
            calm=bool(leaving),
        )

    async def _round(self, crowd: Crowd, seed: int) -> None:
        killer = Killer(self._stack, self._plan.victims, hows=self._plan.hows, seed=seed)
        load = asyncio.create_task(crowd.run())
        if not self._before:
            await asyncio.sleep(_WARMING_SECONDS)
            self._before = await asyncio.to_thread(self._resources)
        try:
            await self._watch(crowd, killer, load)
            self._console.print("No more kills; what was begun comes to its end …")
        finally:
            self._troubles += await crowd.come_to_its_end(load, _END_SECONDS)
        self._heard += crowd.heard
        self._kills += killer.done

    def _resources(self) -> Resources:
        with redis.Redis.from_url(self._stack.redis_url) as state:
            return resources(state, self._stack)

    async def _watch(self, crowd: Crowd, killer: Killer, load: asyncio.Task[None]) -> None:
        """Kill until the time is over, or all that was told is done."""
        plan = self._plan
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console) as bar:
            task = bar.add_task("Load", total=plan.total or plan.seconds)
            started = time.monotonic()
            while (passed := time.monotonic() - started) < plan.seconds and not load.done():
                if self._stack.process.poll() is not None:
                    raise PlatformEnded(
                        f"The platform ended; see {self._stack.var / 'output.log'}."
                    )
                kills, begun = len(killer.done), len(crowd.heard)
                done = (begun if plan.disconnects else kills) if plan.total else passed
                bar.update(task, completed=done, description=f"{begun} requests, {kills} kills")
                if plan.disconnects:
                    await asyncio.sleep(1)
                    continue
                if killer.is_through or kills == plan.most_kills:
                    return
                await killer.pause(plan.every)
                await killer.kill()

    def _judge_when_settled(self) -> Verdict:
        """The last process killed must be up again, and what it left behind taken up."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while True:
            try:
                verdict = judge(self._stack, self._heard, _SCHEMAS, self._kills, self._before)
            except (psycopg.OperationalError, redis.RedisError) as error:
                verdict = Verdict(differences=[f"a server does not answer: {error}"])
            verdict.differences += self._troubles
            if not verdict.differences or time.monotonic() > deadline:
                return verdict
            time.sleep(1)

    async def _compare_resumed(self, crowd: Crowd, verdict: Verdict) -> None:
        """A real model's answers that went from worker to worker, beside the undisturbed ones."""
        some = await asyncio.to_thread(resumed, self._stack, self._heard, _SCHEMAS)
        self._console.print(f"Asking again for {len(some)} answers that were resumed …")
        texts = await crowd.again(some)
        verdict.same = sum(one.text == text for one, text in zip(some, texts, strict=True))
        if verdict.same < _SAME_SHARE * len(some):
            verdict.differences.append(
                f"{len(some) - verdict.same} of {len(some)} resumed answers differ from the "
                "undisturbed"
            )
