"""Whether a part of a model has three stages, where they begin, and how sure that is.

The question is put to the mean curves of several metrics jointly. There are three stages only if none of these fails:

1. three segments cost less than one, two or a smooth drift (see `saintprune.analysis.descriptions`), and by more than
   such curves would gain by chance (`simpler`, as all names here that of a p-value or an attribute of `Verdict`);
2. they cost less than a random walk, and by more than a walk would gain by chance (`walk`);
3. four segments are not better than three by more than chance (`more`);
4. the curves are not all monotone (`monotone`);
5. layers in a random order do not fit as well (`shuffled`);
6. the boundaries stay, within one layer, where they are when other images are drawn (`stability`);
7. in the same architecture with random weights, where it is given, three segments do not pass by as much: neither 1
   and 2 nor 4 (`random`, see `Descriptions.margin`).
"""

from __future__ import annotations

from collections.abc import Sequence

from saintprune.analysis.curves import Curves
from saintprune.analysis.evidence import Evidence
from saintprune.analysis.nulls import Descriptions
from saintprune.analysis.resampling import Samples
from saintprune.analysis.segments import by_ruptures
from saintprune.analysis.verdict import Verdict

# The mean cosine of centred vectors is a constant but for their lengths, so it is not among them.
CENTRED = (
    "neighbour_cosine_centred", "state_neighbour_cosine_centred", "effective_rank_keys_centred",
    "effective_rank_states_centred", "self_similarity_centred", "cls_similarity_centred", "attention_entropy",
)  # fmt: skip
RAW = (
    "key_cosine", "state_cosine", "neighbour_cosine", "state_neighbour_cosine", "effective_rank_keys",
    "effective_rank_states", "self_similarity", "cls_similarity", "attention_entropy",
)  # fmt: skip
FEWEST_LAYERS = 8


def find_stages(
    curves: Curves,
    random: Sequence[Curves] = (),
    *,
    metrics: Sequence[str] = CENTRED,
    draws: int = 199,
    seed: int = 0,
    hurry: bool = False,
) -> Verdict:
    """Look for three stages in the curves of one part of a model.

    Args:
        curves: of the model.
        random: those of the same part of the same architecture with random weights, one for each set of weights.
        metrics: that decide jointly; those that the curves lack, or that do not vary, are left out. Where the curves
            have none of them, all of their metrics decide.
        draws: of each bootstrap and each null.
        seed: of the draws.
        hurry: stop at the first condition that fails; the verdict then lacks what would have come after it.
    """
    names = [name for name in metrics if name in curves.values] or list(curves.values)
    samples = Samples.of(curves, names)
    nothing = _nothing_to_cut(curves, samples)
    if nothing is not None:
        return Verdict(curves.part, curves.layers, curves.images, samples.metrics, False, "no three stages: " + nothing)
    found = Descriptions.of(samples.mean, search=by_ruptures)
    evidence = Evidence(found, samples, [Samples.of(twin, samples.metrics) for twin in random], draws, seed)
    for check in (
        evidence.fits,
        evidence.not_a_walk,
        evidence.not_more,
        evidence.not_monotone,
        evidence.ordered,
        evidence.stable,
        evidence.learnt,
    ):
        if not (hurry and evidence.failures):
            check()
    return evidence.verdict(curves)


def _nothing_to_cut(curves: Curves, samples: Samples) -> str | None:
    """Return why three segments cannot even be tried, or None."""
    if curves.layers < FEWEST_LAYERS:
        return f"{curves.layers} layers are too few to be cut, it takes {FEWEST_LAYERS}"
    if not samples.metrics:
        return "no metric changes from layer to layer"
    return None
