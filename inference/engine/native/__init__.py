"""The default on the CPU: Llama-like decoders in 8 bit, by kernels of our own."""

from inference.engine.native.library import NoKernels
from inference.engine.native.runner import NativeRunner

__all__ = ["NativeRunner", "NoKernels"]
