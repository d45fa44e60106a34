"""Recorded depth sequences on disk: folders of depth images with poses, and TUM RGB-D folders.

A broken image or pose costs its frame and nothing else: it is skipped, and `Recording.skipped`
says why.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from convonet_ros.config import Config
from convonet_ros.geometry import canonical_pose, interpolate_pose, pose_from
from convonet_ros.sensors import Intrinsics, Scan, map_pose, points_from_depth

_BASE_NS = 1_000_000_000_000  # stamp of frame 0 of a folder that has none: positive and fixed
_FRAMES_PER_S = 30
_POSE_GAP_NS = 20_000_000  # a TUM pose may be this far from its image
_MAX_SIDE = 8192  # pixels
_MAX_TEXT_BYTES = 64 << 20
_MILLIMETRES, _TUM_UNITS = 1000, 5000  # depth units per metre
_DEFAULT_SIZE, _DEFAULT_K = (640, 480), (525.0, 525.0, 319.5, 239.5)  # PrimeSense and Kinect


@dataclass(frozen=True, slots=True)
class Frame:
    """One depth image: depth (H, W) float32 metres (0: nothing measured), and where it was taken.

    T_map_camera: (4, 4) pose of the optical frame (x right, y down, z forward).
    """

    depth: np.ndarray
    intrinsics: Intrinsics
    T_map_camera: np.ndarray
    stamp_ns: int


@dataclass(frozen=True, slots=True)
class _Entry:
    image: Path
    T_world_camera: np.ndarray | str  # or why there is none
    stamp_ns: int


class Recording:
    """A recording's frames, read one by one; iterate it as often as you like."""

    def __init__(
        self,
        folder: Path,
        entries: list[_Entry],
        T_map_world: np.ndarray,
        intrinsics: Intrinsics,
        units_per_m: int,
    ) -> None:
        self.folder = folder
        self.intrinsics = intrinsics
        self.units_per_m = units_per_m
        self.skipped: dict[str, str] = {}  # image -> why its frame was left out
        self._entries = entries
        self._T_map_world = T_map_world

    def __len__(self) -> int:
        """Number of frames chosen, broken ones included."""
        return len(self._entries)

    def __iter__(self) -> Iterator[Frame]:
        for entry in self._entries:
            try:
                T_map_camera = self._pose(entry)
                depth = _read_depth(entry.image, self.intrinsics, self.units_per_m)
            except ValueError as error:
                self.skipped[entry.image.name] = str(error)
                continue
            yield Frame(depth, self.intrinsics, T_map_camera, entry.stamp_ns)

    def scans(self, config: Config) -> Iterator[Scan]:
        """The frames as scans, thinned to config.scan.max_points."""
        for frame in self:
            points = points_from_depth(frame.depth, frame.intrinsics, config.scan.max_points)
            yield Scan(points, frame.T_map_camera, frame.stamp_ns)

    def _pose(self, entry: _Entry) -> np.ndarray:
        if isinstance(entry.T_world_camera, str):
            raise ValueError(entry.T_world_camera)
        return map_pose(self._T_map_world @ entry.T_world_camera, entry.image.name)


