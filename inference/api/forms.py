"""Bodies that the endpoints accept: strict types, no unknown field, the documentation's source."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from inference.api.parameters import Ours
from inference.catalog.offers import Offer
from inference.engine import Grammar, GrammarKind, Sampling
from inference.jobs import MOST_CHOICES
from kit.errors import Invalid

MOST_STOPS = 4
_LONGEST_STOP = 256
_MOST_BIASES = 300


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an answer must look like, and the field that says so."""

    grammar: Grammar
    param: str


class Form(BaseModel):
    """Nothing is coerced, nothing unknown is let through."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, protected_namespaces=())


StopText = Annotated[str, Field(min_length=1, max_length=_LONGEST_STOP)]
ChoiceText = Annotated[str, Field(min_length=1, max_length=4096)]
TokenText = Annotated[str, Field(pattern=r"^[0-9]{1,7}$")]
Token = Annotated[int, Field(ge=0, lt=2**31)]
Bias = Annotated[float, Field(ge=-100, le=100)]


def json_grammar(schema: Any) -> Grammar:
    """Answers that this JSON Schema describes."""
    return Grammar(GrammarKind.json_schema, orjson.dumps(schema).decode())


class StructuredOutputs(Form):
    """vLLM's: exactly one of a JSON Schema, a regular expression, a list of answers."""

    json_schema: dict[str, Any] | bool | None = Field(None, alias="json")
    regex: str | None = Field(None, min_length=1)
    choice: list[ChoiceText] | None = Field(None, min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(value is not None for value in (self.json_schema, self.regex, self.choice)) != 1:
            raise ValueError("give exactly one of json, regex and choice")
        return self

    @property
    def wanted(self) -> Wanted:
        """As the engine takes it, and which field says so."""
        if self.regex is not None:
            return Wanted(Grammar(GrammarKind.regex, self.regex), "structured_outputs.regex")
        if self.choice is not None:
            source = orjson.dumps(self.choice).decode()
            return Wanted(Grammar(GrammarKind.choice, source), "structured_outputs.choice")
        return Wanted(json_grammar(self.json_schema), "structured_outputs.json")


class SamplingForm(Form):
    """How an answer is sampled; what is left out takes the model's defaults."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: Annotated[int | None, Ours("vLLM's: the likeliest so many; 0 and -1 mean all")] = Field(
        None, ge=-1, le=1_000_000
    )
    min_p: Annotated[float | None, Ours("vLLM's: at least this share of the likeliest's")] = Field(
        None, ge=0, le=1
    )
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: Annotated[
        float | None, Ours("vLLM's: over prompt and answer; 1 does nothing")
    ] = Field(None, ge=0.01, le=2)
    logit_bias: dict[TokenText, Bias] | None = Field(None, max_length=_MOST_BIASES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: StopText | list[StopText] | None = None
    stop_token_ids: Annotated[list[Token] | None, Ours("vLLM's: tokens that end the answer")] = (
        Field(None, max_length=64)
    )
    structured_outputs: Annotated[
        StructuredOutputs | None, Ours("vLLM's: one of json, regex and choice")
    ] = None

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, value: Any) -> Any:
        if isinstance(value, list) and len(value) > MOST_STOPS:
            raise ValueError(f"at most {MOST_STOPS} stop strings")
        return value

    @property
    def wanted(self) -> Wanted | None:
        """What the answer must look like."""
        return None if self.structured_outputs is None else self.structured_outputs.wanted

    def sampling(
        self, offer: Offer, *, max_tokens: int, wanted: Wanted | None, logprobs: int | None = None
    ) -> Sampling:
        """What the engine needs; a random seed where none is given. Raises `Invalid`."""
        stop: Sequence[str] = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            max_tokens=max_tokens,
            temperature=offer.default_temperature if self.temperature is None else self.temperature,
            top_p=offer.default_top_p if self.top_p is None else self.top_p,
            seed=secrets.randbits(63) if self.seed is None else self.seed,
            stop=tuple(stop),
            top_k=max(self.top_k or 0, 0),
            min_p=self.min_p or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            logit_bias=tuple(
                (known_token(offer, int(token), "logit_bias"), bias)
                for token, bias in (self.logit_bias or {}).items()
            ),
            stop_token_ids=tuple(
                known_token(offer, token, "stop_token_ids") for token in self.stop_token_ids or ()
            ),
            logprobs=logprobs,
            grammar=None if wanted is None else wanted.grammar,
        )


def known_token(offer: Offer, token: int, param: str) -> int:
    """The same; raises `Invalid` for one that the model does not have."""
    known = len(offer.text.pieces)
    if known and token >= known:
        raise Invalid(f"{param}: {offer.name} has no token {token}.", param=param)
    return token


class InferForm(SamplingForm):
    """POST /api/v1/infer/stream, and what a socket's `infer` holds."""

    prompt: str
    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    n: int = Field(1, ge=1, le=MOST_CHOICES, description="How many answers.")
    priority: Literal["high", "normal", "low"] | None = Field(
        None, description="In line; no more urgent than the organization's own."
    )
    timeout: float | None = Field(
        None,
        gt=0,
        le=3600,
        description="Seconds from now, waiting in line included, after which the answer ends "
        "where it is, with the finish reason `timeout`.",
    )


class WholeInferForm(InferForm):
    """POST /api/v1/infer."""

    background: bool = Field(
        default=False, description="Answer 202 at once; GET /api/v1/requests/{id} has the answer."
    )
