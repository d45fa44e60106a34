"""What the commands of the command line do; `cli` has their arguments.

Libraries are imported inside, so that `convonet --help` answers at once.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from convonet_ros.config import Config, load, to_yaml, with_values

if TYPE_CHECKING:
    from tqdm import tqdm

    from convonet_ros.datasets.recordings import Recording
    from convonet_ros.model.crops import CropSpec
    from convonet_ros.training.distributed import Processes
    from convonet_ros.training.trainer import Trainer

CROP = "crop"  # the name of the map's own network
SPLITS = {"train": 600, "val": 48, "test": 40}  # shapes by default
_SEEDS_PER_SPLIT = 1_000_000
_VALIDATIONS, _SAVES = 20, 100  # of a long training


def run_map(parsed: argparse.Namespace) -> None:
    config = _configuration(parsed)
    _writable(parsed.out)
    from convonet_ros.datasets.recordings import open_recording
    from convonet_ros.offline.pipeline import map_recording, write_map

    recording = open_recording(parsed.folder, parsed.frames)
    with _bars() as progress:
        result = map_recording(recording, config, progress)
    _tell_skipped(recording, "map")
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
    _writable(parsed.out.parent)
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
    with _bars() as progress:
        mesh, report = mesh_of_recording(recording, config, progress)
    _tell_skipped(recording, "reconstruct")
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
    with _bars() as progress:
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
    if parsed.normals or parsed.refine:
        raise ValueError("--sliding: normals and refinement are for objects; leave them out")
    with _bars() as progress:
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
    _writable(parsed.out)
    if parsed.mesh is not None:
        picture = parsed.out / "comparison.png"
        picture_of_storeys(picture, place, read_mesh(parsed.mesh))
        print(picture)
        return
    frames = walk_frames(place, parsed.frames, walk_camera())
    with _bars() as progress:
        for done, _ in enumerate(write_frames(parsed.out, frames), start=1):
            progress("frames", done, parsed.frames)
    picture = parsed.out / "truth.png"
    picture_of_storeys(picture, place)
    size = " x ".join(f"{side:.1f}" for side in place.size)
    print(f"{parsed.frames} frames of a {parsed.kind} of {size} m in {parsed.out}; it is {picture}")


def run_evaluate(parsed: argparse.Namespace) -> None:
    checkpoints = {}
    for entry in parsed.weights:
        name, equals, path = entry.partition("=")
        if not equals:
            raise ValueError(f"--weights: expected NAME=FILE, got '{entry}'")
        if name in checkpoints:
            raise ValueError(f"--weights: expected different names, got '{name}' twice")
        checkpoints[name] = path
    _writable(parsed.out)
    if parsed.folder is None:
        _evaluate_methods(parsed, checkpoints)
    else:
        _evaluate_shapes(parsed, checkpoints)


def _evaluate_shapes(parsed: argparse.Namespace, checkpoints: dict[str, str]) -> None:
    from tqdm import tqdm

    from convonet_ros.evaluation.shapes import evaluate_folder, picture_of_networks
    from convonet_ros.model import zoo
    from convonet_ros.model.network import OccupancyNetwork

    networks: dict[str, tuple[OccupancyNetwork, dict[str, Any]]] = {}
    for name, path in checkpoints.items():
        network, about = zoo.load(path)
        if not isinstance(network, OccupancyNetwork):
            raise ValueError(f"--weights {path}: expected a network of 'convonet models'")
        networks[name] = network, about
    if not networks:
        raise ValueError("--weights: expected NAME=FILE of a network, got none")
    how = (parsed.resolution, parsed.steps, parsed.threshold)
    with tqdm(unit="shape", leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        result = evaluate_folder(
            networks, parsed.folder, parsed.split, parsed.limit, *how, progress=progress
        )
    result.write(parsed.out)
    picture = parsed.out / "picture.png"
    shown = range(min(2, result.settings["models"]))
    picture_of_networks(picture, networks, parsed.folder, parsed.split, shown, *how)
    print(f"{result.markdown()}\n{parsed.out / 'table.md'}, results.json and {picture}")


def _evaluate_methods(parsed: argparse.Namespace, checkpoints: dict[str, str]) -> None:
    from tqdm import tqdm

    from convonet_ros.evaluation.entries import METHODS, Entry
    from convonet_ros.evaluation.methods import evaluate_methods

    names = list(METHODS) if parsed.methods is None else parsed.methods
    for name in names:
        if name not in METHODS:
            raise ValueError(f"--methods: expected some of {', '.join(METHODS)}, got '{name}'")
    entries = [Entry(name) for name in names]
    entries += [Entry(name, path) for name, path in checkpoints.items()]
    with tqdm(unit="mesh", leave=False) as bar:

        def progress(method: str, done: int, total: int) -> None:
            bar.total = total
            bar.set_description(method, refresh=False)
            bar.update(done - bar.n)

        seeds = range(parsed.seed, parsed.seed + parsed.rooms)
        table, shown = evaluate_methods(
            entries, seeds, parsed.views, parsed.recording, load(), progress
        )
    table.write(parsed.out)
    shown.write(parsed.out)
    print(f"{table.markdown()}\nsee {parsed.out} for table.md, results.json and the pictures")
    if table.failures:
        raise ValueError("; ".join(table.failures))


def run_convert(parsed: argparse.Namespace) -> None:
    from convonet_ros.model import zoo
    from convonet_ros.model.crops import CropNetwork
    from convonet_ros.model.upstream import load_weights

    _writable(parsed.out.parent)
    network, about = zoo.load(parsed.weights, parsed.config)
    if parsed.set and isinstance(network, CropNetwork):
        weights = network.state_dict()
        network = CropNetwork(_crop_spec(parsed, network.spec))
        load_weights(network, weights)
    elif parsed.set:
        config = _with_settings(dict(network.config), parsed)  # type: ignore[arg-type]
        network = zoo.from_upstream(config, network.state_dict())
    zoo.save(parsed.out, network, about)
    print(f"{sum(p.numel() for p in network.parameters())} parameters: {parsed.out}")


def run_models(parsed: argparse.Namespace) -> None:
    from convonet_ros.model import zoo

    for name, config in zoo.VARIANTS.items():
        count = sum(p.numel() for p in zoo.build(name).parameters())
        model = config["model"]
        kinds = " ".join(model["encoder_kwargs"].get("plane_type", [])) or "-"
        print(f"{name:25} {count:9} parameters  {config['data']['input_type']:18} {kinds}")


def run_rooms(parsed: argparse.Namespace) -> None:
    _writable(parsed.out)
    from tqdm import tqdm

    from convonet_ros.datasets.samples import write_rooms
    from convonet_ros.datasets.world.scenes import make_scene
    from convonet_ros.geometry import Lattice
    from convonet_ros.model.crops import CropSpec
    from convonet_ros.offline.pictures import picture_of_room

    spec = CropSpec()
    lattice = Lattice(spec.voxel_m, spec.crop_voxels, spec.halo_voxels)
    seeds = range(parsed.seed, parsed.seed + parsed.rooms)
    written = write_rooms(parsed.out, seeds, lattice, parsed.workers)
    for _ in tqdm(written, total=len(seeds), unit="room"):
        pass
    picture = parsed.out / "room.png"
    picture_of_room(picture, make_scene(parsed.seed))
    print(f"{len(seeds)} rooms in {parsed.out}; the first one: {picture}")


def run_shapes(parsed: argparse.Namespace) -> None:
    _writable(parsed.out)
    _make_shapes(parsed.out, parsed.kind, {s: getattr(parsed, s) for s in SPLITS}, parsed.workers)


def _make_shapes(folder: Path, kind: str, counts: dict[str, int], workers: int = 2) -> None:
    from tqdm import tqdm

    from convonet_ros.datasets.generated import write_shapes

    # Every split has seeds of its own.
    for first, (split, count) in enumerate(counts.items()):
        seeds = range(first * _SEEDS_PER_SPLIT, first * _SEEDS_PER_SPLIT + count)
        written = write_shapes(folder, kind, seeds, split, workers)  # type: ignore[arg-type]
        for _ in tqdm(written, total=count, unit="shape", desc=f"{split} {kind}", leave=False):
            pass
    print(f"{', '.join(f'{n} {split}' for split, n in counts.items())} {kind} in {folder}")


def run_train(parsed: argparse.Namespace) -> None:
    from convonet_ros.training.distributed import torchrun_processes
    from convonet_ros.training.interruption import wish_to_stop

    with torchrun_processes() as processes:
        trainer = _trainer(parsed, processes)
        if processes.first and trainer.step:
            print(f"convonet train: going on from step {trainer.step}", file=sys.stderr)
        with wish_to_stop() as stop:
            best = trainer.run(stop)
    if not trainer.finished:
        raise KeyboardInterrupt(
            f"saved at step {trainer.step} of {trainer.config.steps} in {parsed.out}; "
            "the same command goes on"
        )
    if processes.first:
        print(f"validation IoU {trainer.best_iou:.4f}: {best}")


def _trainer(parsed: argparse.Namespace, processes: Processes) -> Trainer:
    """What the arguments of `train` describe, ready to run or to go on."""
    import torch

    from convonet_ros.model import zoo
    from convonet_ros.model.crops import CropNetwork
    from convonet_ros.training.fine_tuning import start_from
    from convonet_ros.training.tasks import EASY_SHARE, RoomCrops, ShapeFolder, Task
    from convonet_ros.training.trainer import TrainConfig, Trainer

    config = None if parsed.model == CROP else _model_config(parsed)
    processes.from_first(lambda: _writable(parsed.out))
    command = f"convonet train --model {parsed.model}"
    data = parsed.data
    if config is None and (data is None or parsed.validation is None):
        raise ValueError("--data, --validation: expected folders of 'convonet rooms', got none")
    if parsed.validation and data is None:
        raise ValueError("--data: expected a folder of 'convonet rooms' beside --validation")
    batch, seed = parsed.batch or 8, parsed.seed or 0
    if batch < processes.count:
        raise ValueError(
            f"--batch: expected a sample for each of {processes.count} processes, got {batch}"
        )
    if data is None:
        assert config is not None
        kind = "rooms" if config.get("data", {}).get("multi_files") else "objects"
        data = str(parsed.out / "data")
        counts = {"train": SPLITS["train"], "val": SPLITS["val"]}
        processes.from_first(lambda: _make_shapes(Path(data), kind, counts))
    else:
        command += f" --data {data}"
    if parsed.validation:
        command += f" --validation {parsed.validation}"
    for setting in parsed.set:
        command += f" --set {setting}"
    if parsed.init:
        command += f" --init {parsed.init}"
    given = {name: getattr(parsed, name) for name in ("steps", "lr")}
    given = {name: value for name, value in given.items() if value is not None}
    defaults = TrainConfig(**given)
    command += (
        f" -o {parsed.out} --steps {defaults.steps} --batch {batch} --lr {defaults.lr:g} "
        f"--seed {seed}"
    )
    settings = {"model": parsed.model, "set": list(parsed.set), "batch": batch, "seed": seed}
    for name in ("data", "validation"):
        folder = getattr(parsed, name)
        settings[name] = str(Path(folder).resolve()) if folder else None
    torch.manual_seed(seed)
    task: Task
    if config is None or parsed.validation:
        network = CropNetwork(_crop_spec(parsed)) if config is None else zoo.from_upstream(config)
        easy_steps = 0 if parsed.init else round(EASY_SHARE * defaults.steps)
        settings["init"] = bool(parsed.init)  # for the curriculum
        task = RoomCrops(data, parsed.validation, network, batch, seed, easy_steps)
    else:
        task = ShapeFolder(data, config, batch, seed)

    def start() -> None:  # the others get these weights from the first process
        if parsed.init and not (parsed.out / "last.pt").exists():
            start_from(task.network, zoo.load(parsed.init, config)[0])

    processes.from_first(start)
    train_config = replace(
        defaults,
        command=command,
        settings=settings,
        validate_every=max(defaults.validate_every, defaults.steps // _VALIDATIONS),
        save_every=max(defaults.save_every, defaults.steps // _SAVES),
    )
    return Trainer(train_config, task, parsed.out, processes)


def run_bench(parsed: argparse.Namespace) -> None:
    config = _configuration(parsed)
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
    sys.stdout.write(to_yaml(_configuration(parsed)))


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
    """What shows progress: of what ("frames"), done, of how many. A bar each."""
    from tqdm import tqdm

    bars: dict[str, tqdm[Any]] = {}

    def progress(what: str, done: int, total: int) -> None:
        if what not in bars:
            bars[what] = tqdm(total=total, unit=what.removesuffix("s"), desc=what, leave=False)
        bars[what].total = total
        bars[what].update(done - bars[what].n)

    try:
        yield progress
    finally:
        for bar in bars.values():
            bar.close()


def _tell_skipped(recording: Recording, command: str) -> None:
    for image, why in recording.skipped.items():
        print(f"convonet {command}: skipped {image}: {why}", file=sys.stderr)


def _writable(folder: Path) -> None:
    """Find out now and not after an hour that the results have no place."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"-o {folder}: cannot be written to: {error.strerror}") from error


