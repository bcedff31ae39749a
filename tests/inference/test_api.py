"""The HTTP edge on what callers really send: right, wrong, huge, hostile."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from django.test import AsyncClient
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from config.intake import Intake
from inference.catalog.offers import Offer
from inference.worker import Host
from tenants import keys
from tenants.models import ApiKey, Organization
from tests import factories
from tests.inference.parts import ECHO, NOW, in_schema, serving

pytestmark = pytest.mark.django_db(transaction=True)

CHAT = {"model": ECHO, "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def key(account: Any, acme: Organization) -> str:
    """Acme's program's key."""
    return factories.api_key(acme)[1]


async def post(path: str, body: Any, key: str | None, **headers: str) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    return await AsyncClient().post(
        path, data=content, content_type="application/json", headers=headers
    )


async def events(response: Any) -> list[str]:
    raw = b"".join([part async for part in response.streaming_content]).decode()
    return [event for event in raw.split("\n\n") if event]


async def test_a_chat_is_answered_in_openais_schema(key: str, host: Host) -> None:
    with serving(host):
        response = await post("/v1/chat/completions", CHAT, key)
    found = ChatCompletion.model_validate(response.json(), strict=False)
    assert response.json() == found.model_dump(exclude_unset=True)
    assert found.choices[0].message.content == "hello"
    assert found.choices[0].finish_reason == "stop"
    assert found.usage is not None
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    assert found.id == f"chatcmpl-{response['X-Request-ID'].replace('-', '')}"


async def test_a_streamed_chat_has_the_same_text_and_its_usage_last(key: str, host: Host) -> None:
    body = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    with serving(host):
        response = await post("/v1/chat/completions", body, key)
        lines = await events(response)
    assert lines.pop() == "data: [DONE]"
    chunks = [
        ChatCompletionChunk.model_validate_json(line.removeprefix("data: ")) for line in lines
    ]
    text = "".join(each.choices[0].delta.content or "" for each in chunks if each.choices)
    assert text == "hello"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None


async def test_infer_says_what_it_cost(key: str, host: Host) -> None:
    with serving(host):
        response = await post("/api/v1/infer", {"prompt": "hi", "max_tokens": 1}, key)
    found = response.json()
    assert (found["text"], found["finish_reason"]) == ("h", "length")
    used = found["usage"]
    assert found["cost"]["amount_nanos"] == used["prompt_tokens"] * 1000 + 2000
    assert found["request_id"] == response["X-Request-ID"]


async def test_a_chats_cost_is_in_its_usage_and_in_a_header(key: str, host: Host) -> None:
    with serving(host):
        response = await post("/v1/chat/completions", CHAT, key)
    cost = response.json()["usage"]["cost"]
    assert response["X-Cost"] == f"{cost['amount']} {cost['currency']}"
    assert cost["amount_nanos"] > 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {**CHAT, "max_tokens": 3}),
        ("/api/v1/infer", {"prompt": "hello", "max_tokens": 3, "n": 2}),
    ],
)
async def test_an_estimate_counts_as_the_request_would_be_and_holds_its_cost(
    key: str, host: Host, path: str, body: Any
) -> None:
    told = (await post("/api/v1/estimates", body, key)).json()
    with serving(host):
        done = (await post(path, body, key)).json()
    assert told["prompt_tokens"] == done["usage"]["prompt_tokens"]
    assert (told["model"], told["max_tokens"], told["n"]) == (ECHO, 3, body.get("n", 1))
    paid = done.get("cost") or done["usage"]["cost"]
    least, most = (told["cost"][name]["amount_nanos"] for name in ("least", "most"))
    assert least == told["prompt_tokens"] * 1000
    assert least <= paid["amount_nanos"] <= most == least + 3 * told["n"] * 2000


async def test_an_estimate_refuses_what_the_request_would_be_refused_for(key: str) -> None:
    answer = await post("/api/v1/estimates", {"prompt": "x", "max_tokens": 10**6}, key)
    assert (answer.status_code, answer.json()["code"]) == (400, "context_length_exceeded")
    assert (await post("/api/v1/estimates", b"{", key)).json()["param"] == "body"


async def test_infer_streams_named_events(key: str, host: Host) -> None:
    with serving(host):
        response = await post("/api/v1/infer/stream", {"prompt": "hi"}, key)
        found = await events(response)
    lines = [line for each in found for line in each.split("\n")]
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert names[0] == "start"
    assert names[-1] == "done"
    assert set(names[1:-1]) == {"token"}


async def test_models_are_listed_and_described(key: str, echo: Offer) -> None:
    async def get(path: str) -> Any:
        return await AsyncClient().get(path, headers={"Authorization": f"Bearer {key}"})

    listed = (await get("/v1/models")).json()
    assert [Model.model_validate(each).id for each in listed["data"]] == [ECHO]
    assert (await get(f"/v1/models/{ECHO}")).json() == listed["data"][0]
    assert (await get("/v1/models/none")).status_code == 404
    info = (await get("/api/v1/model/info")).json()
    assert (info["name"], info["context"], info["healthy"]) == (ECHO, 512, False)


BAD: Mapping[str, tuple[Any, int, str, str | None]] = {
    "no JSON": (b"{", 400, "invalid_value", "body"),
    "no object": ([], 400, "invalid_value", "body"),
    "not UTF-8": (b'{"model": "\xff"}', 400, "invalid_value", "body"),
    "deep": (b'{"a":' * 40 + b"1" + b"}" * 40, 400, "invalid_value", "body"),
    "unknown model": (CHAT | {"model": "gpt-9"}, 404, "model_not_found", "model"),
    "model of a wrong type": (CHAT | {"model": 1}, 400, "invalid_value", "model"),
    "no messages": ({"model": ECHO}, 400, "invalid_value", "messages"),
    "empty messages": (CHAT | {"messages": []}, 400, "invalid_value", "messages"),
    "unknown field": (CHAT | {"temprature": 1}, 400, "invalid_value", "temprature"),
    "hot": (CHAT | {"temperature": 3}, 400, "invalid_value", "temperature"),
    "temperature as text": (CHAT | {"temperature": "1"}, 400, "invalid_value", "temperature"),
    "not a number": (b'{"model":"echo","temperature":NaN}', 400, "invalid_value", "body"),
    "no tokens": (CHAT | {"max_tokens": 0}, 400, "invalid_value", "max_tokens"),
    "negative top_p": (CHAT | {"top_p": -1}, 400, "invalid_value", "top_p"),
    "huge seed": (CHAT | {"seed": 2**63}, 400, "invalid_value", "seed"),
    "many stops": (CHAT | {"stop": list("abcde")}, 400, "invalid_value", "stop"),
    "empty stop": (CHAT | {"stop": ""}, 400, "invalid_value", "stop"),
    "nine answers": (CHAT | {"n": 9}, 400, "invalid_value", "n"),
    "unknown role": (
        CHAT | {"messages": [{"role": "king", "content": "x"}]},
        400,
        "invalid_value",
        "messages.0.role",
    ),
    "empty prompt": (
        CHAT | {"messages": [{"role": "user", "content": "  "}]},
        400,
        "empty_prompt",
        "messages",
    ),
    "long prompt": (
        CHAT | {"messages": [{"role": "user", "content": "x" * 600}]},
        400,
        "context_length_exceeded",
        "messages",
    ),
    "long answer": (CHAT | {"max_tokens": 4096}, 400, "context_length_exceeded", "messages"),
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_input_is_refused_by_name(case: str, key: str, echo: Offer) -> None:
    body, status, code, param = BAD[case]
    response = await post("/v1/chat/completions", body, key)
    error = response.json()["error"]
    assert (response.status_code, error["code"], (error["param"] or "")) == (
        status,
        code,
        param or "",
    )
    assert error["message"]
    assert response["X-Request-ID"]


async def test_context_overflow_says_the_numbers(key: str, echo: Offer) -> None:
    message = (await post("/api/v1/infer", {"prompt": "x" * 600}, key)).json()["detail"]
    assert "512" in message
    assert "601" in message


async def test_the_same_refusal_is_a_problem_under_api(key: str, echo: Offer) -> None:
    response = await post("/api/v1/infer", {"prompt": 1}, key)
    assert response["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert (problem["status"], problem["param"]) == (400, "prompt")
    assert problem["request_id"] == response["X-Request-ID"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/v1/infer", "/api/v1/infer/stream"])
async def test_without_a_good_key_nothing_is_served(
    path: str, key: str, acme: Organization, globex: Organization
) -> None:
    typo = key[:-1] + ("0" if key[-1] != "0" else "1")
    for bad in (None, "", "sk-1", typo):
        response = await post(path, CHAT, bad)
        assert response.status_code == 401
        assert response["WWW-Authenticate"] == "Bearer"


async def test_a_revoked_key_is_refused_within_a_second(key: str, echo: Offer) -> None:
    assert (await post("/api/v1/infer", {}, key)).status_code == 400
    await in_schema("public", revoke_all)
    seen = set()
    async with asyncio.timeout(1):
        while 401 not in seen:
            seen.add((await post("/api/v1/infer", {}, key)).status_code)
    assert seen <= {400, 401}


def revoke_all() -> None:
    for key in ApiKey.objects.across_organizations():
        keys.revoke(key, now=NOW)


async def test_a_model_that_the_key_may_not_use_does_not_exist_for_it(
    acme: Organization, account: Any
) -> None:
    _, restricted = await in_schema("public", lambda: factories.api_key(acme, models=["other"]))
    response = await post("/v1/chat/completions", CHAT, restricted)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


async def test_unknown_paths_and_methods_answer_in_the_edges_form(key: str, echo: Offer) -> None:
    client = AsyncClient()
    assert (await client.get("/v1/nothing")).json()["error"]["code"] == "not_found"
    assert (await client.get("/api/v1/nothing")).json()["code"] == "not_found"
    response = await client.get("/v1/chat/completions")
    assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")


async def test_the_callers_request_id_is_a_label(key: str, host: Host) -> None:
    with serving(host):
        response = await post(
            "/api/v1/infer", {"prompt": "hi"}, key, **{"X-Request-ID": "mine \x07" + "x" * 300}
        )
    assert response["X-Client-Request-ID"].startswith("mine ")
    assert len(response["X-Client-Request-ID"]) <= 128
    assert response["X-Request-ID"] != response["X-Client-Request-ID"]


async def test_a_body_of_ten_megabytes_is_refused_before_it_is_read(echo: Offer) -> None:
    read = 0

    async def chunks() -> dict[str, Any]:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b"x" * 65_536, "more_body": True}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def nobody(*_: Any) -> None:
        pytest.fail("the application was called")

    scope = {"type": "http", "path": "/v1/chat/completions", "headers": []}
    await Intake(nobody)(scope, chunks, send)
    assert sent[0]["status"] == 413
    assert read <= 33
