"""A narrower network that begins with a wider one's most used channels, for distillation to finish.

Source:
    Li et al., "Pruning Filters for Efficient ConvNets", 2017: channels are kept by the size of the weights that read
    them; here within each group of the group normalisation, whose statistics stay alike.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from cloud_trainer.world_model.compact.network import CompactWorldNetwork, FrameAttention, FrameBlock
from gymnast_core.errors import ConfigError

GROUPS = 8
"""Of every group normalisation in the network."""


def narrowed(network: CompactWorldNetwork, widths: tuple[int, int, int]) -> CompactWorldNetwork:
    """Return a network of these channels at 1/2, 1/4 and 1/8 resolution, filled from a wider one.

    Args:
        network: stays as it is.
        widths: multiples of 8, none wider than the network's own.

    Raises:
        ConfigError: a width is no such number.
    """
    own = network.config.widths
    if any(new % GROUPS or not GROUPS <= new <= old for new, old in zip(widths, own, strict=True)):
        raise ConfigError(f"widths must be multiples of {GROUPS}, at most {list(own)}; got {list(widths)}")
    narrow = CompactWorldNetwork(replace(network.config, widths=widths))
    fine, mid, deep = (
        _kept(readers, width) for readers, width in zip(_readers(network), widths, strict=True)
    )  # fmt: skip
    with torch.no_grad():
        narrow.condition.load_state_dict(network.condition.state_dict())
        narrow.place.copy_(network.place[:, fine])
        _conv(narrow.enter, network.enter, fine, None)
        _conv(narrow.down1, network.down1, mid, fine)
        _conv(narrow.down2, network.down2, deep, mid)
        _conv(narrow.up2, network.up2, mid, deep)
        _conv(narrow.up1, network.up1, fine, mid)
        _norm(narrow.leave_norm, network.leave_norm, fine)
        _conv(narrow.leave, network.leave, None, fine)
        twice = {"mid2": torch.cat((mid, mid + own[1])), "fine2": torch.cat((fine, fine + own[0]))}
        for name, kept in {
            "fine1": fine,
            "mid1": mid,
            "deep1": deep,
            "deep2": deep,
            "mid2": mid,
            "fine2": fine,
        }.items():
            _block(getattr(narrow, name), getattr(network, name), twice.get(name, kept), kept)
        _attention(narrow.attention, network.attention, deep)
    return narrow.eval()


def _readers(network: CompactWorldNetwork) -> tuple[Tensor, Tensor, Tensor]:
    """How much each channel of the three levels is read: summed squares of the weights that take it in."""
    a, b, _ = network.config.widths
    into_fine, into_mid = _read(network.fine2.conv1), _read(network.mid2.conv1)
    fine = _read(network.fine1.conv1) + _read(network.down1) + into_fine[:a] + into_fine[a:] + _read(network.leave)
    mid = _read(network.mid1.conv1) + _read(network.down2) + into_mid[:b] + into_mid[b:] + _read(network.up1)
    deep = (
        _read(network.deep1.conv1) + _read(network.attention.qkv) + _read(network.deep2.conv1) + _read(network.up2)
    )  # fmt: skip
    return fine, mid, deep


def _read(layer: nn.Conv2d) -> Tensor:
    return layer.weight.detach().square().sum((0, 2, 3))


def _kept(importance: Tensor, width: int) -> Tensor:
    """Indices of the most read channels, as many of every group."""
    grouped = importance.view(GROUPS, -1)
    best = grouped.argsort(dim=1, descending=True)[:, : width // GROUPS].sort(dim=1).values
    return (best + torch.arange(GROUPS)[:, None] * grouped.shape[1]).flatten()


def _conv(new: nn.Conv2d, old: nn.Conv2d, out: Tensor | None, into: Tensor | None) -> None:
    weight, bias = old.weight, old.bias
    assert bias is not None
    assert new.bias is not None
    if out is not None:
        weight, bias = weight[out], bias[out]
    if into is not None:
        weight = weight[:, into]
    new.weight.copy_(weight)
    new.bias.copy_(bias)


def _norm(new: nn.GroupNorm, old: nn.GroupNorm, kept: Tensor) -> None:
    new.weight.copy_(old.weight[kept])
    new.bias.copy_(old.bias[kept])


def _block(new: FrameBlock, old: FrameBlock, into: Tensor, out: Tensor) -> None:
    channels = old.conv1.out_channels
    hidden = _kept(_read(old.conv2), len(out))
    _norm(new.norm1, old.norm1, into)
    _conv(new.conv1, old.conv1, hidden, into)
    _norm(new.norm2, old.norm2, hidden)
    _conv(new.conv2, old.conv2, out, hidden)
    rows = torch.cat((hidden, hidden + channels))
    new.film.weight.copy_(old.film.weight[rows])
    new.film.bias.copy_(old.film.bias[rows])
    if isinstance(old.skip, nn.Conv2d):
        assert isinstance(new.skip, nn.Conv2d)
        _conv(new.skip, old.skip, out, into)


def _attention(new: FrameAttention, old: FrameAttention, kept: Tensor) -> None:
    """Every head keeps its most used dimensions: those of the largest queries and keys, and the same of the values."""
    channels, heads = old.out.in_channels, old.heads
    size = old.qkv.weight.detach().square().sum((1, 2, 3)).view(3, heads, channels // heads).sum(0)
    best = size.argsort(dim=1, descending=True)[:, : len(kept) // heads].sort(dim=1).values
    inner = (best + torch.arange(heads)[:, None] * (channels // heads)).flatten()
    _norm(new.norm, old.norm, kept)
    _conv(new.qkv, old.qkv, torch.cat((inner, inner + channels, inner + 2 * channels)), kept)
    _conv(new.out, old.out, kept, inner)
