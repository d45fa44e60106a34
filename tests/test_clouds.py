"""Clouds, meshes and voxels of other tools, whole, damaged and hostile; surfaces on disk."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import open3d as o3d
import pytest
import trimesh
from balls import INPUTS, Ball, as_mesh, cloud_of, off_ball

from convonet_ros import storage
from convonet_ros.offline import clouds
from convonet_ros.offline.clouds import CLOUD_SUFFIXES, read_cloud, read_input
from convonet_ros.offline.objects import surface_of
from convonet_ros.offline.surfaces import MESH_SUFFIXES, Surface, write_surface


def write_cloud(path: Path, points: np.ndarray, colours: np.ndarray, ascii_: bool = False) -> None:
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points))
    cloud.colors = o3d.utility.Vector3dVector(colours / 255)
    assert o3d.io.write_point_cloud(str(path), cloud, write_ascii=ascii_, compressed=not ascii_)


@pytest.mark.parametrize("ascii_", [True, False])
@pytest.mark.parametrize("suffix", [".ply", ".pcd"])
def test_clouds_of_open3d_are_read(tmp_path: Path, suffix: str, ascii_: bool) -> None:
    points = cloud_of(300)
    colours = np.random.default_rng(0).integers(0, 256, (300, 3)).astype(np.uint8)
    write_cloud(tmp_path / f"a{suffix}", points, colours, ascii_)
    cloud = read_cloud(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(cloud.points, points, atol=1e-6)
    np.testing.assert_array_equal(cloud.colours, colours)
    assert cloud.dropped == 0


def test_clouds_of_other_tools_are_read(tmp_path: Path) -> None:
    points = cloud_of(300)
    colours = np.random.default_rng(0).integers(0, 256, (300, 3)).astype(np.uint8)
    lines = [" ".join(map(repr, row)) for row in points.tolist()]
    tinted = np.concatenate([points, colours], axis=1).tolist()
    (tmp_path / "plain.xyz").write_text("\n".join(lines))
    (tmp_path / "tinted.xyz").write_text("# x y z r g b\n" + "\n".join(map(str, tinted)).translate(
        str.maketrans("", "", "[]")
    ))  # fmt: skip
    (tmp_path / "normals.xyz").write_text("\n".join(f"{line} 0 0 1" for line in lines))
    (tmp_path / "one.xyz").write_text("1 2 3")
    (tmp_path / "lines.obj").write_text(
        "mtllib ../secret.mtl\n" + "\n".join(f"v {line}" for line in lines)
    )
    (tmp_path / "points.off").write_text("OFF\n300 0 0\n" + "\n".join(lines))
    np.save(tmp_path / "a.npy", points)
    np.savez(tmp_path / "a.npz", points=points.astype(np.float16), normals=points)
    written = trimesh.PointCloud(points, colors=colours).export(file_type="ply")
    (tmp_path / "trimesh.ply").write_bytes(written)
    for name, tolerance, with_colours in (
        ("plain.xyz", 0, False), ("tinted.xyz", 0, True), ("normals.xyz", 0, False),
        ("lines.obj", 0, False), ("points.off", 0, False), ("a.npy", 0, False),
        ("a.npz", 1e-3, False), ("trimesh.ply", 1e-7, True),
    ):  # fmt: skip
        cloud = read_cloud(tmp_path / name)
        np.testing.assert_allclose(cloud.points, points, atol=tolerance, err_msg=name)
        assert cloud.points.dtype == np.float64
        if with_colours:
            np.testing.assert_array_equal(cloud.colours, colours, err_msg=name)
        else:
            assert cloud.colours is None, name
    assert read_cloud(tmp_path / "one.xyz").points.tolist() == [[1, 2, 3]]


def test_normals_are_read_with_length_1(tmp_path: Path) -> None:
    points = cloud_of(300)
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(300, 3))
    colours = rng.integers(0, 256, (300, 3))
    unit = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points))
    cloud.normals = o3d.utility.Vector3dVector(normals)
    for name in ("a.ply", "b.ply", "a.pcd"):
        path = str(tmp_path / name)
        assert o3d.io.write_point_cloud(path, cloud, write_ascii=name == "b.ply")
    np.savez(tmp_path / "a.npz", points=points, normals=normals)
    np.savetxt(tmp_path / "a.xyz", np.concatenate([points, unit], axis=1))
    np.savetxt(tmp_path / "b.xyz", np.concatenate([points, colours, unit], axis=1))
    np.savetxt(tmp_path / "c.xyz", np.concatenate([points, unit, colours], axis=1))
    for name in ("a.ply", "b.ply", "a.pcd", "a.npz", "a.xyz", "b.xyz", "c.xyz"):
        found = read_cloud(tmp_path / name)
        assert found.normals is not None, name
        assert found.normals.dtype == np.float32
        np.testing.assert_allclose(found.normals, unit, atol=1e-4, err_msg=name)
        assert (found.colours is not None) == (name in ("b.xyz", "c.xyz"))
        if found.colours is not None:
            np.testing.assert_array_equal(found.colours, colours)
    # points that are left out take theirs along; none, infinite and zero ones are 0
    points[3, 1], normals[4], normals[5, 0], normals[6, 2] = np.nan, 0, np.nan, np.inf
    np.savez(tmp_path / "a.npz", points=points, normals=normals)
    found = read_cloud(tmp_path / "a.npz")
    assert found.normals is not None
    assert not found.normals[3:6].any()
    np.testing.assert_allclose(found.normals[6:], unit[7:], atol=1e-4)
    # what fits nothing is none
    np.savez(tmp_path / "a.npz", points=points, normals=normals[:-1])
    assert read_cloud(tmp_path / "a.npz").normals is None
    np.savez(tmp_path / "a.npz", points=points, normals=np.zeros_like(points))
    assert read_cloud(tmp_path / "a.npz").normals is None


def test_points_that_are_no_places_are_left_out(tmp_path: Path) -> None:
    points = cloud_of(10)
    points[3, 1], points[5, 0], points[7, 2] = np.nan, np.inf, 1e300
    np.save(tmp_path / "a.npy", points)
    cloud = read_cloud(tmp_path / "a.npy")
    assert cloud.dropped == 3
    np.testing.assert_array_equal(cloud.points, np.delete(points, [3, 5, 7], axis=0))
    np.save(tmp_path / "b.npy", np.full((4, 3), np.nan))
    with pytest.raises(ValueError, match="got 4 of which none is finite"):
        read_cloud(tmp_path / "b.npy")
    (tmp_path / "c.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv nan 0 0\nf 1 2 3\nf 1 2 4\n")
    cloud = read_cloud(tmp_path / "c.obj")
    assert cloud.dropped == 1
    assert len(cloud.points) == 100_000
    assert (cloud.points[:, :2].sum(axis=1) < 1 + 1e-9).all()


@pytest.mark.parametrize("suffix", [*CLOUD_SUFFIXES, ".binvox"])
def test_missing_empty_damaged_and_huge_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    with pytest.raises(ValueError, match="expected a file, got none"):
        read_input(path)
    path.touch()
    with pytest.raises(ValueError, match="got an empty file"):
        read_input(path)
    for content in (b"\x00\xff\x13nonsense\n" * 40, b"\n", b"ply\nformat ascii 1.0\n", b"OFF\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"a{suffix}: expected"):
            read_input(path)
    with path.open("wb") as file:
        file.truncate((2 << 30) + 1)
    with pytest.raises(ValueError, match="expected at most 2147483648 bytes"):
        read_input(path)


def pcd(points: int = 2, count: str = "1 1 1", size: str = "4 4 4", kind: str = "binary") -> bytes:
    header = (
        f"VERSION 0.7\nFIELDS x y z\nSIZE {size}\nTYPE F F F\nCOUNT {count}\nWIDTH {points}\n"
        f"HEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {points}\nDATA {kind}\n"
    )
    return header.encode() + np.arange(6, dtype="<f4").tobytes()


def npy(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("promise.pcd", pcd(points=3)),
        ("count.pcd", pcd(count="7728-01 1 1")),  # Open3D does not survive this
        ("size.pcd", pcd(size="3 4 4")),
        ("many.pcd", pcd(points=10**11)),
        ("packed.pcd", pcd(kind="binary_compressed")),
        ("faces.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n"),
        ("flat.obj", b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n"),
        ("ragged.xyz", b"1 2 3\n1 2\n"),
        ("plane.xyz", b"1 2\n1 2\n"),
        ("many.npy", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 3)}\n")),
        ("pickle.npy", npy("{'descr': '|O', 'fortran_order': False, 'shape': (1, 3)}\n")),
        ("many.ply", b"ply\nformat binary_little_endian 1.0\nelement vertex 99999999999\n"
                     b"property float x\nproperty float y\nproperty float z\nend_header\n"),
        ("many.binvox", b"#binvox 1\ndim 9999 9999 9999\ntranslate 0 0 0\nscale 1\ndata\n\0\xff"),
    ],
)  # fmt: skip
def test_files_that_promise_what_they_do_not_hold_are_refused(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: expected"):
        read_input(tmp_path / name)
    (tmp_path / "good.pcd").write_bytes(pcd())
    assert read_cloud(tmp_path / "good.pcd").points.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_archives_hold_points_and_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, other=cloud_of())
    with pytest.raises(ValueError, match="an array 'points' is wanted"):
        read_cloud(path)
    np.savez(path, points=np.array([{"a": 1}], object))
    with pytest.raises(ValueError, match="expected a cloud or mesh"):
        read_cloud(path)
    np.savez_compressed(path, points=np.zeros((10_000, 3)))
    monkeypatch.setattr(storage, "MAX_BYTES", 100_000)
    with pytest.raises(ValueError, match="at most 100000 bytes of points wanted"):
        read_cloud(path)
    monkeypatch.undo()
    monkeypatch.setattr(clouds, "_MAX_POINTS", 9_999)
    with pytest.raises(ValueError, match="at most 9999 points wanted, got 10000"):
        read_cloud(path)
    with pytest.raises(ValueError, match=r"expected one of .*, got '\.tiff'"):
        read_cloud(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match="expected one of"):
        read_cloud(tmp_path / "a.binvox")  # voxels are no cloud: read_input


@pytest.mark.parametrize("suffix", MESH_SUFFIXES)
def test_surfaces_are_written_and_read_back(tmp_path: Path, suffix: str) -> None:
    whole = surface_of(Ball(), INPUTS, 8, 1, 0.5, normals=True)
    colours = np.where(whole.vertices[:, :1] > 0, [250, 3, 4], [7, 8, 250]).astype(np.uint8)
    surface = Surface(whole.vertices, whole.triangles, whole.normals, colours)
    path = tmp_path / f"a{suffix.upper()}"
    write_surface(path, surface)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    mesh = trimesh.load(path, process=suffix == ".stl")
    assert mesh.is_watertight
    assert len(mesh.faces) == len(surface.triangles)
    assert mesh.volume == pytest.approx(as_mesh(surface).volume, rel=1e-5)
    if suffix != ".stl":
        np.testing.assert_allclose(mesh.vertices, surface.vertices, atol=1e-7)
        np.testing.assert_array_equal(mesh.faces, surface.triangles)
    if suffix in (".ply", ".obj"):
        np.testing.assert_allclose(mesh.vertex_normals, surface.normals, atol=1e-6)
        np.testing.assert_array_equal(mesh.visual.vertex_colors[:, :3], colours)
    # and as an input: points uniform by area, the same each time
    cloud, again = read_cloud(path), read_cloud(path)
    np.testing.assert_array_equal(cloud.points, again.points)
    assert cloud.points.shape == (100_000, 3)
    assert off_ball(cloud.points).max() < 0.02
    assert cloud.normals is not None
    outwards = cloud.points / np.linalg.norm(cloud.points, axis=1, keepdims=True)
    assert (cloud.normals * outwards).sum(axis=1).min() > 0.8  # those of the triangles
    assert len(read_cloud(path, 500).points) == 500
    octant = (cloud.points > 0).all(axis=1).mean()
    assert octant == pytest.approx(1 / 8, abs=0.005)
    if suffix in (".ply", ".obj"):
        assert cloud.colours is not None
        far = np.abs(cloud.points[:, 0]) > 0.15
        right = (cloud.colours[:, 0] > 200) == (cloud.points[:, 0] > 0)
        assert right[far].all()


def test_surfaces_without_normals_and_colours_are_written(tmp_path: Path) -> None:
    surface = surface_of(Ball(), INPUTS, 4, 1, 0.5)
    for suffix in MESH_SUFFIXES:
        write_surface(tmp_path / f"a{suffix}", surface)
    assert b"nx" not in (tmp_path / "a.ply").read_bytes()
    assert b"vn" not in (tmp_path / "a.obj").read_bytes()
    with pytest.raises(ValueError, match=r"expected one of .ply, .obj, .off, .stl, got '.glb'"):
        write_surface(tmp_path / "a.glb", surface)
    empty = Surface(np.empty((0, 3)), np.empty((0, 3), np.int32))
    with pytest.raises(ValueError, match="expected a surface, got an empty one"):
        write_surface(tmp_path / "b.ply", empty)
