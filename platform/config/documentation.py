"""What the API's documentation says besides what the endpoints declare: examples and refusals."""

from collections.abc import Iterator, Mapping
from typing import Any

from django.conf import settings

_MODEL, _ENCODER = settings.DEFAULT_MODEL, settings.DEFAULT_EMBEDDING_MODEL
_REQUEST = "01a20c6c-0bee-7da5-8622-c07caf11767d"
_ANSWER = "Gravity is what pulls things together: it is why a ball you throw comes back down."
_WRITTEN = {"completion_tokens": 19, "reasoning_tokens": 0}
_USAGE = {"prompt_tokens": 37, "cached_tokens": 0, **_WRITTEN, "total_tokens": 56}
_COST = {"amount": "0.000005650", "amount_nanos": 5650, "currency": "EUR"}
_OPENAI_MODEL = {"id": _MODEL, "object": "model", "created": 1795503730, "owned_by": "someone"}
_PROMPT = {"prompt": "Explain gravity to a child.", "max_tokens": 64, "temperature": 0.2}
_CHAT = {
    "model": _MODEL,
    "messages": [
        {"role": "system", "content": "You answer in one sentence."},
        {"role": "user", "content": "Explain gravity to a child."},
    ],
    "max_tokens": 64,
}
_EMBEDDED = {
    "request_id": _REQUEST,
    "model": _ENCODER,
    "usage": {**_USAGE, "prompt_tokens": 8, "completion_tokens": 0, "total_tokens": 8},
    "cost": {**_COST, "amount": "0.000000160", "amount_nanos": 160},
    "latency_ms": 14.2,
}
_BATCH = {
    "input_file_id": f"file-{_REQUEST.replace('-', '')}",
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
}
_FILE = {
    "id": _BATCH["input_file_id"],
    "object": "file",
    "bytes": 2048,
    "created_at": 1795504737,
    "expires_at": 1798096737,
    "filename": "chats.jsonl",
    "purpose": "batch",
    "status": "processed",
}
_BATCHED = {
    "id": f"batch_{_REQUEST.replace('-', '')}",
    "object": "batch",
    **_BATCH,
    "status": "in_progress",
    "created_at": 1795504737,
    "request_counts": {"total": 2, "completed": 1, "failed": 0},
}
_ENTRY = {
    "request_id": _REQUEST,
    "state": "finished",
    "reason": "stop",
    "error": "",
    "endpoint": "infer",
    "model": _MODEL,
    "model_version": "1",
    "key": "k3v9x0q2m4ta",
    "project": "site",
    "label": "",
    "region": "local",
    "cache": "",
    "prompt_tokens": 37,
    "cached_tokens": 0,
    "completion_tokens": 19,
    "amount": "0.000005650",
    "amount_nanos": 5650,
    "currency": "EUR",
    "attempts": 1,
    "created_at": "2026-11-24T12:00:01.120Z",
    "started_at": "2026-11-24T12:00:01.131Z",
    "first_token_at": "2026-11-24T12:00:01.163Z",
    "finished_at": "2026-11-24T12:00:01.702Z",
    "latency_ms": 582,
    "first_token_ms": 43,
    "rating": "good",
}
_JOB = {
    "job_id": _REQUEST,
    "state": "waiting",
    "model": _MODEL,
    "priority": "normal",
    "position": 3,
    "estimated_start_at": "2026-11-24T12:00:03Z",
    "tokens": 0,
    "attempts": 0,
    "created_at": "2026-11-24T12:00:01Z",
    "started_at": None,
    "first_token_at": None,
    "ended_at": None,
    "url": f"/api/v1/requests/{_REQUEST}",
}
_ENDED_JOB = {
    **_JOB,
    "state": "finished",
    "position": None,
    "estimated_start_at": None,
    "tokens": 19,
    "attempts": 1,
    "started_at": "2026-11-24T12:00:02Z",
    "first_token_at": "2026-11-24T12:00:02Z",
    "ended_at": "2026-11-24T12:00:03Z",
    "url": f"/api/v2/jobs/{_REQUEST}",
    "result": {"text": _ANSWER, "finish_reason": "stop", "usage": _USAGE, "cost": _COST},
}
_META = {"request_id": _REQUEST, "version": "v2"}
_CACHING = {"mode": "exact", "effective": "exact", "seconds": 3600, "effective_seconds": 3600}
_FIGURES = {
    "requests": 1200,
    "failed": 3,
    "cancelled": 12,
    "error_rate": 0.0025,
    "cache_hits": 240,
    "cache_hit_rate": 0.2,
    "prompt_tokens": 44400,
    "cached_tokens": 12000,
    "completion_tokens": 22800,
    "amount": "0.006780000",
    "amount_nanos": 6780000,
    "latency_ms": {"p50": 571.3, "p90": 803.9, "p95": 911.0, "p99": 1404.2},
    "first_token_ms": {"p50": 41.5, "p90": 66.1, "p95": 80.9, "p99": 131.7},
}
_FEEDBACK = {
    "request_id": _REQUEST,
    "rating": "good",
    "comment": "To the point.",
    "given_by": "key:k3v9x0q2m4ta",
    "given_at": "2026-11-24T12:01:00Z",
}
_RESPONSE = {
    "id": f"resp_{_REQUEST.replace('-', '')}",
    "object": "response",
    "created_at": 1795504737,
    "status": "completed",
    "model": _MODEL,
    "output": [
        {
            "id": f"msg_{_REQUEST.replace('-', '')}",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": _ANSWER, "annotations": [], "logprobs": []}
            ],
        }
    ],
    "usage": {"input_tokens": 37, "output_tokens": 19, "total_tokens": 56},
}
_ASKED: Mapping[str, Mapping[str, Any]] = {
    "chat_completions": {
        "Whole": _CHAT,
        "Streamed": {**_CHAT, "stream": True, "stream_options": {"include_usage": True}},
    },
    "completions": {
        "Whole": {"model": _MODEL, "prompt": "Gravity is", "max_tokens": 32},
        "Two prompts": {"model": _MODEL, "prompt": ["Gravity is", "Light is"], "max_tokens": 32},
    },
    "responses_create": {
        "Whole": {"model": _MODEL, "input": "Explain gravity to a child."},
        "Going on": {
            "model": _MODEL,
            "input": "And to a cat.",
            "previous_response_id": f"resp_{_REQUEST.replace('-', '')}",
        },
        "In background": {"model": _MODEL, "input": "Write a story.", "background": True},
    },
    "moderations": {"Two texts": {"input": ["You are great!", "I will kill you."]}},
    "openai_embeddings": {"Two texts": {"model": _ENCODER, "input": ["a cat", "a dog"]}},
    "embeddings": {"A text": {"text": "a cat"}, "Some": {"texts": ["a cat", "a dog"]}},
    "similarity": {"Two texts": {"text": "a cat", "texts": ["a kitten", "a bill"]}},
    "batches_create": {"A file of chats": _BATCH},
    "infer_batch": {"Two prompts": {"requests": [_PROMPT, {"prompt": "And to a cat."}]}},
    "infer": {"A prompt": _PROMPT},
    "infer_stream": {"A prompt": _PROMPT},
    "v2_infer": {"A prompt": _PROMPT},
}
_ANSWERED: Mapping[str, Any] = {
    "chat_completions": {
        "id": f"chatcmpl-{_REQUEST.replace('-', '')}",
        "object": "chat.completion",
        "created": 1795504737,
        "model": _MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": _ANSWER},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 37, "completion_tokens": 19, "total_tokens": 56},
    },
    "completions": {
        "id": f"cmpl-{_REQUEST.replace('-', '')}",
        "object": "text_completion",
        "created": 1795504737,
        "model": _MODEL,
        "choices": [
            {"index": 0, "text": " what pulls", "logprobs": None, "finish_reason": "length"}
        ],
        "usage": {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4},
    },
    "moderations": {
        "id": f"modr-{_REQUEST.replace('-', '')}",
        "model": _ENCODER,
        "results": [
            {
                "flagged": True,
                "categories": {"harassment/threatening": True, "violence": True},
                "category_scores": {"harassment/threatening": 0.98, "violence": 0.95},
                "category_applied_input_types": {"harassment/threatening": ["text"]},
            }
        ],
    },
    "responses_create": _RESPONSE,
    "responses_retrieve": _RESPONSE,
    "responses_cancel": {**_RESPONSE, "status": "cancelled", "output": []},
    "responses_delete": {"id": _RESPONSE["id"], "object": "response", "deleted": True},
    "responses_input_items": {
        "object": "list",
        "data": [
            {
                "id": f"msg_{_REQUEST.replace('-', '')}i0",
                "type": "message",
                "role": "user",
                "status": "completed",
                "content": [{"type": "input_text", "text": "Explain gravity to a child."}],
            }
        ],
        "first_id": f"msg_{_REQUEST.replace('-', '')}i0",
        "last_id": f"msg_{_REQUEST.replace('-', '')}i0",
        "has_more": False,
    },
    "openai_embeddings": {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.0216, -0.0581]},
            {"object": "embedding", "index": 1, "embedding": [0.0403, -0.0179]},
        ],
        "model": _ENCODER,
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
    },
    "embeddings": {**_EMBEDDED, "dimensions": 384, "embedding": [0.0216, -0.0581]},
    "similarity": {**_EMBEDDED, "scores": [0.7886, 0.1174]},
    "files_create": _FILE,
    "files_retrieve": _FILE,
    "files_list": {"object": "list", "data": [_FILE], "has_more": False},
    "batches_create": _BATCHED,
    "batches_retrieve": _BATCHED,
    "batches_cancel": {**_BATCHED, "status": "cancelling"},
    "batches_list": {"object": "list", "data": [_BATCHED], "has_more": False},
    "models_list": {"object": "list", "data": [_OPENAI_MODEL]},
    "models_retrieve": _OPENAI_MODEL,
    "infer": {
        "request_id": _REQUEST,
        "model": _MODEL,
        "text": _ANSWER,
        "finish_reason": "stop",
        "usage": _USAGE,
        "cost": _COST,
        "latency_ms": 620.1,
    },
    "infer_stream": (
        f'event: start\ndata: {{"request_id":"{_REQUEST}","model":"{_MODEL}"}}\n\n'
        'id: 1-2\nevent: token\ndata: {"text":"Gravity","position":0}\n\n'
        'id: 2-2\nevent: token\ndata: {"text":" is","position":1}\n\n'
        f'id: 9-0\nevent: done\ndata: {{"request_id":"{_REQUEST}","finish_reason":"stop",'
        '"usage":{…},"cost":{…}}\n\n'
    ),
    "analytics": {
        "span": "day",
        "since": "2026-11-18T00:00:00Z",
        "until": "2026-11-25T00:00:00Z",
        "totals": _FIGURES,
        "groups": [{"of": {"day": "2026-11-24", "model": _MODEL}, **_FIGURES}],
    },
    "requests": {"data": [_ENTRY], "next": _REQUEST},
    "feedback": _FEEDBACK,
    "feedback_give": _FEEDBACK,
    "jobs_retrieve": _JOB,
    "v2_infer": {"data": _ENDED_JOB, "meta": _META},
    "v2_jobs_retrieve": {"data": _ENDED_JOB, "meta": _META},
    "v2_jobs": {"data": [_ENTRY], "page": {"next": _REQUEST}, "meta": _META},
    "cache": _CACHING,
    "cache_choose": _CACHING,
    "cache_empty": {**_CACHING, "forgotten": 12},
    "model_info": {
        "name": _MODEL,
        "kind": "language",
        "capabilities": ["chat", "streaming", "tools", "structured_outputs", "logprobs"],
        "price": {"currency": "EUR", "per_million": {"input_tokens": "0.050000000"}},
        "context": 4096,
        "defaults": {"max_tokens": 512, "temperature": 0.2, "top_p": 0.9},
        "workers": 1,
        "running": 3,
        "waiting": 0,
        "healthy": True,
    },
}
_OFTEN = {
    "400": "The body or a parameter is not right; the message names the field",
    "401": "No key, or not one that is valid",
    "403": "The key lacks the scope, or its organization is suspended",
    "429": "A limit is reached; `Retry-After` says when to try again",
    "503": "A server of ours does not answer now, or not in time",
}
_OF_RUNNING = {
    "402": "The organization's credit cannot pay for it",
    "404": "No such model, or not for this key",
    "429": "A limit is reached; `Retry-After` says when to try again",
    "503": "Nothing can serve it now",
}


