"""The table of named networks, each as upstream's YAML file has it."""

from __future__ import annotations

from typing import Any

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
