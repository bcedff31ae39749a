"""What shadows answered, beside what was answered: recorded, compared, forgotten.

A row holds figures alone, so that it says nothing of anybody; see `inference.worker.shadows` for
how it comes about.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection

from inference.catalog.models import ShadowRun

COLUMNS = (
    "model", "shadow", "runs", "failed", "gave way", "equal", "alike", "tokens",
    "first token, ms", "all, ms",
)  # fmt: skip
"""What `Compared.cells` are."""
KEPT = timedelta(days=30)
_STATEMENT = """
SELECT model, model_version, shadow, shadow_version, count(*) AS runs,
    count(*) FILTER (WHERE state = 'answered') AS answered,
    count(*) FILTER (WHERE state = 'failed') AS failed,
    count(*) FILTER (WHERE state = 'gave way') AS gave_way,
    count(*) FILTER (WHERE answered AND same_tokens = greatest(tokens, shadow_tokens)) AS equal,
    avg(likeness) FILTER (WHERE answered),
    avg(tokens) FILTER (WHERE answered), avg(shadow_tokens) FILTER (WHERE answered),
    percentile_cont(0.5) WITHIN GROUP (ORDER BY first_ms) FILTER (WHERE answered),
    percentile_cont(0.5) WITHIN GROUP (ORDER BY shadow_first_ms) FILTER (WHERE answered),
    percentile_cont(0.5) WITHIN GROUP (ORDER BY total_ms) FILTER (WHERE answered),
    percentile_cont(0.5) WITHIN GROUP (ORDER BY shadow_total_ms) FILTER (WHERE answered)
FROM (SELECT *, state = 'answered' AS answered FROM catalog_shadowrun WHERE ran_at >= %s) AS run
GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4 LIMIT 100
"""


@dataclass(frozen=True, slots=True)
class Made:
    """An answer: its tokens, and ms until the first and until all were there, from when its engine
    had the request."""

    tokens: Sequence[int]
    first_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class Pair:
    """A model's version and its shadow's."""

    model: str
    model_version: str
    shadow: str
    shadow_version: str


@dataclass(frozen=True, slots=True)
class Compared:
    """What the runs of a pair come to. Of those answered: how many answers were equal to the last
    token, how alike they are, tokens on average, and the medians of their times in ms."""

    pair: Pair
    runs: int
    answered: int
    failed: int
    gave_way: int
    equal: int
    likeness: float | None
    tokens: float | None
    shadow_tokens: float | None
    first_ms: float | None
    shadow_first_ms: float | None
    total_ms: float | None
    shadow_total_ms: float | None

    @property
    def cells(self) -> tuple[str, ...]:
        """For people: see `COLUMNS`."""
        pair = self.pair
        return (
            f"{pair.model} {pair.model_version}",
            f"{pair.shadow} {pair.shadow_version}",
            *(f"{count:,}" for count in (self.runs, self.failed, self.gave_way, self.equal)),
            "" if self.likeness is None else f"{self.likeness:.1%}",
            _both(self.tokens, self.shadow_tokens),
            _both(self.first_ms, self.shadow_first_ms),
            _both(self.total_ms, self.shadow_total_ms),
        )


def record(
    pair: Pair,
    *,
    state: ShadowRun.State,
    prompt_tokens: int,
    original: Made,
    again: Made | None,
    now: datetime,
) -> None:
    """Keep the figures of a run; `again` is None where the shadow came to no answer."""
    run = ShadowRun(
        model=pair.model,
        model_version=pair.model_version,
        shadow=pair.shadow,
        shadow_version=pair.shadow_version,
        state=state,
        ran_at=now,
        prompt_tokens=prompt_tokens,
        tokens=len(original.tokens),
        first_ms=original.first_ms,
        total_ms=original.total_ms,
    )
    if again is not None:
        run.shadow_tokens = len(again.tokens)
        run.shadow_first_ms, run.shadow_total_ms = again.first_ms, again.total_ms
        run.same_tokens = _same(original.tokens, again.tokens)
        run.likeness = _likeness(original.tokens, again.tokens)
    run.save()


def compared(*, since: datetime) -> list[Compared]:
    """By pair, what ran since then."""
    with connection.cursor() as cursor:
        cursor.execute(_STATEMENT, [since])
        return [Compared(Pair(*row[:4]), *row[4:]) for row in cursor.fetchall()]


def purge(*, now: datetime) -> int:
    """Delete runs that are kept no more; how many."""
    return ShadowRun.objects.filter(ran_at__lt=now - KEPT).delete()[0]


def _both(one: float | None, other: float | None) -> str:
    return "" if one is None or other is None else f"{one:,.0f} → {other:,.0f}"


def _same(one: Sequence[int], other: Sequence[int]) -> int:
    """With how many equal tokens both begin."""
    for at, (mine, others) in enumerate(zip(one, other, strict=False)):
        if mine != others:
            return at
    return min(len(one), len(other))


def _likeness(one: Sequence[int], other: Sequence[int]) -> float:
    """Dice's coefficient of the tokens, each as often as it is there (Dice 1945)."""
    both = (Counter(one) & Counter(other)).total()
    return 2 * both / max(1, len(one) + len(other))
