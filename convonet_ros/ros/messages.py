"""What the map knows as ROS messages. Pure conversions: values in, messages or their bytes out."""

from __future__ import annotations

from array import array

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, Quaternion
from nav_msgs.msg import MapMetaData, OccupancyGrid
from scipy.sparse import csr_array
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from convonet_ros.mapping.mapper import MapUpdate
from convonet_ros.mapping.meshing import Mesh
from convonet_ros.mapping.occupancy import (
    OBSERVED_OCCUPIED,
    PREDICTED_OCCUPIED,
    OccupancyGrid2D,
    OccupancyVolume,
)
from convonet_ros.mapping.volume import CropIndex
from convonet_ros.msg import OccupancyVolume as OccupancyVolumeMessage
from convonet_ros.ros.cdr import CdrWriter

NAMESPACE = "mesh"
_TRIANGLE_LIST = 11
_ADD, _DELETE, _DELETEALL = 0, 2, 3

# Observed surfaces run through these colours and back with height, predicted ones have their own.
_STOPS = np.array([[0.23, 0.32, 0.55], [0.13, 0.57, 0.55], [0.37, 0.79, 0.38], [0.85, 0.87, 0.35]])
_RAMP = np.stack(
    [np.interp(np.linspace(0, 3, 256), np.arange(4), channel) for channel in _STOPS.T], axis=1
).astype(np.float32)
_RAMP_M = 3.0
PREDICTED_COLOUR = np.array([0.93, 0.55, 0.30], np.float32)
_LIGHT = np.array([0.35, 0.20, 0.91], np.float32)  # direction to the light, map frame
_LIGHT /= np.linalg.norm(_LIGHT)
_SHADE = np.float32(0.45)  # of a surface that looks away from the light

_CLOUD_FIELDS = [
    PointField(name="x", offset=0, datatype=PointField.FLOAT32, count=1),
    PointField(name="y", offset=4, datatype=PointField.FLOAT32, count=1),
    PointField(name="z", offset=8, datatype=PointField.FLOAT32, count=1),
    PointField(name="probability", offset=12, datatype=PointField.FLOAT32, count=1),
    PointField(name="class", offset=16, datatype=PointField.UINT8, count=1),
]
_CLOUD_CELL = np.dtype([("xyz", "<f4", 3), ("probability", "<f4"), ("class", "u1"), ("", "V3")])


def header(frame_id: str, stamp_ns: int) -> Header:
    """A header; stamps before 1970 too."""
    return Header(stamp=Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9), frame_id=frame_id)


# ---- meshes -------------------------------------------------------------------------------------


def marker_id(crop: CropIndex) -> int:
    """The int32 by which RViz knows a crop; crops share one only when kilometres apart."""
    x, y, z = crop
    packed = (x & 0x7FF) | (y & 0x7FF) << 11 | (z & 0x3FF) << 22
    return packed - (1 << 32) if packed >= 1 << 31 else packed


def marker_array(update: MapUpdate, frame_id: str) -> bytes:
    """A serialized visualization_msgs/MarkerArray: one marker per crop that changed.

    A TRIANGLE_LIST with baked shading per crop with a surface, DELETE for one without or one that
    left, DELETEALL first where the map was cleared.
    """
    writer = CdrWriter()
    surfaces = {crop: _corners(mesh) for crop, mesh in update.meshes.items()}
    gone = [] if update.cleared else list(update.left)
    gone += [c for c, (points, _) in surfaces.items() if not len(points) and not update.cleared]
    shown = {c: surface for c, surface in surfaces.items() if len(surface[0])}
    writer.numbers(int(update.cleared) + len(gone) + len(shown), "u4")
    nothing = np.empty((0, 3)), np.empty((0, 4), np.float32)
    if update.cleared:
        _marker(writer, update.stamp_ns, frame_id, 0, _DELETEALL, *nothing)
    for crop in gone:
        _marker(writer, update.stamp_ns, frame_id, marker_id(crop), _DELETE, *nothing)
    for crop, (points, colours) in shown.items():
        _marker(writer, update.stamp_ns, frame_id, marker_id(crop), _ADD, points, colours)
    return writer.finish()


def _marker(
    writer: CdrWriter,
    stamp_ns: int,
    frame_id: str,
    identity: int,
    action: int,
    points: np.ndarray,
    colours: np.ndarray,
) -> None:
    writer.header(frame_id, stamp_ns)
    writer.string(NAMESPACE)
    writer.numbers([identity, _TRIANGLE_LIST, action], "i4")
    writer.numbers([0, 0, 0, 0, 0, 0, 1], "f8")  # pose
    writer.numbers([1, 1, 1], "f8")  # scale
    writer.numbers([1, 1, 1, 1], "f4")  # colour, where the vertices have none
    writer.numbers([0, 0], "u4")  # lifetime: for ever
    writer.numbers(True, "u1")  # frame_locked: follows the map frame in RViz's fixed frame
    writer.sequence(points, "f8", 3)
    writer.sequence(colours, "f4", 4)
    writer.string("")  # texture_resource
    writer.header("", 0)  # texture: header, format, data
    writer.string("")
    writer.numbers(0, "u4")
    writer.numbers(0, "u4")  # uv_coordinates
    writer.string("")  # text
    writer.string("")  # mesh_resource
    writer.string("")  # mesh_file: filename, data
    writer.numbers(0, "u4")
    writer.numbers(False, "u1")  # mesh_use_embedded_materials


