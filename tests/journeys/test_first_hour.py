"""From the first request to the invoice, on the real processes and the real model.

The tests of this file run in order, on one platform, and its last one closes the month: what the
clients counted must be what the ledger, the history and the invoice say.
"""

import json
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam
from websockets.sync.client import ClientConnection, connect

from config.stack.apart import MODEL, Stack, wait_until

pytestmark = pytest.mark.timeout(500)

ENCODER = "all-minilm-l6-v2"
PROMPT = "Tell me a story about a lighthouse."
QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": PROMPT}]


@dataclass
class Counted:
    """Tokens by request, as the clients saw them."""

    requests: dict[str, tuple[int, int]] = field(default_factory=dict)

    def note(self, request: str, prompt: int, completion: int) -> None:
        """One request's usage; `request` as any of our ids spells it."""
        found = re.sub(r"[^0-9a-f]", "", request.removeprefix("chatcmpl-"))
        self.requests[found] = (prompt, completion)


@pytest.fixture(scope="module")
def counted() -> Counted:
    """What all clients of this module have used."""
    return Counted()


def chat(openai: OpenAI, counted: Counted, *, tokens: int = 60) -> str:
    answer = openai.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        max_tokens=tokens,
        seed=11,
        temperature=0.8,
    )
    assert answer.usage is not None
    counted.note(answer.id, answer.usage.prompt_tokens, answer.usage.completion_tokens)
    return answer.choices[0].message.content or ""


