"""All that is known of a request when it is let in: what running and booking it need."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any
from uuid import UUID

import orjson

from inference.engine import Sampling
from kit.envelope import Place, Ring, sealed_under
from tenants.models import Retention

_ASKED = frozenset({"prompt", "lengths", "messages", "sampling", "meant", "sealed"})


class Reuse(StrEnum):
    """What a request says of the cache of answers."""

    OFF = "off"
    EXACT = "exact"
    REFRESH = "refresh"
    """Not to be found there, but to be kept."""
    SEMANTIC = "semantic"
    """Also that of a question which says the same in other words."""


@dataclass(frozen=True, slots=True)
class Job:
    """All that a worker needs to run a request and to book it.

    A remote model's has `messages` and how many `prompt_tokens` they may be, instead of a prompt;
    of others `messages` are kept only for the history, where the organization wants texts in it.
    """

    id: UUID
    organization: int
    schema: str
    key: str
    model: str
    model_version: str
    priority: int
    prompt: tuple[int, ...]
    sampling: Sampling
    price_version: int
    endpoint: str
    label: str
    region: str
    lengths: tuple[int, ...] = ()
    """Of the texts in the prompt, where it is several to be embedded."""
    messages: tuple[Mapping[str, Any], ...] = ()
    prompt_tokens: int = 0
    n: int = 1
    """How many answers."""
    counted: tuple[str, ...] = ()
    """The scopes whose limits it counts in; see `tenants.limits`."""
    retention: str = Retention.ANSWERS
    sealed: bytes = b""
    """What was asked, as Redis has it: see `unsealed`."""
    project: str = ""
    """What its caller books it to; budgets may count it."""
    timeout: float = 0.0
    """Seconds from when it got in line after which it ends where it is; 0: never."""
    caching: str = ""
    """How its answer may be found and kept: see `inference.worker.replays`."""
    cache_seconds: int = 0
    cache_epoch: int = 0
    cache_adaptive: bool = False
    cache_natural: bool = False
    """Whether what the cache has is given as it was made: piece by piece."""
    meant: str = ""
    """What was asked last, where an answer to the same in other words may be given."""
    likeness: float = 1.0
    """How alike two such are at least."""
    reads: str = "input_tokens"
    writes: str = "output_tokens"
    """The meters of its prompt and of its answers; "" where there are none."""

    @property
    def input_tokens(self) -> int:
        """How many tokens its prompt has; the most it may have where they are not known."""
        return len(self.prompt) or self.prompt_tokens

    @property
    def output_tokens(self) -> int:
        """The most tokens its answers can have."""
        return self.n * self.sampling.max_tokens if self.writes else 0

    def units(self, *, read: int, written: int) -> dict[str, int]:
        """Tokens by meter."""
        return {self.reads: read} | ({self.writes: written} if self.writes else {})

    @property
    def cost(self) -> int:
        """The most tokens it can take."""
        return self.input_tokens + self.output_tokens

    def dump(self) -> bytes:
        """As stored in Redis, in the clear: all but what was asked."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        known = {name: fields[name] for name in fields if name not in _ASKED}
        return orjson.dumps(known | {"prompt_tokens": self.input_tokens})

    def seal(self, ring: Ring) -> bytes:
        """What was asked, as stored in Redis: under the organization's data key."""
        asked = {name: getattr(self, name) for name in _ASKED - {"sealed"}}
        return ring.seal(orjson.dumps(asked), self._place)

    def seal_messages(self, ring: Ring) -> bytes:
        """The messages as the history keeps them."""
        return ring.seal(orjson.dumps(self.messages), asked_place(self.organization, self.id))

    def unsealed(self, ring: Ring) -> "Job":
        """With what was asked. Raises `kit.envelope.Unreadable`."""
        if not self.sealed:
            return self
        return replace(self, **_asked(orjson.loads(ring.unseal(self.sealed, self._place))))

    @property
    def sealed_under(self) -> int:
        """The version of the data key that opening it needs."""
        return sealed_under(self.sealed) if self.sealed else 0

    @property
    def _place(self) -> Place:
        return Place(self.organization, "job", str(self.id))

    @classmethod
    def load(cls, stored: bytes, sealed: bytes = b"") -> "Job":
        """From Redis; fields that this version does not know are dropped.

        It knows what was asked once it is `unsealed`; to book it that is not needed.
        """
        found = orjson.loads(stored)
        data: dict[str, Any] = {
            name: found[name] for name in cls.__dataclass_fields__ if name in found
        }
        before = (f"organization:{data['organization']}", f"key:{data['key']}")
        data["counted"] = tuple(data.get("counted", before))
        return cls(**{**data, "id": UUID(data["id"]), **_asked(found), "sealed": sealed})


def asked_place(organization: int, request: UUID) -> Place:
    """Where the messages of a request belong in the history."""
    return Place(organization, "history.asked", str(request))


def _asked(data: Mapping[str, Any]) -> dict[str, Any]:
    """Prompt, messages and sampling, as far as they are there."""
    return {
        "prompt": tuple(data.get("prompt", ())),
        "lengths": tuple(data.get("lengths", ())),
        "messages": tuple(data.get("messages", ())),
        "meant": data.get("meant", ""),
        "sampling": Sampling.load(data.get("sampling", {"max_tokens": 1})),
        "sealed": b"",
    }
