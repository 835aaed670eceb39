"""A confusion matrix as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

# Names and cells of more classes cannot be read.
MOST_CLASSES = 40


def write_confusion(path: Path, confusion: Tensor, names: Sequence[str]) -> None:
    """Write a PNG of a confusion matrix (K, K), each row as shares of its class; nothing for more than 40 classes.

    The rows of classes without a label are grey.
    """
    if len(names) > MOST_CLASSES:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = confusion.cpu().double().numpy()
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    shown = [name if len(name) <= 20 else f"{name[:19]}…" for name in names]
    side = max(4.0, 0.42 * len(names))
    figure = Figure(figsize=(side + 2, side + 1.5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("0.85")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), shown, rotation=90, parse_math=False)
    axes.set_yticks(range(len(names)), shown, parse_math=False)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    axes.set_title("share of each label, in %")
    for row, column in np.argwhere(shares >= 0.005):
        share = shares[row, column]
        ink = "white" if share > 0.5 else "black"
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=ink, fontsize=8)
    FigureCanvasAgg(figure)  # no window, whatever backend is set
    figure.savefig(path)
