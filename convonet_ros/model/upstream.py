"""Upstream's configurations, dictionaries or YAML files, to networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from torch import Tensor, nn

from convonet_ros.model.decoder import LocalDecoder
from convonet_ros.model.encoder import LocalPoolPointnet, LocalVoxelEncoder
from convonet_ros.model.features import AXES, SIN_COS_SIZE
from convonet_ros.model.network import CropLayout, OccupancyNetwork
from convonet_ros.model.onet import ConditionalDecoder, ResnetPointnet, VoxelEncoder
from convonet_ros.model.pointnet2 import PointNetPlusPlus

_MAX_INHERITANCE = 8


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
    between_points = model["decoder"] == "simple_local_point"
    sample_mode = decoder_kwargs.pop("sample_mode", "gaussian" if between_points else "bilinear")
    gaussian_val = decoder_kwargs.pop("gaussian_val", None)
    if between_points and sample_mode == "gaussian" and gaussian_val is None:
        raise ValueError("decoder_kwargs.gaussian_val: expected a width, got none")
    for kwargs in (encoder_kwargs, decoder_kwargs):
        # Upstream's own code copies these into them.
        for name in ("unit_size", "local_coord", "pos_encoding"):
            (data if name == "unit_size" else model).setdefault(name, kwargs.pop(name, None))

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
    encoding = model.get("pos_encoding") or "linear"
    if encoding not in ("linear", "sin_cos"):
        raise ValueError(f"model.pos_encoding: expected linear or sin_cos, got {encoding!r}")
    local = model.get("local_coord", False)
    if encoding == "sin_cos" and not local:
        raise ValueError("model.local_coord: expected true with pos_encoding sin_cos, got false")
    depth = levels = (encoder_kwargs.get("unet3d_kwargs") or {}).get("num_levels", 4)
    if encoder_kwargs.get("unet"):
        depth = encoder_kwargs["unet_kwargs"].get("depth", 5)
    if data.get("unit_size") is None:
        raise ValueError("data.unit_size: expected the side of a voxel, got none")
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
    local = ("simple_local", "simple_local_crop", "simple_local_point")
    if name not in local:
        raise ValueError(
            f"model.decoder: expected one of {', '.join([*local, 'cbatchnorm'])}, got {name!r}"
        )
    # Between points everything but gaussian means the inverse distance.
    if name != "simple_local_point" and sample_mode not in ("bilinear", "nearest"):
        raise ValueError(
            f"decoder_kwargs.sample_mode: expected bilinear or nearest, got {sample_mode!r}"
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
