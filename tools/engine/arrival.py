"""Batches on their way to the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

Batch = list[tuple[Tensor, dict[str, Any]]]  # of each image its pixels, and targets with `to` as tensors have it


def arriving(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield each batch on the device; to a GPU it is copied while the one before is worked on.

    For that each batch is fetched when the one before is handed out, and has to be in pinned memory.
    """
    if device.type == "cuda":
        return _overlapped(batches, device)
    return (_moved(batch, device) for batch in batches)


def _overlapped(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    copies: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    ahead: tuple[Batch, Any] | None = None
    for batch in batches:
        # The copy may get memory of a batch that was let go: after what is still to be computed from that.
        copies.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(copies):
            coming = _moved(batch, device), copies.record_event()
        if ahead is not None:
            yield _landed(*ahead, device)
        ahead = coming
    if ahead is not None:
        yield _landed(*ahead, device)


def _landed(batch: Batch, copied: Any, device: torch.device) -> Batch:
    torch.cuda.current_stream(device).wait_event(copied)
    return batch


def _moved(batch: Batch, device: torch.device) -> Batch:
    return [
        (image.to(device, non_blocking=True), {k: v.to(device, non_blocking=True) for k, v in target.items()})
        for image, target in batch
    ]
