"""How often the instrument of `saintprune.analysis.stages` errs, on curves whose stages are known.

    python scripts/stage_error_rates.py RECORD.json [SEEDS]

Planted: curves with three stages, in how many of the seeds (200) both boundaries are found within one layer, and in
how many the answer is yes. Without stages: in how many the answer is no, by shape; the first five shapes are flat or
monotone.
"""

from __future__ import annotations

from pathlib import Path

import torch
from rich.progress import track

from saintprune.analysis.stages import find_stages
from saintprune.analysis.synthetic import SHAPES, Noise, planted, without_stages
from saintprune.errors import SaintpruneError
from saintprune.reporting.records import write_figures
from saintprune.study_script import run_script

DEPTHS, NOISES, DRAWS = (12, 24, 30), (0.05, 0.15, 0.3), 99


def main(path: Path, arguments: list[str]) -> None:
    """Try all depths, irregularities and shapes, and write the rates."""
    seeds = seeds_of(arguments)
    rates = []
    for layers in DEPTHS:
        for noise in NOISES:
            rates.append({"layers": layers, "noise": noise, **with_stages(layers, noise, seeds)})
            for shape in SHAPES:
                rates.append({"layers": layers, "noise": noise, "shape": shape, "no": no(shape, layers, noise, seeds)})
    record = {
        "what": "rates of right answers on synthetic curves",
        "seeds": seeds,
        "draws": DRAWS,
        "rates": rates,
    }
    write_figures(path, record, indent=1)


def seeds_of(arguments: list[str]) -> int:
    """Return how many seeds to try.

    Raises:
        SaintpruneError: the arguments are no such number.
    """
    if not arguments:
        return 200
    if len(arguments) > 1 or not arguments[0].isdecimal() or int(arguments[0]) < 1:
        raise SaintpruneError(f"SEEDS is {' '.join(arguments)}, but must be one number of at least 1")
    return int(arguments[0])


def with_stages(layers: int, noise: float, seeds: int) -> dict[str, float]:
    """Return the rates for planted stages."""
    within = yes = 0
    for seed in track(range(seeds), f"planted, {layers} layers, noise {noise}"):
        curves, true = planted(layers, seed, noise=Noise(layers=noise))
        verdict = find_stages(curves, draws=DRAWS, hurry=True)
        found = verdict.boundaries or (-9, -9)
        within += all(abs(a - b) <= 1 for a, b in zip(found, true, strict=True))
        yes += verdict.three_stages
    return {"within_one_layer": within / seeds, "yes": yes / seeds}


def no(shape: str, layers: int, noise: float, seeds: int) -> float:
    """Return how often curves without stages are told from those with three."""
    right = 0
    for seed in track(range(seeds), f"{shape}, {layers} layers, noise {noise}"):
        curves = without_stages(shape, layers, seed, noise=Noise(layers=noise))
        right += not find_stages(curves, draws=DRAWS, hurry=True).three_stages
    return right / seeds


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_script(main, __doc__)
