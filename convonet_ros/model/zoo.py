"""Named networks, and checkpoints: upstream's files, its YAML configurations, and our own files."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from convonet_ros.model.crops import CropModel, CropNetwork, CropSpec, UpstreamCrops
from convonet_ros.model.decoder import LocalDecoder
from convonet_ros.model.encoder import LocalPoolPointnet, LocalVoxelEncoder
from convonet_ros.model.features import AXES, SIN_COS_SIZE
from convonet_ros.model.network import CropLayout, OccupancyNetwork
from convonet_ros.model.onet import ConditionalDecoder, ResnetPointnet, VoxelEncoder
from convonet_ros.model.pointnet2 import PointNetPlusPlus

SHIPPED = Path(__file__).parent / "weights" / "crop.pt"
_MAX_BYTES = 1 << 30
_MAX_INHERITANCE = 8

# ---- the table ---------------------------------------------------------------------------------

_OBJECTS = {
    "pointcloud_n": 3000, "pointcloud_noise": 0.005, "points_subsample": 2048,
    "points_file": "points.npz", "points_iou_file": "points.npz",
    "pointcloud_file": "pointcloud.npz", "voxels_file": None, "multi_files": None, "padding": 0.1,
}  # fmt: skip
_ROOMS = {
    **_OBJECTS, "pointcloud_n": 10000, "points_file": "points_iou",
    "points_iou_file": "points_iou", "pointcloud_file": "pointcloud", "multi_files": 10,
}  # fmt: skip
_PLANES = ["xz", "xy", "yz"]


def _planes(kinds: list[str], side: int, depth: int) -> dict[str, Any]:
    unet = {"depth": depth, "merge_mode": "concat", "start_filts": 32}
    return {"plane_type": kinds, "plane_resolution": side, "unet": True, "unet_kwargs": unet}


def _grid(side: int | None, levels: int) -> dict[str, Any]:
    unet = {"num_levels": levels, "f_maps": 32, "in_channels": 32, "out_channels": 32}
    kwargs = {"plane_type": ["grid"], "unet3d": True, "unet3d_kwargs": unet}
    return kwargs if side is None else {**kwargs, "grid_resolution": side}


def _variant(
    data: dict[str, Any], kwargs: dict[str, Any], encoder: str = "pointnet_local_pool",
    decoder: str = "simple_local", input_type: str = "pointcloud", **model: Any,
) -> dict[str, Any]:  # fmt: skip
    if "pointnet" in encoder:
        kwargs = {"hidden_dim": 32, **kwargs}
    return {
        "method": "conv_onet",
        "data": {**data, "input_type": input_type, "dim": 3},
        "model": {
            "encoder": encoder, "encoder_kwargs": kwargs, "decoder": decoder,
            "decoder_kwargs": {"sample_mode": "bilinear", "hidden_size": 32}, "c_dim": 32, **model,
        },
        "test": {"threshold": 0.2},
    }  # fmt: skip


def _voxels(kwargs: dict[str, Any]) -> dict[str, Any]:
    data = {**_OBJECTS, "points_subsample": 1024, "voxels_file": "model.binvox"}
    return _variant(data, kwargs, "voxel_simple_local", input_type="voxels")


def _point_conv(data: dict[str, Any], hidden_size: int) -> dict[str, Any]:
    decoder = {"sample_mode": "gaussian", "gaussian_val": 0.2, "hidden_size": hidden_size}
    variant = _variant(data, {}, "pointnet_plus_plus", "simple_local_point", decoder_kwargs=decoder)
    variant["model"]["encoder_kwargs"] = {}
    return variant


def _onet(data: dict[str, Any], encoder: str, c_dim: int, **kwargs: Any) -> dict[str, Any]:
    model = {
        "encoder": encoder, "encoder_kwargs": kwargs, "decoder": "cbatchnorm",
        "decoder_kwargs": {}, "c_dim": c_dim, "z_dim": 0,
    }  # fmt: skip
    input_type = "voxels" if encoder == "voxel_simple" else "pointcloud"
    data = {**data, "input_type": input_type, "dim": 3}
    return {"method": "onet", "data": data, "model": model, "test": {"threshold": 0.2}}


# The fifteen published networks of ConvONet by the names of their files (the crop network, whose
# file shares its name with another, begins with crop_), and their ancestor ONet.
VARIANTS: dict[str, dict[str, Any]] = {
    "shapenet_1plane": _variant(_OBJECTS, _planes(["xz"], 64, 4)),
    "shapenet_3plane": _variant(_OBJECTS, _planes(_PLANES, 64, 4)),
    "shapenet_3plane_partial": _variant(
        _OBJECTS, _planes(_PLANES, 64, 4), input_type="partial_pointcloud"
    ),
    "shapenet_grid32": _variant(_OBJECTS, _grid(32, 3)),
    "shapenet_pointconv": _point_conv(_OBJECTS, 32),
    "room_1plane": _variant(_ROOMS, _planes(["xz"], 128, 5)),
    "room_3plane": _variant(_ROOMS, _planes(_PLANES, 128, 5)),
    "room_combine": _variant(
        _ROOMS, {**_planes(_PLANES, 128, 5), **_grid(32, 3), "plane_type": [*_PLANES, "grid"]}
    ),
    "room_grid32": _variant(_ROOMS, _grid(32, 3)),
    "room_grid64": _variant(_ROOMS, _grid(64, 4)),
    "room_pointconv": _point_conv(_ROOMS, 256),
    "crop_room_grid64": _variant(
        {**_ROOMS, "points_subsample": 1024, "unit_size": 0.005, "query_vol_size": 25},
        _grid(None, 4), "pointnet_crop_local_pool", "simple_local_crop", "pointcloud_crop",
        local_coord=True,
    ),
    "voxel_shapenet_1plane": _voxels(_planes(["xz"], 64, 4)),
    "voxel_shapenet_3plane": _voxels(_planes(_PLANES, 64, 4)),
    "voxel_shapenet_grid32": _voxels(_grid(32, 3)),
    "onet_shapenet": _onet(_OBJECTS, "pointnet_resnet", 512, hidden_dim=512),
    "onet_room": _onet(_ROOMS, "pointnet_resnet", 512, hidden_dim=512),
    "onet_voxel_shapenet": _onet(
        {**_OBJECTS, "points_subsample": 1024, "voxels_file": "model.binvox"}, "voxel_simple", 256
    ),
}  # fmt: skip


def build(name: str) -> OccupancyNetwork:
    """A network of the table `VARIANTS` by its name, with fresh weights."""
    return from_upstream(variant(name))


def variant(name: str) -> dict[str, Any]:
    """The configuration of a name in the table, as upstream's YAML files have it; a copy."""
    if name not in VARIANTS:
        raise ValueError(f"model {name!r}: expected one of {', '.join(VARIANTS)}")
    return copy.deepcopy(VARIANTS[name])