def open_recording(folder: str | Path, frames: str = "::") -> Recording:
    """The recording in a folder; `frames` chooses among its frames as a Python slice, "0::2".

    Takes `frame-*.depth.png` (16 bit, millimetres) with `frame-*.pose.txt` (4 x 4 T_world_camera),
    and TUM RGB-D folders (`depth.txt`, `groundtruth.txt`). Optional files: `T_map_world.txt`
    (4 x 4), and `intrinsics.txt` (3 x 3 camera matrix) or `camera.json` (fx, fy, cx, cy).
    Raises ValueError for a folder that holds no recording or lacks a part of it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"recording {folder}: no such folder")
    chosen = _slice(frames)
    if (folder / "depth.txt").is_file():
        entries, units_per_m = _tum_entries(folder, chosen), _TUM_UNITS
    else:
        entries, units_per_m = _frame_entries(folder, chosen), _MILLIMETRES
    if not entries:
        raise ValueError(f"recording {folder}: the slice '{frames}' leaves none of its frames")
    T_map_world = np.eye(4)
    if (folder / "T_map_world.txt").is_file():
        T_map_world = canonical_pose(
            _read_matrix(folder / "T_map_world.txt"), str(folder / "T_map_world.txt")
        )
    intrinsics = _read_intrinsics(folder, _image_size(folder, entries))
    return Recording(folder, entries, T_map_world, intrinsics, units_per_m)


def _slice(text: str) -> slice:
    match = re.fullmatch(r"\s*(-?\d*):(-?\d*)(?::(-?\d*))?\s*", text)
    try:
        parts = [int(part) if part else None for part in match.groups()] if match else [0]
        if match is None or parts[2] == 0:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"frames: expected a Python slice such as 0::2 or 10:50, got '{text}'"
        ) from None
    return slice(*parts)


# ---- what lies in the folder -------------------------------------------------------------------


def _frame_entries(folder: Path, chosen: slice) -> list[_Entry]:
    images = sorted(folder.glob("frame-*.depth.png"), key=lambda path: (_number(path), path.name))
    if not images:
        raise ValueError(
            f"recording {folder}: expected frame-*.depth.png with frame-*.pose.txt, or a TUM "
            "RGB-D folder with depth.txt and groundtruth.txt, got neither"
        )
    entries = []
    for number, image in list(enumerate(images))[chosen]:
        pose = image.with_name(image.name.replace(".depth.png", ".pose.txt"))
        if not pose.is_file():
            raise ValueError(f"recording {folder}: {image.name} has no {pose.name} beside it")
        named = _number(image)
        number = number if named < 0 else named
        entries.append(
            _Entry(image, _pose_or_why(pose), _BASE_NS + number * 10**9 // _FRAMES_PER_S)
        )
    return entries


def _number(image: Path) -> int:
    """Of a frame by its name, with or without leading zeros; -1 where it has none."""
    digits = re.fullmatch(r"frame-(\d{1,15})\.depth\.png", image.name)
    return int(digits.group(1)) if digits else -1


def _pose_or_why(path: Path) -> np.ndarray | str:
    try:
        return canonical_pose(_read_matrix(path), path.name)
    except ValueError as error:
        return str(error)


def _tum_entries(folder: Path, chosen: slice) -> list[_Entry]:
    truth = folder / "groundtruth.txt"
    if not truth.is_file():
        raise ValueError(f"recording {folder}: expected groundtruth.txt beside depth.txt, got none")
    poses = sorted((_nanoseconds(row[0]), row) for row in _rows(truth, 8))
    stamps = [stamp for stamp, _ in poses]
    images = sorted((_nanoseconds(row[0]), row[1]) for row in _rows(folder / "depth.txt", 2))
    return [
        _Entry(folder / name, _pose_at(stamp, stamps, poses), stamp)
        for stamp, name in images[chosen]
    ]


def _pose_at(stamp: int, stamps: list[int], poses: list[tuple[int, list[str]]]) -> np.ndarray | str:
    """The pose at a stamp: between its neighbours where both are near enough, else the nearer."""
    after = bisect_left(stamps, stamp)
    near = [i for i in (after - 1, after) if 0 <= i < len(stamps)]
    near = [i for i in near if abs(stamps[i] - stamp) <= _POSE_GAP_NS]
    if not near:
        return f"no pose within {_POSE_GAP_NS // 10**6} ms in groundtruth.txt"
    found = []
    for i in near:
        numbers = np.array([float(word) for word in poses[i][1][1:]])
        if not np.isfinite(numbers).all() or np.linalg.norm(numbers[3:]) < 1e-6:
            return f"groundtruth.txt: no pose at {poses[i][1][0]} s, it says {numbers.tolist()}"
        found.append(pose_from(numbers[:3], numbers[3:]))
    if len(found) == 1:
        return found[0]
    gap = stamps[near[1]] - stamps[near[0]]
    share = (stamp - stamps[near[0]]) / gap if gap else 0.0
    return interpolate_pose(found[0], found[1], share)


def _nanoseconds(seconds: str) -> int:
    """Seconds as text to whole nanoseconds, without the rounding of a float."""
    whole, _, fraction = seconds.partition(".")
    return int(whole) * 10**9 + int((fraction + "0" * 9)[:9])


def _rows(path: Path, columns: int) -> list[list[str]]:
    """The rows of a TUM list, checked: a stamp first, numbers too in a list of poses."""
    rows = []
    for count, line in enumerate(_read_text(path).splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) < columns or not re.fullmatch(r"\d{1,12}(\.\d+)?", words[0]):
            raise ValueError(
                f"{path}, line {count}: expected a stamp and {columns - 1} more, got '{line[:80]}'"
            )
        if columns > 2:
            try:
                [float(word) for word in words[1:columns]]
            except ValueError:
                raise ValueError(
                    f"{path}, line {count}: expected numbers, got '{line[:80]}'"
                ) from None
        rows.append(words[:columns])
    return rows


# ---- files -------------------------------------------------------------------------------------


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_TEXT_BYTES:
            raise ValueError(f"{path}: expected at most {_MAX_TEXT_BYTES} bytes, got a larger file")
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error


def _read_matrix(path: Path) -> np.ndarray:
    """The square matrix in a text file, (3, 3) or (4, 4) float64."""
    text = _read_text(path)
    try:
        numbers = np.array([float(word) for word in text.split()[:17]])
    except ValueError:
        raise ValueError(f"{path}: expected a matrix of numbers, got '{text[:80]}'") from None
    if numbers.size not in (9, 16):
        raise ValueError(f"{path}: expected 9 or 16 numbers, got {len(text.split())}")
    return numbers.reshape(3 if numbers.size == 9 else 4, -1)


def _read_intrinsics(folder: Path, size: tuple[int, int]) -> Intrinsics:
    """The camera of a recording whose images have this size (width, height)."""
    if (folder / "camera.json").is_file():
        path = folder / "camera.json"
        try:
            found = json.loads(_read_text(path))
            k = tuple(float(found[name]) for name in ("fx", "fy", "cx", "cy"))
            said = (int(found.get("width", size[0])), int(found.get("height", size[1])))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: expected an object with fx, fy, cx, cy: {error}") from error
        if said != size:
            raise ValueError(
                f"{path}: expected the images' size, {size[0]} x {size[1]}, "
                f"got {said[0]} x {said[1]}"
            )
    elif (folder / "intrinsics.txt").is_file():
        K = _read_matrix(folder / "intrinsics.txt")
        k = (K[0, 0], K[1, 1], K[0, 2], K[1, 2])
    elif size == _DEFAULT_SIZE:
        k = _DEFAULT_K
    else:
        raise ValueError(
            f"recording {folder}: images of {size[0]} x {size[1]} need a camera.json (fx, fy, cx, "
            f"cy) or intrinsics.txt; only {_DEFAULT_SIZE[0]} x {_DEFAULT_SIZE[1]} has a default"
        )
    return Intrinsics(*size, *k)


def _image_size(folder: Path, entries: list[_Entry]) -> tuple[int, int]:
    """Width and height of the first image that can be opened."""
    why = ""
    for entry in entries:
        try:
            with _open_png(entry.image) as image:
                return image.size
        except ValueError as error:
            why = why or str(error)
    raise ValueError(f"recording {folder}: none of its {len(entries)} images can be read ({why})")


def _open_png(path: Path) -> Image.Image:
    """An image whose header is right; its pixels are not read yet."""
    try:
        image = Image.open(path, formats=["PNG"])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path.name}: not a PNG that can be read ({error})") from error
    if max(image.size) > _MAX_SIDE or image.mode not in ("I;16", "I;16B", "I"):
        image.close()
        raise ValueError(
            f"{path.name}: expected 16-bit gray of at most {_MAX_SIDE} pixels a side, got "
            f"{image.size[0]} x {image.size[1]} of mode {image.mode}"
        )
    return image


def _read_depth(path: Path, intrinsics: Intrinsics, units_per_m: int) -> np.ndarray:
    with _open_png(path) as image:
        if image.size != (intrinsics.width, intrinsics.height):
            raise ValueError(
                f"{path.name}: expected {intrinsics.width} x {intrinsics.height} pixels as in the "
                f"first image, got {image.size[0]} x {image.size[1]}"
            )
        try:
            pixels = np.asarray(image)
        except (OSError, ValueError, SyntaxError) as error:
            raise ValueError(f"{path.name}: broken image ({error})") from error
    return pixels.astype(np.float32) * np.float32(1 / units_per_m)
