"""OpenAI's surface to the letter: each answer and chunk in the package's own models, and each
parameter of its client supported, ignored or refused."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

import pytest
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import AsyncClient
from openai.pagination import SyncCursorPage, SyncPage
from openai.types import Batch, Completion, CreateEmbeddingResponse, FileDeleted, FileObject, Model
from openai.types import batch_create_params as batches
from openai.types import completion_create_params as completions
from openai.types import embedding_create_params as embeddings
from openai.types import file_create_params as files
from openai.types import moderation_create_params as moderations
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat import completion_create_params as chats
from openai.types.responses import response_create_params as responses

from config import compatibility, postman
from inference.api.parameters import BECOMES
from inference.worker import Host
from tenants.models import Organization
from tests import factories
from tests.inference.clients import ENCODER
from tests.inference.parts import ECHO, serving
from tests.inference.shapes import chunks, exactly
from tests.inference.test_api import CHAT, events, post

pytestmark = pytest.mark.django_db(transaction=True)

CHATS = "/v1/chat/completions"
TOOL = {
    "type": "function",
    "function": {"name": "now", "parameters": {"type": "object", "properties": {}}},
}
CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
CALLS = {
    "messages": [{"role": "user", "content": CALL}],
    "tools": [TOOL],
    "tool_choice": "required",
    "max_tokens": 100,
}


@pytest.fixture
def key(account: Any, acme: Organization) -> str:
    """Acme's program's key."""
    return factories.api_key(acme)[1]


async def get(path: str, key: str, method: str = "get") -> Any:
    ask = getattr(AsyncClient(), method)
    return (await ask(path, headers={"Authorization": f"Bearer {key}"})).json()


@pytest.mark.parametrize(
    "more", [{}, {"n": 2, "logprobs": True, "top_logprobs": 2}, CALLS, {"max_tokens": 1}]
)
async def test_chats_are_the_packages_models(more: Any, key: str, host: Host) -> None:
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    with serving(host):
        whole = await post(CHATS, CHAT | more, key)
        parts = await events(await post(CHATS, CHAT | more | streamed, key))
    found = exactly(ChatCompletion, whole.json())
    reasons = {each.finish_reason for each in found.choices}
    said = chunks(ChatCompletionChunk, parts)
    assert {c.finish_reason for each in said for c in each.choices} - {None} == reasons
    assert said[-1].usage is not None
    assert {each.system_fingerprint for each in said} == {found.system_fingerprint}


async def test_completions_are_the_packages_models(key: str, host: Host) -> None:
    body = {"model": ECHO, "prompt": ["hello", "you"], "n": 2, "logprobs": 1, "temperature": 0}
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    with serving(host):
        whole = await post("/v1/completions", body, key)
        parts = await events(await post("/v1/completions", body | streamed, key))
    found = exactly(Completion, whole.json())
    texts = [""] * 4
    for each in chunks(Completion, [*map(_ended, parts)]):
        for choice in each.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in found.choices]


def _ended(line: str) -> str:
    """The package's model has no null for `finish_reason`, which OpenAI's own chunks have too."""
    return line.replace('"finish_reason":null', '"finish_reason":"stop"')


@pytest.mark.parametrize("form", ["float", "base64"])
async def test_embeddings_are_the_packages_models(form: str, key: str, encoding: Host) -> None:
    body = {"model": ENCODER, "input": ["a", "b"], "encoding_format": form, "user": "u"}
    with serving(encoding, model=ENCODER):
        answer = await post("/v1/embeddings", body, key)
    assert answer["X-Ignored-Parameters"] == "user"
    data = answer.json()
    if form == "base64":  # which the client unpacks before it makes its model
        assert {type(each["embedding"]) for each in data["data"]} == {str}
        data["data"] = [each | {"embedding": []} for each in data["data"]]
    exactly(CreateEmbeddingResponse, data)


async def test_files_batches_and_models_are_the_packages_models(key: str, encoding: Host) -> None:
    line = b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{}}'
    form = {"purpose": "batch", "file": SimpleUploadedFile("lines.jsonl", line)}
    headers = {"Authorization": f"Bearer {key}"}
    sent = (await AsyncClient().post("/v1/files", data=form, headers=headers)).json()
    file = exactly(FileObject, sent)
    asked = {"input_file_id": file.id, "endpoint": CHATS, "completion_window": "24h"}
    batch = exactly(Batch, (await post("/v1/batches", asked, key)).json())
    exactly(Batch, await get(f"/v1/batches/{batch.id}", key))
    exactly(Batch, (await post(f"/v1/batches/{batch.id}/cancel", {}, key)).json())
    for each in (await get("/v1/batches", key))["data"]:
        exactly(Batch, each)
    exactly(SyncPage[Model], await get("/v1/models", key))
    exactly(Model, await get(f"/v1/models/{ECHO}", key))
    listed = await get("/v1/files", key)
    assert [exactly(FileObject, each).id for each in listed["data"]] == [file.id]
    assert {*listed} >= {*SyncCursorPage[FileObject].model_fields}
    exactly(FileDeleted, await get(f"/v1/files/{file.id}", key, "delete"))


HARMLESS: dict[str, Any] = {
    "user": "u",
    "safety_identifier": "s",
    "service_tier": "auto",
    "prompt_cache_key": "k",
    "prompt_cache_retention": "24h",
    "prediction": {"type": "content", "content": "x"},
    "stream_options": {"include_obfuscation": True},
}


async def test_what_changes_no_answer_is_ignored_and_named(key: str, host: Host) -> None:
    with serving(host):
        plain = await post(CHATS, CHAT | {"reasoning_effort": "none", "user": None}, key)
        whole = await post(CHATS, CHAT | HARMLESS, key)
        stream = await post(CHATS, CHAT | HARMLESS | {"stream": True}, key)
        await events(stream)
    assert "X-Ignored-Parameters" not in plain
    names = {*whole["X-Ignored-Parameters"].split(", ")}
    assert names == {*HARMLESS} - {"stream_options"} | {"stream_options.include_obfuscation"}
    assert stream["X-Ignored-Parameters"] == whole["X-Ignored-Parameters"]
    assert whole.json()["choices"] == plain.json()["choices"]


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        (CHATS, "audio", {"voice": "alloy", "format": "wav"}),
        (CHATS, "modalities", ["text", "audio"]),
        (CHATS, "reasoning_effort", "high"),
        (CHATS, "verbosity", "low"),
        (CHATS, "functions", [{"name": "f"}]),
        (CHATS, "store", True),
        (CHATS, "web_search_options", {}),
        ("/v1/completions", "suffix", "end"),
        ("/v1/completions", "echo", True),
        ("/v1/completions", "best_of", 3),
    ],
)
async def test_what_would_change_an_answer_is_refused_by_name(
    path: str, name: str, value: Any, key: str, host: Host
) -> None:
    usual = CHAT if path == CHATS else {"model": ECHO, "prompt": "hello"}
    answer = await post(path, usual | {name: value}, key)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, name)
    assert f"{name}: not supported: " in error["message"]


KNOWN = {
    CHATS: chats.CompletionCreateParamsStreaming,
    "/v1/completions": completions.CompletionCreateParamsStreaming,
    "/v1/responses": responses.ResponseCreateParamsStreaming,
    "/v1/embeddings": embeddings.EmbeddingCreateParams,
    "/v1/moderations": moderations.ModerationCreateParams,
    "/v1/files": files.FileCreateParams,
    "/v1/batches": batches.BatchCreateParams,
}


@pytest.fixture(scope="module")
def described() -> Mapping[str, Any]:
    """The API's schema."""
    return compatibility.schema()