# ---- configurations to networks ----------------------------------------------------------------


def from_upstream(
    config: dict[str, Any], state_dict: Mapping[str, Tensor] | None = None
) -> OccupancyNetwork:
    """The network of an upstream configuration, with its weights or (None) fresh ones.

    config: a merged YAML file of ConvONet or ONet as a dictionary, with its sections `model` and
    `data`, or the section `model` alone. state_dict: under upstream's keys, all of them. The
    network is in evaluation mode where weights are given. Raises ValueError for an option that is
    not known and for keys that are missing, unexpected or of another shape.
    """
    model = dict(config.get("model", config))
    data = dict(config.get("data", {}))
    try:
        network = _build(model, data, config)
    except KeyError as error:
        raise ValueError(f"configuration: expected an option {error}, got none") from error
    except TypeError as error:
        raise ValueError(f"configuration: an option does not fit ({error})") from error
    if state_dict is not None:
        load_weights(network, state_dict)
        network.eval()
    return network


def load_weights(network: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load all weights or none; the ValueError for a mismatch lists the keys."""
    own = network.state_dict()
    missing = [key for key in own if key not in state_dict]
    unexpected = [key for key in state_dict if key not in own]
    reshaped = [
        f"{key} {tuple(own[key].shape)} but got {tuple(getattr(value, 'shape', ()))}"
        for key, value in state_dict.items()
        if key in own and own[key].shape != getattr(value, "shape", None)
    ]
    lists = {"missing": missing, "unexpected": unexpected, "expected": reshaped}
    wrong = "; ".join(f"{what} {', '.join(keys)}" for what, keys in lists.items() if keys)
    if wrong:
        raise ValueError(f"weights: expected those of this network, but {wrong}")
    network.load_state_dict(state_dict)


def _build(model: dict[str, Any], data: dict[str, Any], config: dict) -> OccupancyNetwork:
    if model.get("z_dim", 0) != 0:
        raise ValueError(f"z_dim: expected 0 (no latent variable), got {model['z_dim']}")
    dim, c_dim = data.get("dim", 3), model["c_dim"]
    encoder_kwargs = dict(model.get("encoder_kwargs") or {})
    decoder_kwargs = dict(model.get("decoder_kwargs") or {})
    kinds = _kinds(encoder_kwargs.pop("plane_type", "xz"))
    sides: dict[str, Any] = {
        kind: encoder_kwargs.get("grid_resolution" if kind == "grid" else "plane_resolution")
        for kind in kinds
    }
    for name in ("plane_resolution", "grid_resolution"):
        encoder_kwargs.pop(name, None)
    sample_mode = decoder_kwargs.pop("sample_mode", "bilinear")
    gaussian_val = decoder_kwargs.pop("gaussian_val", None)

    crop = None
    if model["encoder"] == "pointnet_crop_local_pool":
        crop = _crop_layout(model, data, encoder_kwargs, kinds)
        if crop.encoding == "sin_cos":
            dim = SIN_COS_SIZE
    decoder = _decoder(model["decoder"], dim, c_dim, decoder_kwargs, sample_mode)
    encoder = _encoder(model["encoder"], dim, c_dim, encoder_kwargs)
    if isinstance(encoder, LocalVoxelEncoder) and "grid" in kinds:
        sides = {"grid": sides["grid"]}  # upstream's voxel encoder has either
    if isinstance(encoder, LocalPoolPointnet | LocalVoxelEncoder) and crop is None:
        for kind, side in sides.items():
            if not isinstance(side, int) or side < 1:
                name = "grid_resolution" if kind == "grid" else "plane_resolution"
                raise ValueError(f"encoder_kwargs.{name}: expected a number above 0, got {side}")
    return OccupancyNetwork(
        decoder, encoder, config, sides, crop, data.get("padding", 0.1), sample_mode,
        gaussian_val if sample_mode == "gaussian" else None,
    )  # fmt: skip


def _kinds(plane_type: str | list[str]) -> tuple[str, ...]:
    given = [plane_type] if isinstance(plane_type, str) else plane_type
    unknown = set(given) - set(AXES)
    if unknown or not given:
        raise ValueError(f"encoder_kwargs.plane_type: expected of {', '.join(AXES)}, got {given}")
    return tuple(kind for kind in AXES if kind in given)


def _crop_layout(
    model: dict[str, Any], data: dict[str, Any], encoder_kwargs: dict[str, Any], kinds: tuple
) -> CropLayout:
    encoding = model.get("pos_encoding", "linear")
    if encoding not in ("linear", "sin_cos"):
        raise ValueError(f"model.pos_encoding: expected linear or sin_cos, got {encoding!r}")
    local = model.get("local_coord", False)
    if encoding == "sin_cos" and not local:
        raise ValueError("model.local_coord: expected true with pos_encoding sin_cos, got false")
    depth = levels = (encoder_kwargs.get("unet3d_kwargs") or {}).get("num_levels", 4)
    if encoder_kwargs.get("unet"):
        depth = encoder_kwargs["unet_kwargs"].get("depth", 5)
    return CropLayout(
        kinds, float(data["unit_size"]), int(data["query_vol_size"]), levels, depth,
        encoding if local else None,
    )  # fmt: skip


def _unets(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Upstream's `unet: True, unet_kwargs: ...` to `unet: ... or None`, likewise unet3d."""
    result = {}
    for name in ("unet", "unet3d"):
        options = kwargs.pop(f"{name}_kwargs", None)
        result[name] = dict(options or {}) if kwargs.pop(name, False) else None
    return {**kwargs, **result}


def _encoder(name: str, dim: int, c_dim: int, kwargs: dict[str, Any]) -> nn.Module:
    if name in ("pointnet_local_pool", "pointnet_crop_local_pool"):
        late = name == "pointnet_crop_local_pool"
        pooling = kwargs.pop("scatter_type", "max")
        if pooling not in ("max", "mean"):
            raise ValueError(f"encoder_kwargs.scatter_type: expected max or mean, got {pooling!r}")
        options = {"hidden_dim": 128, **_unets(kwargs)}
        return LocalPoolPointnet(dim, c_dim, pooling=pooling, late=late, **options)
    if name == "voxel_simple_local":
        return LocalVoxelEncoder(c_dim, **_unets(kwargs))
    if name == "pointnet_plus_plus":
        return PointNetPlusPlus(c_dim, **kwargs)
    if name == "pointnet_resnet":
        return ResnetPointnet(dim, c_dim, **kwargs)
    if name == "voxel_simple":
        return VoxelEncoder(c_dim, **kwargs)
    known = (
        "pointnet_local_pool, pointnet_crop_local_pool, pointnet_plus_plus, voxel_simple_local, "
        "pointnet_resnet, voxel_simple"
    )
    raise ValueError(f"model.encoder: expected one of {known}, got {name!r}")


def _decoder(
    name: str, dim: int, c_dim: int, kwargs: dict[str, Any], sample_mode: str
) -> nn.Module:
    if name == "cbatchnorm":
        return ConditionalDecoder(dim, c_dim, **kwargs)
    modes = {
        "simple_local": ("bilinear", "nearest"),
        "simple_local_crop": ("bilinear", "nearest"),
        "simple_local_point": ("gaussian", "inverse"),
    }
    if name not in modes:
        raise ValueError(
            f"model.decoder: expected one of {', '.join([*modes, 'cbatchnorm'])}, got {name!r}"
        )
    if name != "simple_local_point" and sample_mode not in modes[name]:
        raise ValueError(
            f"decoder_kwargs.sample_mode: expected {' or '.join(modes[name])}, got {sample_mode!r}"
        )
    return LocalDecoder(dim, c_dim, late=name == "simple_local_crop", **kwargs)


def read_config(path: str | Path) -> dict[str, Any]:
    """An upstream YAML file as a dictionary, what it inherits included.

    `inherit_from` names a file relative to the folder where upstream's configs/ lies: it is looked
    for from the folders above the file.
    """
    return _read_config(Path(path), _MAX_INHERITANCE)


def _read_config(path: Path, left: int) -> dict[str, Any]:
    try:
        own = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).replace("\n", " ")
        raise ValueError(f"configuration {path}: cannot be read: {reason}") from error
    if not isinstance(own, dict):
        raise ValueError(f"configuration {path}: expected a YAML mapping as upstream's files have")
    parent = own.pop("inherit_from", None)
    if parent is None:
        return own
    if left == 0:
        raise ValueError(f"configuration {path}: inherits from itself or too deep")
    relative = PurePosixPath(str(parent))
    found = [up / relative for up in path.resolve().parents if (up / relative).is_file()]
    if relative.is_absolute() or ".." in relative.parts or not found:
        raise ValueError(
            f"configuration {path}: inherits from {parent}, which lies under none of the folders "
            "above it; put both where upstream has them, under configs/"
        )
    return _merged(_read_config(found[0], left - 1), own)


