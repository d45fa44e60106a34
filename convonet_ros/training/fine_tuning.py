"""A network that starts from the weights of another one."""

from __future__ import annotations

from torch import nn


def start_from(network: nn.Module, donor: nn.Module) -> None:
    """Give a fresh network the weights of another one, for fine-tuning.

    It may look at more input channels than the donor, behind those that the donor has: their
    weights are 0, so that it begins as the donor. Raises ValueError where they differ otherwise.
    """
    own, given = network.state_dict(), donor.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in given]
    wrong += [f"{name} is not known" for name in given if name not in own]
    for name in own.keys() & given.keys():
        new, old = own[name].shape, given[name].shape
        widened = len(new) == len(old) >= 2 and new[1] > old[1]
        if new != old and not (widened and new[:1] + new[2:] == old[:1] + old[2:]):
            wrong.append(f"{name} is {tuple(old)} instead of {tuple(new)}")
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"weights to start from: expected those of this network, but {', '.join(wrong[:3])}"
            f"{more}; only input channels may be added"
        )
    for name, weight in own.items():
        value = given[name]
        if value.shape == weight.shape:
            weight.copy_(value)
        else:
            weight.zero_()[:, : value.shape[1]] = value
