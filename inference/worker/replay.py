"""An answer as it is kept, to be given again: whole, or in the pieces in which it was made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from inference.engine import Delta, FinishReason, Logprob, Outcome
from inference.job import Job

_EXACT = "exact"
SEMANTIC = "semantic"
_MOST_CUTS = 2_048
"""Pieces that are remembered; an answer that was made in more is given in one."""


@dataclass(frozen=True, slots=True)
class Replay:
    """An answer as it was made: the deltas of each of its works, joined; and where they were cut:
    after how many tokens and characters more, each time."""

    entry: str
    made: float
    deltas: tuple[Delta, ...]
    cuts: tuple[Sequence[Sequence[int]], ...] = ()

    def of(self, works: Sequence[str], *, natural: bool = False) -> list[Delta]:
        """As the answer of these works; `natural`: in the pieces in which it was made."""
        whole = [replace(each, id=work) for work, each in zip(works, self.deltas, strict=True)]
        if not natural:
            return whole
        pieces = (cut(each, at) for each, at in zip(whole, self.cuts, strict=False))
        return [piece for each in pieces for piece in each] or whole

    def to_another(self, job: Job) -> "Replay":
        """As the answer to a question that means the same: its own prompt is what was read."""
        deltas = (
            replace(each, outcome=replace(each.outcome, cache=SEMANTIC, prompt_tokens=tokens))
            for each, tokens in ((each, _read(job, each)) for each in self.deltas)
            if each.outcome is not None
        )
        return replace(self, deltas=tuple(deltas))

    @classmethod
    def load(cls, entry: str, found: Mapping[str, Any]) -> "Replay":
        """From what JSON made of `dumped` works and of when they were made."""
        works = found["works"]
        cuts = tuple(each.get("cuts", ()) for each in works)
        return cls(entry, found["made"], tuple(map(_loaded, works)), cuts)


def joined(deltas: Sequence[Delta]) -> Delta:
    """A work's deltas, from its first to its last, in one."""
    return Delta(
        deltas[0].id,
        deltas[0].position,
        tuple(token for each in deltas for token in each.tokens),
        "".join(each.text for each in deltas),
        deltas[-1].outcome,
        tuple(logprob for each in deltas for logprob in each.logprobs),
    )


def cut(delta: Delta, cuts: Sequence[Sequence[int]]) -> list[Delta]:
    """A whole answer in pieces, the last with its end."""
    pieces, token, character = [], 0, 0
    for tokens, characters in cuts:
        pieces.append(
            Delta(
                delta.id,
                delta.position + token,
                delta.tokens[token : token + tokens],
                delta.text[character : character + characters],
                None,
                delta.logprobs[token : token + tokens],
            )
        )
        token, character = token + tokens, character + characters
    if pieces:
        pieces[-1] = replace(pieces[-1], outcome=delta.outcome)
    return pieces or [delta]


def _cuts(deltas: Sequence[Delta]) -> list[tuple[int, int]]:
    """Where an answer's deltas end; none where they are very many. Each has tokens, but for an end
    that comes alone: it goes with what was before it."""
    found: list[tuple[int, int]] = []
    for each in deltas:
        if not each.tokens and found:
            tokens, characters = found.pop()
            found.append((tokens, characters + len(each.text)))
        else:
            found.append((len(each.tokens), len(each.text)))
    return found if len(found) <= _MOST_CUTS else []


def _read(job: Job, delta: Delta) -> int:
    """The tokens of a question to which another's answer is given; a remote model's are unknown."""
    found = delta.outcome.prompt_tokens if delta.outcome else 0
    return len(job.prompt) or min(found, job.prompt_tokens)


def dumped(deltas: Sequence[Delta]) -> dict[str, Any]:
    """A work's deltas, the end included, as they are kept."""
    delta, outcome = joined(deltas), deltas[-1].outcome
    return {
        "cuts": _cuts(deltas),
        "tokens": delta.tokens,
        "text": delta.text,
        "logprobs": [(each.logprob, each.top) for each in delta.logprobs],
        "reason": outcome.reason.value if outcome else FinishReason.stop.value,
        "prompt_tokens": outcome.prompt_tokens if outcome else 0,
        "completion_tokens": outcome.completion_tokens if outcome else len(delta.tokens),
        "reasoning_tokens": outcome.reasoning_tokens if outcome else 0,
    }


def _loaded(found: dict[str, Any]) -> Delta:
    logprobs = tuple(
        Logprob(logprob, tuple((token, each) for token, each in top))
        for logprob, top in found["logprobs"]
    )
    outcome = Outcome(
        reason=FinishReason(found["reason"]),
        prompt_tokens=found["prompt_tokens"],
        cached_tokens=0,
        completion_tokens=found["completion_tokens"],
        cache=_EXACT,
        reasoning_tokens=found["reasoning_tokens"],
    )
    return Delta("", 0, tuple(found["tokens"]), found["text"], outcome, logprobs)
