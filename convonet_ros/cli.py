"""The command line: `convonet map | reconstruct | train | evaluate | ...`, see --help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from convonet_ros.commands import mapping, networks, training
from convonet_ros.commands.arguments import CROP


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code (1: it failed, 2: it was called wrongly)."""
    parsed = _parser().parse_args(arguments)
    try:
        parsed.run(parsed)
    except (ValueError, OSError, MemoryError) as error:
        print(f"convonet {parsed.command}: {error or type(error).__name__}", file=sys.stderr)
        return 1
    except BrokenProcessPool:
        print(
            f"convonet {parsed.command}: a process of it was ended, as happens for lack of memory; "
            "the same command goes on, --workers 1 needs the least",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt as error:
        print(f"convonet {parsed.command}: {str(error) or 'interrupted'}", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="convonet",
        description="Learned 3D reconstruction: Convolutional Occupancy Networks for robots.",
    )
    group = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = _command(group, mapping.run_map, "map a recording: mesh, occupancy grid, picture")
    command.add_argument("folder", type=Path, help="depth PNG + pose files, or TUM RGB-D")
    command.add_argument("-o", "--out", type=Path, required=True, help="folder for the results")
    command.add_argument(
        "--frames", default="::", help="which frames, a Python slice (default: all)"
    )
    _configurable(command)

    command = _command(
        group,
        mapping.run_reconstruct,
        "reconstruct a recording, a cloud, an object or a whole scene",
    )
    command.add_argument(
        "source", type=Path,
        help="folder as 'convonet map' takes, cloud or mesh (z up, metres); with --weights also "
        "clouds and meshes of any unit, and voxels",
    )  # fmt: skip
    command.add_argument("-o", "--out", type=Path, required=True, help="mesh: .ply .obj .off .stl")
    command.add_argument("--weights", type=Path, help="checkpoint (default: the map's own)")
    command.add_argument(
        "--model", help="what an upstream checkpoint is: a name of 'convonet models' or its YAML"
    )
    command.add_argument(
        "--threshold", type=float,
        help="probability (default: that of the map, 0.2 for other networks)",
    )  # fmt: skip
    command.add_argument("--simplify", type=_positive, metavar="N", help="down to N triangles")
    cube = command.add_argument_group("networks of the unit cube")
    cube.add_argument(
        "--resolution", type=_positive, help="cells along the coarse lattice (default: 32)"
    )
    cube.add_argument("--steps", type=_natural, help="times it is halved (default: 2; sliding: 0)")
    cube.add_argument("--points", type=_positive, help="drawn (default: as in training)")
    cube.add_argument("--up", choices=("y", "z"), help="up axis (default: y)")
    cube.add_argument(
        "--standing", action="store_true", help="the floor is the bottom, as rooms are trained"
    )
    cube.add_argument("--normals", action="store_true", help="estimate them by gradient")
    cube.add_argument("--refine", type=_natural, metavar="N", help="vertex steps (default: 0)")
    cube.add_argument("--seed", type=_natural, help="of what is drawn (default: 0)")
    cube.add_argument("--sliding", action="store_true", help="crop by crop, for scenes of any size")
    cube.add_argument("--unit", type=float, help="sliding: side of a voxel (default: as trained)")
    cube.add_argument(
        "--query", type=_positive, help="sliding: voxels along a crop (default: as trained)"
    )

    command = _command(
        group, mapping.run_simulate, "record a depth camera on a walk in a simulated building"
    )
    command.add_argument("-o", "--out", type=Path, required=True, help="folder for the recording")
    command.add_argument("--seed", type=_natural, default=0, help="decides all (default: 0)")
    command.add_argument(
        "--frames", type=_positive, default=300, help="depth images (default: 300)"
    )
    command.add_argument(
        "--kind", choices=("building", "room"), default="building", help="default: building"
    )
    command.add_argument(
        "--size", type=_metres, nargs=3, metavar=("X", "Y", "Z"),
        help="least extent of a building of two storeys inside (default: drawn)",
    )  # fmt: skip
    command.add_argument(
        "--mesh", type=Path, metavar="PLY",
        help="record nothing, draw what was reconstructed of the recording above the truth",
    )  # fmt: skip

    command = _command(
        group, networks.run_evaluate, "compare networks on shapes, or methods on scans of rooms"
    )
    command.add_argument(
        "folder", type=Path, nargs="?",
        help="of 'convonet shapes', ShapeNet or rooms: the paper's table; without it the robot's: "
        "ours beside other methods on scans of generated rooms and buildings, and on recordings",
    )  # fmt: skip
    command.add_argument(
        "--weights", nargs="+", default=[], metavar="NAME=FILE", help="checkpoints to compare"
    )
    command.add_argument("-o", "--out", type=Path, required=True, help="folder for the results")
    shapes = command.add_argument_group("with a folder")
    shapes.add_argument("--split", default="test", help="which list (default: test)")
    shapes.add_argument("--limit", type=_positive, help="only so many shapes")
    shapes.add_argument("--resolution", type=_positive, default=32, help="default: 32")
    shapes.add_argument("--steps", type=_natural, default=2, help="default: 2")
    shapes.add_argument("--threshold", type=float, default=0.2, help="probability (default: 0.2)")
    scans = command.add_argument_group("without a folder")
    scans.add_argument("--rooms", type=_natural, default=36, help="test scenes (default: 36)")
    scans.add_argument(
        "--seed", type=_natural, default=3_000_000, help="of the first one (default: 3000000)"
    )
    scans.add_argument(
        "--views", type=_positive, nargs="+", default=[1, 3, 10], metavar="N",
        help="numbers of depth images (default: 1 3 10)",
    )  # fmt: skip
    scans.add_argument(
        "--recording", type=Path, nargs="+", default=[], metavar="FOLDER",
        help="as 'convonet map' takes: frames 0::2 and 0::10 are used, 1::2 kept out",
    )  # fmt: skip
    scans.add_argument(
        "--methods", nargs="+", metavar="NAME",
        help="ours, no-rule, tsdf, poisson, ray-cast (default: all)",
    )  # fmt: skip
    _configurable(scans)

    command = _command(group, networks.run_convert, "make an upstream checkpoint describe itself")
    command.add_argument("weights", type=Path, help="upstream's .pt")
    command.add_argument("--config", help="its YAML, or a name of 'convonet models'")
    command.add_argument("-o", "--out", type=Path, required=True, help="our .pt")
    _settable(command, "of its configuration, for example data.unit_size=0.05")

    _command(group, networks.run_models, "list the networks that have a name")

    command = _command(group, training.run_rooms, "make training samples of simulated rooms")
    command.add_argument("-o", "--out", type=Path, required=True, help="folder for the samples")
    command.add_argument("--rooms", type=_positive, default=100, help="how many (default: 100)")
    command.add_argument("--seed", type=_natural, default=0, help="seed of the first room")
    command.add_argument("--workers", type=_positive, default=2, help="processes (default: 2)")

    command = _command(group, training.run_shapes, "make objects or rooms in ShapeNet's format")
    command.add_argument("-o", "--out", type=Path, required=True, help="folder for the data set")
    command.add_argument(
        "--kind", choices=("objects", "rooms"), default="rooms", help="default: rooms"
    )
    for split, count in training.SPLITS.items():
        command.add_argument(
            f"--{split}", type=_natural, default=count, help=f"how many (default: {count})"
        )
    command.add_argument("--workers", type=_positive, default=2, help="processes (default: 2)")

    command = _command(
        group, training.run_train, "train a network, or go on with a run that was interrupted"
    )
    command.add_argument(
        "--model",
        default=CROP,
        help="crop, the map's network (default), a name of 'convonet models', or an upstream YAML",
    )
    command.add_argument(
        "--data",
        help="crop: samples of 'convonet rooms'; else a folder of 'convonet shapes' or of upstream "
        "(default: shapes made in the folder of the run)",
    )
    command.add_argument("--validation", help="crop: samples of rooms of other seeds")
    command.add_argument("-o", "--out", type=Path, required=True, help="folder of the run")
    _settable(command, "of the model's configuration, for example data.pointcloud_n=3000")
    command.add_argument(
        "--init", type=Path, metavar="FILE",
        help="start from the weights of this checkpoint; a run that goes on has its own",
    )  # fmt: skip
    command.add_argument("--steps", type=_positive, help="when to stop (default: 3000)")
    command.add_argument("--batch", type=_positive, help="samples in a step (default: 8)")
    command.add_argument("--lr", type=float, help="highest learning rate (default: 0.002)")
    command.add_argument("--seed", type=_natural, help="of the weights and the order (default: 0)")

    command = _command(
        group, training.run_calibrate, "fit the probabilities of a network of the map anew"
    )
    command.add_argument("weights", type=Path, help="checkpoint")
    command.add_argument(
        "--validation", type=Path, required=True,
        help="samples of 'convonet rooms' that the network was not trained on",
    )  # fmt: skip
    command.add_argument("-o", "--out", type=Path, required=True, help="checkpoint to write")

    command = _command(group, mapping.run_bench, "measure what the map costs on this machine")
    command.add_argument("--frames", type=_positive, default=40, help="to time (default: 40)")
    command.add_argument(
        "--crop", type=_positive, metavar="VOXELS",
        help="instead, measure a crop of so many voxels of upstream's crop network",
    )  # fmt: skip
    command.add_argument(
        "--metres", type=_positive, default=60, help="to drive for the memory (default: 60)"
    )
    _configurable(command)

    command = _command(group, mapping.run_config, "print the configuration as YAML")
    _configurable(command)
    return parser


def _command(
    group: Any, run: Callable[[argparse.Namespace], None], sentence: str
) -> argparse.ArgumentParser:
    """The parser of the command that a function `run_<name>` is."""
    command: argparse.ArgumentParser = group.add_parser(
        run.__name__.removeprefix("run_"),
        help=sentence,
        description=sentence[0].upper() + sentence[1:] + ".",
    )
    command.set_defaults(run=run)
    return command


def _configurable(command: argparse._ActionsContainer) -> None:
    command.add_argument(
        "--config", nargs="+", default=[], metavar="FILE", help="parameter files, later ones win"
    )
    _settable(command, "of the parameters")


def _settable(command: argparse._ActionsContainer, what: str) -> None:
    command.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help=f"one {what}"
    )


def _metres(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1000:
        raise argparse.ArgumentTypeError(f"expected metres, got '{text}'")
    return value


def _positive(text: str) -> int:
    value = _natural(text)
    if value == 0:
        raise argparse.ArgumentTypeError("expected a number above 0, got 0")
    return value


def _natural(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a number, got '{text}'")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
