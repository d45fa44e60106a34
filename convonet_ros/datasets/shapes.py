"""Folders of shapes and rooms in the format that Convolutional Occupancy Networks distributes.

The items, their keys, and the order of the random draws are those of the loader of
autonomousvision/convolutional_occupancy_networks (src/data/, src/conv_onet/config.py, commit
838bea5): a `RandomState(seed)` gives what upstream gives after `np.random.seed(seed)`. Unlike
there, a file that is missing or damaged is an error and not an item less.

    FOLDER/metadata.yaml                 optional: {category: {id, name}}
    FOLDER/<category>/<split>.lst        one model a line
    FOLDER/<category>/<model>/...        pointcloud.npz (points, normals), points.npz (points,
                                         occupancies), model.binvox; with `multi_files: k` folders
                                         of k files, pointcloud/pointcloud_00.npz and so on
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import numpy as np
import yaml

from convonet_ros.datasets.archives import read_cloud, read_queries, read_voxels
from convonet_ros.datasets.crop_volumes import CropVolumes, cells, normalized, within

Item = dict[str, Any]  # arrays, and for crops dictionaries of arrays, under upstream's keys
InputType = Literal["pointcloud", "partial_pointcloud", "pointcloud_crop", "voxels"]
_Points = dict[str, np.ndarray]  # "" is the points themselves, as upstream's None

MODES = ("train", "val", "test")
_DATA_DEFAULTS: dict[str, Any] = {  # upstream's configs/default.yaml
    "classes": None,
    "points_file": "points.npz",
    "points_iou_file": "points.npz",
    "multi_files": None,
    "points_subsample": 1024,
    "points_unpackbits": True,
    "pointcloud_file": "pointcloud.npz",
    "pointcloud_n": 256,
    "pointcloud_noise": 0.05,
    "voxels_file": "model.binvox",
    "padding": 0.1,
}
_FLOAT16_NOISE = 1e-4  # standard deviation added to query points stored as float16
_PART_RATIO = 0.7  # the least share of the extent that a partial cloud keeps


class EmptyCropError(ValueError):
    """A crop drawn at random holds no query points: draw again (upstream drops the item)."""


class Shapes:
    """The models of one split of a folder.

    `config` is upstream's merged YAML as a dictionary with the sections data, model and generation;
    keys that are missing get upstream's defaults. `split` names the .lst files; crops are drawn at
    random in the split called "train", and are the whole scene in every other.

    models: (category, model) in the order of the lists. metadata: what metadata.yaml says about the
    categories, with `idx` as upstream counts them. Raises ValueError for a folder, a category, a
    list or a configuration that cannot be used.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], split: str) -> None:
        self.folder = Path(folder)
        self.split = split
        self._data = {**_DATA_DEFAULTS, **(config.get("data") or {})}
        self.input_type: InputType | None = self._data.get("input_type", "img")
        if self.input_type is not None and self.input_type not in get_args(InputType):
            raise ValueError(
                f"data.input_type: expected one of {list(get_args(InputType))} or null, "
                f"got {self.input_type!r}; set it in the configuration"
            )
        for key in ("points_file", "points_iou_file", "pointcloud_file", "voxels_file"):
            if self._data[key] is not None:
                _inside(self._data[key], f"data.{key}")
        for key, least in (("multi_files", 1), ("pointcloud_n", 1), ("pointcloud_noise", 0)):
            value = self._data[key]
            kinds = (int, float) if key == "pointcloud_noise" else int
            if value is None and key == "multi_files":
                continue
            if not isinstance(value, kinds) or value < least:
                raise ValueError(f"data.{key}: expected a number from {least}, got {value!r}")
        if not self.folder.is_dir():
            raise ValueError(
                f"{self.folder}: expected the data set's folder, got none; see data.path"
            )
        categories = self._categories()
        self.metadata = self._metadata(categories)
        self.models = [
            (category, model) for category in categories for model in self._listed(category)
        ]
        self._crop = (
            CropVolumes(config, self._data) if self.input_type == "pointcloud_crop" else None
        )

    def __len__(self) -> int:
        return len(self.models)

    def model_folder(self, index: int) -> Path:
        """The folder that holds the files of a model."""
        category, model = self.models[index]
        return self.folder / category / model

    def item(self, index: int, rng: np.random.RandomState, mode: str) -> Item:
        """What upstream's loader gives for a model in the mode train, val or test.

        points (Q, 3) and points.occ (Q,) float32; in val and test also points_iou, points_iou.occ
        (all of a file's points, float32) and voxels (32, 32, 32) float32; inputs (N, 3) and
        inputs.normals (N, 3) float32, or for voxels inputs (32, 32, 32) float32. Which of them
        there are follows from the files that the configuration names.

        Crops: inputs outside of the input volume are zero, inputs.mask (N,) bool is True there;
        inputs.ind {plane or grid: (1, N) int64} are cells, reso ** 2 or reso ** 3 outside;
        points.normalized {plane or grid: (Q, 2 or 3)} are relative to the input volume. `volume`,
        which upstream does not hand out: input_vol and query_vol (2, 3) float32 low and high
        corner, reso int.

        Raises ValueError naming a file that is missing or damaged, EmptyCropError for a crop
        without query points.
        """
        if mode not in MODES:
            raise ValueError(f"mode: expected one of {list(MODES)}, got {mode!r}")
        folder, data, item = self.model_folder(index), self._data, Item()
        volume = None
        if self._crop is not None:
            volume = self._crop.draw(self._file(folder, "pointcloud_file", rng), self.split, rng)
            item["pointcloud_crop"] = True

        if data["points_file"] is not None:
            path = self._file(folder, "points_file", rng)
            queries = self._queries(path, volume, rng)
            queries = _subsampled_queries(queries, data["points_subsample"], path, rng)
            _put(item, "points", queries, volume)
        if mode != "train":
            if data["points_iou_file"] is not None:
                path = self._file(folder, "points_iou_file", rng)
                _put(item, "points_iou", self._queries(path, volume, rng), volume)
            if data["voxels_file"] is not None:
                item["voxels"] = read_voxels(folder / data["voxels_file"])

        if self.input_type == "voxels":
            item["inputs"] = read_voxels(folder / str(data["voxels_file"]))
        elif self.input_type is not None:
            self._put_cloud(item, self._file(folder, "pointcloud_file", rng), volume, rng)
        if volume is not None:
            item["volume"] = volume
        return item

    def _file(self, folder: Path, key: str, rng: np.random.RandomState) -> Path:
        """A model's file; one of k drawn at random where the data set has k."""
        name, count = self._data[key], self._data["multi_files"]
        if name is None:
            raise ValueError(f"data.{key}: expected a file's name, got null")
        if count is None:
            return folder / name
        return folder / name / f"{name}_{rng.randint(count):02d}.npz"

    def _queries(
        self, path: Path, volume: dict[str, Any] | None, rng: np.random.RandomState
    ) -> _Points:
        """All query points of a file, or those in the query volume."""
        points, occupied = read_queries(path, self._data["points_unpackbits"])
        if points.dtype == np.float16:
            points = points.astype(np.float32)
            points += _FLOAT16_NOISE * rng.randn(*points.shape)
        if volume is not None:
            inside = within(points, volume["query_vol"])
            points, occupied = points[inside], occupied[inside]
        return {"": points, "occ": occupied}

    def _put_cloud(
        self, item: Item, path: Path, volume: dict[str, Any] | None, rng: np.random.RandomState
    ) -> None:
        """The input points and their normals, with noise; for crops also their cells."""
        points, normals = (values.astype(np.float32) for values in read_cloud(path))
        if self.input_type == "partial_pointcloud":
            side = rng.randint(3)
            low = points[:, side].min()
            extent = float(points[:, side].max() - low)
            kept = points[:, side] - low <= rng.uniform(_PART_RATIO * extent, extent)
            points, normals = points[kept], normals[kept]
        chosen = rng.randint(len(points), size=self._data["pointcloud_n"])
        points, normals = points[chosen], normals[chosen]
        noise = self._data["pointcloud_noise"] * rng.randn(*points.shape)
        points = points + noise.astype(np.float32)
        item["inputs"], item["inputs.normals"] = points, normals
        if volume is None:
            return
        outside = ~within(points, volume["input_vol"])
        points[outside] = 0.0
        item["inputs.mask"] = outside
        item["inputs.ind"] = {
            name: cells(normalized(points, volume["input_vol"], name), volume["reso"], outside)
            for name in volume["plane_type"]
        }

    def _categories(self) -> list[str]:
        classes = self._data["classes"]
        if classes is None:  # upstream: all folders, in whatever order
            return sorted(entry.name for entry in self.folder.iterdir() if entry.is_dir())
        if isinstance(classes, str) or not isinstance(classes, Sequence):
            raise ValueError(
                f"data.classes: expected a list of categories or null, got {classes!r}"
            )
        return [_inside(category, "data.classes", empty=True) for category in classes]

    def _metadata(self, categories: list[str]) -> dict[str, dict[str, Any]]:
        path = self.folder / "metadata.yaml"
        found: Any = {}
        if path.exists():
            try:
                found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                raise ValueError(
                    f"{path}: expected YAML, got an unreadable file: {error}"
                ) from error
            if not isinstance(found, dict) or not all(isinstance(v, dict) for v in found.values()):
                raise ValueError(f"{path}: expected {{category: {{id, name}}}}, got something else")
        known = {str(category): about for category, about in found.items()}
        return {
            category: {"id": category, "name": "n/a", **known.get(category, {}), "idx": index}
            for index, category in enumerate(categories)
        }

    def _listed(self, category: str) -> list[str]:
        """The models of a category's list."""
        folder = self.folder / category
        if not folder.is_dir():
            there = sorted(entry.name for entry in self.folder.iterdir() if entry.is_dir())
            raise ValueError(
                f"data.classes: expected categories in {self.folder}, which has {there[:20]}, "
                f"got {category!r}"
            )
        path = folder / f"{_inside(self.split, 'split')}.lst"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            lists = sorted(entry.name for entry in folder.glob("*.lst"))
            raise ValueError(
                f"{path}: expected the split's list of models, got no such file that can be read; "
                f"the folder has {lists}"
            ) from error
        return [_inside(line.strip(), str(path)) for line in lines if line.strip()]


