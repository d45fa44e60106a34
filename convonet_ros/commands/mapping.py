"""What the commands that make maps and surfaces do; `cli` has their arguments."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from convonet_ros.commands.arguments import bars, configuration, tell_skipped, writable
from convonet_ros.config import Config, to_yaml, with_values


def run_map(parsed: argparse.Namespace) -> None:
    config = configuration(parsed)
    writable(parsed.out)
    from convonet_ros.datasets.recordings import open_recording
    from convonet_ros.offline.pipeline import map_recording, write_map

    recording = open_recording(parsed.folder, parsed.frames)
    with bars() as progress:
        result = map_recording(recording, config, progress)
    tell_skipped(recording, "map")
    write_map(parsed.out, result)
    report = result.report
    print(
        f"{report['frames']['mapped']} frames in {report['seconds']['total']:.1f} s: "
        f"{report['mesh']['triangles']} triangles, {report['mesh']['area_m2']:.1f} m2; "
        f"see {parsed.out / 'mesh.ply'} and {parsed.out / 'picture.png'}"
    )


def run_reconstruct(parsed: argparse.Namespace) -> None:
    from convonet_ros.model import zoo
    from convonet_ros.model.crops import CropNetwork
    from convonet_ros.offline.surfaces import check_suffix

    check_suffix(parsed.out)
    writable(parsed.out.parent)
    if parsed.weights is None and parsed.model:
        raise ValueError("--model: says what --weights are; give those too, or leave it out")
    if parsed.source.is_dir():
        _reconstruct_recording(parsed)
        return
    network, _ = zoo.load(parsed.weights or "", parsed.model)
    if isinstance(network, CropNetwork):
        _reconstruct_cloud(parsed)
    else:
        _reconstruct_in_cube(parsed, network)


def _reconstruct_recording(parsed: argparse.Namespace) -> None:
    from convonet_ros.datasets.recordings import open_recording
    from convonet_ros.offline.pipeline import mesh_of_recording, surface_of_map
    from convonet_ros.offline.surfaces import write_surface

    config = _config_of_map(parsed, "a recording")
    recording = open_recording(parsed.source)
    with bars() as progress:
        mesh, report = mesh_of_recording(recording, config, progress)
    tell_skipped(recording, "reconstruct")
    surface = surface_of_map(mesh, parsed.simplify)
    write_surface(parsed.out, surface)
    about = report["mesh"]
    print(
        f"{report['frames']['mapped']} frames in {report['seconds']['total']:.1f} s and "
        f"{report['peak_memory_mb']} MB: {about['crops']} crops, {about['area_m2']:.1f} m2, of "
        f"which {about['observed_m2']:.1f} observed; "
        f"{len(surface.triangles)} triangles: {parsed.out}"
    )


def _reconstruct_cloud(parsed: argparse.Namespace) -> None:
    from convonet_ros.offline.clouds import Cloud
    from convonet_ros.offline.layers import MESH_SAMPLES, reconstruct_cloud
    from convonet_ros.offline.surfaces import write_surface

    config = _config_of_map(parsed, "the map's network")
    cloud = _source(parsed, MESH_SAMPLES)
    if not isinstance(cloud, Cloud):
        raise ValueError(
            f"{parsed.source}: expected a cloud or mesh for the map's network, got voxels; give "
            "--weights of a network of voxels"
        )
    started = time.monotonic()
    with bars() as progress:
        surface = reconstruct_cloud(
            cloud, config, parsed.simplify, lambda done, total: progress("crops", done, total)
        )
    write_surface(parsed.out, surface)
    print(
        f"{len(cloud.points)} points {'without' if cloud.normals is None else 'with'} normals in "
        f"{time.monotonic() - started:.1f} s: {len(surface.triangles)} triangles: {parsed.out}"
    )


def _config_of_map(parsed: argparse.Namespace, what: str) -> Config:
    """The map's configuration; ValueError for options that have no meaning for it."""
    foreign = ("resolution", "steps", "points", "standing", "normals", "refine", "seed")
    for name in (*foreign, "sliding", "unit", "query"):
        if getattr(parsed, name) not in (None, False):
            raise ValueError(
                f"--{name}: is for networks of 'convonet models' (--weights), not for {what}; "
                "leave it out"
            )
    if parsed.up == "y":
        raise ValueError(f"--up y: {what} has z up; turn the cloud, or leave it out")
    values: dict[str, Any] = {}
    if parsed.weights is not None:
        values = {"model.weights": str(parsed.weights), "model.config": parsed.model or ""}
    if parsed.threshold is not None:
        values["model.threshold"] = parsed.threshold
    return with_values(Config(), values)