def stream(openai: OpenAI, counted: Counted, *, tokens: int = 60) -> Iterator[str]:
    chunks = openai.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        max_tokens=tokens,
        seed=11,
        temperature=0.8,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in chunks:
        if chunk.usage is not None:
            counted.note(chunk.id, chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
        elif chunk.choices[0].delta.content:
            yield chunk.choices[0].delta.content


def say(socket: ClientConnection, **message: Any) -> None:
    socket.send(json.dumps(message))


def hear(socket: ClientConnection) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(socket.recv(timeout=60))
    return found


def test_the_platform_says_that_it_is_well(stack: Stack) -> None:
    health = httpx.get(f"{stack.url}/health")
    assert health.status_code == 200
    assert health.json() | {"cache_hit_rate": 0} == {
        "answer_cache_hit_rate": 0,
        "semantic_cache_hit_rate": 0,
        "status": "ok",
        "redis": "ok",
        "database": "ok",
        "model": {"name": MODEL, "status": "ok"},
        "workers": 1,
        "cache_hit_rate": 0,
        "full_queues": [],
        "books_behind_seconds": 0,
        "redis_nearly_full": False,
    }


def test_the_model_talks_sense(openai: OpenAI, counted: Counted) -> None:
    answer = openai.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is 2+2?"}],
        temperature=0,
        max_tokens=40,
    )
    assert answer.usage is not None
    counted.note(answer.id, answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert "4" in (answer.choices[0].message.content or "")
    assert [model.id for model in openai.models.list()] == [ENCODER, MODEL]


def test_texts_that_mean_the_same_are_near_each_other(openai: OpenAI, counted: Counted) -> None:
    texts = ["How do I pay?", "Where can I settle my bill?", "The lighthouse is tall."]
    found = openai.embeddings.with_raw_response.create(model=ENCODER, input=texts)
    first, *others = (each.embedding for each in found.parse().data)
    near, far = (sum(a * b for a, b in zip(first, other, strict=True)) for other in others)
    assert near > far + 0.2
    counted.note(found.headers["X-Request-ID"], found.parse().usage.prompt_tokens, 0)


def test_a_streamed_answer_is_the_whole_one(openai: OpenAI, counted: Counted) -> None:
    whole = chat(openai, counted)
    assert "".join(stream(openai, counted)) == whole


def test_a_socket_carries_several_answers_and_one_is_cancelled(
    stack: Stack, openai: OpenAI, counted: Counted
) -> None:
    whole = chat(openai, counted)
    address = stack.url.replace("http", "ws") + "/ws/v1/infer"
    texts: dict[str, str] = {"a": "", "b": ""}
    with connect(address, additional_headers=stack.authorization) as socket:
        assert hear(socket)["type"] == "ready"
        for name, tokens in (("a", 60), ("b", 2000)):
            say(
                socket,
                type="infer",
                id=name,
                prompt=PROMPT,
                max_tokens=tokens,
                seed=11,
                temperature=0.8,
            )
        done: dict[str, str] = {}
        usage: dict[str, dict[str, int]] = {}
        while len(done) < 2:
            heard = hear(socket)
            match heard["type"]:
                case "token":
                    texts[heard["id"]] += heard["text"]
                    if heard["id"] == "b" and len(texts["b"]) > 20:
                        say(socket, type="cancel", id="b")
                        texts["b"] = ""
                case "usage":
                    usage[heard["id"]] = heard["usage"]
                case "done":
                    done[heard["id"]] = heard["finish_reason"]
                    used = usage[heard["id"]]
                    counted.note(
                        heard["request_id"], used["prompt_tokens"], used["completion_tokens"]
                    )
    assert texts["a"] == whole
    assert done == {"a": "length", "b": "cancelled"}
    assert usage["b"]["completion_tokens"] < 500


def test_who_hangs_up_pays_for_what_was_delivered_and_no_more(
    stack: Stack, counted: Counted
) -> None:
    body = {"model": MODEL, "messages": QUESTION, "max_tokens": 2000, "stream": True}
    with httpx.stream(
        "POST", f"{stack.url}/v1/chat/completions", json=body, headers=stack.authorization
    ) as response:
        request = response.headers["X-Request-ID"]
        received = 0
        for line in response.iter_lines():
            received += line.startswith("data:")
            if received == 10:
                break
    find = (
        "SELECT state, prompt_tokens, completion_tokens FROM org_demo.inference_request"
        " WHERE id = %s"
    )
    wait_until(lambda: bool(stack.rows(find, request)), stack)
    [(state, prompt, completion)] = stack.rows(find, request)
    assert state == "cancelled"
    assert 9 <= completion < 500
    counted.note(request, prompt, completion)


def test_an_answer_outlives_the_worker_that_began_it(
    stack: Stack, openai: OpenAI, counted: Counted
) -> None:
    whole = chat(openai, counted, tokens=80)
    heard = ""
    for count, text in enumerate(stream(openai, counted, tokens=80)):
        heard += text
        if count == 20:
            stack.worker().send_signal(signal.SIGKILL)
    assert heard == whole


def test_what_clients_counted_is_what_the_books_and_the_invoice_say(
    stack: Stack, counted: Counted
) -> None:
    usage = httpx.get(f"{stack.url}/api/v1/usage", headers=stack.authorization).json()
    stack.manage("close_month", "--organization", "demo", "--early")
    history = stack.rows(
        "SELECT replace(id::text, '-', ''), prompt_tokens, completion_tokens, amount"
        " FROM org_demo.inference_request"
    )
    ledger = stack.rows(
        "SELECT replace(request::text, '-', ''),"
        " coalesce((units->>'input_tokens')::int, 0)"
        " + coalesce((units->>'cached_input_tokens')::int, 0)"
        " + coalesce((units->>'embedding_tokens')::int, 0),"
        " coalesce(units->>'output_tokens', '0')::int, amount FROM billing_ledgerentry"
    )
    assert sorted(history) == sorted(ledger)
    assert {row[0]: row[1:3] for row in ledger} == counted.requests
    [(subtotal, minor)] = stack.rows("SELECT subtotal, total_minor FROM billing_invoice")
    lines = stack.rows("SELECT meter, units, nanos, minor FROM billing_invoiceline")
    total = sum(row[3] for row in ledger)
    assert total == subtotal == sum(line[2] for line in lines) == usage["totals"]["amount_nanos"]
    assert sum(line[3] for line in lines) == minor
    units = {meter: count for meter, count, _, _ in lines}
    # What came from the engine's cache of prompts is read too, and counted by itself.
    assert units.pop("cached_input_tokens") > 0
    units["input_tokens"] = sum(row[1] for row in lines if "input" in row[0])
    assert units == {
        "embedding_tokens": sum(row[1] for row in ledger if not row[2]),
        "input_tokens": sum(row[1] for row in ledger if row[2]),
        "output_tokens": sum(row[2] for row in ledger),
    }


def test_use_after_an_early_closing_books_to_the_next_month(
    stack: Stack, openai: OpenAI, counted: Counted
) -> None:
    before = stack.rows("SELECT count(*) FROM billing_ledgerentry")
    chat(openai, counted, tokens=5)
    months = stack.rows("SELECT month, count(*) FROM billing_ledgerentry GROUP BY 1 ORDER BY 1")
    assert len(months) == 2
    assert months[0][1:] == before[0]
    assert months[1][1] == 1


def test_metrics_speak_for_web_and_worker(stack: Stack) -> None:
    metrics = httpx.get(f"{stack.url}/metrics").text
    assert f'inference_requests_total{{model="{MODEL}",state="finished"}}' in metrics
    assert 'http_requests_total{method="POST",route="v1/chat/completions",status="200"}' in metrics
