"""What a preparation costs in quality, said and bounded; every form on the tiny model."""

from pathlib import Path

import numpy as np
import pytest

from inference.engine import Manifest
from inference.engine.prepare import PrepareFailed, prepare, recipes
from inference.engine.prepare.export import export
from inference.engine.prepare.folder import Progress
from inference.engine.prepare.quality import Quality, perplexity, read_quality, write_quality
from inference.engine.prepare.rowwise import in_blocks, in_small_blocks

pytestmark = pytest.mark.timeout(240)
MANIFEST = Manifest("m", "echo", 64, (256,), "1", "int8", 0)


def publishes(monkeypatch: pytest.MonkeyPatch, rise: float) -> None:
    """A recipe `m` whose perplexity rises by that share."""

    def make(folder: Path, form: recipes.Form, progress: Progress) -> Manifest:
        write_quality(folder, Quality(10.0, 10.0 * (1 + rise), 0.9, 1, 1.0, 1.0))
        return MANIFEST

    recipe = recipes.Recipe(make, "echo", needs=1, quantizations=("int8",))
    monkeypatch.setattr(recipes, "RECIPES", {"m": recipe})


def test_a_model_that_lost_more_than_three_percent_is_published_by_force_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publishes(monkeypatch, rise=0.031)
    with pytest.raises(PrepareFailed, match=r"rose by 3\.1%, from 10\.00 to 10\.31"):
        prepare("m", tmp_path)
    assert not (tmp_path / "m").exists()
    prepare("m", tmp_path, force=True)
    assert (tmp_path / "m" / "manifest.json").exists()


def test_a_model_that_lost_less_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publishes(monkeypatch, rise=0.029)
    assert prepare("m", tmp_path) == MANIFEST


def test_what_cannot_be_pruned_says_so(tmp_path: Path) -> None:
    with pytest.raises(PrepareFailed, match="echo cannot be pruned"):
        prepare("echo", tmp_path, pruned=0.5)


def test_perplexity_of_a_fair_die_is_its_sides() -> None:
    assert perplexity(([0, 3, 5], np.zeros((3, 6), np.float32))) == pytest.approx(6.0)


def test_a_pruned_model_is_smaller_and_still_runs(tiny: Path, tmp_path: Path) -> None:
    sizes = []
    for pruned in (0.0, 0.5):
        folder = tmp_path / str(pruned)
        folder.mkdir()
        export(
            tiny / "checkpoint",
            folder,
            quantization="int8",
            pruned=pruned,
            progress=lambda doing, share: None,
        )
        quality = read_quality(folder)
        assert quality is not None
        sizes.append(quality.bytes)
    assert sizes[1] < sizes[0]


def test_full_precision_agrees_with_itself(tiny: Path) -> None:
    quality = read_quality(tiny / "none")
    assert quality is not None
    assert quality.agreement == 1.0
    assert quality.rise == pytest.approx(0.0, abs=1e-6)


def test_blocks_unpack_to_what_was_packed() -> None:
    weight = np.random.default_rng(0).standard_normal((80, 3)).astype(np.float32)
    packed, scales = in_blocks(weight, 64)
    wide = (packed.astype(np.float32) - 128) * scales[..., None]
    assert np.abs(wide.reshape(3, -1)[:, :80].T - weight).max() < 0.02

    packed, scales, zeros = in_small_blocks(weight, 32)
    fours = np.stack([packed & 15, packed >> 4], axis=-1).reshape(3, 3, 32)
    offsets = np.stack([zeros & 15, zeros >> 4], axis=-1).reshape(3, -1)[:, :3]
    narrow = (fours.astype(np.float32) - offsets[..., None]) * scales[..., None]
    assert np.abs(narrow.reshape(3, -1)[:, :80].T - weight).max() < 0.3
