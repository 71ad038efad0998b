from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch

from bottlekit.errors import DataError
from bottlekit.training.batches import EpochOrder, evaluation_batches, readable, training_batches
from bottlekit.training.data import DataSet, dataset_from_name


def test_every_index_comes_once_and_each_epoch_has_its_own_order() -> None:
    order = EpochOrder(50, seed=1)
    first = list(order)
    assert sorted(first) == list(range(50))
    assert list(order) == first
    order.set_epoch(1)
    assert sorted(order) == list(range(50))
    assert list(order) != first
    assert list(EpochOrder(50, seed=2)) != first


def test_a_last_training_batch_that_is_not_full_is_left_out(few: DataSet) -> None:
    assert [len(labels) for _, labels in training_batches(few.train, 20, seed=0)] == [20, 20]
    assert [len(labels) for _, labels in evaluation_batches(few.val, 15)] == [15, 5]


def test_fewer_images_than_a_batch_make_one_batch(few: DataSet) -> None:
    assert [len(labels) for _, labels in training_batches(few.train, 1000, seed=0)] == [48]


def test_evaluation_keeps_the_order(few: DataSet) -> None:
    labels = torch.cat([labels for _, labels in evaluation_batches(few.val, 7)])
    assert labels.tolist() == few.val.labels


def test_batches_throw_no_dice_of_the_network(few: DataSet) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    list(training_batches(few.train, 20, seed=0))
    list(evaluation_batches(few.val, 20))
    assert torch.equal(torch.get_rng_state(), before)


def test_worker_processes_deliver_what_one_process_does(shades: Path) -> None:
    data = dataset_from_name("folder", shades, input_size=16, seed=5)
    data.train.set_epoch(2)
    batches = training_batches(data.train, 8, seed=5)
    assert batches.num_workers > 0
    (images, labels), *_ = batches
    order = list(EpochOrder(48, seed=5))[:8]
    assert labels.tolist() == [data.train.labels[index] for index in order]
    assert torch.equal(images, torch.stack([data.train[index][0] for index in order]))


def test_a_corrupt_image_in_a_worker_is_one_line_with_its_name(shades: Path) -> None:
    (shades / "val" / "dark" / "3.jpg").write_bytes(b"no image")
    data = dataset_from_name("folder", shades, input_size=16)
    with pytest.raises(DataError) as caught:
        list(readable(evaluation_batches(data.val, 4)))
    assert str(caught.value).startswith(str(shades / "val" / "dark" / "3.jpg"))
    assert "Traceback" not in str(caught.value)
    assert multiprocessing.active_children() == []
