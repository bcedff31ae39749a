"""Structured answers and tools through the real processes, by the real model."""

from typing import Any, Literal

import pytest
from openai import OpenAI, pydantic_function_tool
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel, Field

from config.stack.apart import MODEL

pytestmark = pytest.mark.timeout(500)


class Weather(BaseModel):
    """What the caller's program understands."""

    city: str = Field(max_length=20)
    unit: Literal["celsius", "fahrenheit"]


QUESTION: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "What is the weather in Paris, in celsius?"}
]


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_an_answer_parses(openai: OpenAI, temperature: float) -> None:
    found = openai.chat.completions.parse(
        model=MODEL,
        messages=QUESTION,
        response_format=Weather,
        temperature=temperature,
        seed=3,
        max_tokens=120,
    )
    assert isinstance(found.choices[0].message.parsed, Weather)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "sky"}}])
def test_the_smallest_model_calls_a_tool_as_its_schema_says(openai: OpenAI, choice: Any) -> None:
    with openai.chat.completions.stream(
        model=MODEL,
        messages=QUESTION,
        tools=[pydantic_function_tool(Weather, name="sky")],
        tool_choice=choice,
        parallel_tool_calls=False,
        seed=3,
        max_tokens=120,
    ) as stream:
        kinds = {event.type for event in stream}
        found = stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    [call] = found.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Weather)
    assert found.choices[0].finish_reason == "tool_calls"


def test_a_choice_is_one_of_its_list_with_its_log_probabilities(openai: OpenAI) -> None:
    found = openai.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Is the sky blue? yes or no"}],
        logprobs=True,
        top_logprobs=3,
        extra_body={"structured_outputs": {"choice": ["yes", "no"]}},
    )
    assert found.choices[0].message.content in {"yes", "no"}
    logprobs = found.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(each.token for each in logprobs.content) == found.choices[0].message.content
    assert all(each.logprob <= 0 and len(each.top_logprobs) == 3 for each in logprobs.content)
