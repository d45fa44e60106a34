"""Maps on disk: one closed mesh of many crops, a grid as Nav2 reads it, no half files."""

from pathlib import Path

import numpy as np
import pytest
import trimesh
import yaml
from PIL import Image

from convonet_ros.mapping.meshing import Mesh, no_mesh
from convonet_ros.mapping.occupancy import OccupancyGrid2D
from convonet_ros.offline.files import merged, read_grid, read_mesh, write_grid, write_mesh
from convonet_ros.storage import write_bytes


def crops_of_a_sphere() -> list[Mesh]:
    """A sphere cut into eight crops; border vertices are bit-equal but for the sign of zeros."""
    sphere = trimesh.creation.icosphere(3)
    vertices = (sphere.vertices * 0.8 + [0.1, 0.2, 0.3]).astype(np.float32)
    vertices[np.abs(vertices) < 1e-6] = 0.0
    octant = (sphere.triangles_center > 0) @ [1, 2, 4]
    parts = []
    for number in range(8):
        triangles = sphere.faces[octant == number]
        used, local = np.unique(triangles, return_inverse=True)
        own = vertices[used].copy()
        own[own == 0] = -0.0 if number % 2 else 0.0
        observed = np.full(len(used), number < 4)
        parts.append(Mesh(own, local.reshape(-1, 3).astype(np.int32), observed))
    return parts


def test_crops_become_one_closed_mesh(tmp_path: Path) -> None:
    parts = crops_of_a_sphere()
    sphere = trimesh.creation.icosphere(3)
    whole = merged([*parts, no_mesh()])
    assert len(whole.vertices) == len(sphere.vertices) < sum(len(p.vertices) for p in parts)
    assert len(whole.triangles) == len(sphere.faces)
    write_mesh(tmp_path / "mesh.ply", whole)
    read = trimesh.load(tmp_path / "mesh.ply", process=False)
    assert read.is_watertight
    assert read.is_winding_consistent
    assert read.volume == pytest.approx(sphere.volume * 0.8**3, rel=1e-5)
    np.testing.assert_array_equal(read.vertices.astype(np.float32), whole.vertices)
    np.testing.assert_array_equal(read.faces, whole.triangles)


def test_a_vertex_observed_by_one_crop_is_observed(tmp_path: Path) -> None:
    whole = merged(crops_of_a_sphere())
    z = whole.vertices[:, 2] - 0.3
    edge = 0.8 * 0.15
    assert whole.observed[z < -edge].all()
    assert not whole.observed[z > edge].any()
    write_mesh(tmp_path / "mesh.ply", whole)
    colours = trimesh.load(tmp_path / "mesh.ply", process=False).visual.vertex_colors[:, :3]
    assert len(np.unique(colours[whole.observed], axis=0)) == 1
    assert len(np.unique(colours, axis=0)) == 2


def test_triangles_without_area_go() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0]], np.float32)
    triangles = np.array([[0, 1, 2], [0, 1, 3]], np.int32)
    assert merged([Mesh(vertices, triangles, np.ones(4, bool))]).triangles.shape == (1, 3)
    assert merged([]).empty
    assert merged([no_mesh()]).empty


def test_a_mesh_is_read_again(tmp_path: Path) -> None:
    corners = np.eye(3, dtype=np.float32)
    observed = np.array([True, False, True])
    write_mesh(tmp_path / "mesh.ply", Mesh(corners, np.array([[0, 1, 2]], np.int32), observed))
    found = read_mesh(tmp_path / "mesh.ply")
    np.testing.assert_array_equal(found.vertices, corners)
    np.testing.assert_array_equal(found.triangles, [[0, 1, 2]])
    np.testing.assert_array_equal(found.observed, observed)
    (tmp_path / "text.ply").write_text("nonsense")
    for name in ("text.ply", "missing.ply"):
        with pytest.raises(ValueError, match=f"{name}: expected a mesh in PLY"):
            read_mesh(tmp_path / name)


def test_open3d_reads_the_mesh(tmp_path: Path) -> None:
    o3d = pytest.importorskip("open3d")
    whole = merged(crops_of_a_sphere())
    write_mesh(tmp_path / "mesh.ply", whole)
    read = o3d.io.read_triangle_mesh(str(tmp_path / "mesh.ply"))
    assert len(read.triangles) == len(whole.triangles)
    assert read.has_vertex_colors()


def grid(ternary: np.ndarray) -> OccupancyGrid2D:
    return OccupancyGrid2D(np.array([-1.25, 2.5]), 0.05, ternary, ternary, 1)


def test_grid_survives_map_server(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ternary = rng.choice(np.array([0, 100, -1], np.int8), size=(7, 12))
    write_grid(tmp_path, grid(ternary))
    cells, origin, resolution = read_grid(tmp_path / "occupancy.yaml")
    np.testing.assert_array_equal(cells, ternary)
    np.testing.assert_array_equal(origin, [-1.25, 2.5])
    assert resolution == 0.05


def test_grid_is_written_as_map_server_wants_it(tmp_path: Path) -> None:
    ternary = np.array([[0, 0], [100, 0], [-1, -1]], np.int8)  # row 0: the smallest y
    write_grid(tmp_path, grid(ternary))
    pixels = np.asarray(Image.open(tmp_path / "occupancy.png"))
    assert pixels.tolist() == [[205, 205], [0, 254], [254, 254]]
    about = yaml.safe_load((tmp_path / "occupancy.yaml").read_text())
    assert about == {
        "image": "occupancy.png",
        "mode": "trinary",
        "resolution": 0.05,
        "origin": [-1.25, 2.5, 0.0],
        "negate": 0,
        "occupied_thresh": 0.65,
        "free_thresh": 0.196,
    }
    # 205 must lie between the thresholds: the 0.25 of many maps makes the unknown free
    assert about["free_thresh"] < (255 - 205) / 255 < about["occupied_thresh"]


def test_broken_maps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a map_server map"):
        read_grid(tmp_path / "nothing.yaml")
    (tmp_path / "map.yaml").write_text("image: nothing.png\n")
    with pytest.raises(ValueError, match="expected a map_server map"):
        read_grid(tmp_path / "map.yaml")


def test_files_are_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def fail(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:1])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
