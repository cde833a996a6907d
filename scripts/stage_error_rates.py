"""How often the instrument of `saintprune.analysis.stages` errs, on curves whose stages are known.

    python scripts/stage_error_rates.py RECORD.json [SEEDS]

Planted: curves with three stages, in how many of the seeds (200) both boundaries are found within one layer, and in
how many the answer is yes. Without stages: in how many the answer is no, by shape; the first five shapes are flat or
monotone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from rich.progress import track

from saintprune.analysis.stages import find_stages
from saintprune.analysis.synthetic import SHAPES, Noise, planted, without_stages
from saintprune.reporting.records import write_figures

DEPTHS, NOISES, DRAWS = (12, 24, 30), (0.05, 0.15, 0.3), 99


def main(path: Path, seeds: int) -> None:
    """Try all depths, irregularities and shapes, and write the rates."""
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
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 200)
