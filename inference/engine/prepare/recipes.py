"""The models that can be prepared, by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from inference.engine.manifest import Manifest
from inference.engine.prepare.folder import PrepareFailed, Progress, build, locked, prepared

QUANTIZATIONS = ("int8", "int4", "none")
_ECHO_CONTEXT = 16_384
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to fill a folder: `make(folder, quantization, progress)`.

    The first of `quantizations` is its default.
    """

    make: Callable[[Path, str, Progress], Manifest]
    needs: int
    quantizations: tuple[str, ...]


def prepare(
    name: str,
    models: Path,
    *,
    quantization: str | None = None,
    force: bool = False,
    progress: Progress = lambda doing, share: None,
) -> Manifest:
    """Make `models/name`, unless it is there already in this quantization; its manifest.

    Raises PrepareFailed.
    """
    recipe = RECIPES.get(name)
    if recipe is None:
        raise PrepareFailed(f"There is no recipe for {name!r}; there are: {', '.join(RECIPES)}.")
    wanted = quantization if quantization in recipe.quantizations else recipe.quantizations[0]
    target = models / name
    with locked(target, progress):
        found = prepared(target)
        if found is None or force or found.quantization != wanted:
            found = build(
                target,
                lambda folder: recipe.make(folder, wanted, progress),
                needs=recipe.needs,
            )
    progress("ready", 1.0)
    return found


def _echo(folder: Path, quantization: str, progress: Progress) -> Manifest:
    return Manifest(
        name="echo",
        backend="echo",
        context=_ECHO_CONTEXT,
        eos=(256,),
        version="1",
        quantization=quantization,
        parameters=0,
    )


def _smollm2_torch(folder: Path, quantization: str, progress: Progress) -> Manifest:
    from inference.engine.prepare import smollm2

    return smollm2.make_torch(folder, quantization, progress)


def _smollm2(folder: Path, quantization: str, progress: Progress) -> Manifest:
    from inference.engine.prepare import smollm2

    return smollm2.make(folder, quantization, progress)


RECIPES: Mapping[str, Recipe] = {
    "smollm2-135m-instruct": Recipe(_smollm2, needs=2_500 * _MIB, quantizations=("int8", "none")),
    "smollm2-135m-instruct-torch": Recipe(
        _smollm2_torch, needs=1_200 * _MIB, quantizations=("none", "int8", "int4")
    ),
    "echo": Recipe(_echo, needs=_MIB, quantizations=("none",)),
}
