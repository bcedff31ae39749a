"""Money never passes through float: what the code says, read by its syntax tree."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings
from hypothesis import given
from hypothesis import strategies as st

from kit import money

ROOT: Path = settings.BASE_DIR
FILES = [*(ROOT / "billing").rglob("*.py"), ROOT / "platform" / "kit" / "money.py"]
SECONDS = {
    "billing/pricing.py": {"_SECONDS"},
    "billing/grants.py": {"made_at"},
    "billing/credit.py": {"_clock", "_figures", "_standing"},
}
"""What is divided there is time, not money."""


def floats(tree: ast.AST, spared: set[str]) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if _name(node) in spared:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            yield f"{node.lineno}: {node.value}"
        elif isinstance(node, ast.Name) and node.id == "float":
            yield f"{node.lineno}: float"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "round":
            yield f"{node.lineno}: round"
        elif isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
            left = node.left if isinstance(node, ast.BinOp) else node.target
            if not _is_path(left):
                yield f"{node.lineno}: true division"
        yield from floats(node, spared)


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    return node.name if isinstance(node, ast.FunctionDef) else ""


def _is_path(node: ast.AST) -> bool:
    text = ast.unparse(node)
    return "Path(" in text or text in ("_LUA", "_TEMPLATES")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_float_touches_money(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    assert list(floats(ast.parse(path.read_text()), SECONDS.get(name, set()))) == []


def test_the_rule_finds_what_it_looks_for() -> None:
    bad = "a = 0.5\nb = x / y\nc = float(z)\nd = round(z)\ne /= 2"
    assert len(list(floats(ast.parse(bad), set()))) == 5


@given(nanos=st.integers(0, 10**17 - 1))
def test_an_amount_that_is_written_is_read_again(nanos: int) -> None:
    assert money.parse(money.decimal(nanos)) == nanos


@pytest.mark.parametrize("text", ["", "-1", "1,5", "1e3", ".5", "1.0000000001", "٣", "1 "])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no amount"):
        money.parse(text)


@given(minor=st.integers(-(10**9), 10**9), currency=st.sampled_from(["EUR", "JPY", "KWD"]))
def test_minor_units_there_and_back_are_the_same(minor: int, currency: str) -> None:
    assert money.to_minor([money.from_minor(minor, currency)], currency) == [minor]
