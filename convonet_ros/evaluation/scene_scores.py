"""How well a method's answer agrees with the truth of a trial: the columns of the robot's table."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree

from convonet_ros.evaluation.entries import Answer
from convonet_ros.evaluation.reconstruction import ValueLattice
from convonet_ros.evaluation.trials import BAND_M, Truth
from convonet_ros.evaluation.true_surface import ClosestPlaces, TrueSurface, crossed, sampled
from convonet_ros.model.calibration import calibration_error, reliability

SAMPLES = 60_000  # on the mesh
_ASKED_M = 0.25  # from a seen point: true surface that is asked for
_F_M = {"F at 2.5 cm": 0.025, "F at 5 cm": 0.05}
_UNSEEN_M, _FOUND_M = 0.075, 0.05
_BOOTSTRAPS = 1000
_HALF_STEP_M = 0.0125 - 1e-4  # of the map's decoded lattice, so that none of its planes is skipped
REGIONS_M = {  # by name, metres from a seen point
    "observed": (0.0, 0.05),
    "near": (0.05, 0.15),
    "completed": (0.15, BAND_M),
    "band": (0.0, BAND_M),
}

Regions = dict[str, tuple[np.ndarray, np.ndarray]]  # of REGIONS_M: probability and truth, (N,)


def scores(
    answer: Answer, truth: Truth, surface: TrueSurface, seed: int = 0, samples: int = SAMPLES
) -> dict[str, float]:
    """All figures of one answer; lengths are metres, areas square metres.

    IoU: of the points in the crops that hold seen points, bodies to 15 cm deep; "IoU near": of all
    points within 0.3 m of a seen point; "IoU skin": of these, bodies to 15 cm deep. What a method
    does not know counts as free.
    accuracy: mean distance to the true surface of samples of the mesh within 0.3 m of a seen point.
    completeness: of true surface within 0.25 m of a seen point to the mesh; Chamfer-L1: the mean of
    both; F at ...: harmonic mean of the shares within that distance. normals: mean |cosine| between
    a sample's normal and that of the nearest place, both ways.
    unseen found: share of true surface 7.5 to 25 cm from every seen point with mesh within 5 cm.
    false m2: mesh in observed free space, see `false_area`. known: of the points within 0.3 m of a
    seen one, the share with a probability; NaN for a method that has none.
    An empty mesh has no accuracy, completeness, Chamfer-L1 and normals (NaN) and an F of 0.
    """
    around = len(truth.around)
    near, skin = answer.occupied[around:], truth.near_shallow
    found = {
        "IoU": _iou(answer.occupied[:around], truth.around_occupied),
        "IoU near": _iou(near, truth.near_occupied),
        "IoU skin": _iou(near[skin], truth.near_occupied[skin]),
    }
    found["known"] = math.nan
    if answer.probability is not None:
        found["known"] = float(np.isfinite(answer.probability[around:]).mean())
    corners = answer.vertices[answer.triangles].astype(np.float64)
    areas = np.linalg.norm(crossed(corners), axis=1) / 2
    area = float(areas.sum())
    rng = np.random.default_rng(seed)
    points, normals = sampled(corners[areas > 0], samples / area if area else 0.0, rng)
    found |= {"mesh m2": area, "false m2": false_area(points, area, truth.evidence)}
    reach, _ = cKDTree(truth.seen).query(points, distance_upper_bound=BAND_M)
    close = np.isfinite(reach)
    if not close.any():
        empty = dict.fromkeys(("accuracy", "completeness", "Chamfer-L1", "normals"), math.nan)
        return found | empty | dict.fromkeys((*_F_M, "unseen found"), 0.0)
    mesh = ClosestPlaces(answer.vertices, answer.triangles)
    return found | _of_surface(mesh, points[close], normals[close], truth, surface)


def _of_surface(
    mesh: ClosestPlaces,
    points: np.ndarray,
    normals: np.ndarray,
    truth: Truth,
    surface: TrueSurface,
) -> dict[str, float]:
    """The figures of a mesh's surface, by the mesh and samples (N, 3) of it with normals."""
    asked = truth.reach <= _ASKED_M
    to_truth, true_normals = surface.nearest(points, truth.surface, truth.normals)
    to_mesh, _, mesh_normals = mesh.of(truth.surface[asked])
    found = {"accuracy": float(to_truth.mean()), "completeness": float(to_mesh.mean())}
    found["Chamfer-L1"] = (found["accuracy"] + found["completeness"]) / 2
    for name, limit in _F_M.items():
        precision, recall = float((to_truth <= limit).mean()), float((to_mesh <= limit).mean())
        both = precision + recall
        found[name] = 2 * precision * recall / both if both else 0.0
    back = _alike(mesh_normals, truth.normals[asked])
    found["normals"] = 0.5 * (_alike(normals, true_normals) + back)
    unseen = to_mesh[truth.reach[asked] > _UNSEEN_M]
    found["unseen found"] = float((unseen <= _FOUND_M).mean()) if len(unseen) else math.nan
    return found