@pytest.mark.parametrize("path", KNOWN)
def test_every_parameter_of_the_client_is_supported_ignored_or_refused(
    path: str, described: Mapping[str, Any]
) -> None:
    def names() -> Iterator[str]:
        for name, of in compatibility.parameters(described, described["paths"][path]["post"]):
            if of.get(BECOMES) != "ours":
                yield name.partition("[")[0]

    assert {*names()} == {*get_type_hints(KNOWN[path])}


def test_the_page_of_compatibility_is_what_the_forms_say(described: Mapping[str, Any]) -> None:
    page = settings.BASE_DIR / "docs" / "compatibility.md"
    assert page.read_text() == compatibility.page(described), "run: make docs"


def test_every_set_of_choices_has_a_name_of_its_own(described: Mapping[str, Any]) -> None:
    hashed = re.compile(r"[a-z][0-9A-F][0-9a-f]{2}Enum$")  # as State4b9Enum, of two called "state"
    assert not [name for name in described["components"]["schemas"] if hashed.search(name)]


def test_the_postman_collection_is_what_the_schema_says(described: Mapping[str, Any]) -> None:
    file = settings.BASE_DIR / "docs" / "postman_collection.json"
    assert file.read_bytes() == postman.collection(described), "run: make docs"
    requests = [each for folder in json.loads(file.read_bytes())["item"] for each in folder["item"]]
    assert len(requests) == sum(len(methods) for methods in described["paths"].values())
    for each in requests:
        if each["request"].get("body", {}).get("mode") == "raw":
            json.loads(each["request"]["body"]["raw"])
