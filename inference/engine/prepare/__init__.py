"""Makes models' folders: weights found, exported, quantized, described."""

from inference.engine.prepare.folder import PrepareFailed, Progress
from inference.engine.prepare.recipes import PROVIDERS, QUANTIZATIONS, RECIPES, prepare

__all__ = ["PROVIDERS", "QUANTIZATIONS", "RECIPES", "PrepareFailed", "Progress", "prepare"]