# ---- what the arguments say ----------------------------------------------------------------------


def _configuration(parsed: argparse.Namespace) -> Config:
    config = load(*parsed.config)
    for name, value in _settings(parsed):
        config = with_values(config, {name: "" if value is None else value})
    return config


def _settings(parsed: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Name and value of every --set."""
    for setting in parsed.set:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set: expected NAME=VALUE, got '{setting}'")
        try:
            yield name.strip(), yaml.safe_load(text)
        except yaml.YAMLError:
            yield name.strip(), text


def _crop_spec(parsed: argparse.Namespace, base: CropSpec | None = None) -> CropSpec:
    """The map's own network, by default or `base`, with every --set put in place."""
    from convonet_ros.model.crops import CropSpec

    known = {field.name: type(field.default) for field in fields(CropSpec)}
    given = dict(_settings(parsed))
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"--set {name}: expected one of {', '.join(known)}")
        if type(value) is not known[name]:
            raise ValueError(f"--set {name}: expected {known[name].__name__}, got {value!r}")
    return replace(base or CropSpec(), **given)


def _model_config(parsed: argparse.Namespace) -> dict[str, Any]:
    """The configuration of --model, a name of the table or an upstream YAML, with every --set."""
    from convonet_ros.model import zoo

    known = parsed.model in zoo.VARIANTS
    if not known and not Path(parsed.model).is_file():
        names = ", ".join((CROP, *zoo.VARIANTS))
        raise ValueError(f"--model: expected a YAML file or one of {names}, got '{parsed.model}'")
    return _with_settings(
        zoo.variant(parsed.model) if known else zoo.read_config(parsed.model), parsed
    )


def _with_settings(config: dict[str, Any], parsed: argparse.Namespace) -> dict[str, Any]:
    """The configuration of a network with every --set put in place."""
    for name, value in _settings(parsed):
        *sections, key = name.split(".")
        place = config
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ValueError(f"--set {name}: expected {section} to be a section")
        place[key] = value
    return config