def _corners(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """The corners of all triangles, (3 F, 3) metres, and their shaded colours, (3 F, 4) float32.

    One number that is not finite would hide the whole marker: such triangles are left out.
    """
    finite = np.isfinite(mesh.vertices).all(axis=1)
    triangles = mesh.triangles[finite[mesh.triangles].all(axis=1)]
    order = triangles.reshape(-1)
    vertices = np.where(finite[:, None], mesh.vertices, np.float32(0))
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    area = np.cross(b - a, c - a)  # F 3; its length weighs the triangle
    starts = np.arange(0, len(order) + 1, 3)
    corners = csr_array((np.ones_like(order), order, starts), (len(triangles), len(vertices)))
    normals = corners.T @ area  # V 3
    length = np.linalg.norm(normals, axis=1)
    towards_light = normals @ _LIGHT / np.maximum(length, np.float32(1e-20))  # -1 .. 1
    shade = _SHADE + (1 - _SHADE) * (0.5 + 0.5 * towards_light)
    colours = np.ones((len(vertices), 4), np.float32)
    base = np.where(mesh.observed[:, None], _height_colours(vertices[:, 2]), PREDICTED_COLOUR)
    colours[:, :3] = base * shade[:, None]
    return vertices[order], colours[order]


def _height_colours(z: np.ndarray) -> np.ndarray:
    """(V, 3) colours of heights (V,) metres, up and down the ramp without an end."""
    place = 1 - np.abs(z / _RAMP_M % 2 - 1)  # 0 .. 1
    return _RAMP[np.round(place * (len(_RAMP) - 1)).astype(np.int64)]


def mesh_update(update: MapUpdate, frame_id: str, crop_m: float) -> bytes:
    """A serialized convonet_ros/MeshUpdate."""
    shown = {crop: mesh for crop, mesh in update.meshes.items() if not mesh.empty}
    erased = [] if update.cleared else [*update.left]
    erased += [crop for crop, m in update.meshes.items() if m.empty and not update.cleared]
    writer = CdrWriter()
    writer.header(frame_id, update.stamp_ns)
    writer.numbers(update.cleared, "u1")
    writer.numbers(len(shown), "u4")
    for crop, mesh in shown.items():
        writer.numbers(crop, "i4")
        writer.sequence(mesh.vertices, "f4", 3)
        writer.sequence(mesh.triangles, "u4")
        writer.sequence(mesh.observed, "u1")
    writer.sequence(np.array(erased), "i4")
    writer.numbers(crop_m, "f4")
    return writer.finish()


# ---- occupancy ----------------------------------------------------------------------------------


def occupancy_grid(grid: OccupancyGrid2D, frame_id: str, cells: np.ndarray) -> OccupancyGrid:
    """A nav_msgs/OccupancyGrid of one of the grid's layers: `cells` (Y, X) int8.

    For Nav2 the ternary layer: it reads 1 to 98 percent as free.
    """
    x, y = (round(float(v), 9) for v in grid.origin_m)
    return OccupancyGrid(
        header=header(frame_id, grid.stamp_ns),
        info=MapMetaData(
            map_load_time=header(frame_id, grid.stamp_ns).stamp,
            resolution=float(grid.resolution_m),
            width=cells.shape[1],
            height=cells.shape[0],
            origin=Pose(position=Point(x=x, y=y, z=0.0), orientation=Quaternion(w=1.0)),
        ),
        data=array("b", np.ascontiguousarray(cells, dtype=np.int8).tobytes()),
    )


def occupancy_cloud(volume: OccupancyVolume, frame_id: str) -> PointCloud2:
    """The centres of the occupied cells with probability and class (see OccupancyVolume.msg)."""
    occupied = (volume.classes == OBSERVED_OCCUPIED) | (volume.classes == PREDICTED_OCCUPIED)
    index = np.argwhere(occupied)
    cells = np.zeros(len(index), _CLOUD_CELL)
    cells["xyz"] = volume.origin_m + (index + 0.5) * volume.resolution_m
    cells["probability"] = volume.probability[occupied]
    cells["class"] = volume.classes[occupied]
    return PointCloud2(
        header=header(frame_id, volume.stamp_ns),
        height=1,
        width=len(cells),
        fields=_CLOUD_FIELDS,
        is_bigendian=False,
        point_step=_CLOUD_CELL.itemsize,
        row_step=_CLOUD_CELL.itemsize * len(cells),
        data=array("B", cells.tobytes()),
        is_dense=True,
    )


def occupancy_volume(volume: OccupancyVolume, frame_id: str) -> OccupancyVolumeMessage:
    """The whole window as convonet_ros/OccupancyVolume."""
    x, y, z = (round(float(v), 9) for v in volume.origin_m)
    levels = np.round(np.nan_to_num(volume.probability, nan=0.0) * 255).astype(np.uint8)
    return OccupancyVolumeMessage(
        header=header(frame_id, volume.stamp_ns),
        origin=Point(x=x, y=y, z=z),
        resolution=float(volume.resolution_m),
        size_x=volume.classes.shape[0],
        size_y=volume.classes.shape[1],
        size_z=volume.classes.shape[2],
        probability=array("B", levels.tobytes()),
        classes=array("B", np.ascontiguousarray(volume.classes).tobytes()),
    )
