"""What several commands share: settings by name, bars, a place for the results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from convonet_ros.config import Config, load, with_values

if TYPE_CHECKING:
    from tqdm import tqdm

    from convonet_ros.datasets.recordings import Recording
    from convonet_ros.model.crops import CropSpec

CROP = "crop"  # the name of the map's own network


@contextmanager
def bars() -> Iterator[Callable[[str, int, int], None]]:
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


def tell_skipped(recording: Recording, command: str) -> None:
    for image, why in recording.skipped.items():
        print(f"convonet {command}: skipped {image}: {why}", file=sys.stderr)


def writable(folder: Path) -> None:
    """Find out now and not after an hour that the results have no place."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"-o {folder}: cannot be written to: {error.strerror}") from error


def configuration(parsed: argparse.Namespace) -> Config:
    config = load(*parsed.config)
    for name, value in settings(parsed):
        config = with_values(config, {name: "" if value is None else value})
    return config


def settings(parsed: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Name and value of every --set."""
    for setting in parsed.set:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set: expected NAME=VALUE, got '{setting}'")
        try:
            yield name.strip(), yaml.safe_load(text)
        except yaml.YAMLError:
            yield name.strip(), text


def crop_spec(parsed: argparse.Namespace, base: CropSpec | None = None) -> CropSpec:
    """The map's own network, by default or `base`, with every --set put in place."""
    from convonet_ros.model.crops import CropSpec

    known = {field.name: type(field.default) for field in fields(CropSpec)}
    given = dict(settings(parsed))
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"--set {name}: expected one of {', '.join(known)}")
        if type(value) is not known[name]:
            raise ValueError(f"--set {name}: expected {known[name].__name__}, got {value!r}")
    return replace(base or CropSpec(), **given)


def model_config(parsed: argparse.Namespace) -> dict[str, Any]:
    """The configuration of --model, a name of the table or an upstream YAML, with every --set."""
    from convonet_ros.model import zoo

    known = parsed.model in zoo.VARIANTS
    if not known and not Path(parsed.model).is_file():
        names = ", ".join((CROP, *zoo.VARIANTS))
        raise ValueError(f"--model: expected a YAML file or one of {names}, got '{parsed.model}'")
    return with_settings(
        zoo.variant(parsed.model) if known else zoo.read_config(parsed.model), parsed
    )


def with_settings(config: dict[str, Any], parsed: argparse.Namespace) -> dict[str, Any]:
    """The configuration of a network with every --set put in place."""
    for name, value in settings(parsed):
        *sections, key = name.split(".")
        place = config
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ValueError(f"--set {name}: expected {section} to be a section")
        place[key] = value
    return config
