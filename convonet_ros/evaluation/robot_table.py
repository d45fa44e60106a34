"""The robot's table: methods of reconstruction beside each other, on scenes and recordings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from convonet_ros.evaluation.evidence import Counts
from convonet_ros.evaluation.tables import Column, Rows, table_of, write_results
from convonet_ros.offline.bench import table

_ECE = "Calibration error, mean |probability - occupied share|, of points"
SCENE_COLUMNS = (
    Column("IoU", "IoU", 3, 1, True,
           "Volume, of points drawn in the map's crops that hold seen surface, bodies to 15 cm "
           "deep; what a method does not know counts as free."),
    Column("IoU near", "IoU near", 3, 1, True,
           "Of all points within 30 cm of a seen one, however deep. Unfair to fusion, which knows "
           "nothing of the inside of bodies, hence the next column."),
    Column("IoU skin", "IoU skin", 3, 1, True, "Of the same points, bodies to 15 cm deep."),
    Column("Chamfer-L1, mm", "Chamfer-L1", 1, 1e3, False,
           "Mean of accuracy (mesh within 30 cm of a seen point to the true surface) and "
           "completeness (true surface within 25 cm of a seen point, seen or not, to the mesh)."),
    Column("F 2.5 cm", "F at 2.5 cm", 3, 1, True,
           "Harmonic mean of the shares of both that are within 2.5 cm."),
    Column("F 5 cm", "F at 5 cm", 3, 1, True, "The same within 5 cm."),
    Column("normals", "normals", 3, 1, True,
           "Mean |cosine| between normals of nearest places, both ways."),
    Column("unseen", "unseen found", 3, 1, True,
           "Share of the true surface 7.5 to 25 cm from every seen point that has mesh within "
           "5 cm."),
    Column("false m2", "false m2", 3, 1, False,
           "Mesh in space that rays have seen free, more than half a lattice step inside of it."),
    Column("ECE seen", "ECE observed", 3, 1, False,
           f"{_ECE} within 5 cm of a seen point that the method knows, of all scenes together."),
    Column("ECE near", "ECE near", 3, 1, False, f"{_ECE} 5 to 15 cm from the nearest seen point."),
    Column("ECE completed", "ECE completed", 3, 1, False, f"{_ECE} 15 to 30 cm from it."),
    Column("ECE", "ECE band", 3, 1, False, f"{_ECE} within 30 cm."),
    Column("±", "ECE spread", 3, 1, None, "Its standard error, as other scenes would differ."),
    Column("s", "seconds", 2, 1, None, "Seconds of a scene, from the scans to the mesh."),
    Column("MB", "memory MB", 0, 1, None,
           "Largest resident memory of a process that does nothing else, libraries included."),
)  # fmt: skip
RECORDING_COLUMNS = (
    Column("recall", "recall", 3, 1, True,
           "Share of the measured pixels of frames kept out that have mesh within 5 cm along the "
           "optical axis."),
    Column("false", "false obstacle", 3, 1, False,
           "Share with mesh more than 10 cm in front of what was measured."),
    Column("missing", "missing", 3, 1, False,
           "Share without mesh, or more than 10 cm behind what was measured."),
    Column("error, mm", "median error", 1, 1e3, False, "Median error where there is mesh."),
    Column("s", "seconds", 1, 1, None, "Seconds, from the files to the mesh."),
    Column("MB", "memory MB", 0, 1, None, "As above."),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RobotTable:
    """What `methods.evaluate_methods` found.

    views: {number of views: rows}, means over the scenes. recordings: {folder: {frames: rows}}.
    scenes: per method, scene and number of views all figures. evidence: cells of all scenes and
    views, see `evidence`. failures: a sentence for each method that failed and is left out there.
    settings: of the evaluation, the methods and the machine. A mean leaves out what is NaN; the
    best of a column is bold.
    """

    views: Mapping[int, Rows]
    recordings: Mapping[str, Mapping[str, Rows]]
    scenes: list[dict[str, Any]]
    evidence: Counts
    failures: list[str]
    settings: dict[str, Any]

    def markdown(self) -> str:
        """The tables, and a sentence for each column and method."""
        parts = []
        for count, rows in self.views.items():
            if not rows:
                continue
            scenes = int(max(row["scenes"] for row in rows.values()))
            title = f"{count} {'view' if count == 1 else 'views'} of {scenes} test scenes"
            parts.append(table_of(title, SCENE_COLUMNS, rows))
        if self.views:
            parts += [_sentences(SCENE_COLUMNS), _empty_meshes(self.views)]
            parts.append(_evidence_table(self.evidence))
        for folder, slices in self.recordings.items():
            for frames, rows in slices.items():
                name = f"{Path(folder).name}, from frames {frames}"
                parts.append(table_of(name, RECORDING_COLUMNS, rows))
        parts += self.failures
        if self.recordings:
            parts.append(_sentences(RECORDING_COLUMNS))
        parts.append(
            "\n".join(f"- {name}: {text}" for name, text in self.settings["methods"].items())
        )
        return "\n\n".join(part for part in parts if part) + "\n"

    def write(self, folder: str | Path) -> None:
        """Write table.md and, with all that this holds, results.json; each whole or not at all."""
        write_results(folder, self.markdown(), asdict(self))


def _sentences(columns: Iterable[Column]) -> str:
    return "\n".join(f"- {column.title}: {column.sentence}" for column in columns)


def _empty_meshes(views: Mapping[int, Rows]) -> str:
    found = [
        f"{name}: {int(row['empty'])} of {int(row['scenes'])} meshes after {count} views are empty "
        "and have no Chamfer-L1 and normals."
        for count, rows in views.items()
        for name, row in rows.items()
        if row["empty"]
    ]
    return "\n".join(found)


def _evidence_table(evidence: Counts) -> str:
    rows = [
        (kind, [str(cells), f"{solid / cells:.4f}"])
        for kind, (cells, solid) in evidence.items()
        if cells
    ]
    return table(("parts of the map, all scenes and views", "number", "share that is solid"), rows)
