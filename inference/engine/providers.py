"""Which of onnxruntime's execution providers run a model, and what they need."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort

from inference.engine.manifest import NotPrepared

Providers = list[str | tuple[str, dict[str, Any]]]

_NAMES: Mapping[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_PACKAGES: Mapping[str, str] = {
    "cuda": "onnxruntime-gpu in the place of onnxruntime, and CUDA 12 with cuDNN 9",
    "tensorrt": "onnxruntime-gpu in the place of onnxruntime, and tensorrt, CUDA 12 and cuDNN 9",
}


def providers(name: str, folder: Path) -> Providers:
    """onnxruntime's list for a model in `folder` made for the provider `name`; raises NotPrepared.

    What TensorRT does not know, attention with a cache first of all, runs by CUDA's; the engines
    that it builds are kept beside the model.
    """
    has = ort.get_available_providers()
    if name not in _NAMES or _NAMES[name] not in has:
        raise NotPrepared(
            f"{folder} is made for {name}, which the installed onnxruntime lacks (it has "
            f"{', '.join(has)}). Install {_PACKAGES.get(name, 'a version that has it')}; or serve "
            f"a model that is made for this machine: manage.py prepare_model"
        )
    built: dict[str, Any] = {
        "trt_fp16_enable": True,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(folder / "engines"),
    }
    every: dict[str, Providers] = {
        "cpu": [_NAMES["cpu"]],
        "cuda": [_NAMES["cuda"], _NAMES["cpu"]],
        "tensorrt": [(_NAMES["tensorrt"], built), _NAMES["cuda"], _NAMES["cpu"]],
    }
    return every[name]