def _reconstruct_in_cube(parsed: argparse.Namespace, network: Any) -> None:
    from convonet_ros.offline.objects import reconstruct
    from convonet_ros.offline.surfaces import write_surface

    threshold = 0.2 if parsed.threshold is None else parsed.threshold
    of_objects = ("points", "up", "standing", "normals", "refine", "seed")
    for name in of_objects if parsed.sliding else ("unit", "query"):
        if getattr(parsed, name) not in (None, False):
            when = "without" if parsed.sliding else "with"
            raise ValueError(f"--{name}: only counts {when} --sliding; leave it out")
    source = _source(parsed)
    if parsed.sliding:
        surface = _slide(parsed, network, source, threshold)
    else:
        surface = reconstruct(
            source, network, parsed.resolution or 32,
            2 if parsed.steps is None else parsed.steps, threshold,
            normals=parsed.normals, refine_steps=parsed.refine or 0, simplify_to=parsed.simplify,
            points=parsed.points, up=parsed.up or "y", standing=parsed.standing,
            seed=parsed.seed or 0,
        )  # fmt: skip
    write_surface(parsed.out, surface)
    print(f"{len(surface.triangles)} triangles: {parsed.out}")


def _source(parsed: argparse.Namespace, samples: int | None = None) -> Any:
    """The cloud or the voxels that are to be reconstructed; samples: of a mesh."""
    from convonet_ros.offline.clouds import Cloud, read_input

    source = read_input(parsed.source) if samples is None else read_input(parsed.source, samples)
    if isinstance(source, Cloud) and source.dropped:
        print(f"convonet reconstruct: {source.dropped} points without a place", file=sys.stderr)
    return source


def _slide(parsed: argparse.Namespace, network: Any, source: Any, threshold: float) -> Any:
    from convonet_ros.offline.clouds import Cloud
    from convonet_ros.offline.tiles import reconstruct_scene

    if not isinstance(source, Cloud):
        raise ValueError(f"--sliding: expected a cloud, got voxels in {parsed.source}")
    with bars() as progress:
        return reconstruct_scene(
            source, network, parsed.unit, parsed.query, parsed.resolution, parsed.steps or 0,
            threshold, parsed.simplify, lambda done, total: progress("crops", done, total),
        )  # fmt: skip


def run_simulate(parsed: argparse.Namespace) -> None:
    from convonet_ros.datasets.sensing.drives import walk_camera, walk_frames, write_frames
    from convonet_ros.datasets.world.buildings import make_building
    from convonet_ros.datasets.world.rooms import make_room
    from convonet_ros.offline.files import read_mesh
    from convonet_ros.offline.pictures import picture_of_storeys

    if parsed.kind == "room":
        if parsed.size is not None:
            raise ValueError("--size: is for buildings; leave it out")
        place = make_room(parsed.seed)
    else:
        place = make_building(parsed.seed, size=None if parsed.size is None else (*parsed.size,))
    writable(parsed.out)
    if parsed.mesh is not None:
        picture = parsed.out / "comparison.png"
        picture_of_storeys(picture, place, read_mesh(parsed.mesh))
        print(picture)
        return
    frames = walk_frames(place, parsed.frames, walk_camera())
    with bars() as progress:
        for done, _ in enumerate(write_frames(parsed.out, frames), start=1):
            progress("frames", done, parsed.frames)
    picture = parsed.out / "truth.png"
    picture_of_storeys(picture, place)
    size = " x ".join(f"{side:.1f}" for side in place.size)
    print(f"{parsed.frames} frames of a {parsed.kind} of {size} m in {parsed.out}; it is {picture}")


def run_bench(parsed: argparse.Namespace) -> None:
    config = configuration(parsed)
    from convonet_ros.offline.bench import crop_times, memory_of_drive, stage_times, table

    if parsed.crop is not None:
        rows = [
            (stage, [f"{plain:.0f}", f"{ours:.0f}", f"{ours / plain:.2f}"])
            for stage, plain, ours in crop_times(parsed.crop)
        ]
        print(table(("", "as upstream", "ours", "ratio"), rows))
        return
    times = stage_times(config, parsed.frames)
    fusion = times["TSDF: integrate a scan"]
    rows = [(stage, [f"{ms:.1f}", f"{ms / fusion:.1f}"]) for stage, ms in times.items()]
    print(table(("stage", "median ms", "in TSDF scans"), rows), end="\n\n")
    rows = [(f"{d:.0f}", [f"{mb:.0f}"]) for d, mb in memory_of_drive(config, parsed.metres)]
    print(table(("driven m", "resident MB"), rows))


def run_config(parsed: argparse.Namespace) -> None:
    sys.stdout.write(to_yaml(configuration(parsed)))
