"""The load: clients of some organizations, each one request after another.

The echo model answers with its prompt, so each client knows what it must have heard. Of another
model's answers it is known afterwards: they are asked for again, undisturbed.
"""

import asyncio
import random
from collections.abc import Sequence

import aiohttp

from config.drill.batches import BatchClient
from config.drill.client import Client
from config.drill.heard import EVERY, Habit, Heard, Wish

_READ_SECONDS, _LONG_SECONDS = 20, 180
"""How long a client waits for the next bytes: of the echo model, and of a real one."""
_LENGTH, _LEFT_LENGTH = (200, 1500), (1500, 6000)
"""Of an echoed answer, in tokens."""
_LEFT = frozenset({Habit.LEAVE, Habit.CANCEL, Habit.HANG_UP, Habit.BACKGROUND})
_TOPICS = ("a dragon", "the sea", "an old clock", "two brothers", "a lost key", "the first snow")


class Crowd:
    """Clients until told to stop, or until `most` requests were begun.

    `calm` says that nobody is killed meanwhile.
    """

    def __init__(
        self,
        url: str,
        keys: dict[str, str],
        *,
        seed: int,
        size: int,
        habits: Sequence[Habit] = EVERY,
        most: int | None = None,
        model: str = "echo",
        calm: bool = False,
    ) -> None:
        self.heard: list[Heard] = []
        self._url = url
        self._keys = keys
        self._random = random.Random(seed)  # noqa: S311  a drill that can be repeated
        self._clients = size
        self._habits = habits
        self._most = most
        self._model = model
        self._calm = calm
        self.over = False

    @property
    def is_through(self) -> bool:
        """Whether no more requests begin."""
        return self.over or (self._most is not None and len(self.heard) >= self._most)

    async def come_to_its_end(self, load: "asyncio.Task[None]", seconds: float) -> list[str]:
        """Wait for what was begun, so long; what went wrong with the load as a whole. What has not
        ended by then has no reason."""
        self.over = True
        done, _ = await asyncio.wait({load}, timeout=seconds)
        if not done:
            load.cancel()
            await asyncio.wait({load})
            return []
        error = load.exception()
        return [] if error is None else [f"the clients themselves broke: {error!r}"]

    async def run(self) -> None:
        """Until it is through, and every request begun has come to its end."""
        async with _session(self._model) as session:
            await asyncio.gather(*(self._client(session) for _ in range(self._clients)))

    async def again(self, some: Sequence[Heard]) -> list[str]:
        """The texts of these once more, from a platform that nobody disturbs."""
        async with _session(self._model) as session:
            gate = asyncio.Semaphore(self._clients)

            async def ask(one: Heard) -> str:
                async with gate:
                    fresh = Heard(Habit.STREAM, one.organization, one.wish)
                    key = self._keys[one.organization]
                    await Client(session, self._url, key, fresh, self._random).see_through()
                    return fresh.text

            return await asyncio.gather(*map(ask, some))

    async def _client(self, session: aiohttp.ClientSession) -> None:
        while not self.is_through:
            organization = self._random.choice(sorted(self._keys))
            habit = self._random.choice(self._habits)
            lines = self._random.randrange(2, 9) if habit is Habit.BATCH else 1
            heard = [Heard(habit, organization, self._wish(habit)) for _ in range(lines)]
            self.heard += heard
            key = self._keys[organization]
            if habit is Habit.BATCH:
                await BatchClient(session, self._url, key, heard).see_through()
            else:
                client = Client(session, self._url, key, heard[0], self._random, plain=self._calm)
                await client.see_through()

    def _wish(self, habit: Habit) -> Wish:
        return self._echoed(habit) if self._model == "echo" else self._story()

    def _echoed(self, habit: Habit) -> Wish:
        """Of a request that is left in the middle enough has to be left."""
        longest = _LEFT_LENGTH if habit in _LEFT else _LENGTH
        prompt = _words(self._random, self._random.randrange(*longest))
        most = longest[1] + _LENGTH[0]
        return Wish(prompt, prompt, {"model": self._model, "max_tokens": most, "temperature": 0})

    def _story(self) -> Wish:
        topic = self._random.choice(_TOPICS)
        sampling = {
            "model": self._model,
            "max_tokens": self._random.randrange(40, 200),
            "temperature": self._random.choice([0, 0.8, 1.0]),
            "top_p": 0.95,
            "seed": self._random.randrange(2**40),
        }
        prompt = f"Write a story, number {self._random.randrange(10**6)}, about {topic}."
        return Wish(prompt, None, sampling)


def _session(model: str) -> aiohttp.ClientSession:
    patience = _READ_SECONDS if model == "echo" else _LONG_SECONDS
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=patience)
    return aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))


def _words(chance: random.Random, length: int) -> str:
    """Text in which a gap or a repeat shows: no two places alike."""
    words: list[str] = []
    size = 0
    while size < length:
        words.append(f"{len(words)}:{chance.randrange(10**6)}")
        size += len(words[-1]) + 1
    return " ".join(words)
