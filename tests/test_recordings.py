"""Recordings on disk: what is read, what is skipped and counted, what is refused."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recorded import simulated, write_recording
from scipy.spatial.transform import Rotation

from convonet_ros.config import Config
from convonet_ros.datasets.recordings import open_recording
from convonet_ros.geometry import canonical_pose
from convonet_ros.sensors import Intrinsics, points_from_depth

N = 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_recording(tmp_path / "recording", simulated(3, N, width=64))


def gray(path: Path, height: int = 48, width: int = 64, value: int = 1500) -> None:
    Image.fromarray(np.full((height, width), value, np.uint16)).save(path)


# ---- folders of frames -------------------------------------------------------------------------


def test_frames_come_back_bit_for_bit(folder: Path) -> None:
    truth = simulated(3, N, width=64)
    recording = open_recording(folder)
    frames = list(recording)
    assert len(recording) == len(frames) == N
    assert recording.skipped == {}
    for number, (frame, true) in enumerate(zip(frames, truth, strict=True)):
        assert frame.depth.dtype == np.float32
        np.testing.assert_array_equal(frame.depth, true.depth)
        # through T_map_world and a text file and back
        np.testing.assert_allclose(
            frame.T_map_camera, canonical_pose(true.T_map_camera), rtol=0, atol=1.5e-9
        )
        assert frame.stamp_ns - frames[0].stamp_ns == number * 10**9 // 30
        assert frame.intrinsics == true.intrinsics
    assert frames[0].stamp_ns > 0
    again = list(recording)
    assert [f.stamp_ns for f in again] == [f.stamp_ns for f in frames]


def test_scans_are_the_points_of_the_frames(folder: Path) -> None:
    recording = open_recording(folder)
    config = Config()
    for scan, frame in zip(recording.scans(config), recording, strict=True):
        points = points_from_depth(frame.depth, frame.intrinsics, config.scan.max_points)
        np.testing.assert_array_equal(scan.points, points)
        np.testing.assert_array_equal(scan.T_map_sensor, canonical_pose(frame.T_map_camera))
        assert scan.stamp_ns == frame.stamp_ns


@pytest.mark.parametrize("text", ["::", "0::2", "1:3", "-2:", "::-1", "3:100:1", ":", " 1:2 "])
def test_slices_are_pythons(folder: Path, text: str) -> None:
    stamps = [frame.stamp_ns for frame in open_recording(folder)]
    chosen = [frame.stamp_ns for frame in open_recording(folder, text)]
    parts = [int(part) if part.strip() else None for part in text.split(":")]
    assert chosen == stamps[slice(*parts)]


@pytest.mark.parametrize("text", ["", "3", "a:b", "::0", "1:2:3:4", "0::2;", "1.5:"])
def test_bad_slices_are_refused(folder: Path, text: str) -> None:
    with pytest.raises(ValueError, match="frames: expected a Python slice"):
        open_recording(folder, text)


def test_empty_slice_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="'100:' leaves none"):
        open_recording(folder, "100:")


def test_missing_parts_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        open_recording(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"expected frame-\*.depth.png .* or a TUM"):
        open_recording(tmp_path / "empty")
    (folder / "frame-000002.pose.txt").unlink()
    with pytest.raises(ValueError, match="has no frame-000002"):
        open_recording(folder)
    assert len(list(open_recording(folder, "3:"))) == 2  # who does not need it does not miss it


def test_intrinsics(folder: Path) -> None:
    (folder / "intrinsics.txt").unlink()
    with pytest.raises(ValueError, match=r"64 x 48 need a camera\.json"):
        open_recording(folder)
    about = {"fx": 50.0, "fy": 51.0, "cx": 31.5, "cy": 23.5}
    (folder / "camera.json").write_text(json.dumps(about))
    assert open_recording(folder).intrinsics == Intrinsics(64, 48, 50.0, 51.0, 31.5, 23.5)
    (folder / "camera.json").write_text(json.dumps({**about, "width": 640, "height": 480}))
    with pytest.raises(ValueError, match="expected the images' size, 64 x 48, got 640 x 480"):
        open_recording(folder)
    for bad in ("[]", "{}", "not json", '{"fx": null, "fy": 1, "cx": 1, "cy": 1}'):
        (folder / "camera.json").write_text(bad)
        with pytest.raises(ValueError, match=r"camera\.json"):
            open_recording(folder)
    (folder / "camera.json").write_text(json.dumps({**about, "fx": 0}))
    with pytest.raises(ValueError, match="focal lengths above 0"):
        open_recording(folder)


def test_default_intrinsics_are_for_vga(tmp_path: Path) -> None:
    gray(tmp_path / "frame-000007.depth.png", 480, 640)
    np.savetxt(tmp_path / "frame-000007.pose.txt", np.eye(4))
    (frame,) = open_recording(tmp_path)
    assert frame.intrinsics == Intrinsics(640, 480, 525.0, 525.0, 319.5, 239.5)
    assert np.unique(frame.depth).tolist() == [np.float32(1500) * np.float32(1e-3)]
    assert frame.stamp_ns % 10**9 == 7 * 10**9 // 30


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises a huge image."""
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    chunks = b""
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 99)), (b"IEND", b"")):
        crc = struct.pack(">I", zlib.crc32(kind + content))
        chunks += struct.pack(">I", len(content)) + kind + content + crc
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("damage", ["empty", "truncated", "text", "rgb", "size", "bomb", "claims"])
def test_a_broken_image_costs_one_frame(folder: Path, damage: str) -> None:
    image = folder / "frame-000001.depth.png"
    whole = image.read_bytes()
    match damage:
        case "empty":
            image.write_bytes(b"")
        case "truncated":
            image.write_bytes(whole[: len(whole) // 2])
        case "text":
            image.write_text("not an image")
        case "rgb":
            Image.new("RGB", (64, 48)).save(image)
        case "size":
            gray(image, 24, 32)
        case "bomb":
            image.write_bytes(png_that_claims(100_000, 100_000))
        case "claims":
            image.write_bytes(png_that_claims(64, 48))
    recording = open_recording(folder)
    assert len(list(recording)) == N - 1
    assert list(recording.skipped) == [image.name]
    assert image.name in recording.skipped[image.name]
    assert len(list(recording)) == N - 1
    assert len(recording.skipped) == 1  # not counted twice


@pytest.mark.parametrize(
    "text",
    [
        "", "1 2 3", "nan " * 16, "-inf " * 16, "a b c", "2 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1",
        "1 0 0 20000 0 1 0 0 0 0 1 0 0 0 0 1",
    ],
)  # fmt: skip
def test_a_bad_pose_costs_one_frame(folder: Path, text: str) -> None:
    (folder / "frame-000000.pose.txt").write_text(text)
    recording = open_recording(folder)
    assert len(list(recording)) == N - 1
    assert list(recording.skipped) == ["frame-000000.depth.png"]


def test_numbers_need_no_leading_zeros(folder: Path) -> None:
    last = folder / f"frame-{N - 1:06d}.depth.png"
    for path in (last, last.with_name(f"frame-{N - 1:06d}.pose.txt")):
        path.rename(path.with_name(path.name.replace(f"{N - 1:06d}", "10")))
    for number in range(N - 1):
        for path in folder.glob(f"frame-{number:06d}.*"):
            path.rename(path.with_name(path.name.replace(f"{number:06d}", str(number))))
    stamps = [frame.stamp_ns for frame in open_recording(folder)]
    assert stamps == sorted(stamps)
    assert stamps[-1] - stamps[0] == 10 * 10**9 // 30


def test_images_that_all_fail_are_refused(folder: Path) -> None:
    for image in folder.glob("*.png"):
        image.write_bytes(b"")
    with pytest.raises(ValueError, match="none of its 5 images can be read"):
        open_recording(folder)


def test_bad_map_world_is_refused(folder: Path) -> None:
    (folder / "T_map_world.txt").write_text("2 0 0 0 0 2 0 0 0 0 2 0 0 0 0 1")
    with pytest.raises(ValueError, match=r"T_map_world\.txt: expected a rotation"):
        open_recording(folder)


def test_redwood(redwood: Path) -> None:
    recording = open_recording(redwood, "0::2")
    frames = list(recording)
    assert len(frames) == 50
    assert recording.skipped == {}
    assert recording.intrinsics == Intrinsics(640, 480, 525.0, 525.0, 319.5, 239.5)
    assert 1.0 < frames[0].T_map_camera[2, 3] < 1.4  # its README: about 1.2 m above the floor
    assert frames[1].stamp_ns - frames[0].stamp_ns == 2 * 10**9  # every 30th frame at 30 Hz
    assert 0.75 < np.mean([np.mean(frame.depth > 0) for frame in frames]) < 0.9


# ---- TUM RGB-D ---------------------------------------------------------------------------------

T0 = 1305031102.0


def tum(folder: Path, images: list[float], poses: list[float]) -> Path:
    """Images at these seconds after T0; the camera moves 1 m and turns 0.5 rad a second."""
    (folder / "depth").mkdir(parents=True)
    lines = ["# depth maps", "# timestamp filename"]
    for seconds in images:
        name = f"depth/{T0 + seconds:.6f}.png"
        gray(folder / name, 480, 640, 7500)
        lines.append(f"{T0 + seconds:.6f} {name}")
    (folder / "depth.txt").write_text("\n".join(lines) + "\n")
    lines = ["# ground truth trajectory"]
    for seconds in poses:
        q = Rotation.from_euler("z", 0.5 * seconds).as_quat()
        numbers = " ".join(f"{x:.9f}" for x in (seconds, 2.0, 1.0, *q))
        lines.append(f"{T0 + seconds:.4f} {numbers}")
    (folder / "groundtruth.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_tum_poses_are_interpolated(tmp_path: Path) -> None:
    folder = tum(tmp_path / "tum", [0.005, 0.0125, 0.5], [0.0, 0.01, 0.02, 0.485])
    recording = open_recording(folder)
    frames = list(recording)
    assert [f.stamp_ns for f in frames] == [
        1305031102_005000000,
        1305031102_012500000,
        1305031102_500000000,
    ]
    # between two poses; the last one has a single neighbour, 15 ms away
    for frame, seconds in zip(frames, [0.005, 0.0125, 0.485], strict=True):
        expected = np.eye(4)
        expected[:3, :3] = Rotation.from_euler("z", 0.5 * seconds).as_matrix()
        expected[:3, 3] = [seconds, 2.0, 1.0]
        np.testing.assert_allclose(frame.T_map_camera, expected, atol=1e-7)
        assert np.unique(frame.depth).tolist() == [1.5]
        assert frame.intrinsics == Intrinsics(640, 480, 525.0, 525.0, 319.5, 239.5)


def test_tum_images_without_a_pose_are_skipped(tmp_path: Path) -> None:
    folder = tum(tmp_path / "tum", [0.0, 0.5, 1.0], [0.0, 0.479, 0.521, 1.0])
    recording = open_recording(folder)
    assert len(list(recording)) == 2
    ((name, why),) = recording.skipped.items()
    assert name == f"{T0 + 0.5:.6f}.png"
    assert "no pose within 20 ms" in why


def test_tum_map_world_and_slices(tmp_path: Path) -> None:
    folder = tum(tmp_path / "tum", [0.0, 0.01, 0.02], [0.0, 0.01, 0.02])
    T_map_world = np.eye(4)
    T_map_world[:3, 3] = [0, 0, 5]
    np.savetxt(folder / "T_map_world.txt", T_map_world)
    (frame,) = open_recording(folder, "1:2")
    np.testing.assert_allclose(frame.T_map_camera[:3, 3], [0.01, 2.0, 6.0], atol=1e-9)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("depth.txt", "hello world\n", r"depth\.txt, line 1: expected a stamp"),
        ("depth.txt", "", "leaves none of its frames"),
        ("groundtruth.txt", "1.0 2 3\n", "line 1: expected a stamp and 7 more"),
        ("groundtruth.txt", "1.0 a b c d e f g\n", "line 1: expected numbers"),
        ("groundtruth.txt", None, "expected groundtruth.txt beside depth.txt"),
    ],
)
def test_tum_lists_are_checked(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    folder = tum(tmp_path / "tum", [0.0], [0.0])
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        open_recording(folder)


def test_tum_zero_quaternions_are_no_poses(tmp_path: Path) -> None:
    folder = tum(tmp_path / "tum", [0.0, 1.0], [0.0])
    with (folder / "groundtruth.txt").open("a") as file:
        file.write(f"{T0 + 1.0:.4f} 0 0 0 0 0 0 0\n")
    recording = open_recording(folder)
    assert len(list(recording)) == 1
    assert "no pose at" in next(iter(recording.skipped.values()))
