"""The RPN's losses are those of all anchors' predictions, whichever way the chosen ones come about."""

import pytest
import torch
from torch import Tensor, nn

from vertebra.heads.anchors import Anchors
from vertebra.heads.matching import Truth, take
from vertebra.heads.pooling import Cells
from vertebra.heads.rpn import Places, RegionProposalNetwork, RPNHead, Selection

SHAPES = [(7, 9), (4, 5), (1, 2)]
COUNTS = [63 * 3, 20 * 3, 2 * 3]


def levels(channels: int = 6, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, channels, *s, generator=generator, dtype=dtype, requires_grad=True) for s in SHAPES]


def head(convs: int, channels: int = 6) -> RPNHead:
    torch.manual_seed(0)
    made = RPNHead(channels, 3, convs).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)  # biases too: what they do beyond the border has to be undone
    return made


def gradients(loss: Tensor, module: nn.Module, given: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [*module.parameters(), *given]))


@pytest.mark.parametrize("convs", [1, 2, 3])
def test_some_anchors_alone_are_as_among_all(convs: int) -> None:
    """All anchors in turn: each border and corner, each level, each image."""
    made, given = head(convs), levels()
    index = torch.stack([torch.randperm(sum(COUNTS)) for _ in range(2)])
    weights = torch.randn(2, sum(COUNTS), dtype=torch.float64)
    objectness, deltas = (torch.cat(x, dim=1) for x in made(given))
    expected, moves = take(objectness, index), take(deltas, index)
    cells = Cells.of(given)
    found, found_moves = made.at(cells, Places.of(index, cells, 3))
    torch.testing.assert_close(found.view(index.shape), expected)
    torch.testing.assert_close(found_moves.view(*index.shape, 4), moves)
    dense = gradients((expected * weights + moves.sum(-1) * weights).sum(), made, given)
    alone = gradients((found * weights.flatten() + found_moves.sum(-1) * weights.flatten()).sum(), made, given)
    torch.testing.assert_close(alone, dense)


def network(convs: int, samples: int) -> RegionProposalNetwork:
    return RegionProposalNetwork(
        head(convs),
        Anchors([8, 16, 32], (2.0,), (0.5, 1.0, 2.0)),
        thresholds=(0.3, 0.5),
        samples=samples,
        positive_fraction=0.5,
        selection_in_training=Selection(10, 10),
        selection_in_detection=Selection(10, 10),
        nms_threshold=0.7,
    )


TRUTH = Truth(
    torch.tensor([[[3.0, 4, 30, 28], [40, 20, 70, 50]], [[0, 0, 66, 55], [0, 0, 0, 0]]]),
    torch.ones(2, 2, dtype=torch.long),
    torch.tensor([[True, True], [True, False]]),
    torch.tensor([5, 6]),
)


def losses(rpn: RegionProposalNetwork, given: list[Tensor]) -> dict[str, Tensor]:
    anchors = rpn.anchors_of(given, torch.empty(2, 3, 56, 72))
    return rpn.losses(Cells.of(given), *rpn.predict(given), anchors, TRUTH)


@pytest.mark.parametrize("convs", [1, 2])
def test_losses_are_the_same_either_way(convs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rpn, given = network(convs, samples=8), levels()
    assert not rpn.predict(given)[0][0].requires_grad or convs == 2
    results = []
    for apart in (True, False):
        monkeypatch.setattr(RPNHead, "apart_is_less", lambda self, levels, count, apart=apart: apart)
        found = losses(rpn, given)
        results.append([*found.values(), *gradients(sum(found.values(), torch.zeros(())), rpn, given)])
    assert results[0][1].item() > 0  # there is a box to learn
    torch.testing.assert_close(*results)
    with torch.no_grad():
        torch.testing.assert_close(list(losses(rpn, given).values()), [x.detach() for x in results[0][:2]])


def test_the_way_with_fewer_products_is_taken() -> None:
    """2 images of 85 cells: two products a cell and convolution backward, against 3 x (1, or 1 + 9) for each anchor."""
    assert head(1).apart_is_less(levels(), 113)
    assert not head(1).apart_is_less(levels(), 114)
    assert head(2).apart_is_less(levels(), 22)
    assert not head(2).apart_is_less(levels(), 23)


def test_under_autocast() -> None:
    made, given = head(1).float(), levels(dtype=torch.float32)
    cells = Cells.of(given)
    places = Places.of(torch.arange(20).view(2, 10), cells, 3)
    exact, moves = made.at(cells, places)
    with torch.autocast("cpu", torch.bfloat16):
        found, found_moves = made.at(cells, places)
    assert found.dtype == found_moves.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=0.05, atol=0.1)
    torch.testing.assert_close(found_moves.float(), moves, rtol=0.05, atol=0.1)
