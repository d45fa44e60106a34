"""Pictures of meshes, drawn off-screen with PyVista.

Surfaces are drawn from their free side only. Seen from above at an angle, the ceiling and the near
walls turn their back and vanish, and one looks into the room.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyvista as pv
from PIL import Image

from convonet_ros.datasets.rooms import Room
from convonet_ros.mapping.meshing import Mesh
from convonet_ros.offline.files import OBSERVED_RGB, PREDICTED_RGB, write_bytes

_SIZE = (1000, 800)  # pixels of one view
_ROOM_RGB = (186, 200, 214)
_PATH_RGB = (40, 90, 160)
_AZIMUTH, _ELEVATION = np.radians(-120.0), np.radians(52.0)  # of the camera seen from the middle
_VIEW_ANGLE, _AIR = 27.0, 1.08  # degrees; share of the view's size
_LIGHTS = (
    (-0.5, 0.8, 1.05),
    (1.1, 0.3, 0.6),
    (2.6, 0.4, 0.3),
)  # turn from the camera, height, strength


def picture_of_mesh(
    path: str | Path, mesh: Mesh, camera_path: np.ndarray | None = None, room: Room | None = None
) -> None:
    """Write a PNG of a mesh: measured surface in one tone, predicted surface in another.

    camera_path: (N, 3) positions in the map frame, drawn as a line. room: the truth, drawn beside
    the mesh from the same point of view.
    """
    views: list[tuple[str, pv.PolyData, np.ndarray]] = []
    colours = np.where(mesh.observed[:, None], OBSERVED_RGB, PREDICTED_RGB).astype(np.uint8)
    views.append(("reconstruction", _surface(mesh.vertices, mesh.triangles), colours))
    if room is not None:
        views.append(("true room", *_true_surface(room)))
    _draw(Path(path), views, camera_path)


def picture_of_room(path: str | Path, room: Room) -> None:
    """Write a PNG of a simulated room."""
    _draw(Path(path), [("", *_true_surface(room))], None)


def _true_surface(room: Room) -> tuple[pv.PolyData, np.ndarray]:
    vertices, triangles = room.mesh()
    return _surface(vertices, triangles), np.tile(np.array(_ROOM_RGB, np.uint8), (len(vertices), 1))


def _surface(vertices: np.ndarray, triangles: np.ndarray) -> pv.PolyData:
    faces = np.concatenate([np.full((len(triangles), 1), 3), triangles], axis=1)
    return pv.PolyData(vertices.astype(np.float32), faces.astype(np.int64).ravel())


def _draw(
    path: Path, views: list[tuple[str, pv.PolyData, np.ndarray]], camera_path: np.ndarray | None
) -> None:
    size = (_SIZE[0] * len(views), _SIZE[1])
    with pv.vtk_verbosity("off"):  # without a screen VTK complains before it draws all the same
        plotter = pv.Plotter(
            off_screen=True, shape=(1, len(views)), window_size=size, border=False, lighting="none"
        )
        try:
            for column, (title, surface, colours) in enumerate(views):
                plotter.subplot(0, column)
                plotter.set_background("white")
                plotter.enable_anti_aliasing("ssaa")
                plotter.enable_ssao(radius=0.4, bias=0.01, kernel_size=32, blur=True)
                plotter.add_mesh(
                    surface, scalars=colours, rgb=True, culling="back",
                    smooth_shading=True, split_sharp_edges=True, feature_angle=50,
                    ambient=0.2, diffuse=0.8, specular=0.0,
                )  # fmt: skip
                if camera_path is not None and len(camera_path) > 1:
                    line = pv.lines_from_points(np.asarray(camera_path, dtype=np.float32))
                    plotter.add_mesh(line, color=np.array(_PATH_RGB) / 255, line_width=3)
                if title:
                    plotter.add_text(title, font_size=14, color="black")
                _light_and_look(plotter, views[0][1])
            pixels = plotter.screenshot(return_img=True)
        finally:
            plotter.close()
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def _light_and_look(plotter: Any, surface: pv.PolyData) -> None:
    """Point the camera at a surface from above so that it fills the view, and light it."""

    def towards(azimuth: float, elevation: float) -> np.ndarray:
        flat = np.cos(elevation)
        return np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])

    back = towards(_AZIMUTH, _ELEVATION)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(back, right), back])  # of the camera: right, up, back
    seen = np.asarray(surface.points, dtype=np.float64) @ axes.T
    low, high = np.percentile(seen, [0.1, 99.9], axis=0)
    seen -= (low + high) / 2
    limits = np.tan(np.radians(_VIEW_ANGLE / 2)) * np.array([_SIZE[0] / _SIZE[1], 1.0])
    distance = np.percentile(np.abs(seen[:, :2]) / limits + seen[:, 2:], 99.9) * _AIR

    middle = (low + high) / 2 @ axes
    plotter.camera.position = middle + distance * back
    plotter.camera.focal_point = middle
    plotter.camera.up = (0.0, 0.0, 1.0)
    plotter.camera.view_angle = _VIEW_ANGLE
    plotter.renderer.reset_camera_clipping_range()
    for turn, elevation, strength in _LIGHTS:
        light = pv.Light(light_type="scene light", intensity=strength)
        light.position = middle + distance * towards(_AZIMUTH + turn, elevation)
        light.focal_point = middle
        light.positional = False
        plotter.renderer.add_light(light)  # the plotter would light all views
