"""Batches of a data set, in an order that depends on seed and epoch alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from bottlekit.errors import DataError
from bottlekit.training.data import LabelledImages
from bottlekit.training.sources import FileImages

_MOST_WORKERS = 8
_LARGE_PIXELS = 160


class EpochOrder(Sampler[int]):
    """Every index once, shuffled anew each epoch."""

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is drawn."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        yield from np.random.default_rng((self.seed, self.epoch)).permutation(self.count).tolist()


def training_batches(images: LabelledImages, batch_size: int, seed: int) -> DataLoader[tuple[Tensor, int]]:
    """Shuffled batches; a last one that is not full is left out, because batch norm suffers from tiny ones."""
    return DataLoader(
        images,
        batch_size=min(batch_size, len(images)),
        sampler=EpochOrder(len(images), seed),
        drop_last=True,
        num_workers=_workers(images),
        worker_init_fn=_leave_ctrl_c_to_the_main_process,
        # Its own generator: drawing a seed for workers must not disturb the network's dropout.
        generator=torch.Generator(),
    )


def evaluation_batches(images: LabelledImages, batch_size: int) -> DataLoader[tuple[Tensor, int]]:
    """All images in their order."""
    return DataLoader(
        images,
        batch_size=batch_size,
        num_workers=_workers(images),
        worker_init_fn=_leave_ctrl_c_to_the_main_process,
        generator=torch.Generator(),
    )


def readable(batches: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches; a DataError in a worker process comes out as the one line that it is.

    torch re-raises a worker's error with the worker's whole traceback as its message, the original last.
    """
    message = ""
    try:
        yield from batches
    except DataError as error:
        message = str(error).strip().splitlines()[-1].rpartition("DataError: ")[2]
        # torch's error remembers the iterator with its workers, and itself; without that they end at once.
        error.__traceback__ = None
    if message:
        raise DataError(message)


def _workers(images: LabelledImages) -> int:
    """Worker processes help where files are decoded or images are large; small ones in memory go without."""
    if not isinstance(images.source, FileImages) and images.preprocessing["crop"] < _LARGE_PIXELS:
        return 0
    # In a container there may be fewer processors for us than the machine has.
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_MOST_WORKERS, processors)


def _leave_ctrl_c_to_the_main_process(worker: int) -> None:
    """A terminal interrupts all processes at once; workers that died would turn that into another error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
