"""All that a check found, in the order of how bad it is, and as JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .content import QUANTILES, Part, side_quantiles, size_counts
from .kinds import KINDS, SEVERITIES, Finding


@dataclass(frozen=True)
class Report:
    """What a data set holds, and what is wrong with it."""

    parts: Sequence[Part]
    findings: Sequence[Finding]

    def by_kind(self) -> dict[str, list[Finding]]:
        """Return what was found, by kind, in the order of the table of kinds and the worst first."""
        found = defaultdict(list)
        for finding in self.findings:
            found[finding.kind].append(finding)
        order = [kind for severity in SEVERITIES for kind, row in KINDS.items() if row.severity == severity]
        return {kind: found[kind] for kind in order if kind in found}

    def count(self, severity: str) -> int:
        return sum(KINDS[finding.kind].severity == severity for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return all of it, with each place of each fault."""
        return {
            "splits": [
                {"split": part.name, "source": str(part.source), part.counted: part.total, "images": part.images}
                for part in self.parts
            ],
            "faults": [
                {
                    "kind": kind,
                    "severity": KINDS[kind].severity,
                    "what": KINDS[kind].what,
                    "advice": KINDS[kind].advice,
                    "count": len(found),
                    "places": [{"split": f.split, "where": f.where, "detail": f.detail} for f in found],
                }
                for kind, found in self.by_kind().items()
            ],
            "classes": {
                part.name: [
                    {"id": one.id, "name": one.name, part.counted: one.amount, "images": one.images}
                    for one in part.classes
                ]
                for part in self.parts
            },
            "sizes": {part.name: _sizes(part) for part in self.parts if part.areas is not None},
        }


def _sizes(part: Part) -> dict[str, Any]:
    assert part.areas is not None
    small, medium, large = size_counts(part.areas)
    quantiles = dict(zip(map(str, QUANTILES), side_quantiles(part.areas), strict=False))
    return {"small": small, "medium": medium, "large": large, "quantiles of the square root of area": quantiles}
