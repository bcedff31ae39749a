"""Bodies that the endpoints accept: strict types, no unknown field, the documentation's source."""

import secrets
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from inference.catalog.offers import Offer
from inference.engine import Sampling

MOST_STOPS = 4
_LONGEST_STOP = 256


class Form(BaseModel):
    """Nothing is coerced, nothing unknown is let through."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, protected_namespaces=())


StopText = Annotated[str, Field(min_length=1, max_length=_LONGEST_STOP)]


class SamplingForm(Form):
    """How an answer is sampled; what is left out takes the model's defaults."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: StopText | list[StopText] | None = None

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, value: Any) -> Any:
        if isinstance(value, list) and len(value) > MOST_STOPS:
            raise ValueError(f"at most {MOST_STOPS} stop strings")
        return value

    def sampling(self, offer: Offer, *, max_tokens: int) -> Sampling:
        """What the engine needs; a random seed where none is given."""
        stop: Sequence[str] = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            max_tokens=max_tokens,
            temperature=offer.default_temperature if self.temperature is None else self.temperature,
            top_p=offer.default_top_p if self.top_p is None else self.top_p,
            seed=secrets.randbits(63) if self.seed is None else self.seed,
            stop=tuple(stop),
        )


class TextPart(Form):
    """A part of a message. Only text is understood."""

    type: Literal["text"]
    text: str


class Message(Form):
    """One turn. Fields that answers carry are accepted empty, so that they can be sent back."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None
    refusal: None = None
    annotations: list[None] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None

    def as_turn(self) -> dict[str, str]:
        """For the chat template; `developer` is OpenAI's later name of `system`."""
        if isinstance(self.content, str):
            content = self.content
        else:
            content = "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class StreamOptions(Form):
    """OpenAI's."""

    include_usage: bool = False


class ChatForm(SamplingForm):
    """POST /v1/chat/completions."""

    model: str
    messages: list[Message] = Field(min_length=1, max_length=2048)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] = 1
    user: str | None = Field(None, max_length=256)
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None


class InferForm(SamplingForm):
    """POST /api/v1/infer/stream, and what a socket's `infer` holds."""

    prompt: str
    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)


class WholeInferForm(InferForm):
    """POST /api/v1/infer."""

    background: bool = Field(
        default=False, description="Answer 202 at once; GET /api/v1/requests/{id} has the answer."
    )
