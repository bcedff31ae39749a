"""Endpoint by parameter, what becomes of it: `docs/compatibility.md`, printed from the schema."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from drf_spectacular.generators import SchemaGenerator

from inference.api.parameters import BECOMES

_SAID = {"ignored": "ignored", "refused": "refused", "ours": "supported, ours"}


def schema() -> dict[str, Any]:
    """The API's, as `/api/schema` serves it."""
    return SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-any-return,no-untyped-call]


def parameters(
    described: Mapping[str, Any], operation: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What an operation takes: its query's parameters, then its body's fields."""
    for each in operation.get("parameters", ()):
        if each["in"] == "query":
            yield each["name"], {"description": each.get("description", ""), **each["schema"]}
    for content in operation.get("requestBody", {}).get("content", {}).values():
        yield from _resolved(described, content["schema"])["properties"].items()
        return


def page(described: Mapping[str, Any]) -> str:
    """The tables as a page of Markdown."""
    tables = []
    for path, methods in described["paths"].items():
        if not path.startswith("/v1/"):
            continue
        for method, operation in methods.items():
            rows = [*_rows(described, operation)]
            lines = [_line(["parameter", "", "values"]), _line(["---"] * 3), *rows]
            table = "\n".join(lines) if rows else "No parameters."
            tables.append(f"### `{method.upper()} {path}`\n\n{table}")
    return _PAGE.format(tables="\n\n".join(tables))


def _rows(described: Mapping[str, Any], operation: Mapping[str, Any]) -> Iterator[str]:
    for name, of in parameters(described, operation):
        becomes = of.get(BECOMES, "")
        values = " or ".join(_values(described, of)) or "null alone"
        about = str(of.get("description", "")).rstrip(".")
        said = f"{values}: {about}" if about else values
        yield _line([f"`{name}`", _SAID.get(becomes, "supported"), said.replace("|", "\\|")])
        for inner, field in _inner(described, of):
            if BECOMES in field:
                said = f"{' or '.join(_values(described, field))}: {field['description']}"
                yield _line([f"`{name}.{inner}`", _SAID[field[BECOMES]], said])


def _inner(described: Mapping[str, Any], of: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The fields of a parameter that is an object of its own."""
    for each in of.get("anyOf", [of]):
        yield from _resolved(described, each).get("properties", {}).items()


def _resolved(described: Mapping[str, Any], of: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in of:
        return of
    found: Mapping[str, Any] = described["components"]["schemas"][of["$ref"].rpartition("/")[2]]
    return found


def _values(described: Mapping[str, Any], of: Mapping[str, Any]) -> list[str]:
    """In words, each of the kinds of value that it may have; null goes without saying."""
    if "$ref" in of:
        return _values(described, _resolved(described, of))
    for several in ("anyOf", "oneOf", "allOf"):
        if several in of:
            each = [words for one in of[several] for words in _values(described, one)]
            return [*dict.fromkeys(each)]
    if "enum" in of or "const" in of:
        return [", ".join(f"`{_plain(each)}`" for each in of.get("enum", [of.get("const")]))]
    return _of_type(of)


def _of_type(of: Mapping[str, Any]) -> list[str]:
    match of.get("type"):
        case "null":
            return []
        case "boolean":
            return ["`true`, `false`"]
        case "integer" | "number" as kind:
            return [f"{kind}{_bounds(of)}"]
        case "string":
            return [f"text{_most(of, 'maxLength', 'characters')}"]
        case "array":
            known = "enum" in of.get("items", {}) or "const" in of.get("items", {})
            entries = f" of {_values(of, of['items'])[0]}" if known else ""
            return [f"list{entries}{_most(of, 'maxItems', 'entries')}"]
        case _:
            return ["object"]


def _bounds(of: Mapping[str, Any]) -> str:
    least = of.get("minimum", of.get("exclusiveMinimum"))
    most = of.get("maximum", of.get("exclusiveMaximum"))
    if least is None or most is None:
        return "" if least is None else f" from {_number(least)}"
    above = " (above)" if "exclusiveMinimum" in of else ""
    return f" from {_number(least)}{above} to {_number(most)}"


def _number(value: float) -> str:
    if abs(value) < 2**31:
        return f"{value:,g}" if isinstance(value, float) else f"{value:,}"
    return f"{'-' if value < 0 else ''}2^{abs(int(value)).bit_length() - 1}"


def _most(of: Mapping[str, Any], name: str, what: str) -> str:
    return f", up to {of[name]:,} {what}" if name in of else ""


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


_PAGE = """\
# Compatibility with OpenAI's API

Printed by `manage.py print_compatibility` from the forms that decide; tests compare the two, and
the forms with every parameter that the `openai` package knows.

- **supported**: does what it does at OpenAI's. Those that are *ours* are not OpenAI's; its clients
  send them in `extra_body`.
- **ignored**: may be sent, changes no answer, and is named in the response's
  `X-Ignored-Parameters`.
- **refused**: would change the answer, and nothing here does so: 400, with the parameter's name in
  `param`. Values named in the table are the ones that change nothing. Fields that nobody knows are
  refused the same way, since they are most often misspelt.

`null` stands for a parameter that is left out. Answers, chunks and errors have the fields of the
`openai` package's models and no others, but one: `usage.cost`, what the request cost, exactly.
Paths of OpenAI's that are not below answer 404 in its form of errors.

## Clients

The `openai` package for Python is run by the tests. `make clients` runs the others, against a
platform of its own with the default model: OpenAI's for Node.js (chats, streams, `parse`, tools,
responses, embeddings, moderations, files, batches, errors), Vercel's AI SDK over chats and over
responses, LlamaIndex, LiteLLM's client, and `langchain-openai` with the standard suites of
`langchain-tests` for chat models (over chats and over responses) and for embeddings. Of those,
these do not pass or do not run:

| tests of langchain-tests | | why |
| --- | --- | --- |
| `test_structured_output*` | expected to fail | the default model (135 M parameters) repeats itself within a string, greedily, until `max_tokens`: JSON that is cut off |
| `test_tool_calling*` | expected to fail | the call and its arguments are right, but the model makes it more than once |
| `test_agent_loop` | expected to fail | the model does not answer with what its tool found |
| `test_serdes` | skipped | it compares with a snapshot that lies in LangChain's own repository |
| images, audio, PDF, Anthropic's inputs | skipped | no model here takes them |
| `test_json_mode` | skipped | LangChain runs it for models that declare it; `json_object` is in our own tests |
| `*_override`, `init_from_env`, VCR | skipped | about LangChain's own classes |

## Endpoints

{tables}
"""  # noqa: E501
