"""What Stripe's own package says a request and an answer look like, held against both.

Requests are checked against the typed parameters in `stripe.params`, answers against the resource
classes: a field that they don't know, lack or type otherwise is an error. Enumerations are taken
as closed, although the package leaves most of them open.
"""

import ast
import sys
import typing
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import cache
from importlib import import_module
from typing import Any, Literal, NotRequired, get_args, get_origin, get_type_hints

import stripe
import stripe.params
from stripe import RequestOptions, StripeObject
from stripe._expandable_field import ExpandableField
from stripe._stripe_context import StripeContext
from stripe._stripe_object import UntypedStripeObject
from typing_extensions import is_typeddict


class Unfit(Exception):
    """A value that does not fit: which field, and why."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}")
        self.field, self.why = field, why


def decode(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """`a[b][0][c]=d` as nested objects, the way Stripe reads its forms."""
    tree: dict[str, Any] = {}
    for name, value in pairs:
        first, *rest = name.replace("]", "").split("[")
        at = tree
        for step, after in zip([first, *rest], [*rest, None], strict=True):
            if after is None:
                at[step] = value
            else:
                at = at.setdefault(step, {})
    return tree


def request(params: type, form: Mapping[str, Any]) -> dict[str, Any]:
    """A decoded form as typed parameters; raises `Unfit`."""
    return _fields(params, form, "")


def answer(resource: type, data: Mapping[str, Any]) -> None:
    """Raise `Unfit` unless `data` is what the package's resource class describes."""
    _resource(resource, data, resource.__name__)


@cache
def _params(kind: type) -> dict[str, tuple[Any, bool]]:
    names = {"StripeContext": StripeContext, "Mapping": Mapping}
    hints = get_type_hints(kind, localns=names, include_extras=True)
    options = RequestOptions.__annotations__
    named = {}
    for name, hint in hints.items():
        if name in options:
            continue
        optional = get_origin(hint) is NotRequired
        named[name] = (get_args(hint)[0] if optional else hint, not optional)
    return named


def _fields(kind: type, form: Any, where: str) -> dict[str, Any]:
    if not isinstance(form, Mapping):
        raise Unfit(where, "Invalid object")
    known = _params(kind)
    for name in form:
        if name not in known:
            raise Unfit(f"{where}[{name}]" if where else name, "Received unknown parameter")
    for name, (_, required) in known.items():
        if required and name not in form:
            raise Unfit(f"{where}[{name}]" if where else name, "Missing required param")
    return {
        name: _value(known[name][0], value, f"{where}[{name}]" if where else name)
        for name, value in form.items()
    }


def _value(kind: Any, value: Any, where: str) -> Any:
    origin = get_origin(kind)
    if _is_union(kind):
        return _any_of(_closed(get_args(kind)), value, where)
    if origin is Literal:
        return _one_of(get_args(kind), value, where)
    if origin is list:
        return _each(get_args(kind)[0], value, where)
    if origin is dict or _is_map(kind):
        if isinstance(value, Mapping) and all(isinstance(each, str) for each in value.values()):
            return dict(value)
        raise Unfit(where, "Invalid hash of strings")
    if is_typeddict(kind):
        return _fields(kind, value, where)
    return _scalar(kind, value, where)


def _one_of(words: tuple[Any, ...], value: Any, where: str) -> Any:
    if value in words:
        return value
    raise Unfit(where, f"Invalid {value!r}: must be one of {words}")


def _each(kind: Any, value: Any, where: str) -> list[Any]:
    if isinstance(value, Mapping) and list(value) == [str(n) for n in range(len(value))]:
        return [_value(kind, each, f"{where}[{n}]") for n, each in value.items()]
    raise Unfit(where, "Invalid array")


def _scalar(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, str):
        raise Unfit(where, "Invalid string")
    if kind is bool:
        if value in ("true", "false"):
            return value == "true"
        raise Unfit(where, f"Invalid boolean: {value}")
    if kind is int:
        if value.removeprefix("-").isdecimal():
            return int(value)
        raise Unfit(where, f"Invalid integer: {value}")
    if kind in (str, Decimal):
        return value
    raise Unfit(where, f"{kind} is not understood")


