"""Runs a sentence encoder's graph, as `prepare.encoder` writes it, on the CPU."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from inference.engine.texts import Vectors
from inference.engine.work import Prompt

_LANE = 32
"""Rows are padded to a multiple of so many tokens, alone as in company: what a row comes to does
then not depend, to the last bit, on the others."""


class OnnxEncoder:
    """An `Encoder` by onnxruntime."""

    def __init__(self, path: Path, *, context: int, threads: int) -> None:
        self.context = context
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(path, options, ["CPUExecutionProvider"])

    def padded(self, tokens: int) -> int:
        """See Encoder."""
        return min(self.context, -(-tokens // _LANE) * _LANE)

    def run(self, rows: Sequence[Prompt]) -> Vectors:
        """See Encoder."""
        length = self.padded(max(map(len, rows)))
        ids = np.zeros((len(rows), length), np.int64)
        mask = np.zeros((len(rows), length), np.float32)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        [vectors] = self._session.run(["vectors"], {"ids": ids, "mask": mask})
        return np.asarray(vectors, np.float32)
