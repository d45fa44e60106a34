"""Depth images and point clouds become the points that they hold."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from convonet_ros.sensors import (
    Intrinsics,
    Scan,
    depth_from_image,
    points_from_cloud,
    points_from_depth,
)

DEPTH_MM = np.array([[0, 500, 1234], [65535, 1, 2000]], np.uint16)


def image_message(
    pixels: np.ndarray, encoding: str, big: bool = False, padding: int = 0
) -> SimpleNamespace:
    stored = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<"))
    rows = [row.tobytes() + b"\xff" * padding for row in stored]
    return SimpleNamespace(
        encoding=encoding,
        is_bigendian=int(big),
        height=pixels.shape[0],
        width=pixels.shape[1],
        step=pixels.shape[1] * pixels.itemsize + padding,
        data=b"".join(rows),
    )


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 10])
def test_depth_of_both_encodings_endiannesses_and_padded_rows(big: bool, padding: int) -> None:
    expected = DEPTH_MM.astype(np.float32) * np.float32(1e-3)
    assert np.array_equal(
        depth_from_image(image_message(DEPTH_MM, "16UC1", big, padding)), expected
    )
    metres = expected.copy()
    metres[0, 0], metres[0, 1], metres[1, 1] = np.nan, np.inf, -1.0
    got = depth_from_image(image_message(metres, "32FC1", big, padding))
    metres[[0, 0, 1], [0, 1, 1]] = 0
    assert np.array_equal(got, metres)


def test_the_last_row_needs_no_padding() -> None:
    message = image_message(DEPTH_MM, "16UC1", padding=4)
    message.data = message.data[:-4]
    assert depth_from_image(message).shape == DEPTH_MM.shape


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encoding": "rgb8"}, "expected encoding 16UC1 or mono16 or 32FC1, got 'rgb8'"),
        ({"data": b"\0" * 11}, "expected 12 bytes .* got 11"),
        ({"step": 5}, "expected a row step of at least 6 bytes"),
        ({"height": 0}, "expected a size above 0"),
    ],
)
def test_bad_images_are_named(change: dict, said: str) -> None:
    message = image_message(DEPTH_MM, "16UC1")
    vars(message).update(change)
    with pytest.raises(ValueError, match=said):
        depth_from_image(message)


def test_points_project_back_to_their_pixels() -> None:
    intrinsics = Intrinsics(40, 30, 33.0, 35.0, 18.7, 15.2)
    rng = np.random.default_rng(0)
    depth = rng.uniform(0.5, 4, (30, 40)).astype(np.float32)
    depth[rng.random(depth.shape) < 0.2] = 0
    points = points_from_depth(depth, intrinsics)
    assert len(points) == (depth > 0).sum()
    u = points[:, 0] / points[:, 2] * 33.0 + 18.7
    v = points[:, 1] / points[:, 2] * 35.0 + 15.2
    assert np.abs(u - u.round()).max() < 1e-3
    assert np.array_equal(depth[v.round().astype(int), u.round().astype(int)], points[:, 2])
    thinned = points_from_depth(depth, intrinsics, max_points=100)
    assert 0 < len(thinned) <= 100
    assert {tuple(p) for p in thinned} <= {tuple(p) for p in points}
    with pytest.raises(ValueError, match="expected 40 x 30 pixels"):
        points_from_depth(depth[:-1], intrinsics)


@pytest.mark.parametrize("bad", [{"fx": 0.0}, {"fy": -1.0}, {"cx": np.nan}, {"width": 0}])
def test_bad_intrinsics_are_named(bad: dict) -> None:
    good = {"width": 4, "height": 3, "fx": 1.0, "fy": 1.0, "cx": 0.0, "cy": 0.0}
    with pytest.raises(ValueError, match="camera intrinsics: expected"):
        Intrinsics(**{**good, **bad})


def cloud_message(
    points: np.ndarray, kind: str, big: bool, offsets: tuple[int, ...], step: int, height: int = 1
) -> SimpleNamespace:
    """A cloud whose x, y, z lie at any offsets of a point, rows padded by 7 bytes."""
    dtype = np.dtype((">" if big else "<") + kind)
    width = len(points) // height
    data = bytearray()
    for row in points.reshape(height, width, 3):
        for point in row:
            cell = bytearray(b"\xff" * step)
            for value, offset in zip(point, offsets, strict=True):
                cell[offset : offset + dtype.itemsize] = np.array(value, dtype).tobytes()
            data += cell
        data += b"\xff" * 7
    code = {"f4": 7, "f8": 8, "i2": 3}[kind]
    fields = [SimpleNamespace(name="intensity", offset=0, datatype=2, count=1)] + [
        SimpleNamespace(name=name, offset=offset, datatype=code, count=1)
        for name, offset in zip("xyz", offsets, strict=True)
    ]
    return SimpleNamespace(
        fields=fields, is_bigendian=big, point_step=step, row_step=width * step + 7,
        width=width, height=height, data=bytes(data),
    )  # fmt: skip


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    ("kind", "offsets", "step"),
    [("f4", (1, 5, 9), 13), ("f4", (12, 4, 8), 32), ("f8", (16, 0, 8), 27), ("i2", (3, 1, 5), 7)],
)
def test_clouds_of_any_layout(kind: str, offsets: tuple[int, ...], step: int, big: bool) -> None:
    points = np.random.default_rng(0).integers(-50, 50, (12, 3)).astype(float)
    for height in (1, 3):
        got = points_from_cloud(cloud_message(points, kind, big, offsets, step, height))
        assert np.array_equal(got, points.astype(np.float32))


def test_clouds_lose_only_points_that_are_not_finite() -> None:
    points = np.arange(30.0).reshape(10, 3)
    points[2, 1], points[5, 0], points[7, 2] = np.nan, np.inf, 1e300
    got = points_from_cloud(cloud_message(points, "f8", False, (0, 8, 16), 24))
    assert np.array_equal(got, np.delete(points, [2, 5, 7], axis=0).astype(np.float32))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fields": []}, "expected fields x, y and z, got none"),
        ({"point_step": 11}, "beyond point_step 11"),
        ({"data": b"\0" * 100}, "expected 120 bytes .* got 100"),
        ({"height": 2, "row_step": 60}, "expected row_step of at least 120"),
    ],
)
def test_bad_clouds_are_named(change: dict, said: str) -> None:
    message = cloud_message(np.zeros((10, 3)), "f4", False, (0, 4, 8), 12)
    vars(message).update(change)
    with pytest.raises(ValueError, match=said):
        points_from_cloud(message)


def test_reads_what_sensor_msgs_py_writes_and_reads() -> None:
    point_cloud2 = pytest.importorskip(
        "sensor_msgs_py.point_cloud2", reason="comes with a ROS 2 distribution, not from PyPI"
    )
    from std_msgs.msg import Header

    points = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    points[3] = np.nan
    cloud = point_cloud2.create_cloud_xyz32(Header(), points)
    theirs = point_cloud2.read_points_numpy(cloud, ["x", "y", "z"], skip_nans=True)
    assert np.array_equal(points_from_cloud(cloud), theirs)


def test_scans_are_checked() -> None:
    with pytest.raises(ValueError, match=r"points: expected shape \(N, 3\), got \(3,\)"):
        Scan(np.zeros(3), np.eye(4), 0)
    with pytest.raises(ValueError, match="finite"):
        Scan(np.full((1, 3), np.nan), np.eye(4), 0)
    with pytest.raises(ValueError, match="T_map_sensor: expected a rotation"):
        Scan(np.zeros((1, 3)), 2 * np.eye(4), 0)
    with pytest.raises(ValueError, match="T_map_sensor: expected"):
        Scan(np.zeros((1, 3)), np.eye(3), 0)
    assert Scan(np.zeros((1, 3)), np.eye(4), 0).points.dtype == np.float32