def _any_of(kinds: Iterable[Any], value: Any, where: str) -> Any:
    first: Unfit | None = None
    for kind in kinds:
        try:
            return _value(kind, value, where)
        except Unfit as unfit:
            first = first or unfit
    raise first or Unfit(where, "Invalid")


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (typing.Union, type(int | str))


def _is_map(kind: Any) -> bool:
    return kind is UntypedStripeObject or get_origin(kind) is UntypedStripeObject


def _closed(kinds: tuple[Any, ...]) -> list[Any]:
    """Without the `str` that the package puts beside an enumeration."""
    named = any(get_origin(each) is Literal and get_args(each) != ("",) for each in kinds)
    return [each for each in kinds if not (named and each is str)]


@cache
def _resource_fields(kind: type) -> dict[str, Any]:
    module = sys.modules[kind.__module__]
    top = module.__dict__.get(kind.__qualname__.split(".")[0], kind)
    names = {**_imports(module), **vars(top), **vars(kind), "ExpandableField": ExpandableField}
    hints = get_type_hints(kind, localns=names, include_extras=True)
    return {
        name: hint
        for name, hint in hints.items()
        if not name.startswith("_") and get_origin(hint) is not typing.ClassVar
    }


@cache
def _imports(module: Any) -> dict[str, Any]:
    """What a module of the package imports for its types alone."""
    with open(module.__file__) as source:
        tree = ast.parse(source.read())
    found = {}
    for node in ast.walk(tree):
        name = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        if name.startswith("stripe") and ".params" not in name:
            for each in node.names:  # type: ignore[attr-defined]
                found[each.asname or each.name] = getattr(import_module(name), each.name)
    return found


def _resource(kind: type, data: Any, where: str) -> None:
    if not isinstance(data, Mapping):
        raise Unfit(where, f"{data!r} is no object")
    hints = _resource_fields(kind)
    for name in data:
        if name not in hints:
            raise Unfit(f"{where}.{name}", "the package knows no such field")
    for name, hint in hints.items():
        if name in data:
            _check(hint, data[name], f"{where}.{name}")
        elif type(None) not in get_args(hint):
            raise Unfit(f"{where}.{name}", "is missing")


def _check(kind: Any, value: Any, where: str) -> None:
    origin, inner = get_origin(kind), get_args(kind)
    if _is_union(kind):
        _check_any(_closed(inner), value, where)
    elif origin is Literal:
        _one_of(inner, value, where)
    elif origin is list:
        _check_each(inner[0], value, where)
    elif origin is stripe.ListObject:
        _check_list(inner[0], value, where)
    elif _is_map(kind) or kind is Any or origin is dict:
        _require_object(value, where)
    else:
        _check_plain(kind, value, where)


def _check_each(kind: Any, value: Any, where: str) -> None:
    if not isinstance(value, list):
        raise Unfit(where, f"{value!r} is no list")
    for each in value:
        _check(kind, each, where)


def _require_object(value: Any, where: str) -> None:
    if not isinstance(value, Mapping):
        raise Unfit(where, f"{value!r} is no object")


def _check_plain(kind: Any, value: Any, where: str) -> None:
    if isinstance(kind, type) and issubclass(kind, StripeObject):
        _resource(kind, value, where)
    elif kind is Decimal:
        Decimal(value)
    elif type(value) is not kind:
        raise Unfit(where, f"{value!r} is no {kind.__name__}")


def _check_list(kind: Any, value: Any, where: str) -> None:
    if not isinstance(value, Mapping) or value.get("object") != "list":
        raise Unfit(where, "is no list object")
    for each in value["data"]:
        _check(kind, each, where)


def _check_any(kinds: Iterable[Any], value: Any, where: str) -> None:
    first: Unfit | None = None
    for kind in kinds:
        try:
            return _check(kind, value, where)
        except Unfit as unfit:
            first = first if first and kind is type(None) else unfit
    raise first or Unfit(where, "fits nothing")
