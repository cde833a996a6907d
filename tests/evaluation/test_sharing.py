"""Every batch goes to one process, and what they found comes back in the order of the test set."""

from types import SimpleNamespace

import pytest
import torch

from saintprune.data.base import Share
from saintprune.data.synthetic import Synthetic
from saintprune.errors import SaintpruneError
from saintprune.evaluation import sharing


def module(rank, count):
    return SimpleNamespace(trainer=SimpleNamespace(global_rank=rank, world_size=count))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_are_the_whole_in_order(count, monkeypatch):
    data = Synthetic(size=13, batch_size=3, input_size=(3, 2, 2))
    whole = [images for images, _ in data.test_dataloader()]
    assert [len(images) for images in whole] == [3, 3, 3, 3, 1]
    shares = [[images for images, _ in data.test_dataloader(Share(rank, count))] for rank in range(count)]
    for rank, share in enumerate(shares):
        for index, images in enumerate(share):
            assert torch.equal(images, whole[sharing.number_of(module(rank, count), index)])

    def all_gather_object(found, own):
        assert own == shares[-1]
        found[:] = shares

    monkeypatch.setattr(torch.distributed, "all_gather_object", all_gather_object)
    assert list(map(id, sharing.gathered(module(count - 1, count), shares[-1]))) == [
        id(shares[number % count][number // count]) for number in range(5)
    ]


def test_every_process_needs_a_batch():
    data = Synthetic(size=13, batch_size=4, input_size=(3, 2, 2))
    with pytest.raises(SaintpruneError, match=r"hardware.devices is 5, but there are only 4 batches to share out"):
        data.test_dataloader(Share(0, 5))
