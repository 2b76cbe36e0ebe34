"""A batch that the devices do not divide is padded: its loss and gradient stay the recipe's.

The pairs of a recipe lead the batch, and blank ones follow until every device has as many videos.
No loss sees the blank ones, so a run gives the same numbers on any number of devices, and can go on
with another number of them.
"""

from typing import NamedTuple

import ml_collections

WASTEFUL = 0.1  # share of padding from which batches without any are named


class PaddedBatch(NamedTuple):
    """How the pairs of a batch are shared out.

    `pairs` of the `size` are real. With `micro_batch`, that many are encoded at a time; with 0, all
    are. `least` is the number of pairs where every device has one video.
    """

    pairs: int
    size: int
    micro_batch: int
    least: int

    @property
    def padding(self) -> int:
        """How many pairs are blank, at the end."""
        return self.size - self.pairs


def pad(config: ml_collections.ConfigDict, devices: int) -> PaddedBatch:
    """Returns how `config.batch_size` pairs are spread over so many devices.

    `config.micro_batch` is the most to encode at a time; the parts are of one size, and have a
    video for each device at least.

    Raises:
      ValueError: the batch is not of whole videos, or its padding would change a feature.
    """
    pairs, captions = config.batch_size, config.data.captions_per_video
    if pairs % captions:
        less = pairs // captions * captions
        raise ValueError(
            f"config.batch_size={pairs} with config.data.captions_per_video={captions} has no whole"
            f" number of videos: set config.batch_size to a multiple of {captions}, such as"
            f" {f'{less} or ' if less else ''}{less + captions}."
        )
    least = devices * captions
    most = max(least, config.micro_batch // least * least) if config.micro_batch else pairs
    parts = -(-pairs // most)
    part = -(-pairs // (parts * least)) * least
    batch = PaddedBatch(pairs, parts * part, part if config.micro_batch else 0, least)
    if batch.padding and config.model.get("tiled_mask_bug"):
        raise ValueError(
            "config.model.tiled_mask_bug=True mixes the masks of a batch's videos, and padding"
            f" config.batch_size={pairs} to {batch.size} for {devices} devices would change them:"
            f" {_without_padding(batch)}."
        )
    return batch


def check_evaluation(config: ml_collections.ConfigDict, devices: int) -> None:
    """Raises ValueError where so many devices would change the scores of an evaluation."""
    size = config.eval_batch_size
    if config.model.get("tiled_mask_bug") and size % devices:
        raise ValueError(
            "config.model.tiled_mask_bug=True mixes the masks of a batch's videos, and padding"
            f" config.eval_batch_size={size} for {devices} devices would change the scores: use a"
            " number of devices that divides it."
        )


def describe(batch: PaddedBatch, devices: int) -> str:
    """Returns one line about the padding; "" without any."""
    if not batch.padding:
        return ""
    share = batch.padding / batch.size
    parts = f" and parts of {batch.micro_batch}" if batch.micro_batch else ""
    line = (
        f"batch of {batch.pairs:,} padded to {batch.size:,} for {devices:,} devices{parts}:"
        f" {share:.1%} of the computation is padding"
    )
    return f"{line}; to have none {_without_padding(batch)}" if share >= WASTEFUL else line


def _without_padding(batch: PaddedBatch) -> str:
    unit = batch.micro_batch or batch.least
    less = batch.pairs // unit * unit
    return f"set config.batch_size to {f'{less:,} or ' if less else ''}{less + unit:,}"
