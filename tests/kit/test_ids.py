"""Request ids: UUIDv7, in the order of time."""

from datetime import UTC, datetime, timedelta
from uuid import RFC_4122

from hypothesis import given
from hypothesis import strategies as st

from kit.ids import first_id, made_at, request_id

MOMENTS = st.integers(min_value=10, max_value=7_000_000_000_000).map(
    lambda milliseconds: datetime.fromtimestamp(milliseconds / 1000, UTC)
)
MILLISECOND = timedelta(milliseconds=1)


@given(MOMENTS)
def test_an_id_is_a_version_7_uuid_that_knows_its_time(at: datetime) -> None:
    made = request_id(at)
    assert (made.version, made.variant) == (7, RFC_4122)
    assert abs(made_at(made) - at) <= MILLISECOND


@given(MOMENTS)
def test_the_first_id_of_a_moment_parts_what_came_before_from_what_comes_after(
    at: datetime,
) -> None:
    border = first_id(at)
    assert request_id(at - 2 * MILLISECOND) < border <= request_id(at)


def test_ids_of_one_moment_differ() -> None:
    now = datetime.now(UTC)
    assert len({request_id(now) for _ in range(10_000)}) == 10_000
