"""Inference of crops: boxes in, occupancy logits on the fine lattice out.

Decoding is coarse to fine (after MISE, Mescheder et al., 2019): every voxel within reach of a
measured point is evaluated at its centre, and voxels beside which the surface passes once more at
their sub-voxels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import max_pool3d

from convonet_ros.config import ModelConfig
from convonet_ros.geometry import Lattice
from convonet_ros.model.calibration import Calibration
from convonet_ros.model.crops import CropModel
from convonet_ros.model.features import BoxContent, steps_from


def choose_device(name: str) -> torch.device:
    """The torch device of a name; auto takes CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"model.device: '{name}' cannot be used here ({reason})") from error
    return device


def choose_precision(name: str, device: torch.device, trained_in: torch.dtype) -> torch.dtype:
    """The arithmetic of a name; auto takes bfloat16 where a network was trained in it and the
    processor computes in it."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    if trained_in == torch.float32:
        return trained_in
    if device.type == "cuda":
        # is_bf16_supported says yes to GPUs that imitate it.
        fast = torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= 8
    else:
        # Private to torch, and not in every version of it.
        asks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        fast = any(getattr(torch.cpu, ask, bool)() for ask in asks)
    return torch.bfloat16 if fast else torch.float32


def logit(probability: float) -> float:
    """log p / (1 - p)."""
    return float(torch.logit(torch.tensor(probability, dtype=torch.float64)))


class Engine:
    """A crop network made ready for inference on one device.

    The result for a box depends on its content alone. On the CPU one batch holds one box, so it
    does so bit for bit; batches there bring no speed, as one box keeps all cores busy.
    """

    def __init__(
        self, network: CropModel, config: ModelConfig, calibration: Calibration | None = None
    ) -> None:
        self.device = choose_device(config.device)
        self.calibration = calibration or Calibration()
        self.threshold = logit(config.threshold)
        self.lattice = Lattice(network.voxel_m, network.crop_voxels, network.halo_voxels)
        self._reach = round(config.completion_m / network.voxel_m)
        own: Any = copy.deepcopy(network)
        self._network = own.eval().to(self.device)
        self._network.prepare(choose_precision(config.precision, self.device, network.trained_in))

    @torch.inference_mode()
    def infer(self, boxes: Sequence[BoxContent]) -> list[Tensor]:
        """Boxes to their crops' (m, m, m) float16 logits at sub-voxel centres, m = SUB crop.

        NaN beyond the reach of the measured points. A box without points is not inferred.
        """
        side = self.lattice.crop_voxels * self.lattice.SUB
        nothing = torch.full((side,) * 3, torch.nan, dtype=torch.float16, device=self.device)
        results = [nothing] * len(boxes)
        filled = [i for i, box in enumerate(boxes) if len(box.points)]
        if filled:
            encoded = self._network.encode_boxes([boxes[i] for i in filled])
            for i, features in zip(filled, encoded, strict=True):
                results[i] = self._decode(features, self._steps(boxes[i]))
        return results

    def _steps(self, box: BoxContent) -> Tensor:
        """(n, n, n) float32: voxels to the nearest one that holds points, see `steps_from`."""
        filled = torch.zeros((box.voxels,) * 3, dtype=torch.bool, device=self.device)
        filled[tuple(box.points.long().T)] = True
        return steps_from(filled[None], self._reach)[0]

    def _decode(self, features: Any, steps: Tensor) -> Tensor:
        """A box's features and `_steps` to the crop's fine logits."""
        n, halo, sub = self.lattice.box_voxels, self.lattice.halo_voxels, self.lattice.SUB
        # One voxel more around the crop, to see a surface that passes right outside of it.
        edge = slice(halo - 1, n - halo + 1)
        inner = torch.zeros((n, n, n), dtype=torch.bool, device=self.device)
        inner[edge, edge, edge] = steps[edge, edge, edge] <= self._reach
        cell = inner.nonzero()  # V 3
        coarse = torch.full((n, n, n), torch.nan, device=self.device)
        logits = self._network.decode_centres(features, cell)
        coarse[tuple(cell.T)] = self.calibration(logits, steps[tuple(cell.T)])

        sides = torch.stack([coarse >= self.threshold, coarse < self.threshold])  # 2 n n n
        passing = (max_pool3d(sides.float()[:, None], 3, 1, 1) > 0).all(dim=0)[0] & inner
        core = slice(halo, n - halo)
        fine = coarse[core, core, core]
        for axis in range(3):
            fine = fine.repeat_interleave(sub, axis)
        voxel = passing[core, core, core].nonzero()  # A 3
        part = torch.arange(sub, device=self.device)
        corner = torch.cartesian_prod(part, part, part)  # s 3
        target = (voxel[:, None] * sub + corner).reshape(-1, 3)
        logits = self._network.decode(features, (target + 0.5) / sub + halo)
        away = steps[tuple((voxel + halo).T)].repeat_interleave(len(corner))
        fine[tuple(target.T)] = self.calibration(logits, away)
        return fine.clamp(-30, 30).half()
