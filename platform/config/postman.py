"""The API as a Postman collection (v2.1.0), made from the schema: docs/postman_collection.json."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import orjson

_SCHEMA = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
_SAMPLES: Mapping[str, Any] = {
    "string": "…",
    "integer": 1,
    "number": 1.0,
    "boolean": False,
    "array": [],
    "null": None,
}


def collection(described: Mapping[str, Any]) -> bytes:
    """A folder a tag, a request an operation, with its examples; JSON."""
    folders: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            [tag, *_] = operation.get("tags", ["Other"])
            folders[tag].append(_item(described, path, method, operation))
    title = described["info"]["title"]
    found = {
        "info": {
            "_postman_id": str(uuid5(NAMESPACE_URL, title)),
            "name": title,
            "description": "Set `base_url` and `api_key`. Printed by `manage.py print_postman`.",
            "schema": _SCHEMA,
        },
        "auth": {"type": "bearer", "bearer": [_pair("token", "{{api_key}}", type="string")]},
        "variable": [_pair("base_url", "http://127.0.0.1:8000"), _pair("api_key", "")],
        "item": [{"name": tag, "item": folders[tag]} for tag in sorted(folders)],
    }
    return orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n"


def _item(
    described: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any]
) -> dict[str, Any]:
    request = {
        "method": method.upper(),
        "description": operation.get("description", ""),
        "header": [
            _pair(each["name"], "", description=each.get("description", ""), disabled=True)
            for each in operation.get("parameters", ())
            if each["in"] == "header"
        ],
        "url": _url(path, operation),
        **_body(described, operation),
    }
    name = operation.get("summary") or operation["operationId"]
    answers = [*_answers(operation, request)]
    return {"name": name, "request": request, "response": answers}


def _url(path: str, operation: Mapping[str, Any]) -> dict[str, Any]:
    parts = path.strip("/").replace("{", ":").replace("}", "").split("/")
    query, variables = [], []
    for each in operation.get("parameters", ()):
        about = each.get("description", "")
        if each["in"] == "query":
            query.append(_pair(each["name"], "", description=about, disabled=True))
        elif each["in"] == "path":
            variables.append(_pair(each["name"], "", description=about))
    return {
        "raw": "{{base_url}}/" + "/".join(parts),
        "host": ["{{base_url}}"],
        "path": parts,
        "query": query,
        "variable": variables,
    }


def _body(described: Mapping[str, Any], operation: Mapping[str, Any]) -> dict[str, Any]:
    content = operation.get("requestBody", {}).get("content", {})
    if "multipart/form-data" in content:
        fields = content["multipart/form-data"]["schema"]["properties"]
        form = [_field(described, name, of) for name, of in fields.items()]
        return {"body": {"mode": "formdata", "formdata": form}}
    if "application/json" not in content:
        return {}
    of = content["application/json"]
    examples = [*of.get("examples", {}).values()]
    sample = examples[0]["value"] if examples else _sample(described, of["schema"])
    return {"body": _raw(sample)}


def _field(described: Mapping[str, Any], name: str, of: Mapping[str, Any]) -> dict[str, Any]:
    if of.get("format") == "binary":
        return {"key": name, "type": "file", "src": []}
    return _pair(name, str(_sample(described, of)), type="text")


def _answers(operation: Mapping[str, Any], request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for status, response in operation.get("responses", {}).items():
        for kind, content in response.get("content", {}).items():
            if "example" in content:
                example = content["example"]
                text = example if isinstance(example, str) else _pretty(example)
                yield {
                    "name": response.get("description") or status,
                    "originalRequest": request,
                    "code": int(status),
                    "header": [_pair("Content-Type", kind)],
                    "body": text,
                }


def _sample(described: Mapping[str, Any], of: Mapping[str, Any]) -> Any:
    """The least that fits a schema, to be filled in."""
    for known in ("example", "default", "const"):
        if known in of:
            return of[known]
    if "enum" in of:
        return of["enum"][0]
    if "$ref" in of:
        return _sample(described, described["components"]["schemas"][of["$ref"].split("/")[-1]])
    for several in ("anyOf", "oneOf", "allOf"):
        if several in of:
            return _sample(described, of[several][0])
    if "properties" in of or of.get("type") == "object":
        fields = of.get("properties", {})
        return {name: _sample(described, fields[name]) for name in of.get("required", ())}
    return _SAMPLES.get(of.get("type", "string"), "…")


def _raw(sample: Any) -> dict[str, Any]:
    options = {"raw": {"language": "json"}}
    return {"mode": "raw", "raw": _pretty(sample), "options": options}


def _pretty(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def _pair(key: str, value: str, **more: Any) -> dict[str, Any]:
    return {"key": key, "value": value, **more}
