"""Merged tokens that remember how far their patches lie apart, so that norms and activations act as on the patches.

A merged token is the mean of its patches, but a network is no linear map: a layer norm stretches the mean to the length
of one patch, and an activation of the mean is not the mean of the activations. Both errors grow with the variance among
the patches, and one number a token, its coherence, tells that variance well enough to undo most of both. Derivation and
measurements: docs/ward.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saintprune import kernels
from saintprune.adapters.borrow import patch
from saintprune.adapters.plain import plain_weight
from saintprune.adapters.run import PrunedRun
from saintprune.reduction import Reduction

AT_ONCE = 256  # rows of hidden units on CPUs, so that what is computed on the way stays in the cache
TINY = 1e-6  # the least coherence, which that of padding is; what is as near to 1 is 1


def after_attention(
    coherence: Tensor | None,
    before: Tensor,
    attended: Tensor,
    left: Tensor | None = None,
    reduction: Reduction | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    """Return the coherence of the tokens that go into a block's MLP.

    A token's coherence is the variance over channels of the mean of its patches, as a share of the mean of their
    variances: 1 where all are the same. Attention adds about the same to patches that are alike, so that the variance
    among them stays while that of their mean changes. An MLP works on each patch by itself and lets their coherence be.

    Args:
        coherence: [B, N, 1] float32, of the tokens that came into the block; None stands for ones.
        before: [B, N, D], the tokens then.
        attended: [B, N, D], the tokens after attention, residual included.
        left: [B, M, D], what a reduction left of those; None where there was none.
        reduction: what was selected; goes with `left`.
        sizes: [B, N], patches of each token before that.

    Returns:
        [B, M, 1], or [B, N, 1] where nothing was reduced.
    """
    of_mean = of_patches = _variance(attended)
    if coherence is not None:
        of_patches = of_patches + _variance(before) * (1 / coherence - 1)
    if left is not None and reduction is not None:
        of_patches = reduction.averaged(of_patches, sizes)
        of_mean = _variance(left)
    share = of_mean / of_patches.clamp_min(1e-12)
    return torch.where(share > 1 - TINY, 1.0, share.clamp_min(TINY))  # rounding alone spreads nothing


@dataclass(frozen=True, eq=False)
class Spreading:
    """What of a block acts on the patches of merged tokens: worked out once, put in place as often as need be.

    Attributes:
        norms: the layer norms before attention and before the MLP.
        activation: the MLP's.
        gain: [H] float32, standard deviation of each hidden unit among patches that have one of 1 in every channel.
        number: of the activation, where the fused kernel knows it.
    """

    norms: tuple[Any, Any]
    activation: nn.Module
    gain: Tensor
    number: int | None

    @classmethod
    def of(cls, norms: tuple[Any, Any] | None, mlp: Any) -> Spreading:
        """Return it for a block that `supports` serves, given its norms and its MLP."""
        activation = _activation(mlp)
        assert norms is not None and activation is not None
        gain = mlp.fc1.weight.detach().float()
        if norms[1].weight is not None:
            gain = gain * norms[1].weight.detach().float()
        gain = gain.square().sum(1).sqrt()
        tried = gain.is_cuda and next(activation.parameters(), None) is None
        return cls(norms, activation, gain, kernels.activation_number(activation.forward) if tried else None)

    def install(self, undo: ExitStack, run: PrunedRun) -> None:
        """Let the norms and the activation act on the patches of merged tokens.

        Args:
            undo: takes the undoing.
            run: whose `stream.coherence` is that of the tokens on their way.
        """
        for norm in self.norms:
            patch(undo, norm, "forward", _shortened(norm, run))
        patch(undo, self.activation, "forward", _widened(self, run))


def supports(blocks: Sequence[tuple[tuple[nn.Module, nn.Module] | None, nn.Module]]) -> bool:
    """Return whether `Spreading` serves all blocks, given as norms and MLP: layer norms before both halves, and an MLP
    of two layers, ungated, not quantised, with an activation of its own.
    """
    activations = {_activation(mlp) for _, mlp in blocks}
    normed = all(norms is not None and all(isinstance(norm, nn.LayerNorm) for norm in norms) for norms, _ in blocks)
    return normed and None not in activations and len(activations) == len(blocks)


def _activation(mlp: nn.Module) -> nn.Module | None:
    """Return the module between an MLP's layers, which timm calls `act` and transformers `activation_fn`; None where
    the MLP is of another kind.
    """
    first, second = (getattr(mlp, name, None) for name in ("fc1", "fc2"))
    if not (isinstance(first, nn.Linear) and isinstance(second, nn.Linear) and plain_weight(first)):
        return None
    activation = getattr(mlp, "act", getattr(mlp, "activation_fn", None))
    gated = first.out_features != second.in_features
    return activation if isinstance(activation, nn.Module) and not gated else None


def _shortened(norm: Any, run: PrunedRun) -> Callable[[Tensor], Tensor]:
    """Return the forward of a layer norm that leaves merged tokens as short as the mean of their patches' norms is."""
    original = norm.forward

    def forward(x: Tensor) -> Tensor:
        coherence = run.current.coherence
        if coherence is None:
            return original(x)
        length = coherence.sqrt()
        if _fused(x) and not torch.is_autocast_enabled(x.device.type):
            return kernels.layer_norm(x, norm.weight, norm.bias, norm.eps, length)
        output = original(x)
        length = length.to(output.dtype)
        return output * length if norm.bias is None else norm.bias.to(output.dtype).lerp(output, length)

    return forward


