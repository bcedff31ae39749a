"""Vectors by the model that ships: the right ones, the same in any company, fairly and once."""

from collections.abc import Callable
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from inference.engine import (
    ContextOverflow,
    Delta,
    EngineClosed,
    FinishReason,
    Sampling,
    Texts,
    Vectors,
    WordPieceText,
    load_embedder,
    vectors_of,
)
from inference.engine.embedder import Embedder
from inference.engine.prepare import prepare
from inference.engine.prepare.minilm import find_model

SOME = ["a cat sat on the mat", "The invoice is due.", "x", "[SEP] is only text", "mat " * 60]


@pytest.fixture(scope="session")
def encoder_folder(request: pytest.FixtureRequest) -> Path:
    """The encoder that ships, prepared in var/ unless it is there already."""
    models = request.config.rootpath / "var" / "models"
    return models / prepare("all-minilm-l6-v2", models).name


@pytest.fixture(scope="session")
def embedder_of(encoder_folder: Path) -> Callable[[], Embedder]:
    """A new embedder over it."""
    return lambda: load_embedder(encoder_folder, threads=2)


def work(folder: Path, *texts: str, name: str = "a", tenant: str = "acme") -> Texts:
    reader = WordPieceText(folder)
    rows = [reader.encode(text) for text in texts]
    return Texts(
        id=name,
        tenant=tenant,
        prompt=tuple(token for row in rows for token in row),
        sampling=Sampling(max_tokens=1),
        lengths=tuple(map(len, rows)),
    )


def until_empty(embedder: Embedder) -> list[Delta]:
    deltas = embedder.step()
    while embedder.stats().running:
        deltas += embedder.step()
    return deltas


def vectors(embedder: Embedder, wanted: Texts) -> Vectors:
    embedder.submit(wanted)
    [delta] = until_empty(embedder)
    assert delta.outcome is not None
    assert delta.outcome.reason is FinishReason.stop
    assert delta.outcome.prompt_tokens == len(wanted.prompt)
    return vectors_of(delta.text, count=len(wanted.lengths))


def test_vectors_are_those_that_transformers_computes(
    encoder_folder: Path, embedder_of: Callable[[], Embedder]
) -> None:
    import torch
    from transformers import AutoModel

    ours = vectors(embedder_of(), work(encoder_folder, *SOME))
    model = AutoModel.from_pretrained(find_model()).eval()
    reader = WordPieceText(encoder_folder)
    for text, vector in zip(SOME, ours, strict=True):
        with torch.no_grad():
            states = model(input_ids=torch.tensor([reader.encode(text)])).last_hidden_state
        theirs = torch.nn.functional.normalize(states.mean(1))[0].numpy()
        assert np.abs(vector - theirs).max() < 1e-5


def test_a_text_has_the_same_vector_to_the_last_bit_in_any_company(
    encoder_folder: Path, embedder_of: Callable[[], Embedder]
) -> None:
    embedder = embedder_of()
    alone = [vectors(embedder, work(encoder_folder, text))[0] for text in SOME]
    for number, text in enumerate(SOME):
        embedder.submit(work(encoder_folder, text, *SOME, name=str(number), tenant=str(number)))
    for delta in until_empty(embedder):
        found = vectors_of(delta.text, count=len(SOME) + 1)
        expected = [alone[int(delta.id)], *alone]
        assert all((one == other).all() for one, other in zip(found, expected, strict=True))


def test_one_text_of_another_organization_does_not_wait_for_a_thousand(
    encoder_folder: Path, embedder_of: Callable[[], Embedder]
) -> None:
    embedder = embedder_of()
    embedder.submit(work(encoder_folder, *["many texts"] * 200, name="many"))
    assert embedder.step() == []
    embedder.submit(work(encoder_folder, "one text", name="one", tenant="globex"))
    assert [delta.id for delta in embedder.step()] == ["one"]


def test_a_cancelled_work_ends_within_a_step_and_once(
    encoder_folder: Path, embedder_of: Callable[[], Embedder]
) -> None:
    embedder = embedder_of()
    embedder.submit(work(encoder_folder, *["many texts"] * 200))
    embedder.step()
    embedder.cancel("a")
    embedder.cancel("a")
    [delta] = embedder.step()
    assert delta.outcome is not None
    assert (delta.outcome.reason, delta.text) == (FinishReason.cancelled, "")
    assert embedder.step() == []


def test_what_cannot_be_embedded_is_refused(
    encoder_folder: Path, embedder_of: Callable[[], Embedder]
) -> None:
    embedder = embedder_of()
    with pytest.raises(ValueError, match="no texts"):
        embedder.submit(work(encoder_folder))
    with pytest.raises(ContextOverflow):
        embedder.submit(work(encoder_folder, "word " * 600))
    embedder.submit(work(encoder_folder, "x"))
    with pytest.raises(ValueError, match="already"):
        embedder.submit(work(encoder_folder, "x"))


def test_stopping_hands_over_what_is_left(
    encoder_folder: Path, embedder_of: Callable[[], Embedder]
) -> None:
    embedder, deltas = embedder_of(), list[Delta]()
    embedder.submit(work(encoder_folder, "x"))
    embedder.stop()
    thread = Thread(target=embedder.run, args=[deltas.extend])
    thread.start()
    thread.join(20)
    [delta] = deltas
    assert delta.outcome is not None
    assert delta.outcome.reason is FinishReason.handed_over
    with pytest.raises(EngineClosed):
        embedder.submit(work(encoder_folder, "x"))


def test_tokens_are_put_between_the_encoders_marks_once(encoder_folder: Path) -> None:
    reader = WordPieceText(encoder_folder)
    whole = reader.encode("a cat")
    assert reader.marked(whole) == reader.marked(whole[1:-1]) == whole