def false_area(points: np.ndarray, area: float, evidence: ValueLattice) -> float:
    """Square metres of a mesh of that area in observed free space, by samples (N, 3) of it.

    A sample counts when the cube of 2.5 cm around it lies in observed free voxels, so that the
    surface may run half a step of the map's decoded lattice inside of them.
    """
    if not len(points):
        return 0.0
    false = np.ones(len(points), bool)
    for corner in np.ndindex(2, 2, 2):
        shift = (2 * np.array(corner) - 1) * _HALF_STEP_M
        false &= evidence.nearest(points + shift, 0) < 0
    return area * float(false.mean())


def regions(answer: Answer, truth: Truth) -> Regions:
    """What a method says of the points near seen ones, as far as it knows them."""
    if answer.probability is None:
        return {}
    said = answer.probability[len(truth.around) :]
    found = {}
    for name, (low, high) in REGIONS_M.items():
        of = np.isfinite(said) & (truth.near_distance >= low) & (truth.near_distance <= high)
        found[name] = said[of], truth.near_occupied[of]
    return found


def together(parts: Sequence[Regions]) -> Regions:
    """The points of all parts."""
    found = {}
    for name in REGIONS_M:
        pairs = [part[name] for part in parts if name in part]
        if pairs:
            said, true = zip(*pairs, strict=True)
            found[name] = np.concatenate(said), np.concatenate(true)
    return found


def calibration(parts: Sequence[Regions]) -> dict[str, float]:
    """The expected calibration error by region of all parts' points together, "ECE ...", and that
    of the band's standard error, "ECE spread", by bootstrap over the parts (Efron, 1979).

    Regions without points are left out, and a standard error of a single part.
    """
    sums = {}
    for name in REGIONS_M:
        each = [reliability(*part[name]) for part in parts if name in part and len(part[name][0])]
        if each:
            sums[name] = np.stack(each)  # P 3 bins
    found = {
        f"ECE {name}": float(calibration_error(each.sum(axis=0))) for name, each in sums.items()
    }
    if len(band := sums.get("band", np.empty(0))) > 1:
        rng = np.random.default_rng(0)
        drawn = rng.multinomial(len(band), np.full(len(band), 1 / len(band)), _BOOTSTRAPS)
        errors = calibration_error(np.einsum("ds,skb->dkb", drawn, band))
        found["ECE spread"] = float(errors.std())
    return found


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    """Of the points occupied in a or b the share in both; NaN where there are none."""
    either = int((a | b).sum())
    return int((a & b).sum()) / either if either else math.nan


def _alike(a: np.ndarray, b: np.ndarray) -> float:
    """Mean |cosine| of (N, 3) unit vectors."""
    return float(np.abs((a * b).sum(axis=1)).mean())
