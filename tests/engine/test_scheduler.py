"""Who runs when: nobody starves, nobody is crowded out, nothing changes a text."""

import pytest

from inference.engine import Engine, Work
from inference.engine.fairness import Served
from inference.engine.scheduler import AGEING, CROWD, FAVOURS, PATIENCE
from inference.engine.text import ByteText
from tests.engine.parts import Answer, Answers, HashRunner, finish, solo, work

LONG = 200


def engine(*, slots: int = 4, shelves: int = 2, cache_tokens: int | None = None) -> Engine:
    runner = HashRunner(slots=slots, shelves=shelves, endless=True)
    return stepped(runner, cache_tokens=cache_tokens)


def stepped(runner: HashRunner, *, cache_tokens: int | None = None) -> Engine:
    """An engine of small steps."""
    return Engine(runner, ByteText(256), step_tokens=16, chunk=8, cache_tokens=cache_tokens)


def endless(name: str, *, tenant: str = "acme", priority: int = 1) -> Work:
    """A work of many tokens."""
    return work(name, [40], max_tokens=LONG, tenant=tenant, priority=priority)


def steps_until(running: Engine, answers: Answers, name: str, *, most: int = 5000) -> int:
    """Steps until a work's first token."""
    for step in range(1, most):
        answers.take(running.step())
        running.check()
        if answers.get(name, Answer()).tokens:
            return step
    raise AssertionError(f"{name} never got a token")


def test_an_organization_that_runs_nothing_waits_for_no_queue() -> None:
    running, answers = engine(), Answers()
    for number in range(64):
        running.submit(endless(f"globex {number}", tenant="globex"))
    for _ in range(20):
        answers.take(running.step())
    running.submit(work("acme's", [50, 51]))
    assert steps_until(running, answers, "acme's") <= 3


def test_beside_many_streams_a_single_one_gets_short_steps_of_its_own() -> None:
    running, answers = engine(slots=CROWD), Answers()
    for number in range(64):
        running.submit(endless(f"globex {number}", tenant="globex"))
    running.submit(endless("acme's"))
    steps_until(running, answers, "acme's")
    before = {name: len(answer.tokens) for name, answer in answers.items()}
    for _ in range(10 * (FAVOURS + 1)):
        answers.take(running.step())
    gained = {name: len(answers[name].tokens) - count for name, count in before.items()}
    assert gained.pop("acme's") == 10 * (FAVOURS + 1)
    assert max(gained.values()) == 10


def test_organizations_of_like_size_share_every_step() -> None:
    runner = HashRunner(slots=CROWD, endless=True)
    running = Engine(runner, ByteText(256), step_tokens=64, chunk=8)
    for number in range(CROWD):
        running.submit(endless(str(number), tenant=f"tenant {number % 3}"))
    for _ in range(5):
        running.step()
    runner.calls.clear()
    running.step()
    assert runner.calls == [("decode", CROWD)]


def test_slots_go_to_the_organization_served_least() -> None:
    running, answers = engine(slots=1), Answers()
    for number in range(6):
        running.submit(work(f"globex {number}", [40, 50 + number], max_tokens=5, tenant="globex"))
    for number in range(3):
        running.submit(work(f"acme {number}", [40, 50 + number], max_tokens=5))
    answers.take_rest(running)
    assert [name.split()[0] for name in answers][:6].count("acme") == 3


def test_a_less_urgent_one_gives_way_after_a_while_and_loses_nothing() -> None:
    works = [endless(str(number), priority=2) for number in range(4)]
    alone = {each.id: solo(engine(), each) for each in works}
    for shelves in (0, 2):
        running, answers = engine(shelves=shelves), Answers()
        for each in works:
            running.submit(each)
        for _ in range(10):
            answers.take(running.step())
        running.submit(work("urgent", [50], priority=0))
        assert PATIENCE <= steps_until(running, answers, "urgent") <= PATIENCE + 5
        answers.take_rest(running)
        del answers["urgent"]
        assert answers == alone


def test_what_gave_way_goes_on_from_its_shelf_without_computing_again() -> None:
    runner = HashRunner(slots=2, endless=True)
    running, answers = stepped(runner), Answers()
    for number in range(2):
        running.submit(endless(f"globex {number}", tenant="globex"))
    for _ in range(30):
        answers.take(running.step())
    running.submit(work("acme's", [50, 51, 52], max_tokens=1))
    runner.calls.clear()
    answers.take_rest(running)
    assert [length for kind, length in runner.calls if kind == "prefill"] == [3]


def test_a_request_gives_way_once_at_most() -> None:
    runner = HashRunner(slots=3, shelves=0, endless=True)
    running, answers = stepped(runner), Answers()
    for length in (4, 5, 6):
        running.submit(work(str(length), [40] * length, max_tokens=LONG, tenant="globex"))
    for number in range(6):
        for _ in range(8):
            answers.take(running.step())
        running.submit(work(f"new {number}", [50], max_tokens=1, tenant=f"tenant {number}"))
    answers.take_rest(running)
    computed = [length for kind, length in runner.calls if kind == "prefill"]
    assert computed.count(6) == computed.count(5) == 2


def test_the_less_urgent_ends_though_urgent_ones_keep_arriving() -> None:
    running, answers = engine(slots=2), Answers()
    for name in ("first", "second"):
        running.submit(work(name, [40], max_tokens=4))
    running.submit(work("patient", [60], max_tokens=3, priority=2))
    for step in range(2 * AGEING):
        if answers.get("patient", Answer()).outcome:
            break
        running.submit(work(str(step), [40, 50 + step % 97], max_tokens=4))
        answers.take(running.step())
    assert answers["patient"].outcome
    assert step > AGEING // 2


def test_when_the_cache_is_full_the_last_in_is_computed_again() -> None:
    works = [work(str(number), [40 + number], max_tokens=120) for number in range(4)]
    alone = {each.id: solo(engine(), each) for each in works}
    running = engine(cache_tokens=256)
    for each in works:
        running.submit(each)
    assert finish(running) == alone


def test_a_request_for_the_whole_context_runs_beside_others() -> None:
    running = engine(cache_tokens=300)
    for number in range(3):
        running.submit(work(str(number), [40 + number], max_tokens=100))
    running.step()
    running.submit(work("whole", [40] * 255, max_tokens=9))
    assert finish(running)["whole"].outcome is not None


def test_who_comes_back_from_a_pause_has_saved_up_nothing() -> None:
    served = Served()
    served.enter("acme", [])
    served.charge("acme", 100)
    served.enter("globex", ["acme"])
    assert served["globex"] == served["acme"] == 100
    served.charge("globex", 50)
    served.enter("initech", ["acme", "globex"])
    assert served["initech"] == 100
    served.charge("acme", 500)
    served.enter("globex", ["acme"])
    assert served["globex"] == served["acme"] == 600
    served.enter("acme", [])
    assert served["acme"] == served["globex"] == 0


@pytest.mark.parametrize("pause", [1, 5])
def test_who_leaves_for_a_moment_does_not_get_rid_of_what_he_was_served(pause: int) -> None:
    served = Served()
    served.enter("acme", [])
    served.enter("globex", ["acme"])
    served.charge("globex", 90)
    served.charge("acme", pause)
    served.enter("globex", ["acme"])
    assert served["globex"] == 90
