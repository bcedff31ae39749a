"""Stop strings."""

from hypothesis import example, given
from hypothesis import strategies as st

from inference.engine.stops import Stops

texts = st.text("ab ", max_size=30)
stops = st.lists(st.text("ab ", min_size=1, max_size=4), min_size=1, max_size=4).map(tuple)


def reference(text: str, strings: tuple[str, ...]) -> tuple[str, bool]:
    """Letter by letter: the text before the stop string that is complete first."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in strings if text[:end].endswith(stop)]
        if found:
            return text[: end - len(max(found, key=len))], True
    return text, False


@given(pieces=st.lists(texts, max_size=8), strings=stops)
@example(pieces=["xabc"], strings=("abc", "b"))
def test_text_ends_where_the_plain_reference_ends_it(
    pieces: list[str], strings: tuple[str, ...]
) -> None:
    filtering, delivered, ended = Stops(strings), "", False
    for piece in pieces:
        text, ended = filtering.push(piece)
        delivered += text
        if ended:
            break
    delivered += filtering.flush()
    assert (delivered, ended) == reference("".join(pieces), strings)


@given(pieces=st.lists(texts, max_size=8), strings=stops)
def test_no_beginning_of_a_stop_string_is_ever_delivered(
    pieces: list[str], strings: tuple[str, ...]
) -> None:
    filtering, delivered = Stops(strings), ""
    for piece in pieces:
        text, ended = filtering.push(piece)
        delivered += text
        assert not any(stop in delivered for stop in strings)
        if ended:
            return


def test_without_stop_strings_everything_passes_at_once() -> None:
    assert Stops(()).push("anything") == ("anything", False)


def test_what_may_become_a_stop_string_waits_and_is_delivered_when_it_did_not() -> None:
    filtering = Stops(("END",))
    assert filtering.push("the EN") == ("the ", False)
    assert filtering.push("ERGY") == ("ENERGY", False)
