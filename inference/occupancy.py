"""For how long workers hold the models that are dedicated to organizations.

A worker that has one loaded says so each second, and Redis adds the time since it last did to the
hour: so what is said twice adds nothing, a worker that dies held it until its last word, and no
clock but Redis's counts. What Redis loses is never charged.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from kit.redis import Lua, state

Held = tuple[int, str]
"""An organization and the name of the model that is its alone."""

_HOLD = Lua(Path(__file__).parent / "lua" / "hold.lua")
_SILENT_MS = 5_000
"""A worker that said nothing for so long held nothing meanwhile."""
_HOUR = timedelta(hours=1)
_BOOKABLE = 48
"""Hours that are looked at again, should nobody have booked them."""
_KEPT_SECONDS = 72 * 3600
_SETTLING = timedelta(seconds=10)
"""After the end of an hour the words still come that it began with."""


def hold(worker: str, models: Sequence[Held]) -> None:
    """The worker has these loaded, and has had since it last said so."""
    if models:
        fields = [f"{worker} {organization} {model}" for organization, model in models]
        _HOLD(
            ["held", *(f"held:last:{field}" for field in fields)],
            [_SILENT_MS, _KEPT_SECONDS, *fields],
        )


def held(hour: datetime) -> dict[Held, int]:
    """Whole seconds of an hour, by its beginning; of all workers together."""
    found = cast("dict[bytes, bytes]", state().hgetall(_key(hour)))
    sums: Counter[Held] = Counter()
    for field, ms in found.items():
        _, organization, model = field.decode().rsplit(" ", 2)
        sums[int(organization), model] += int(ms)
    return {who: ms // 1000 for who, ms in sums.items()}


def hours_over() -> list[datetime]:
    """The last hours that are over by Redis's clock and of which there are sums, in their order."""
    seconds, _ = state().time()
    settled = datetime.fromtimestamp(seconds, UTC) - _SETTLING
    current = settled.replace(minute=0, second=0, microsecond=0)
    hours = [current - count * _HOUR for count in range(_BOOKABLE, 0, -1)]
    with state().pipeline(transaction=False) as pipe:
        for hour in hours:
            pipe.exists(_key(hour))
        return [hour for hour, there in zip(hours, pipe.execute(), strict=True) if there]


def _key(hour: datetime) -> str:
    return f"held:{int(hour.timestamp()) // 3600}"
