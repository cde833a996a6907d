"""From names of YAML files in `conf/` to a vision-language model that prunes, for programs other than `run.py`."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from saintprune.binding import make
from saintprune.config import compose_run
from saintprune.errors import SaintpruneError
from saintprune.integrations.answering import PrunedVLM
from saintprune.models.vlm import LoadedVLM


def split_overrides(text: str) -> list[str]:
    """Return Hydra overrides from one string, where `;` stands between them; quotes around the whole are dropped.

    Args:
        text: such as ``"model.adapter.cache=trim;hardware=cpu"``; empty for none.

    Raises:
        SaintpruneError: a part that is no `key=value` (or `~key`).
    """
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    found = [part.strip() for part in text.split(";") if part.strip()]
    for part in found:
        if "=" not in part and not part.startswith("~"):
            raise SaintpruneError(
                f"overrides has {part!r}, but must be key=value, with ';' between two of them, for example"
                " overrides=hardware=cpu;model.adapter.cache=trim"
            )
    return found


def compose_config(model: str, pruning: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose the config of a run, as `python run.py model=… pruning=…` would.

    Args:
        model: name of a YAML file in `conf/model/`.
        pruning: name of a YAML file in `conf/pruning/`.
        overrides: further ones, in Hydra's grammar.

    Raises:
        SaintpruneError: a name or an override that Hydra does not take.
    """
    return compose_run([f"model={model}", f"pruning={pruning}", *overrides])[0]


def load(cfg: DictConfig) -> PrunedVLM:
    """Build the model, its adapter and the plan of a composed config, on the device and in the precision it names.

    Raises:
        SaintpruneError: a value that does not fit, a model that takes no questions, or a plan that does not fit it.
    """
    hardware, plan = make(cfg, "hardware"), make(cfg, "pruning")
    device = hardware.device  # one that this machine lacks is an error before anything is loaded
    model = make(cfg, "model.net")
    if not isinstance(model, LoadedVLM):
        raise SaintpruneError(
            f"model={cfg.model.name} only looks at images: choose a vision-language model, for example"
            " model=vlm_s14_smollm2"
        )
    model.prompt("")  # one that cannot be asked says so now
    hardware.prepare(model.net)
    adapter = make(cfg, "model.adapter", net=model.net)
    adapter.check(plan)  # a layer that the network lacks is an error now, not after minutes
    return PrunedVLM(model, adapter, plan, device, hardware.dtype)
