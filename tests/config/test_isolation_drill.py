"""The isolation drill sees what it looks for."""

import runpy
from typing import Any

import pytest
from django.conf import settings

OURS, THEIRS = "canary-aaaaaaaaaaaa", "canary-bbbbbbbbbbbb"


@pytest.fixture(scope="module")
def drill() -> dict[str, Any]:
    """The script, not run."""
    return runpy.run_path(str(settings.BASE_DIR / "benchmarks" / "isolation.py"))


@pytest.mark.parametrize(
    ("text", "must", "foreign", "odd"),
    [
        (f"{OURS} said", True, 0, 0),
        ("nothing", False, 0, 0),
        ("nothing", True, 0, 1),
        (f"{OURS} and {THEIRS}", True, 1, 0),
        (f"key={THEIRS}", False, 1, 0),
    ],
)
def test_a_foreign_canary_is_found_and_a_missing_one_missed(
    drill: dict[str, Any], text: str, must: bool, foreign: int, odd: int
) -> None:
    found = drill["Findings"]()
    found.look("here", text, OURS, must=must)
    assert (len(found.foreign), len(found.odd)) == (foreign, odd)


def test_a_streams_text_is_put_together_before_it_is_searched(drill: dict[str, Any]) -> None:
    events = "".join(f'data: {{"text":"{part}"}}\n\n' for part in (THEIRS[:9], THEIRS[9:]))
    assert THEIRS not in events
    assert drill["_said"](events) == THEIRS


def test_the_limits_hammer_sees_one_too_many_and_one_refused_too_early() -> None:
    check = runpy.run_path(str(settings.BASE_DIR / "benchmarks" / "limits.py"))["check"]
    good = [(1, "admitted", 5), (2, "admitted", 5), (3, "refused requests_per_minute", 5)]
    bounds = (2, 100, 9)
    assert (check(good, bounds)["over a limit"], check(good, bounds)["refused below it"]) == (0, 0)
    assert check([*good, (4, "admitted", 5)], bounds)["over a limit"] == 1
    early = [(1, "admitted", 5), (2, "refused requests_per_minute", 5)]
    assert check(early, bounds)["refused below it"] == 1
