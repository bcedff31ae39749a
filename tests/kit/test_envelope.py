"""Sealed texts open where they belong, and nowhere else."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.envelope import Place, Ring, Unreadable, sealed_under

KEYS = {1: os.urandom(32), 2: os.urandom(32)}
RING = Ring(KEYS)
HERE = Place(7, "history.prompt", "r1")


@given(st.binary(max_size=300))
def test_what_was_sealed_opens(text: bytes) -> None:
    sealed = RING.seal(text, HERE)
    assert RING.unseal(sealed, HERE) == text
    assert text not in sealed or len(text) < 4
    assert sealed_under(sealed) == 2


@pytest.mark.parametrize(
    "there",
    [Place(8, "history.prompt", "r1"), Place(7, "history.answer", "r1"), Place(7, "history", "r1")],
)
def test_a_text_that_was_moved_does_not_open(there: Place) -> None:
    with pytest.raises(Unreadable, match="belongs elsewhere"):
        RING.unseal(RING.seal(b"secret", HERE), there)


@given(st.integers(min_value=0, max_value=10_000), st.integers(min_value=1, max_value=255))
def test_a_text_that_was_altered_does_not_open(at: int, by: int) -> None:
    sealed = bytearray(RING.seal(b"secret", HERE))
    sealed[at % len(sealed)] ^= by
    with pytest.raises(Unreadable):
        RING.unseal(bytes(sealed), HERE)


def test_no_two_places_are_spelled_alike() -> None:
    assert Place(7, "a", "bc").encode() != Place(7, "ab", "c").encode()


def test_an_older_key_opens_and_the_newest_seals() -> None:
    old = Ring({1: KEYS[1]}).seal(b"before", HERE)
    assert RING.unseal(old, HERE) == b"before"
    with pytest.raises(Unreadable, match="version 2 is gone"):
        Ring({1: KEYS[1]}).unseal(RING.seal(b"after", HERE), HERE)


def test_the_same_text_is_never_sealed_alike() -> None:
    assert len({RING.seal(b"x", HERE) for _ in range(100)}) == 100


@pytest.mark.parametrize("text", [b"", b"plain text that nobody ever has sealed", b"\x01" * 20])
def test_what_was_never_sealed_is_said_to_be_no_sealed_text(text: bytes) -> None:
    with pytest.raises(Unreadable):
        RING.unseal(text, HERE)


def test_a_ring_does_not_show_its_keys() -> None:
    assert KEYS[1].hex() not in repr(RING)
    assert repr(KEYS[1]) not in repr(RING)
