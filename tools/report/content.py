"""What a report shows, as plain data: who measures fills it in, and the page, the JSON and the Markdown show it.

Values that are shares lie in 0..1, and NaN or None stands for what cannot be measured. A part that is None or empty is
left out of the report. Names of classes and files are texts of any kind; the page shows them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Points = list[tuple[float, float]]
Value = str | float | int | None

# What "size" says of an object, and of what curves and tables are about; areas in pixels as COCO has them.
SIZES = ("all", "small", "medium", "large")

# What a curve over every class has as its label; no name of a class.
ALL = "all classes"


@dataclass(frozen=True)
class Headline:
    """One figure at the head of the report; low, high: its 95 % interval over images; meaning: a few words."""

    section: str  # as in metrics.json: bbox, segm, boundary, semantic, classification
    name: str
    value: float
    low: float | None
    high: float | None
    meaning: str


@dataclass(frozen=True)
class Curve:
    """Precision `y` over recall `x` of one class, or of ALL, and one size; there is none where there are no objects."""

    section: str
    label: str
    size: str  # one of SIZES
    iou: str  # "0.50", "0.75", "0.50:0.95"
    x: list[float]
    y: list[float]


@dataclass(frozen=True)
class Table:
    """Figures by class for objects of one size; the first column is the name of the class.

    bars: those of the columns that can be drawn as bars (shares, 0..1), the first of them at first.
    """

    section: str
    size: str  # one of SIZES; "all" where there are no sizes
    columns: list[str]
    rows: list[list[Value]]
    bars: list[str]


@dataclass(frozen=True)
class ErrorShares:
    """What each kind of error costs: values in points of AP50 (0..100), as dAP of TIDE; meanings: a few words each."""

    section: str
    names: list[str]
    values: list[float]
    meanings: list[str]


@dataclass(frozen=True)
class Confusion:
    """How often the class of the row is true and that of the column was found; note: what is counted, in one sentence.

    The name "background" in rows or columns stands for nothing there, and is no class.
    """

    rows: list[str]
    columns: list[str]
    counts: list[list[int]]
    note: str


@dataclass(frozen=True)
class Learning:
    """How training went, as (step, value); metrics by SECTION/NAME."""

    loss: Points
    held_out: Points
    metrics: dict[str, Points]
    learning_rate: Points


@dataclass(frozen=True)
class ImageCard:
    """An image that is worth looking at; quality: 0..1, what the images are ranked by.

    picture: a JPEG, truth left and prediction right. objects: once each (class, size) that is in the truth
    or was found, with the size "" where there are none. note: a few words, as "4 of 6 found; 2 false".
    """

    name: str
    quality: float
    picture: bytes
    objects: list[tuple[str, str]]
    note: str


@dataclass(frozen=True)
class Content:
    """All of a report.

    kind: "object detection", "instance segmentation", "semantic segmentation" or "classification". facts: as ("images",
    "500"). ranking: what the images' quality is, in a sentence. worst, best: the first is the worst, the
    best. notes: sentences, as warnings that the evaluation gave. tables, curves: of any number of sections and sizes.
    """

    title: str
    kind: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    headlines: list[Headline] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    errors: list[ErrorShares] = field(default_factory=list)
    confusion: Confusion | None = None
    learning: Learning | None = None
    ranking: str = ""
    worst: list[ImageCard] = field(default_factory=list)
    best: list[ImageCard] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
