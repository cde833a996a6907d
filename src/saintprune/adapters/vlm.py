"""Vision-language models of transformers, those of `vlm_families.FAMILIES`, pruned at up to three sites."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, Literal

import torch
from torch import Tensor, nn

from saintprune.adapters.borrow import borrow, patch, refuse_several_devices
from saintprune.adapters.cascade import not_here
from saintprune.adapters.decoder_run import DecoderRun
from saintprune.adapters.head import not_corrected
from saintprune.adapters.hf_decoder import DROPPED, HFDecoder
from saintprune.adapters.projector import Projection
from saintprune.adapters.resize import not_resized
from saintprune.adapters.run import LayerEvent, PrunedRun
from saintprune.adapters.vlm_families import check_vision, family_of, last_read_block, tower_of, why_whole
from saintprune.adapters.vlm_prompts import (
    check_counts,
    check_no_placeholders,
    image_places,
    instruction,
    reading,
    reading_whole,
)
from saintprune.errors import SaintpruneError
from saintprune.plan import Plan


@dataclass(eq=False)
class VLMRun:
    """The handle of a pruned vision-language model: what its latest prompt went through.

    Attributes:
        decoder: the part of it in the decoder.
        vision: the part of it in the vision tower; None where that is not pruned.
        projection: the part of it between the two; None where nothing is pruned there.
    """

    decoder: DecoderRun
    vision: PrunedRun | None = None
    projection: Projection | None = None

    @property
    def events(self) -> list[LayerEvent]:
        """One `LayerEvent` per pruned layer of the latest prompt, from the tower to the decoder."""
        before = [*(self.vision.events if self.vision else []), *(self.projection.events if self.projection else [])]
        return [*before, *self.decoder.events]

    @property
    def tokens_per_layer(self) -> list[float]:
        """Mean real tokens of a sample that leave each decoder layer, text included."""
        return self.decoder.tokens_per_layer

    @property
    def visual_tokens_per_layer(self) -> list[float]:
        """Mean image tokens of a sample that leave each decoder layer."""
        return self.decoder.visual_tokens_per_layer

    def reading(self, inputs: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Let images that are encoded inside this `with` block, apart from a forward pass, belong to given prompts.

        Args:
            inputs: those of the model, with `input_ids` or `inputs_embeds`, and `attention_mask`.
        """
        return nullcontext() if self.projection is None else self.projection.reading(inputs)

    def forget_images(self) -> None:
        """Forget the images of the prompt before, for a prompt without any."""
        for part in (self.vision, self.projection):
            if part is not None:
                part.events = []


