"""What goes into the engine: a prompt, how to sample from it, and when to give up."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

Prompt = tuple[int, ...]
"""Token ids."""

MOST_ALTERNATIVES = 20
"""Alternatives that `Sampling.logprobs` may ask for, a token."""


class ContextOverflow(Exception):
    """A prompt that leaves no room for a single new token; the message holds both numbers."""

    def __init__(self, prompt: int, limit: int) -> None:
        super().__init__(
            f"The prompt has {prompt} tokens; this model takes at most {limit} "
            f"tokens, prompt and answer together. Shorten the prompt."
        )
        self.prompt = prompt
        self.limit = limit


class GrammarKind(StrEnum):
    """How a grammar is written."""

    json_schema = "json_schema"
    regex = "regex"
    choice = "choice"
    lark = "lark"


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must look like. `source` is a JSON Schema (as JSON), a regular expression, a
    JSON array of strings, or a Lark grammar as llguidance reads it."""

    kind: GrammarKind
    source: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. `temperature` 0 is greedy; `seed` fixes every draw by its position.

    In this order: penalties (`repetition_penalty` for tokens of prompt and answer, Keskar et al.
    2019; `frequency_penalty` a time and `presence_penalty` once for tokens of the answer, as
    OpenAI's), `logit_bias`, `grammar`, `temperature`, `min_p` (a share of the likeliest token's
    probability), `top_k` (0: all), `top_p`. `logprobs` asks for the model's own log-probabilities,
    before all of these: the token's and so many alternatives'; None asks for none.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        infinite = float("inf")
        for name, fits, wanted in (
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < infinite, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 to 1"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("repetition_penalty", 0 < self.repetition_penalty < infinite, "above 0"),
            ("logprobs", 0 <= (self.logprobs or 0) <= MOST_ALTERNATIVES, "from 0 to 20"),
        ):
            if not fits:
                raise ValueError(f"{name} must be {wanted}, not {getattr(self, name)}")
        if "" in self.stop:
            raise ValueError("a stop string must not be empty")

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> "Sampling":
        """From what JSON made of `dataclasses.asdict`; fields this version lacks are dropped."""
        known = {field.name: stored[field.name] for field in fields(cls) if field.name in stored}
        for name in ("stop", "stop_token_ids"):
            known[name] = tuple(known.get(name, ()))
        known["logit_bias"] = tuple((token, bias) for token, bias in known.get("logit_bias", ()))
        if grammar := known.get("grammar"):
            known["grammar"] = Grammar(GrammarKind(grammar["kind"]), grammar["source"])
        return cls(**known)


@dataclass(frozen=True, slots=True)
class Work:
    """One request. `id` is unique among the works the engine holds at a time.

    `emitted` are the tokens an earlier attempt delivered: they are replayed, never sampled again,
    and the text they made is not delivered twice. A lower `priority` goes first; `deadline` is on
    the clock of `time.monotonic`. Works of one `group` are several answers to the same prompt,
    which is then read once. `adapter` names one of the runner's, if it has any.
    """

    id: str
    tenant: str
    prompt: Prompt
    sampling: Sampling
    emitted: tuple[int, ...] = ()
    priority: int = 1
    deadline: float | None = None
    group: str = ""
    adapter: str = ""

    @property
    def salt(self) -> str:
        """Whose cache it may begin with: its organization's, of the same weights."""
        return f"{self.tenant}\0{self.adapter}" if self.adapter else self.tenant
