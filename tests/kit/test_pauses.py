"""Full collections of garbage are rare, and still come."""

import gc
from collections.abc import Iterator
from time import monotonic

import pytest

from kit import pauses


@pytest.fixture
def full_ones() -> Iterator[list[float]]:
    """When full collections began and ended, in turn."""
    moments: list[float] = []

    def note(_: str, said: dict[str, int]) -> None:
        if said["generation"] == 2:
            moments.append(monotonic())

    usual = gc.get_threshold()
    pauses.keep_rare()
    gc.callbacks.append(note)
    yield moments
    gc.callbacks.remove(note)
    gc.callbacks.remove(pauses.Pauses.note)
    gc.set_threshold(*usual)
    gc.unfreeze()


class Knot:
    """Nothing frees it but a collection."""

    def __init__(self) -> None:
        self.itself = self


def test_a_full_collection_waits_a_hundred_times_what_the_last_one_took(
    full_ones: list[float],
) -> None:
    lived = [[each] for each in range(200_000)]
    gc.collect()
    full_ones[:-2] = []
    lived += [[each] for each in range(400_000)]
    began, ended, *more = full_ones
    assert not more or more[0] > ended + 100 * (ended - began)


def test_what_only_a_collection_frees_goes_in_the_end(
    full_ones: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "_SHARE", 3)
    gc.collect()
    until = monotonic() + 60
    kept = []
    while len(full_ones) < 6 and monotonic() < until:
        kept.append(Knot())
    assert len(full_ones) >= 6