def _put(item: Item, key: str, queries: _Points, volume: dict[str, Any] | None) -> None:
    for name, values in queries.items():
        item[f"{key}.{name}" if name else key] = values
    if volume is not None:
        item[f"{key}.normalized"] = {
            name: normalized(queries[""], volume["input_vol"], name)
            for name in volume["plane_type"]
        }


def _subsampled_queries(
    queries: _Points, wanted: int | Sequence[int], path: Path, rng: np.random.RandomState
) -> _Points:
    """`wanted` of the queries with repetition, or [free, occupied] of each kind."""
    points, occupied = queries[""], queries["occ"]
    if isinstance(wanted, int):
        _not_empty(len(points), "query points", path)
        chosen = rng.randint(len(points), size=wanted)
        return {"": points[chosen], "occ": occupied[chosen]}
    free_count, occupied_count = wanted
    inside = occupied >= 0.5
    free, solid = points[~inside], points[inside]
    _not_empty(len(free), "free query points", path)
    free = free[rng.randint(len(free), size=free_count)]
    _not_empty(len(solid), "occupied query points", path)
    solid = solid[rng.randint(len(solid), size=occupied_count)]
    truth = np.zeros(free_count + occupied_count, np.float32)
    truth[free_count:] = 1.0
    volume = (inside.sum() / len(inside)).astype(np.float32)
    return {"": np.concatenate([free, solid]), "occ": truth, "volume": volume}


def _not_empty(count: int, what: str, path: Path) -> None:
    if not count:
        raise EmptyCropError(f"{path}: expected {what} where the crop lies, got none; draw again")


def _inside(name: Any, what: str, empty: bool = False) -> str:
    """The name, if it is a path that does not lead out of the folder it is for."""
    if isinstance(name, str) and (name or empty) and "\\" not in name and "\0" not in name:
        path = PurePosixPath(name)
        if not path.is_absolute() and ".." not in path.parts:
            return name
    raise ValueError(f"{what}: expected a name inside of the data set's folder, got {name!r}")