def _fused(x: Tensor) -> bool:
    """Return whether one program of a kernel can take a row of channels."""
    return x.shape[-1] <= kernels.WIDEST and kernels.usable(x)


def _widened(block: Spreading, run: PrunedRun) -> Callable[[Tensor], Tensor]:
    """Return the mean of an activation over the patches of each token, as a function of the hidden units' means.

    It is the mean at one standard deviation to both sides, which is right to the third order: Gauss and Hermite's rule
    of two points.

    Args:
        block: whose activation acts on each element by itself.
        run: whose `stream.coherence` is that of the tokens on their way.
    """
    activation, gain, number = block.activation.forward, block.gain, block.number

    def mean(rows: Tensor, among: Tensor, out: Tensor | None = None) -> Tensor:
        above, below = (activation(torch.addcmul(rows, among, gain.to(rows.dtype), value=side)) for side in (1, -1))
        if out is not None:
            return torch.lerp(above, below, 0.5, out=out)
        return above.lerp(below, 0.5) if above.requires_grad else above.lerp_(below, 0.5)

    def means(rows: Tensor, coherence: Tensor) -> Tensor:
        among = (1 - coherence).sqrt().to(rows.dtype)
        if rows.device.type != "cpu" or torch.is_grad_enabled():
            return mean(rows, among)
        units = torch.empty_like(rows)
        for part in zip(rows.split(AT_ONCE), among.split(AT_ONCE), units.split(AT_ONCE), strict=True):
            mean(*part)
        return units

    def forward(hidden: Tensor) -> Tensor:
        coherence = run.current.coherence
        if coherence is None:
            return activation(hidden)
        shape, hidden, coherence = hidden.shape, hidden.flatten(0, 1), coherence.flatten(0, 1)
        if number is not None and kernels.usable(hidden):
            return kernels.widened(hidden, (1 - coherence).sqrt(), gain, number).view(shape)
        # to count would make other devices wait
        merged = int((coherence < 1).sum()) if hidden.device.type == "cpu" else run.current.merged_at_most()
        if merged > len(hidden) // 2:
            return means(hidden, coherence).view(shape)
        rows = coherence[:, 0].topk(merged, largest=False, sorted=False).indices
        of_merged = means(hidden.index_select(0, rows), coherence.index_select(0, rows))
        units = activation(hidden)
        replaced = units.index_copy if units.requires_grad else units.index_copy_
        return replaced(0, rows, of_merged).view(shape)

    return forward


def _variance(x: Tensor) -> Tensor:
    """Return the variance over channels, as layer norms take it: [B, N, D] -> [B, N, 1] float32."""
    if _fused(x):
        return kernels.variance(x)
    square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square() / x.shape[-1]
    centre = x.mean(-1, keepdim=True, dtype=torch.float32)
    return (square - centre.square()).clamp_min(0)  # torch.var is slow on CPUs
