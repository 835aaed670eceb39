"""Make the checkout importable as `vertebra` where it is not installed, and name the real data that some tests read."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import nn

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"

if importlib.util.find_spec("vertebra") is None:
    _spec = importlib.util.spec_from_file_location(
        "vertebra", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    _module = importlib.util.module_from_spec(_spec)
    sys.modules["vertebra"] = _module
    _spec.loader.exec_module(_module)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"real data is not at {DATA}")
    return DATA


def _randomise(network: "nn.Module") -> "nn.Module":
    from torch import nn

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


@pytest.fixture(scope="session")
def randomise_statistics() -> Callable[["nn.Module"], "nn.Module"]:
    """Give norms values that a fresh network does not have, so that a norm left out or in the wrong place shows."""
    return _randomise
