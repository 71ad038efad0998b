"""Logits as bytes: all of them in class order, or the best few with their class numbers."""

from typing import Any, Optional, Tuple

import numpy as np

from ..errors import WireError
from . import load_rpc

# Class numbers travel as two bytes.
MAX_CLASSES = 65535

_LOGIT = np.dtype("<f4")
_CLASS = np.dtype("<u2")


def answer_from_logits(
    logits: np.ndarray,
    top_k: int,
    decode_us: int,
    tail_us: int,
    queue_us: Optional[int] = None,
    batch: Optional[int] = None,
) -> Any:
    """An Answer with the `top_k` best logits, best first, ties by class number; with `top_k` 0 all of them.

    logits: float32 (classes,). What is None is not sent.
    """
    times = {"decode_us": decode_us, "tail_us": tail_us, "queue_us": queue_us, "batch": batch}
    answer = load_rpc().types.Answer
    if top_k == 0:
        return answer(logits=logits.astype(_LOGIT).tobytes(), **times)
    best = np.argsort(-logits, kind="stable")[:top_k]
    return answer(logits=logits[best].astype(_LOGIT).tobytes(), classes=best.astype(_CLASS).tobytes(), **times)


def logits_from_answer(answer: Any, classes: int) -> Tuple[np.ndarray, np.ndarray]:
    """(class numbers int64 (k,), their logits float32 (k,)) of an Answer, in the order they were sent.

    That is class order when all logits were sent, best first otherwise. `classes`: how many the bundle has.
    Raises WireError when the answer does not fit the bundle.
    """
    data = answer.logits if answer.logits is not None else b""
    if len(data) == 0 or len(data) % _LOGIT.itemsize:
        raise WireError("the server's answer holds {} bytes of logits, which is no list of them".format(len(data)))
    logits = np.frombuffer(data, _LOGIT).astype(np.float32)
    if answer.classes is None:
        if logits.size != classes:
            raise WireError("the server's answer has {} logits, the bundle {} classes".format(logits.size, classes))
        return np.arange(classes), logits
    if len(answer.classes) != logits.size * _CLASS.itemsize:
        raise WireError(
            "the server's answer has {} logits and {} bytes of class numbers".format(
                logits.size, len(answer.classes)
            )
        )
    numbers = np.frombuffer(answer.classes, _CLASS).astype(np.int64)
    if numbers.max() >= classes:
        raise WireError(
            "the server's answer names class {}, the bundle has {} classes".format(numbers.max(), classes)
        )
    return numbers, logits
