"""The empty space of a room or a building: a union of boxes inside solid without end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

_CHUNK = 256  # points that are held against all faces at once

Box = tuple[np.ndarray, np.ndarray]  # low and high corner, (3,) each


@dataclass(frozen=True)
class Hollows:
    """Boxes along the axes, (H, 2, 3) low and high corners in metres; they may overlap and touch.

    A point on the boundary of a box counts as inside.
    """

    boxes: np.ndarray

    def __post_init__(self) -> None:
        if self.boxes.ndim != 3 or self.boxes.shape[1:] != (2, 3) or len(self.boxes) == 0:
            raise ValueError(f"boxes: expected shape (H, 2, 3), got {self.boxes.shape}")

    @cached_property
    def faces(self) -> tuple[np.ndarray, np.ndarray]:
        """The boundary: (Q, 2, 3) low and high corners of rectangles, flat along one axis each,
        and (Q, 3) unit normals into the empty space.
        """
        edges, filled = _grid(self.boxes)
        corners, normals = [], []
        for axis in range(3):
            # Axes in the order (across the face, along i, along j); runs along j become one face.
            order = [axis, *(a for a in range(3) if a != axis)]
            cells = np.pad(filled.transpose(order), ((1, 1), (0, 0), (0, 0)))
            for sign in (1, -1):
                free, solid = (cells[1:], cells[:-1]) if sign == 1 else (cells[:-1], cells[1:])
                face = np.pad(free & ~solid, ((0, 0), (0, 0), (1, 1))).astype(np.int8)
                step = np.diff(face, axis=2)
                plane, i, begin = np.nonzero(step == 1)
                end = np.nonzero(step == -1)[2]  # in the same order: runs do not overlap
                box = np.empty((len(plane), 2, 3))
                box[:, :, order[0]] = edges[order[0]][plane][:, None]
                box[:, :, order[1]] = edges[order[1]][np.stack([i, i + 1], axis=1)]
                box[:, :, order[2]] = edges[order[2]][np.stack([begin, end], axis=1)]
                corners.append(box)
                normals.append(np.tile(sign * np.eye(3)[axis], (len(box), 1)))
        return np.concatenate(corners), np.concatenate(normals)

    def inside(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) points -> (N,) bool: in the empty space or on its boundary."""
        result = np.zeros(len(points), dtype=bool)
        if len(points) == 0:
            return result
        x, y, z = np.ascontiguousarray(points.T)
        low, high = points.min(axis=0), points.max(axis=0)
        near = np.all((self.boxes[:, 0] <= high) & (self.boxes[:, 1] >= low), axis=1)
        for lo, hi in self.boxes[near]:
            within = (x >= lo[0]) & (x <= hi[0]) & (y >= lo[1]) & (y <= hi[1])
            result |= within & (z >= lo[2]) & (z <= hi[2])
        return result

    def clear(self, points: np.ndarray, clearance_m: float) -> np.ndarray:
        """(N, 3) points -> (N,) bool: inside and at least that far from anything solid."""
        shrunk = self.boxes + np.array([[clearance_m], [-clearance_m]])
        sound = shrunk[np.all(shrunk[:, 0] <= shrunk[:, 1], axis=1)]
        result = np.zeros(len(points), dtype=bool)
        if len(sound):
            result = Hollows(sound).inside(points)
        doubtful = ~result & self.inside(points)
        for axis in range(3):  # six probes tell at once of most points near a wall
            for sign in (-1, 1):
                probe = points[doubtful] + sign * (clearance_m - 1e-9) * np.eye(3)[axis]
                doubtful[doubtful] = self.inside(probe)
        index = np.flatnonzero(doubtful)
        (low, high) = self.faces[0].transpose(1, 0, 2)
        for begin in range(0, len(index), _CHUNK):
            part = points[index[begin : begin + _CHUNK], None]
            beyond = np.maximum(np.maximum(low - part, part - high), 0.0)  # (n, Q, 3)
            square = np.einsum("nqi,nqi->nq", beyond, beyond).min(axis=1)
            result[index[begin : begin + _CHUNK]] = square >= clearance_m**2
        return result

    def mesh(self) -> tuple[np.ndarray, np.ndarray]:
        """The boundary, facing the empty space: vertices (V, 3) float64, triangles (T, 3) int32."""
        corners, normals = self.faces
        axis = np.abs(normals).argmax(axis=1)
        sign = normals[np.arange(len(axis)), axis]
        rows = np.arange(len(axis))
        i, j = (axis + 1) % 3, (axis + 2) % 3  # (axis, i, j) is right-handed
        quads = np.repeat(corners[:, :1], 4, axis=1)  # (Q, 4, 3), counter-clockwise around +axis
        for vertex, (at_i, at_j) in enumerate(((0, 0), (1, 0), (1, 1), (0, 1))):
            quads[rows, vertex, i] = corners[rows, at_i, i]
            quads[rows, vertex, j] = corners[rows, at_j, j]
        quads[sign < 0] = quads[sign < 0, ::-1]
        first = 4 * rows[:, None, None]
        triangles = (first + np.array([[0, 1, 2], [0, 2, 3]])).reshape(-1, 3)
        return quads.reshape(-1, 3), triangles.astype(np.int32)


def remainder(low: np.ndarray, high: np.ndarray, hollows: Hollows) -> Iterator[Box]:
    """Disjoint boxes that fill the box from `low` to `high` (3,) but for the empty space."""
    boxes = np.clip(hollows.boxes, low, high)
    boxes = boxes[np.all(boxes[:, 0] < boxes[:, 1], axis=1)]
    edges, filled = _grid(np.concatenate([boxes, [[low, high]]]), len(boxes))
    solid = ~filled
    while solid.any():
        begin = np.array(np.unravel_index(solid.argmax(), solid.shape))
        end = begin + 1
        for axis in (2, 1, 0):  # grow as far as it goes, one axis after the other
            while end[axis] < solid.shape[axis]:
                here = [slice(b, e) for b, e in zip(begin, end, strict=True)]
                here[axis] = slice(end[axis], end[axis] + 1)
                if not solid[tuple(here)].all():
                    break
                end[axis] += 1
        solid[tuple(slice(b, e) for b, e in zip(begin, end, strict=True))] = False
        yield (
            np.array([edges[a][begin[a]] for a in range(3)]),
            np.array([edges[a][end[a]] for a in range(3)]),
        )


def _grid(boxes: np.ndarray, count: int | None = None) -> tuple[list[np.ndarray], np.ndarray]:
    """All coordinates of the boxes' corners, sorted, per axis, and (X, Y, Z) bool: which cells
    between them lie in one of the first `count` boxes.
    """
    edges = [np.unique(boxes[:, :, axis]) for axis in range(3)]
    filled = np.zeros([len(e) - 1 for e in edges], dtype=bool)
    spans = np.stack([np.searchsorted(edges[a], boxes[:, :, a]) for a in range(3)], axis=2)
    for (x0, y0, z0), (x1, y1, z1) in spans[:count]:
        filled[x0:x1, y0:y1, z0:z1] = True
    return edges, filled
