"""Borrow a network, prune inside a `with` block, give it back as it was. Shared by the ViT adapters."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from saintprune.adapters import spread
from saintprune.adapters.borrow import borrow, patch, refuse_other_sites, refuse_several_devices
from saintprune.adapters.cascade import deferring, not_here
from saintprune.adapters.head import check_correction, correct
from saintprune.adapters.observed import Observed, ObservedBlock
from saintprune.adapters.resize import not_resized, shrink_what_enters
from saintprune.adapters.run import PrunedRun, TokenStream, check_thread
from saintprune.errors import SaintpruneError
from saintprune.plan import Plan, Step


class ViTAdapter(ABC):
    """Prunes a Vision Transformer between the attention and the MLP of chosen blocks.

    The network is not copied and its class is not changed: inside `pruned()` some blocks carry their own `forward`,
    made of their own submodules, and hooks observe queries and keys; both are removed at the end.

    Args:
        net: the network.
        pool: how a head that averages tokens weighs those that are left: "survivors", each the same, or "sizes", each
            by the patches it stands for (merging methods). Heads that read a special token ignore it.
    """

    _image_size: tuple[int, ...] | None = None

    def __init__(self, net: nn.Module, pool: Literal["survivors", "sizes"] = "survivors") -> None:
        if pool not in ("survivors", "sizes"):
            raise ValueError(f"pool is {pool!r}, but must be 'survivors' or 'sizes'")
        self.net, self.by_size = net, pool == "sizes"
        self._check_supported()

    @property
    @abstractmethod
    def blocks(self) -> list[Any]:
        """The transformer blocks, in order."""

    @property
    @abstractmethod
    def prefix(self) -> int:
        """Number of special tokens, which stand first."""

    @abstractmethod
    def _check_supported(self) -> None:
        """Raise `SaintpruneError` where the network is none that this adapter knows."""

    @abstractmethod
    def _attention_half(self, block: Any, x: Tensor, **kwargs: Any) -> Tensor:
        """Return x plus the block's attention branch, computed by the block's own submodules."""

    @abstractmethod
    def _mlp_half(self, block: Any, x: Tensor) -> Tensor:
        """Return x plus the block's MLP branch, computed by the block's own submodules."""

    @abstractmethod
    def _norms(self, block: Any) -> tuple[nn.Module, nn.Module] | None:
        """Return the norms before attention and before the MLP; None where a block norms afterwards."""

    @abstractmethod
    def _attention_modules(self, block: Any) -> tuple[nn.Module, nn.Module, float]:
        """Return the modules whose outputs are queries and keys (see `_heads`), and the logits' scale."""

    @abstractmethod
    def _watch_values(self, undo: ExitStack, block: Any, observed: Observed) -> None:
        """Hook the block's attention so that `observed.value` returns its values, [B, heads, N, width]."""

    @abstractmethod
    def _grid(self, patches: int) -> tuple[int, int] | None:
        """Return (rows, columns) of the patch grid."""

    @property
    @abstractmethod
    def _embedding(self) -> tuple[nn.Module, tuple[int, int]] | None:
        """The module whose first argument are the images, and (rows, columns) of a patch in pixels; None where the
        network takes images of one size alone.
        """

    @abstractmethod
    def _take_any_size(self, undo: ExitStack) -> dict[str, Any]:
        """Let the network take smaller images than it is made for; return what to tell `_embedding` beside them."""

    def _heads(self, block: Any, projected: Tensor) -> Tensor:
        """Return queries or keys as [B, heads, N, width], given what their module put out; the same by default."""
        return projected

    def _mask(self, stream: TokenStream, x: Tensor) -> dict[str, Any]:
        """Return the keyword argument by which a block's attention takes the mask for tokens x [B, N, D]."""
        return {"attn_mask": stream.attention_mask(x.dtype)}

    def _positioned(self, kwargs: dict[str, Any], stream: TokenStream) -> dict[str, Any]:
        """Return a block's keyword arguments with what is bound to positions taken along; nothing by default."""
        return kwargs

    @property
    def classifier(self) -> nn.Module | None:
        """The network that answers images with classes, which a plan that defers needs; None where there is none."""
        return None

    @property
    def head(self) -> nn.Linear | None:
        """The classifier's last layer, whose input are features and whose output are the logits; None where there is no
        such layer.
        """
        return None

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def check(self, plan: Plan) -> None:
        """Check that a plan fits the network.

        Raises:
            NotForThisModelError: the plan has stages of other sites, defers where there is no classifier, corrects one
                without a last linear layer, or resizes where the network takes images of one size alone.
            SaintpruneError: it names layers that the network lacks.
        """
        for look in plan.looks:
            refuse_other_sites(look, "vision", self.net, "a vision tower")
            if look.defer is not None and self.classifier is None:
                raise not_here(self.net)
            if look.resize is not None and self._embedding is None:
                raise not_resized(self.net, "takes images of one size alone")
            if look.correction is not None:
                check_correction(look.correction, self.head, self.net)
            look.at("vision", self.depth)

    @contextmanager
    def pruned(self, plan: Plan, *, timed: bool = False, recorded: bool = False) -> Iterator[PrunedRun]:
        """Prune the network by the plan's vision stages for as long as the `with` block lasts.

        One pass at a time is followed: several threads must take turns, or have a network each.

        Args:
            plan: what to prune. Stages of other sites are refused.
            timed: measure the seconds of each selection (see `PrunedRun`).
            recorded: keep each reduction (see `PrunedRun`).

        Yields:
            The run, which tells what the latest forward pass did.

        Raises:
            SaintpruneError: the plan does not fit the network (see `check`), or the network is being pruned already or
                lies on several devices; later, another thread begins a pass before one has ended.
        """
        self.check(plan)
        if any(look.stages for look in plan.looks):
            refuse_several_devices(self.net)
        runs = self._runs(plan, timed, recorded)
        with ExitStack() as undo:
            borrow(undo, self.net)
            installed = undo.enter_context(ExitStack())
            self._install(installed, plan, runs[0])
            if plan.defer is not None and self.classifier is not None:
                forward = self._cascade(self.classifier.forward, plan.looks, runs, installed)
                patch(undo, self.classifier, "forward", forward)
            yield runs[0]

    def _runs(self, plan: Plan, timed: bool, recorded: bool) -> list[PrunedRun]:
        """Return a run for each look of the plan; each knows the next."""
        spreading = [any(stage.spread for stage in look.stages.values()) for look in plan.looks]
        spreads = self._spreadings() if any(spreading) else []
        runs = [PrunedRun(self.depth, timed, recorded, spreads if spread else []) for spread in spreading]
        for run, second in pairwise(runs):
            run.second = second
        return runs

    def _cascade(
        self, forward: Callable[..., Any], plans: Sequence[Plan], runs: Sequence[PrunedRun], installed: ExitStack
    ) -> Callable[..., Any]:
        """Return the classifier's forward under the first of some plans, and the others for what that defers.

        Args:
            forward: the classifier's own.
            plans: one for each look that is left; none is no pruning.
            runs: one for each plan.
            installed: holds what the first plan has put in place.
        """
        if not plans or plans[0].defer is None:
            return forward
        again = self._cascade(forward, plans[1:], runs[1:], installed)

        def second(*args: Any, **kwargs: Any) -> Any:
            installed.close()
            try:
                if len(plans) > 1:
                    self._install(installed, plans[1], runs[1])
                return again(*args, **kwargs)
            finally:
                installed.close()
                self._install(installed, plans[0], runs[0])

        return deferring(forward, plans[0].defer, second, partial(setattr, runs[0], "deferred"))

    def observe(self, undo: ExitStack, run: PrunedRun, layer: int, reads: frozenset[str]) -> ObservedBlock:
        """Watch the attention of one block, pruned or not, without pruning it.

        The queries and keys of the latest forward pass stay in memory until the next.

        Args:
            undo: takes the undoing; close it before or with `pruned()`.
            run: what `pruned()` gave.
            layer: 0-based number of the block.
            reads: what to watch: any of "keys", "importance" and "values".

        Raises:
            SaintpruneError: the network has no such block.
        """
        if not 0 <= layer < self.depth:
            raise SaintpruneError(f"block {layer} is to be observed, but the network has {self.depth} blocks")
        block = self.blocks[layer]
        _, key, scale = self._attention_modules(block)
        observed = ObservedBlock(scale)
        self._watch(undo, run, block, reads, observed)
        observed.follow(undo, run, block, key)
        return observed

    def _install(self, undo: ExitStack, plan: Plan, run: PrunedRun) -> None:
        """Put hooks and forwards in place, each with its undoing."""
        if plan.resize is not None and self._embedding is not None:  # before others see what enters
            told = self._take_any_size(undo)
            shrink_what_enters(undo, run, *self._embedding, self.prefix, plan.resize, told)
        steps = plan.at("vision", self.depth)
        carries_sizes = any(step.stage.method.merges for step in steps.values())
        for spreading in run.spreads:
            spreading.install(undo, run)
        for layer, block in enumerate(self.blocks):  # from the first one on, pruned or not: the run begins there
            step, observed = steps.get(layer), None
            if step is not None:
                observed = Observed(self._attention_modules(block)[2])
                self._watch(undo, run, block, step.stage.method.reads, observed)
            forward = self._forward(block, layer, step, observed, run, carries_sizes if layer == 0 else None)
            patch(undo, block, "forward", forward)
        if plan.correction is not None and self.head is not None:
            correct(undo, self.head, plan.correction)

    def _spreadings(self) -> list[spread.Spreading]:
        """Return what lets norms and activations act on the patches of merged tokens; warn where they cannot."""
        parts = [(self._norms(block), block.mlp) for block in self.blocks]
        if spread.supports(parts):
            return [spread.Spreading.of(*part) for part in parts]
        warnings.warn(
            f"{type(self.net).__name__} is pruned without `spread`, which needs layer norms before attention and"
            " MLP and an MLP without a gate whose weights are not quantised: merged tokens are plain means",
            stacklevel=2,
        )
        return []

    def _watch(self, undo: ExitStack, run: PrunedRun, block: Any, reads: frozenset[str], observed: Observed) -> None:
        """Hook what is to be read of a block's attention."""
        query, key, _ = self._attention_modules(block)

        def catch_key(module: nn.Module, args: Any, output: Tensor) -> None:
            observed.key = self._heads(block, output)

        def catch_query(module: nn.Module, args: Any, output: Tensor) -> None:
            heads = self._heads(block, output)
            observed.query = heads[:, :, :1] if self.prefix else run.current.mean_of_real(heads)

        if reads & {"keys", "importance"}:
            undo.callback(key.register_forward_hook(catch_key).remove)
        if "importance" in reads:
            undo.callback(query.register_forward_hook(catch_query).remove)
        if "values" in reads:
            self._watch_values(undo, block, observed)

    def _watch_images(self, undo: ExitStack, embedding: nn.Module) -> None:
        """Note the size of the images that enter a module, for the grid."""

        def see(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            self._image_size = tuple(args[0].shape[-2:])

        undo.callback(embedding.register_forward_pre_hook(see).remove)

    def _forward(
        self,
        block: Any,
        layer: int,
        step: Step | None,
        observed: Observed | None,
        run: PrunedRun,
        begins: bool | None,
    ) -> Callable[..., Tensor]:
        """Return the forward of one block; `begins` (carry sizes or not) is set for the block that comes first."""
        original = block.forward

        def forward(x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, **kwargs: Any) -> Tensor:
            if attn_mask is not None or is_causal:
                raise SaintpruneError("pruning does not support attn_mask or is_causal given to the network")
            if begins is not None:
                run.begin(self._stream(x, begins))
            check_thread(run.thread)
            stream = run.current
            kwargs = self._positioned(kwargs, stream)
            kwargs |= self._mask(stream, x)
            if step is None and stream.real is None and stream.coherence is None:
                return original(x, **kwargs)
            attended = self._attention_half(block, x, **kwargs)
            if step is not None and observed is not None:
                x = self._reduced(x, attended, layer, step, observed, run)
            else:
                if stream.coherence is not None:
                    stream.coherence = spread.after_attention(stream.coherence, x, attended)
                x = attended
            return self._mlp_of_real_tokens(block, x, stream)

        return forward

    @staticmethod
    def _reduced(before: Tensor, x: Tensor, layer: int, step: Step, observed: Observed, run: PrunedRun) -> Tensor:
        """Let the step's method select, and return the tokens that are left.

        Args:
            before: [B, N, D], tokens that came into the block.
            x: [B, N, D], tokens after attention.
            layer: 0-based number of the block.
            step: what is to be done there.
            observed: what was seen of its attention.
            run: the run.

        Returns:
            [B, M, D].
        """
        stream, stage = run.current, step.stage
        sizes = stream.sizes
        stream.bias_sizes = stream.bias_sizes or (stage.method.merges and stage.proportional_attention)
        reduction = run.select(step, x, layer, observed)
        observed.forget()
        left = reduction.apply(x, sizes)
        if run.spreads and (stage.spread or stream.coherence is not None):
            stream.coherence = spread.after_attention(stream.coherence, before, x, left, reduction, sizes)
        return left

    def _mlp_of_real_tokens(self, block: Any, x: Tensor, stream: TokenStream) -> Tensor:
        """Return the MLP half of a block; padding, where there is any, is left out, as the MLP works token by token."""
        if stream.real is None or block.training:  # in training, drop path must see the samples apart
            return self._mlp_half(block, x)
        flat = x.flatten(0, 1)  # (b, n, d) -> (b n, d)
        coherence = stream.coherence
        if coherence is not None:
            stream.coherence = coherence.flatten(0, 1).index_select(0, stream.real)[None]
        done = self._mlp_half(block, flat.index_select(0, stream.real)[None])[0]
        stream.coherence = coherence
        return flat.index_copy(0, stream.real, done).view_as(x)

    def _stream(self, x: Tensor, carries_sizes: bool) -> TokenStream:
        """Return the bookkeeping of a forward pass whose tokens [B, N, D] are still all there."""
        patches = x.shape[1] - self.prefix
        stream = TokenStream(x.shape[1], self.prefix, patches, self._grid(patches))
        if carries_sizes:
            stream.sizes = torch.ones(x.shape[:2], dtype=torch.float32, device=x.device)
        return stream
