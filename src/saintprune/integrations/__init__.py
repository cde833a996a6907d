"""saintprune inside other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]


def lmms_eval_models() -> ModelManifest:
    """Return what lmms-eval registers as `--model saintprune`; it finds this by the entry point "lmms_eval.models".

    Only the class's path is given: lmms-eval calls this for every model that it runs.
    """
    from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]

    return ModelManifest("saintprune", simple_class_path="saintprune.integrations.lmms_eval.Saintprune")