_EVENT = {
    "type": "object",
    "description": "Of each event of the stream: its fields as they are sent.",
    "properties": {
        "event": {"type": "string"},
        "id": {"type": "string"},
        "data": {"type": "string", "description": "JSON, or `[DONE]`."},
    },
    "required": ["data"],
}


def complete(result: dict[str, Any], **about: Any) -> dict[str, Any]:
    """A postprocessing hook of drf-spectacular's: `result` with examples and refusals."""
    result["components"]["schemas"] |= {"OpenAIError": _openai_error(), "Problem": _problem()}
    for path, operation in _operations(result):
        name = operation["operationId"]
        if name in _ASKED:
            for content in operation["requestBody"]["content"].values():
                content["examples"] = {
                    title: {"value": value} for title, value in _ASKED[name].items()
                }
        answers = operation["responses"].get("200", {}).get("content", {})
        for kind, content in answers.items():
            if kind == "text/event-stream":
                content["schema"] = _EVENT
            if name in _ANSWERED and (kind == "text/event-stream") == (name == "infer_stream"):
                content["example"] = _ANSWERED[name]
        for status, said in _refusals(path, operation).items():
            operation["responses"][status] = _refusal(path, said)
    return result


def _refusals(path: str, operation: Mapping[str, Any]) -> dict[str, str]:
    refusals = {**_OFTEN, **(_OF_RUNNING if operation["operationId"] in _ASKED else {})}
    if "{" in path:
        refusals.setdefault("404", "There is none, or it is another organization's")
    return refusals | {"default": "Any other refusal, in the same form"}


def _operations(result: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in result["paths"].items():
        for operation in methods.values():
            yield path, operation


def _refusal(path: str, said: str) -> dict[str, Any]:
    openai = path.startswith("/v1/")
    kind = "application/json" if openai else "application/problem+json"
    schema = {"$ref": f"#/components/schemas/{'OpenAIError' if openai else 'Problem'}"}
    return {"description": said, "content": {kind: {"schema": schema}}}


def _openai_error() -> dict[str, Any]:
    text, maybe = {"type": "string"}, {"type": ["string", "null"]}
    fields = {"message": text, "type": text, "param": maybe, "code": text}
    return {
        "type": "object",
        "properties": {
            "error": {"type": "object", "properties": fields, "required": list(fields)},
        },
        "required": ["error"],
    }


def _problem() -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "object",
        "description": "RFC 9457.",
        "properties": {
            "type": text,
            "title": text,
            "status": {"type": "integer"},
            "detail": text,
            "code": text,
            "request_id": {"type": "string", "format": "uuid"},
            "retry_after": {"type": "integer", "minimum": 1, "description": "Seconds."},
            "param": text,
        },
        "required": ["type", "title", "status", "detail", "code", "request_id"],
    }
