"""The tables of keys against the frameworks' own networks: names and shapes, of every network that both have."""

from importlib.util import find_spec

import pytest
import torch

import vertebra
from vertebra.backbones.exchange import FRAMEWORKS
from vertebra.backbones.exchange.structure import OWN


@pytest.mark.parametrize(("framework", "least"), [("torchvision", 18), ("timm", 18), ("detectron2", 15), ("mmdet", 20)])
def test_whatever_is_written_is_what_its_network_has(framework: str, least: int) -> None:
    if find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    found = []
    for name in OWN:
        try:
            spelling = FRAMEWORKS[framework].spellings(name)[0]
        except vertebra.InputError:
            continue
        with torch.device("meta"):
            ours = vertebra.create_backbone(name)
            theirs = FRAMEWORKS[framework].build(name).state_dict()
        state = ours.state_dict()
        shapes = {key: state[own].shape for key, own in spelling.keys(ours).items()}
        expected = {
            key: value.shape
            for key, value in theirs.items()
            if not key.endswith("num_batches_tracked") and not key.startswith(ours.droppable_keys)
        }
        assert shapes == expected, name
        found.append(name)
    assert len(found) >= least
