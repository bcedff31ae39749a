"""Neurons of the feed-forward layers that contribute least, taken out."""

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, numpy_helper

from inference.engine.prepare.calibration import Ranges

_MULTIPLE = 32


def prune(model: ModelProto, ranges: Ranges, share: float) -> None:
    """Remove about `share` of each layer's neurons, in place and from `ranges`.

    A neuron's worth is its largest activation times the norm of its row in `down_proj` (after
    Wanda, Sun et al. 2023, with whole neurons in place of weights). What stays is a multiple of 32.
    """
    graph = model.graph
    weights = {one.name: one for one in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    for down in [node for node in graph.node if "down_proj" in node.name]:
        value, name = down.input
        rows = numpy_helper.to_array(weights[name])
        worth = ranges[value] * np.linalg.norm(rows, axis=1)
        count = max(round(worth.size * (1 - share) / _MULTIPLE), 1) * _MULTIPLE
        kept = np.sort(np.argsort(worth)[worth.size - min(count, worth.size) :])
        _set(graph, name, rows[kept])
        ranges[value] = ranges[value][kept]
        gate, up = made_by[value].input
        for maker in (made_by[made_by[gate].input[0]], made_by[up]):
            columns = numpy_helper.to_array(weights[maker.input[1]])
            _set(graph, maker.input[1], columns[:, kept])
    del graph.value_info[:]


def _set(graph: GraphProto, name: str, value: NDArray[np.float32]) -> None:
    old = next(one for one in graph.initializer if one.name == name)
    old.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), name))
