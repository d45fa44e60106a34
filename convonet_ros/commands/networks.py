"""What the commands that compare and convert networks do; `cli` has their arguments."""

from __future__ import annotations

import argparse
from typing import Any

from convonet_ros.commands.arguments import configuration, crop_spec, with_settings, writable


def run_evaluate(parsed: argparse.Namespace) -> None:
    checkpoints = {}
    for entry in parsed.weights:
        name, equals, path = entry.partition("=")
        if not equals:
            raise ValueError(f"--weights: expected NAME=FILE, got '{entry}'")
        if name in checkpoints:
            raise ValueError(f"--weights: expected different names, got '{name}' twice")
        checkpoints[name] = path
    writable(parsed.out)
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

    config = configuration(parsed)
    if config.model.weights or config.model.config:
        raise ValueError("model.weights: expected none, give checkpoints as --weights NAME=FILE")
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
            entries, seeds, parsed.views, parsed.recording, config, progress
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

    writable(parsed.out.parent)
    network, about = zoo.load(parsed.weights, parsed.config)
    if parsed.set and isinstance(network, CropNetwork):
        weights = network.state_dict()
        network = CropNetwork(crop_spec(parsed, network.spec))
        load_weights(network, weights)
    elif parsed.set:
        config = with_settings(dict(network.config), parsed)  # type: ignore[arg-type]
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
