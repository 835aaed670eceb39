"""What training would do on many GPUs, reckoned from sizes, published speeds of links and stated assumptions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch

from ..heads import create_model
from .process_costs import ring_bytes


@dataclass(frozen=True)
class Cluster:
    """Machines of `per_node` GPUs each, and what is assumed of training on them.

    gpu_batch, gpu_rate: images of a step of one GPU, and images/s that it trains alone.
    inside, between: bytes/s that a GPU sends to others of its machine, and to those of another.
    reached: share of these that an all-reduce gets.
    hop: seconds that each message of an exchange needs besides.
    bucket: bytes of gradients that are exchanged at once. backward: share of a step in which they become ready.
    spread: standard deviation of a GPU's step time, as a share of it; a step takes as long as the slowest.
    image_bytes, sample_seconds: of an image's file, and of one CPU core that makes a training sample of it.
    """

    gpu_batch: int = 16
    gpu_rate: float = 120.0
    per_node: int = 8
    inside: float = 450e9
    between: float = 50e9
    reached: float = 0.7
    hop: float = 5e-6
    bucket: float = 25 * 2**20
    backward: float = 2 / 3
    spread: float = 0.03
    image_bytes: float = 18 * 2**30 / 118_287
    sample_seconds: float = 0.02


@dataclass(frozen=True)
class Reckoned:
    """A step of `gpus` GPUs: seconds of each part, bytes that each GPU sends, and what the data have to keep up with.

    exposed: what of the exchange is not hidden by the backward pass. waiting: for the slowest.
    data: bytes/s of image files, cores: CPU cores that make samples; both of all machines together.
    """

    gpus: int
    images: int
    compute: float
    sent: float
    exchange: float
    exposed: float
    waiting: float
    images_per_second: float
    efficiency: float
    data: float
    cores: float


def reckon(gpus: int, gradient_bytes: int, cluster: Cluster) -> Reckoned:
    """Return what a step costs that exchanges so many bytes of gradients."""
    compute = cluster.gpu_batch / cluster.gpu_rate
    exchange = exchange_seconds(gpus, gradient_bytes, cluster)
    # The gradients of the first layers come last, when there is no more backward pass to hide their exchange.
    last = exchange_seconds(gpus, min(cluster.bucket, gradient_bytes), cluster)
    exposed = max(last, exchange - cluster.backward * compute)
    waiting = cluster.spread * compute * largest_of(gpus)
    rate = gpus * cluster.gpu_batch / (compute + exposed + waiting)
    return Reckoned(
        gpus=gpus,
        images=gpus * cluster.gpu_batch,
        compute=compute,
        sent=ring_bytes(gpus, gradient_bytes),
        exchange=exchange,
        exposed=exposed,
        waiting=waiting,
        images_per_second=rate,
        efficiency=rate / (gpus * cluster.gpu_rate),
        data=rate * cluster.image_bytes,
        cores=rate * cluster.sample_seconds,
    )


def exchange_seconds(gpus: int, gradient_bytes: float, cluster: Cluster) -> float:
    """Return the seconds of an all-reduce, bucket by bucket, of as many bytes as a ring sends; the slowest link counts.

    Messages go round the ring of a machine's GPUs, and up and down a tree of the machines.
    """
    link = cluster.inside if gpus <= cluster.per_node else cluster.between
    machines = math.ceil(gpus / cluster.per_node)
    hops = 2 * (min(gpus, cluster.per_node) - 1) + 2 * math.ceil(math.log2(machines))
    buckets = math.ceil(gradient_bytes / cluster.bucket)
    return ring_bytes(gpus, gradient_bytes) / (cluster.reached * link) + buckets * hops * cluster.hop


def largest_of(count: int) -> float:
    """Return the mean of the largest of so many draws of a standard normal distribution (Blom 1958, approximately)."""
    return NormalDist().inv_cdf((count - 0.375) / (count + 0.25))


def gradient_bytes(head: str, backbone: str, classes: int, frozen_stages: int) -> tuple[int, int]:
    """Return how many parameters train where norms are frozen, and their gradients' bytes, as autocast leaves them."""
    with torch.device("meta"):
        model = create_model(
            head, backbone=backbone, num_classes=classes, norm="frozen_batch", frozen_stages=frozen_stages
        )
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return count, 4 * count
