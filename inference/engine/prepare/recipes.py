"""The models that can be prepared, by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from inference.engine.manifest import Manifest
from inference.engine.prepare.folder import PrepareFailed, Progress, build, locked, prepared
from inference.engine.prepare.quality import MOST, read_quality

QUANTIZATIONS = ("int8", "int4", "none")
PROVIDERS = ("cpu", "cuda", "tensorrt")
"""Of onnxruntime's execution providers."""
_ECHO_CONTEXT = 16_384
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Form:
    """In which form a model is wanted; `pruned` is the share of feed-forward neurons left out."""

    quantization: str
    pruned: float = 0.0

    def __str__(self) -> str:
        return f"{self.quantization}, pruned {self.pruned:g}" if self.pruned else self.quantization


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to fill a folder: `make(folder, form, progress)`.

    The first of `quantizations` is its default.
    """

    make: Callable[[Path, Form, Progress], Manifest]
    backend: str
    needs: int
    quantizations: tuple[str, ...]
    prunable: bool = False

    def made(self, found: Manifest, form: Form) -> bool:
        """Whether this is what it makes."""
        return (found.backend, found.quantization) == (self.backend, str(form))


def prepare(
    name: str,
    models: Path,
    *,
    quantization: str | None = None,
    pruned: float = 0.0,
    provider: str = "cpu",
    force: bool = False,
    progress: Progress = lambda doing, share: None,
) -> Manifest:
    """Make `models/name`, unless it is there already in this form, made by this version's recipe.

    Returns its manifest. A model whose perplexity rose by more than 3% is not published unless
    `force`. For another `provider` than the CPU the folder is `name-provider`, and preparing needs
    no such device. Raises PrepareFailed.
    """
    if provider != "cpu":
        name = f"{name.removesuffix('-onnx').removesuffix(f'-{provider}')}-{provider}"
    recipe = RECIPES.get(name)
    if recipe is None:
        raise PrepareFailed(f"There is no recipe for {name!r}; there are: {', '.join(RECIPES)}.")
    if pruned and not recipe.prunable:
        raise PrepareFailed(f"{name} cannot be pruned.")
    known = quantization in recipe.quantizations
    wanted = Form(quantization if quantization and known else recipe.quantizations[0], pruned)
    target = models / name
    with locked(target, progress):
        found = prepared(target)
        if force or found is None or not recipe.made(found, wanted):
            found = build(
                target,
                lambda folder: _checked(recipe.make(folder, wanted, progress), folder, force),
                needs=recipe.needs,
            )
    progress("ready", 1.0)
    return found


def _checked(manifest: Manifest, folder: Path, force: bool) -> Manifest:
    quality = read_quality(folder)
    if quality is not None and quality.rise > MOST and not force:
        raise PrepareFailed(
            f"{manifest.name} as {manifest.quantization} is not published: its perplexity rose by "
            f"{quality.rise:.1%}, from {quality.reference_perplexity:.2f} to "
            f"{quality.perplexity:.2f}, and {MOST:.0%} is the most. To publish it all the same, "
            f"add --force."
        )
    return manifest


def _echo(folder: Path, form: Form, progress: Progress) -> Manifest:
    return Manifest(
        name="echo",
        backend="echo",
        context=_ECHO_CONTEXT,
        eos=(256,),
        version="1",
        quantization=form.quantization,
        parameters=0,
    )


def _minilm(folder: Path, form: Form, progress: Progress) -> Manifest:
    from inference.engine.prepare import minilm

    return minilm.make(folder, progress)


def _smollm2_torch(folder: Path, form: Form, progress: Progress) -> Manifest:
    from inference.engine.prepare import smollm2

    return smollm2.make_torch(folder, form.quantization, progress)


def _smollm2(folder: Path, form: Form, progress: Progress) -> Manifest:
    from inference.engine.prepare import smollm2

    return smollm2.make(folder, progress)


def _smollm2_onnx(folder: Path, form: Form, progress: Progress) -> Manifest:
    from inference.engine.prepare import smollm2

    return smollm2.make_onnx(folder, form.quantization, progress, pruned=form.pruned)


def _smollm2_on(provider: str) -> Callable[[Path, Form, Progress], Manifest]:
    def make(folder: Path, form: Form, progress: Progress) -> Manifest:
        from inference.engine.prepare import smollm2

        return smollm2.make_for_device(folder, provider, progress)

    return make


RECIPES: Mapping[str, Recipe] = {
    "smollm2-135m-instruct": Recipe(
        _smollm2, "native", needs=1_500 * _MIB, quantizations=("int8",)
    ),
    "smollm2-135m-instruct-onnx": Recipe(
        _smollm2_onnx,
        "onnx",
        needs=2_500 * _MIB,
        quantizations=("int8", "int4", "none"),
        prunable=True,
    ),
    "smollm2-135m-instruct-torch": Recipe(
        _smollm2_torch, "torch", needs=1_200 * _MIB, quantizations=("none", "int8", "int4")
    ),
    **{
        f"smollm2-135m-instruct-{provider}": Recipe(
            _smollm2_on(provider), "onnx", needs=2_500 * _MIB, quantizations=("fp16",)
        )
        for provider in PROVIDERS[1:]
    },
    "all-minilm-l6-v2": Recipe(_minilm, "encoder", needs=200 * _MIB, quantizations=("none",)),
    "echo": Recipe(_echo, "echo", needs=_MIB, quantizations=("none",)),
}
