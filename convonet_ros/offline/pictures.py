"""Pictures of meshes, drawn off-screen with PyVista.

Surfaces are drawn from their free side only. Seen from above at an angle, the ceiling and the near
walls turn their back and vanish, and one looks into the room.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyvista as pv
from PIL import Image

from convonet_ros.datasets.world.rooms import Room
from convonet_ros.mapping.meshing import Mesh
from convonet_ros.offline.files import OBSERVED_RGB, PREDICTED_RGB
from convonet_ros.storage import write_bytes

_SIZE = (1000, 800)  # pixels of one view
_SMALL = (640, 560)  # of one of many
_ROOM_RGB = (186, 200, 214)
_PATH_RGB = (40, 90, 160)
_POINTS_RGB = ((45, 70, 120), (230, 140, 70))  # the lowest and the highest
_CUBE = 5.0  # the unit cube is drawn as large as a room, so that shadows reach as far
_AZIMUTH, _ELEVATION = np.radians(-120.0), np.radians(52.0)  # of the camera seen from the middle
_VIEW_ANGLE, _AIR = 27.0, 1.08  # degrees; share of the view's size
_STRAYS = 0.1  # percent of a reconstruction's vertices that may lie outside of the view
_LIGHTS = (
    (-0.5, 0.8, 1.05),
    (1.1, 0.3, 0.6),
    (2.6, 0.4, 0.3),
)  # turn from the camera, height, strength
_METHODS_ELEVATION = np.radians(62.0)  # the walls of generated rooms have outer faces
_STOREY = (800, 620)  # pixels
_STOREY_M = (-0.12, 2.1)  # from its floor: below is a slab, above what hangs from the ceiling

_View = tuple[str, pv.PolyData, np.ndarray]  # title, surface or points, RGB of the vertices


def picture_of_mesh(
    path: str | Path, mesh: Mesh, camera_path: np.ndarray | None = None, room: Room | None = None
) -> None:
    """Write a PNG of a mesh: measured surface in one tone, predicted surface in another.

    camera_path: (N, 3) positions in the map frame, drawn as a line. room: the truth, drawn beside
    the mesh from the same point of view.
    """
    views: list[_View] = []
    colours = np.where(mesh.observed[:, None], OBSERVED_RGB, PREDICTED_RGB).astype(np.uint8)
    views.append(("reconstruction", _surface(mesh.vertices, mesh.triangles), colours))
    if room is not None:
        views.append(("true room", *_true_surface(room)))
    _draw(Path(path), [views], camera_path)


def picture_of_room(path: str | Path, room: Room) -> None:
    """Write a PNG of a simulated room."""
    _draw(Path(path), [[("", *_true_surface(room))]])


def picture_of_methods(
    path: str | Path, *rows: Sequence[tuple[str, np.ndarray, np.ndarray]]
) -> None:
    """Write a PNG of shapes of the unit cube (y up) side by side, one shape a row.

    rows: of (title, vertices (V, 3), triangles (T, 3)), each from the camera that the last of its
    row fills: the truth. Without triangles the vertices are drawn as points; without vertices the
    place stays empty. The last of a row has the colour of the truth. Raises ValueError for rows of
    different lengths and for a truth without vertices.
    """
    if not rows or not rows[0] or any(len(row) != len(rows[0]) for row in rows):
        raise ValueError(f"rows: expected rows of one length, got {[len(row) for row in rows]}")
    if any(len(row[-1][1]) == 0 for row in rows):
        raise ValueError("rows: expected the truth in the last place of a row, got no vertices")
    drawn = []
    for number, row in enumerate(rows):
        views: list[_View] = []
        for title, vertices, triangles in row:
            x, y, z = _CUBE * np.asarray(vertices, np.float32).reshape(-1, 3).T
            if len(triangles) == 0:
                colours = _by_height(y)
            else:
                is_truth = len(views) == len(row) - 1
                colours = _tinted(_ROOM_RGB if is_truth else OBSERVED_RGB, len(x))
            surface = _surface(np.stack([x, -z, y], axis=1), np.asarray(triangles))
            views.append((title if number == 0 else "", surface, colours))
        drawn.append(views)
    _draw(Path(path), drawn, None, _SMALL, _METHODS_ELEVATION, camera_of=-1, strays=0.0)


def picture_of_maps(
    path: str | Path,
    views: Sequence[tuple[str, np.ndarray, np.ndarray]],
    box: np.ndarray,
    columns: int = 4,
) -> None:
    """Write a PNG of surfaces of one scene, z up and in metres, side by side from one camera.

    views: of (title, vertices (V, 3), triangles (T, 3)), the truth last, row by row; as in
    `picture_of_methods`. box: (2, 3) metres; what is outside of it is cut off.
    """
    drawn: list[_View] = []
    for title, vertices, triangles in views:
        surface = _surface(np.asarray(vertices, np.float32).reshape(-1, 3), np.asarray(triangles))
        surface = _clipped(surface, box)
        count = surface.n_points
        if len(triangles) == 0:
            colours = _by_height(np.asarray(surface.points)[:, 2])
        else:
            colours = _tinted(_ROOM_RGB if len(drawn) == len(views) - 1 else OBSERVED_RGB, count)
        drawn.append((title, surface, colours))
    truth = drawn[-1][1]
    if truth.n_points == 0:
        raise ValueError("views: expected a truth within the box, got no vertices")
    drawn += [("", pv.PolyData(), np.empty((0, 3), np.uint8))] * (-len(drawn) % columns)
    rows = [drawn[k : k + columns] for k in range(0, len(drawn), columns)]
    _draw(Path(path), rows, None, _SMALL, _METHODS_ELEVATION, strays=0.0, fill=truth)


def _clipped(surface: pv.PolyData, box: np.ndarray) -> pv.PolyData:
    """What of a mesh or a cloud lies within a box (2, 3)."""
    if surface.n_verts or surface.n_points == 0:
        points = np.asarray(surface.points)
        return pv.PolyData(points[((points >= box[0]) & (points <= box[1])).all(axis=1)])
    for axis, (low, high) in enumerate(np.asarray(box, float).T):
        for sign, limit in ((1, low), (-1, high)):
            normal, origin = sign * np.eye(3)[axis], limit * np.eye(3)[axis]
            surface = surface.clip(normal, origin=origin, invert=False)
    return surface


def _true_surface(room: Room) -> tuple[pv.PolyData, np.ndarray]:
    vertices, triangles = room.mesh()
    return _surface(vertices, triangles), _tinted(_ROOM_RGB, len(vertices))


def _tinted(rgb: tuple[int, int, int], count: int) -> np.ndarray:
    return np.tile(np.array(rgb, np.uint8), (count, 1))


def _by_height(height: np.ndarray) -> np.ndarray:
    """(N,) -> (N, 3) uint8."""
    if len(height) == 0:
        return np.empty((0, 3), np.uint8)
    share = (height - height.min()) / max(np.ptp(height), 1e-9)
    low, high = np.array(_POINTS_RGB)
    return np.asarray(low + share[:, None] * (high - low), np.uint8)


def _surface(vertices: np.ndarray, triangles: np.ndarray) -> pv.PolyData:
    """A mesh, or without triangles a cloud of points."""
    if len(triangles) == 0:
        return pv.PolyData(vertices.astype(np.float32))
    faces = np.concatenate([np.full((len(triangles), 1), 3), triangles], axis=1)
    return pv.PolyData(vertices.astype(np.float32), faces.astype(np.int64).ravel())


def _draw(
    path: Path,
    rows: list[list[_View]],
    camera_path: np.ndarray | None = None,
    size: tuple[int, int] = _SIZE,
    elevation: float = _ELEVATION,
    camera_of: int = 0,
    strays: float = _STRAYS,
    fill: pv.PolyData | None = None,
) -> None:
    """Draw rows of views; those of a row look as fits the surface of its view `camera_of`, of
    whose vertices `strays` percent are taken for outliers; all as fits `fill`, if it is given.
    """
    shape = (len(rows), len(rows[0]))
    window = (size[0] * shape[1], size[1] * shape[0])
    with pv.vtk_verbosity("off"):  # without a screen VTK complains before it draws all the same
        plotter = pv.Plotter(
            off_screen=True, shape=shape, window_size=window, border=False, lighting="none"
        )
        try:
            for row, views in enumerate(rows):
                for column, view in enumerate(views):
                    plotter.subplot(row, column)
                    _add_view(plotter, view, camera_path, size)
                    fitting = views[camera_of][1] if fill is None else fill
                    _light_and_look(plotter, fitting, size, elevation, strays)
            pixels = plotter.screenshot(return_img=True)
        finally:
            plotter.close()
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def _add_view(
    plotter: Any, view: _View, camera_path: np.ndarray | None, size: tuple[int, int]
) -> None:
    title, surface, colours = view
    plotter.set_background("white")
    plotter.enable_anti_aliasing("ssaa")
    plotter.enable_ssao(radius=0.4, bias=0.01, kernel_size=32, blur=True)
    if surface.n_verts:
        plotter.add_mesh(
            surface, scalars=colours, rgb=True, style="points", point_size=5,
            render_points_as_spheres=True, ambient=0.4, diffuse=0.6, specular=0.0,
        )  # fmt: skip
    elif surface.n_points:
        plotter.add_mesh(
            surface, scalars=colours, rgb=True, culling="back",
            smooth_shading=True, split_sharp_edges=True, feature_angle=50,
            ambient=0.2, diffuse=0.8, specular=0.0,
        )  # fmt: skip
    if camera_path is not None and len(camera_path) > 1:
        line = pv.lines_from_points(np.asarray(camera_path, dtype=np.float32))
        plotter.add_mesh(line, color=np.array(_PATH_RGB) / 255, line_width=3)
    if title:
        place = (20, size[1] - 48)  # a place and not a corner, where long texts are made smaller
        plotter.add_text(title, position=place, font_size=13, color="black")


def _light_and_look(
    plotter: Any, surface: pv.PolyData, size: tuple[int, int], elevation: float, strays: float
) -> None:
    """Point the camera at a surface from above so that it fills the view, and light it."""

    def towards(azimuth: float, height: float) -> np.ndarray:
        flat = np.cos(height)
        return np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(height)])

    back = towards(_AZIMUTH, elevation)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(back, right), back])  # of the camera: right, up, back
    seen = np.asarray(surface.points, dtype=np.float64) @ axes.T
    low, high = np.percentile(seen, [strays, 100 - strays], axis=0)
    seen -= (low + high) / 2
    limits = np.tan(np.radians(_VIEW_ANGLE / 2)) * np.array([size[0] / size[1], 1.0])
    distance = np.percentile(np.abs(seen[:, :2]) / limits + seen[:, 2:], 100 - strays) * _AIR

    middle = (low + high) / 2 @ axes
    plotter.camera.position = middle + distance * back
    plotter.camera.focal_point = middle
    plotter.camera.up = (0.0, 0.0, 1.0)
    plotter.camera.view_angle = _VIEW_ANGLE
    plotter.renderer.reset_camera_clipping_range()
    for turn, height, strength in _LIGHTS:
        light = pv.Light(light_type="scene light", intensity=strength)
        light.position = middle + distance * towards(_AZIMUTH + turn, height)
        light.focal_point = middle
        light.positional = False
        plotter.renderer.add_light(light)  # the plotter would light all views


def picture_of_storeys(path: str | Path, room: Room, mesh: Mesh | None = None) -> None:
    """Write a PNG of a building, its storeys side by side, from above: the truth, below the mesh.

    Storeys lie where the room's walk goes on, and are cut off below their ceilings.
    """
    rows = [] if mesh is None else [_storeys("reconstruction", room, _coloured(mesh))]
    rows.append(_storeys("truth", room, _true_surface(room)))
    _draw(Path(path), rows, None, _STOREY, _METHODS_ELEVATION)


def _coloured(mesh: Mesh) -> tuple[pv.PolyData, np.ndarray]:
    colours = np.where(mesh.observed[:, None], OBSERVED_RGB, PREDICTED_RGB).astype(np.uint8)
    return _surface(mesh.vertices, mesh.triangles), colours


def _storeys(title: str, room: Room, whole: tuple[pv.PolyData, np.ndarray]) -> list[_View]:
    """A view per storey, each with its floor at the same height, so that one camera fits them."""
    surface, colours = whole
    surface.point_data["rgb"] = colours
    floors = _floors(room)
    views: list[_View] = []
    for number, floor in enumerate(floors, start=1):
        floor_map = floor + room.T_map_room[2, 3]
        low, high = floor_map + np.array(_STOREY_M)
        storey = surface.clip("z", origin=(0, 0, low), invert=False).clip("z", origin=(0, 0, high))
        storey.points[:, 2] -= floor_map
        name = f"{title}, storey {number}" if len(floors) > 1 else title
        views.append((name, storey, np.asarray(storey.point_data["rgb"])))
    return views


def _floors(room: Room) -> list[float]:
    """Heights in the room frame on which the walk goes for long, from below: no landings."""
    steps = np.diff(room.route, axis=0)
    flat = np.abs(steps[:, 2]) < 1e-6
    heights = np.round(room.route[:-1, 2], 3)
    length = np.linalg.norm(steps, axis=1) * flat
    floors = [z for z in np.unique(heights) if length[heights == z].sum() > 0.1 * length.sum()]
    return floors or [float(room.route[0, 2])]