class VLM:
    """Prunes image tokens of a vision-language model: in its tower, between tower and decoder, and in the decoder.

    Inside `pruned()` the model is called and generates as ever, in batches, with padding, several images or none per
    prompt; afterwards it is as it was. A token that was dropped before the decoder travels on as a row of -inf in the
    image features, so that prompts, masks and position ids keep their shapes, and leaves at the decoder's door.

    Args:
        net: a model of `vlm_families.FAMILIES`.
        position_policy: see `HFDecoder`.
        cache: see `HFDecoder`.
    """

    def __init__(
        self,
        net: nn.Module,
        position_policy: Literal["absolute", "compact"] = "absolute",
        cache: Literal["keep", "trim"] = "keep",
    ) -> None:
        self.family = family_of(net)
        self.net: Any = net
        self.core: Any = self.net.model
        self.decoder = HFDecoder(getattr(self.core, self.family.decoder), position_policy, cache)
        self.tower = tower_of(self.core, self.family)

    @property
    def depth(self) -> int:
        """Number of decoder layers."""
        return self.decoder.depth

    @property
    def vision_depth(self) -> int | None:
        """Number of tower blocks; None where the tower cannot be pruned."""
        return None if self.tower is None else self.tower.depth

    def check(self, plan: Plan) -> None:
        """Check that a plan fits the model.

        Raises:
            SaintpruneError: it does not; the message says where.
        """
        if plan.defer is not None:
            raise not_here(self.net)
        if plan.resize is not None:
            raise not_resized(self.net, "has a place in its prompt for every token of an image")
        if plan.correction is not None:
            raise not_corrected(self.net)
        check_vision(self.net, self.family, self.tower, self._read(plan))
        plan.at("language", self.depth)
        plan.at("projector", 1)

    @contextmanager
    def pruned(self, plan: Plan, *, timed: bool = False, recorded: bool = False) -> Iterator[VLMRun]:
        """Prune by the plan for as long as the `with` block lasts.

        One pass at a time is followed: several threads must take turns, or have a network each.

        Args:
            plan: what to prune, at any of the three sites.
            timed: measure the seconds of each selection (see `PrunedRun`).
            recorded: keep each reduction (see `PrunedRun`).

        Raises:
            SaintpruneError: the plan does not fit the model, or that is being pruned already, or its tower or decoder
                lies on several devices.
        """
        self.check(plan)
        plan = self._read(plan)
        if plan.stages:
            refuse_several_devices(self.decoder.net)
        with ExitStack() as undo:
            borrow(undo, self.net)
            steps = plan.at("language", self.depth)
            run = VLMRun(self.decoder.install(undo, steps, timed=timed, recorded=recorded))
            vision = {name: stage for name, stage in plan.stages.items() if stage.site == "vision"}
            between = plan.at("projector", 1).get(0)
            watching = between is not None and "importance" in between.stage.method.reads
            if self.tower is not None and (vision or watching):
                run.vision = undo.enter_context(self.tower.pruned(Plan(vision), timed=timed, recorded=recorded))
                self._spread_features(undo, run.vision)
            if between is not None:
                run.projection = Projection(between, timed, recorded, instruct=partial(instruction, self.net))
                if watching:
                    run.projection.importance = self._importance(undo, run.vision, between.name)
                if run.projection.relates and hasattr(self.net, "generate"):
                    patch(undo, self.net, "generate", reading(self.net, run.projection))
            if plan.stages and hasattr(self.net, "generate"):
                patch(undo, self.net, "generate", reading_whole(self.net))
            patch(undo, self.core, "get_image_features", self._features_forward(run))
            thinned = any(stage.site != "language" for stage in plan.stages.values())
            patch(undo, self.core, "forward", self._core_forward(run, thinned))
            yield run

    def _read(self, plan: Plan) -> Plan:
        """Return the plan without the blocks of the tower after which nothing is read, where it is open-ended."""
        if self.tower is None:
            return plan
        return plan.up_to(last_read_block(self.net, self.tower.depth), "vision", self.tower.depth)

    def _spread_features(self, undo: ExitStack, run: PrunedRun) -> None:
        """Let the projector's output have a row for every patch again, -inf for those that were dropped."""
        projector = getattr(self.core, self.family.projector)
        original = projector.forward

        @wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Tensor:
            return self._spread(original(*args, **kwargs), run, DROPPED)

        patch(undo, projector, "forward", forward)

    def _spread(self, x: Tensor, run: PrunedRun, fill: float) -> Tensor:
        """Return [B, n, D] with a row for every patch, given [B, m, D] for those that are left in the tower."""
        stream = run.current
        if stream.positions is None:
            return x
        special = x.shape[1] - stream.positions.shape[1]  # none, where the model does not read the class token
        total = special + stream.patches_at_entry
        places = stream.positions
        if special:
            first = torch.arange(special, device=x.device).expand(len(x), -1)
            places = torch.cat([first, places + special], dim=1)
        if stream.valid is not None:
            places = places.masked_fill(~stream.valid[:, stream.prefix - special :], total)
        out = x.new_full((len(x), total + 1, x.shape[-1]), fill)
        return out.scatter_(1, places[..., None].expand_as(x), x)[:, :total]

    def _importance(self, undo: ExitStack, run: PrunedRun | None, stage: str) -> Callable[..., list[Tensor]]:
        """Watch the last block that the model reads; return what gives, per image, attention to each of its tokens."""
        if self.tower is None or run is None:
            raise SaintpruneError(
                f"stages.{stage} ranks by attention, but the tower of {type(self.net).__name__} has no row of attention"
                f" to its tokens: {why_whole(self.core, self.family)}. Use site=language"
            )
        block = last_read_block(self.net, self.tower.depth)
        observed = self.tower.observe(undo, run, block, frozenset({"importance"}))

        def importance(arguments: dict[str, Any]) -> list[Tensor]:
            strategy = arguments.get("vision_feature_select_strategy") or self.net.config.vision_feature_select_strategy
            row = observed.importance()[:, 1 if strategy == "default" else 0 :, None]
            rows = self._spread(row, run, 0.0)
            if not hasattr(self.core, "pack_image_features"):
                return [row[:, 0] for row in rows]
            return self._packed(rows, arguments, strategy)

        return importance

    def _packed(self, rows: Tensor, arguments: dict[str, Any], strategy: str) -> list[Tensor]:
        """Lay out one number per patch [tiles, n, 1] as LLaVA-NeXT lays out features; line breaks get 0."""
        sizes = arguments["image_sizes"]
        packed, _ = self.core.pack_image_features(
            torch.split(rows, [self._tiles(size) for size in sizes]),
            sizes,
            vision_feature_select_strategy=strategy,
            image_newline=rows.new_zeros(1),
        )
        return [row[:, 0] for row in packed]

    def _tiles(self, size: Any) -> int:
        """Return into how many tiles LLaVA-NeXT cuts an image of a size (height, width)."""
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        config = self.net.config
        return image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size)

    def _features_forward(self, run: VLMRun) -> Callable[..., Any]:
        """Return a `get_image_features` that prunes its result at the projector site and notes the images' lengths."""
        original = self.core.get_image_features
        signature = inspect.signature(original)

        @wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            output = original(*args, **kwargs)
            if run.projection is not None:
                arguments = signature.bind(*args, **kwargs).arguments
                features, stacked = list(output.pooler_output), isinstance(output.pooler_output, Tensor)
                if self.family.tiled:
                    features = [tile for sample in features for tile in sample.split(self.core.image_seq_len)]
                features = run.projection.apply(features, arguments)
                output.pooler_output = torch.stack(features) if stacked else features
            run.decoder.image_lengths = [len(feature) for feature in output.pooler_output]
            check_counts(self.net, run.decoder)
            return output

        return forward

    def _core_forward(self, run: VLMRun, thinned: bool) -> Callable[..., Any]:
        """Return the model's forward: the original one, after the decoder was told where the images stand.

        Args:
            run: the run.
            thinned: whether the plan drops image tokens before the decoder.
        """
        original = self.core.forward
        signature = inspect.signature(original)

        @wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            more = given.get("kwargs", {})
            encoded = (given.get("mm_encoder_outputs") or {}).get("image")
            has_images = given.get("pixel_values") is not None or encoded is not None
            cached = given.get("past_key_values", more.get("past_key_values"))
            prefill = cached is None or cached.get_seq_length() == 0
            # read before the tower begins: later, to read would wait for it
            visual = image_places(self.net, given).cpu() if has_images or prefill else None
            run.decoder.visual, run.decoder.image_lengths = (visual if has_images else None), None
            run.decoder.gaps = thinned or encoded is not None  # which may come from another plan
            if encoded is not None:
                run.decoder.image_lengths = [len(feature) for feature in encoded.pooler_output]
            check_counts(self.net, run.decoder)
            if prefill and not has_images:
                check_no_placeholders(self.net, visual)
                run.forget_images()
            try:
                with run.reading(given) if given.get("pixel_values") is not None else nullcontext():
                    return original(*args, **kwargs)
            finally:
                run.decoder.visual = None

        return forward