def _merged(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in top.items():
        old = result.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        result[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return result


# ---- checkpoints -------------------------------------------------------------------------------


def save(path: str | Path, network: CropNetwork | OccupancyNetwork, about: dict[str, Any]) -> None:
    """Write the weights with what describes the network and `about`: command, seeds, scores, ...

    Plain numbers, strings and containers only in `about`, so that the file loads without pickle.
    """
    path = Path(path)
    partial = path.with_suffix(".partial")
    if isinstance(network, CropNetwork):
        described: dict[str, Any] = {"spec": asdict(network.spec)}
    else:
        described = {"config": network.config}
    torch.save({**described, "weights": network.state_dict(), "about": about}, partial)
    partial.replace(path)


def load(
    path: str | Path = "", config: str | Path | dict[str, Any] | None = None
) -> tuple[CropNetwork | OccupancyNetwork, dict[str, Any]]:
    """The network of a checkpoint in evaluation mode, and what it says about itself.

    path: a file of ours, one of upstream's (with or without the optimizer), or nothing for the
    weights of the package. config: of an upstream file, its YAML file, a name of the table, or a
    dictionary; None takes the name of the file, if it is in the table.

    Raises ValueError with one sentence for a file that is missing, truncated or of another network;
    code in a file is never run.
    """
    path = Path(path) if str(path) else SHIPPED
    content = _read(path)
    try:
        if "weights" in content:
            about = dict(content.get("about", {}))
            if "config" in content:
                return from_upstream(content["config"], content["weights"]), about
            network = CropNetwork(CropSpec(**content["spec"]))
            load_weights(network, content["weights"])
            return network.eval(), about
        if not isinstance(content.get("model", content), dict):
            raise ValueError("expected a dictionary of weights under 'model'")
        weights = content.get("model", content)
        about = {k: v for k, v in content.items() if k != "optimizer" and _is_scalar(v)}
        return from_upstream(_upstream_config(path, config), weights), about
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"weights {path}: not a checkpoint of this network ({reason})") from error


def load_crops(path: str | Path = "", config: str = "") -> tuple[CropModel, dict[str, Any]]:
    """As `load`, for the map: ValueError also for a network that is not fully convolutional."""
    network, about = load(path, config or None)
    if isinstance(network, CropNetwork):
        return network, about  # type: ignore[return-value] # mypy: nn.Module has its own __getattr__
    try:
        return UpstreamCrops(network).eval(), about
    except ValueError as error:
        raise ValueError(f"weights {path}: {error}") from error


def _upstream_config(path: Path, config: str | Path | dict[str, Any] | None) -> dict[str, Any]:
    if isinstance(config, dict):
        return config
    name = path.stem if config is None else str(config)
    if name in VARIANTS:
        return variant(name)
    if config is None:
        raise ValueError(
            "upstream's files do not say what they are: give its YAML file or one of the names "
            f"{', '.join(VARIANTS)}"
        )
    return read_config(config)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, int | float | str)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(
            f"weights {path}: no such file; give a checkpoint of 'convonet train' or of upstream"
        )
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"weights {path}: expected at most {_MAX_BYTES} bytes, got a larger file")
    try:
        # Upstream keeps its best score as a NumPy number.
        with torch.serialization.safe_globals(_numbers_of_numpy()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        RuntimeError, KeyError, TypeError, ValueError, EOFError, OSError, AttributeError,
        IndexError, pickle.UnpicklingError,
    ) as error:  # fmt: skip
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"weights {path}: not a checkpoint ({reason})") from error
    if not isinstance(content, dict):
        raise ValueError(f"weights {path}: not a checkpoint (got a {type(content).__name__})")
    return content


def _numbers_of_numpy() -> list[Any]:
    """What a pickled NumPy number is made of, under the names of NumPy 1 and 2."""
    multiarray = getattr(np, "_core", None) or np.core
    scalar = multiarray.multiarray.scalar
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    kinds = [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")]
    return [*((scalar, f"{module}.scalar") for module in modules), np.dtype, *kinds]
