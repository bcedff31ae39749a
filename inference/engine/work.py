"""What goes into the engine: a prompt, how to sample from it, and when to give up."""

from dataclasses import dataclass

Prompt = tuple[int, ...]
"""Token ids."""


class ContextOverflow(Exception):
    """A prompt that leaves no room for a single new token; the message holds both numbers."""

    def __init__(self, prompt: int, limit: int) -> None:
        super().__init__(
            f"The prompt has {prompt} tokens; this model takes at most {limit} "
            f"tokens, prompt and answer together. Shorten the prompt."
        )
        self.prompt = prompt
        self.limit = limit


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. `temperature` 0 is greedy; `seed` fixes every draw by its position."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be 0 or more, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if "" in self.stop:
            raise ValueError("a stop string must not be empty")


@dataclass(frozen=True, slots=True)
class Work:
    """One request. `id` is unique among the works the engine holds at a time.

    `emitted` are the tokens an earlier attempt delivered: they are replayed, never sampled again,
    and the text they made is not delivered twice. A lower `priority` goes first; `deadline` is on
    the clock of `time.monotonic`.
    """

    id: str
    tenant: str
    prompt: Prompt
    sampling: Sampling
    emitted: tuple[int, ...] = ()
    priority: int = 1
    deadline: float | None = None
