"""Clusters around density peaks (Rodriguez and Laio, Science 2014), with densities from nearest neighbours."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def density_peaks(x: Tensor, present: Tensor, clusters: Tensor, most: int, neighbours: int) -> tuple[Tensor, Tensor]:
    """Cluster the points of each sample.

    With distances d scaled by sqrt(D), a point's density is exp(−mean of d² to its nearest neighbours); its separation
    the distance to the nearest denser point, for the densest that to the farthest one. The points of largest density
    times separation are centres; every point joins the nearest centre, a centre itself.

    Args:
        x: [B, W, D], points.
        present: [B, W] bool, which of them are there; they come first.
        clusters: [B] int64, centres of each sample.
        most: the largest number of centres of a sample, 1..W.
        neighbours: how many nearest ones make a density, fewer where a sample has fewer.

    Returns:
        [B, W] bool, the centres, and [B, W] int64, the number of each point's centre.
    """
    width = x.shape[1]
    both = present[:, :, None] & present[:, None]
    distance = (torch.cdist(x, x) / math.sqrt(x.shape[-1])).masked_fill(~both, torch.inf)  # (b, w, w)
    itself = torch.eye(width, dtype=torch.bool, device=x.device)
    near = distance.masked_fill(itself, torch.inf).topk(min(neighbours, width), dim=-1, largest=False).values
    found = near.isfinite()
    density = -(near.masked_fill(~found, 0).square().sum(-1) / found.sum(-1).clamp_min(1))  # its logarithm
    place = torch.arange(width, device=x.device)
    denser = (density[:, None] > density[:, :, None]) | (
        (density[:, None] == density[:, :, None]) & (place < place[:, None])
    )  # (b, w, w): whether the second is denser than the first; of equals the earlier one is
    denser = denser & both
    separation = distance.masked_fill(~denser, torch.inf).amin(-1)
    farthest = distance.masked_fill(~both, 0).amax(-1)
    separation = torch.where(denser.any(-1), separation, farthest)
    peak = (density.exp() * separation).masked_fill(~present, -torch.inf)
    ranking = peak.argsort(dim=1, descending=True, stable=True)[:, :most]  # (b, most)
    counted = place[:most] < clusters[:, None]
    centre = torch.zeros_like(present).scatter_(1, ranking, counted)
    to_centres = distance.masked_fill(itself, 0).gather(2, ranking[:, None].expand(-1, width, -1))
    nearest = ranking.gather(1, to_centres.masked_fill(~counted[:, None], torch.inf).argmin(-1))
    return centre, torch.where(centre, place, nearest)
