"""Meshes read back from the markers that RViz gets, out of their bytes.

A marker of 100 000 triangles costs seconds as Python objects and milliseconds as numpy arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convonet_ros.mapping.meshing import Mesh
from convonet_ros.ros.messages import PREDICTED_COLOUR

TRIANGLE_LIST = 11
ADD, DELETE, DELETEALL = 0, 2, 3


@dataclass(frozen=True, slots=True)
class MarkerMesh:
    """One marker: points (N, 3) float64 metres in its frame, colours (N, 4) float32."""

    stamp_ns: int
    frame_id: str
    namespace: str
    identity: int
    kind: int
    action: int
    points: np.ndarray
    colours: np.ndarray

    def mesh(self) -> Mesh:
        """The triangles of the marker; its colours tell predicted surface from observed."""
        predicted = PREDICTED_COLOUR / np.linalg.norm(PREDICTED_COLOUR)
        length = np.linalg.norm(self.colours[:, :3], axis=1)
        observed = self.colours[:, :3] @ predicted < 0.999 * length
        triangles = np.arange(len(self.points), dtype=np.int32).reshape(-1, 3)
        return Mesh(self.points.astype(np.float32), triangles, observed)


class MarkerScene:
    """The markers that a viewer holds after all it was sent, by namespace and id."""

    def __init__(self) -> None:
        self._shown: dict[tuple[str, int], MarkerMesh] = {}

    def take(self, markers: list[MarkerMesh]) -> None:
        """Apply the markers of one message in their order, as RViz does.

        Raises ValueError for a marker that RViz would not show.
        """
        for marker in markers:
            key = marker.namespace, marker.identity
            if marker.action == DELETEALL:
                self._shown.clear()
            elif marker.action == DELETE:
                self._shown.pop(key, None)
            elif marker.action == ADD:
                _check(marker)
                self._shown[key] = marker
            else:
                raise ValueError(f"marker {key}: expected add or delete, got {marker.action}")

    def meshes(self) -> list[Mesh]:
        return [marker.mesh() for marker in self._shown.values()]


def _check(marker: MarkerMesh) -> None:
    name = f"marker {marker.identity}"
    if marker.kind != TRIANGLE_LIST:
        raise ValueError(f"{name}: expected a TRIANGLE_LIST, got type {marker.kind}")
    if not len(marker.points) or len(marker.points) % 3:
        raise ValueError(f"{name}: expected corners of triangles, got {len(marker.points)}")
    if len(marker.colours) != len(marker.points):
        raise ValueError(f"{name}: expected a colour per corner, got {len(marker.colours)}")
    if not np.isfinite(marker.points).all() or not np.isfinite(marker.colours).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")


def read_marker_array(content: bytes) -> list[MarkerMesh]:
    """The markers of a serialized visualization_msgs/MarkerArray (little-endian CDR).

    Raises ValueError when the bytes are something else.
    """
    reader = _CdrReader(content)
    markers = [_read_marker(reader) for _ in range(reader.number("u4"))]
    reader.finish()
    return markers


def _read_marker(reader: _CdrReader) -> MarkerMesh:
    stamp_ns, frame_id = reader.header()
    namespace = reader.string()
    identity, kind, action = reader.numbers("i4", 3).tolist()
    reader.numbers("f8", 7 + 3)  # pose, scale
    reader.numbers("f4", 4)  # colour
    reader.numbers("i4", 2)  # lifetime
    reader.number("u1")  # frame_locked
    points = reader.sequence("f8", 3)
    colours = reader.sequence("f4", 4)
    reader.string()  # texture_resource
    reader.header()  # texture
    reader.string()
    reader.sequence("u1", 1)
    reader.sequence("f4", 2)  # uv_coordinates
    reader.string()  # text
    reader.string()  # mesh_resource
    reader.string()  # mesh_file
    reader.sequence("u1", 1)
    reader.number("u1")  # mesh_use_embedded_materials
    return MarkerMesh(stamp_ns, frame_id, namespace, identity, kind, action, points, colours)


class _CdrReader:
    def __init__(self, content: bytes) -> None:
        if content[:2] != b"\x00\x01":
            raise ValueError(f"message: expected little-endian CDR, got {content[:4].hex()}")
        self._content = memoryview(content)[4:]
        self._at = 0

    def numbers(self, kind: str, count: int) -> np.ndarray:
        dtype = np.dtype("<" + kind)
        start = self._at + (-self._at % dtype.itemsize if count else 0)
        end = start + count * dtype.itemsize
        if end > len(self._content):
            raise ValueError(f"message: expected {end} bytes, got {len(self._content)}")
        self._at = end
        return np.frombuffer(self._content[start:end], dtype)

    def number(self, kind: str) -> int:
        return int(self.numbers(kind, 1)[0])

    def sequence(self, kind: str, width: int) -> np.ndarray:
        count = self.number("u4")
        return self.numbers(kind, count * width).reshape(count, width)

    def string(self) -> str:
        return self.numbers("u1", self.number("u4")).tobytes()[:-1].decode(errors="replace")

    def header(self) -> tuple[int, str]:
        """Stamp in nanoseconds, and frame."""
        stamp_ns = self.number("i4") * 10**9 + self.number("u4")
        return stamp_ns, self.string()

    def finish(self) -> None:
        if len(self._content) - self._at >= 4:  # a transport may pad
            raise ValueError(f"message: expected {self._at} bytes, got {len(self._content)}")
