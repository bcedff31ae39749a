"""Answers in the cache Redis, as `inference.worker.replays` seals them: each organization's within
a share of its own, so that nobody's answers push out anybody else's.

An answer is an entry, `<model>:<mark of what was asked>`. Where its organization wants it found by
what means the same, the vector of what was asked lies beside it, sealed as it is, for as long, and
in the same share; a meeting is the mark of all that two such questions must have in common, and
knows the entries. Workers have answers in their memory too:
what is forgotten here is told to them by a stream in the state Redis. Everything here raises
RedisError; the cache may forget at any time what it was given.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from django.conf import settings

from kit.redis import cached, state

_LUA = Path(__file__).parent / "lua"
_TOLD, _MOST_TOLD = "answers:forgotten", 20_000
"""The stream, and how much of it is kept: a worker that is further behind forgets everything."""
_AT_ONCE = 500
_MOST_MET = 64
"""Questions of one meeting that are compared; of more those go whose time ends first."""
_LATE_SECONDS = 2 * 86_400
"""For so long an answer may be made that was asked for before all were forgotten."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """An organization's answers whose entries begin so: "" are all."""

    organization: int
    beginning: str


@dataclass(frozen=True, slots=True)
class Meant:
    """A question among those that may mean the same: where they meet, and its sealed vector."""

    meeting: str
    vector: bytes


def fetch(organization: int, entry: str) -> tuple[bytes, int] | None:
    """The sealed answer, and for how many seconds it will be there; None where there is none."""
    name = _before(organization) + entry
    with cached().pipeline(transaction=False) as pipe:
        pipe.get(name)
        pipe.ttl(name)
        sealed, left = pipe.execute()
    return (sealed, left) if sealed is not None and left > 0 else None


def near(organization: int, meeting: str) -> list[tuple[str, bytes]]:
    """The entries and sealed vectors of the questions that meet there."""
    found = _script("answer_near")(
        [_met(organization, meeting)], [_vectors(organization)], client=cached()
    )
    return [(entry.decode(), vector) for entry, vector in zip(found[::2], found[1::2], strict=True)]


def put(
    organization: int,
    entry: str,
    sealed: bytes,
    *,
    seconds: int,
    epoch: int = 0,
    meant: Meant | None = None,
) -> bool:
    """Keep it for so long, in the place of the organization's own whose time ends first; False
    where it is larger than the whole share (`settings.ANSWERS_MEMORY`), or was asked for in an
    `epoch` all answers of which were forgotten."""
    before, vectors = _before(organization), _vectors(organization)
    vector, meeting = (meant.vector, meant.meeting) if meant is not None else (b"", entry)
    arguments = [
        *(entry, sealed, seconds, settings.ANSWERS_MEMORY, before, epoch),
        *(vectors, vector, _MOST_MET),
    ]
    names = [before + entry, *_indices(organization), _epoch(organization)]
    names += [vectors + entry, _met(organization, meeting)]
    return bool(_script("answer_put")(names, arguments, client=cached()))


def prolong(organization: int, entry: str, *, seconds: int, meeting: str = "") -> bool:
    """Keep it for at least so long from now; False where it is gone."""
    names = [_before(organization) + entry, _vectors(organization) + entry]
    names += [*_indices(organization), _met(organization, meeting) if meeting else ""]
    return bool(_script("answer_prolong")(names, [entry, seconds], client=cached()))


def forget(organization: int, beginning: str = "", *, epoch: int | None = None) -> int:
    """Take away all answers whose entries begin so, everywhere; how many Redis had. `epoch`: and
    take none that was asked for before it."""
    if epoch is not None:
        cached().set(_epoch(organization), epoch, ex=_LATE_SECONDS)
    index, sizes = _indices(organization)
    script, gone = _script("answer_forget"), 0
    found = _entries(index, beginning)
    while some := list(islice(found, _AT_ONCE)):
        arguments = [_before(organization), _vectors(organization), *some]
        gone += script([index, sizes], arguments, client=cached())
    tell(Forgotten(organization, beginning))
    return gone


def tell(forgotten: Forgotten) -> None:
    """Have every worker forget what it has of it, within a second."""
    told: dict[Any, Any] = {"of": forgotten.organization, "beginning": forgotten.beginning}
    with state().pipeline(transaction=False) as pipe:
        pipe.xadd(_TOLD, told, maxlen=_MOST_TOLD)
        pipe.publish("workers", "forget")
        pipe.execute()


def last_told() -> str:
    """Where what was told ends now."""
    found: Any = state().xrevrange(_TOLD, count=1)
    return found[0][0].decode() if found else "0-0"


def told(after: str) -> tuple[Sequence[Forgotten], str]:
    """What was told since, and where that ends."""
    found: Any = state().xrange(_TOLD, min=f"({after}")
    some = [Forgotten(int(each[b"of"]), each[b"beginning"].decode()) for _, each in found]
    return some, found[-1][0].decode() if found else after


def _entries(index: str, beginning: str) -> Iterator[str]:
    """Of an index; one that is named whole is taken for there: Redis may have evicted the index."""
    model, _, mark = beginning.partition(":")
    if mark:
        return iter((beginning,))
    pattern = f"{model}:*" if model else "*"
    found = cached().zscan_iter(index, match=pattern, count=_AT_ONCE)
    return (entry.decode() for entry, _ in found)


def _before(organization: int) -> str:
    return f"answer:{organization}:"


def _vectors(organization: int) -> str:
    return f"asked:{organization}:"


def _met(organization: int, meeting: str) -> str:
    return f"meeting:{organization}:{meeting}"


def _indices(organization: int) -> list[str]:
    return [f"answers:{organization}", f"answers:{organization}:sizes"]


def _epoch(organization: int) -> str:
    return f"answers:{organization}:epoch"


@cache
def _script(name: str) -> Any:
    return cached().register_script((_LUA / f"{name}.lua").read_text())
