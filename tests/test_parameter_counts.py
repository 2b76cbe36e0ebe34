"""The exact number of parameters of each model on each of CLIP's architectures, by hand."""

import jax
import pytest

from xclip_jax import models
from xclip_jax.models import ARCHS

SIZES = {"max_words": 32, "max_frames": 12, "temporal_layers": 4}
# On top of CLIP, of width d: a block has 12 d d + 13 d, four of them and 77 positions (77 d) read
# the frames; the LSTM has 8 d d + 8 d; the cross encoder's pooler and score d d + 4 d + 1; X-CLIP's
# matrices 2 d d + 3 * 32 * 32 + 3 * 12 * 12; CLIP2Video two more blocks and 14 d; the 3d patch of
# size p and width w 9 w p p.
COUNTS = {  # model, head and patch: ViT-B/32, ViT-B/16, ViT-L/14
    "clip4clip meanP 2d": (151_277_313, 149_620_737, 427_616_513),  # CLIP's own
    "clip4clip seqLSTM 2d": (153_378_561, 151_721_985, 432_341_249),
    "clip4clip seqTransf 2d": (163_926_273, 162_269_697, 456_027_137),
    "clip4clip seqTransf 3d": (171_004_161, 164_039_169, 457_833_473),
    "clip4clip tightTransf 2d": (164_190_466, 162_533_890, 456_620_034),
    "clip2video seqTransf 2d": (170_238_209, 168_581_633, 470_213_633),
    "xclip seqTransf 2d": (164_454_065, 162_797_489, 457_210_289),
}


def count(model: str, arch: str, head: str, linear_patch: str) -> int:
    _, abstract = models.create(model, **ARCHS[arch], **SIZES, head=head, linear_patch=linear_patch)
    return sum(leaf.size for leaf in jax.tree.leaves(abstract))


@pytest.mark.parametrize("row", COUNTS)
def test_the_number_of_parameters_is_exact(row):
    model, head, patch = row.split()

    assert tuple(count(model, arch, head, patch) for arch in ARCHS) == COUNTS[row]
