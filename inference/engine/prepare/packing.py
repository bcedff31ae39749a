"""From a transformers checkpoint to the folder that NativeRunner runs."""

import os
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from inference.engine.native import NativeRunner, NoKernels
from inference.engine.native.weights import FILE, Unsupported, pack
from inference.engine.prepare.calibration import logits_of_text
from inference.engine.prepare.folder import PrepareFailed, Progress
from inference.engine.prepare.quality import compare, write_quality

_CONFIG = "config.json"


def pack_checkpoint(checkpoint: Path, folder: Path, progress: Progress) -> None:
    """Write `folder`'s weights, config and report from a checkpoint. Raises PrepareFailed."""
    progress("quantizing", 0.0)
    try:
        pack(checkpoint, folder / FILE)
        shutil.copyfile(checkpoint / _CONFIG, folder / _CONFIG)
        progress("compiling the kernels", 0.35)
        runner = NativeRunner(folder, slots=8, context=512, threads=len(os.sched_getaffinity(0)))
    except (Unsupported, NoKernels) as error:
        raise PrepareFailed(str(error)) from error
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    progress("reading a text in full precision", 0.5)
    reference = logits_of_text(tokenizer, _Full(checkpoint))
    progress("measuring the quality", 0.8)

    def run(window: list[int]) -> NDArray[np.float32]:
        rows = range(len(window))
        return runner.run([0] * len(window), window, rows, rows)

    made = logits_of_text(tokenizer, run)
    write_quality(folder, compare(reference, made, runner, [folder / FILE]))


class _Full:
    """The checkpoint in full precision, by transformers."""

    def __init__(self, checkpoint: Path) -> None:
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(checkpoint)

    def __call__(self, window: list[int]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            logits = self._model(torch.tensor([window])).logits[0]
        return np.asarray(logits.float().numpy())
