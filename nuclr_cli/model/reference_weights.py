"""Take weights under the names of the official NuCLR implementation (nerdslab/nuclr)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, get_args

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nuclr_cli.errors import InputError
from nuclr_cli.model.config import LossConfig, ModelConfig, TokenKind
from nuclr_cli.model.encoder import Encoder
from nuclr_cli.model.losses import DecoupledContrastiveLoss

State = Mapping[str, NDArray[Any] | Tensor]

# Official position of each layer in its block. In a spatiotemporal block the population layers stand second,
# yet run first.
_OFFICIAL_PLACE = {
    "temporal.attention": "0",
    "temporal.feed_forward": "1",
    "population.attention": "2",
    "population.feed_forward": "3",
}
_OFFICIAL_EVENT_PLACE = {
    "temporal.attention": "0",
    "temporal.events": "1",
    "temporal.feed_forward": "2",
    "population.attention": "3",
    "population.events": "4",
    "population.feed_forward": "5",
}
_OFFICIAL = {
    "events.attention": "cross_attn",
    "events.feed_forward": "cross_ffn",
    "temporal_blocks": "t_blocks",
    "spatiotemporal_blocks": "st_blocks",
    "qkv.weight": "to_qkv.weight",
    "qkv.bias": "to_qkv.bias",
    "query.weight": "to_q.weight",
    "query.bias": "to_q.bias",
    "content": "to_kv.bias",
    "out.weight": "to_out.weight",
    "out.bias": "to_out.bias",
    "up.weight": "in_proj.weight",
    "up.bias": "in_proj.bias",
    "down.weight": "out_proj.weight",
    "down.bias": "out_proj.bias",
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
    "events.omega": "rotary_emb.omega",
    "events.latent_times": "latent_times",
}
_OUR_LAYER = re.compile(r"(\w+_blocks)\.(\d+)\.(\w+\.\w+)\.(.+)")
_OUR_EVENT_LAYER = re.compile(r"(events\.\w+)\.(.+)")
_UNUSED = ".to_kv.weight"  # would multiply the content of a spike, which is zero
_FIX = "Pass that part of the official checkpoint alone, its names without the prefix 'encoder.' or 'loss.'."


def encoder_from_reference(
    state: State, tokens: Literal["counts", "calcium", "events"] = "counts", *, heads: int, head_dim: int
) -> Encoder:
    """Make the encoder that holds the official implementation's weights.

    Widths and numbers of layers are read off the weights; the rotary frequencies are taken as they stand.

    Args:
        state: Official names, without the prefix ``encoder.``, to arrays or tensors.
        tokens: Token kind the weights were trained on. Of ``events`` the weights that would multiply the
            content of a spike, which is zero, are left out.
        heads: Attention heads.
        head_dim: Width of a head.

    Returns:
        The encoder in eval mode on the CPU, float64 if the state holds float64, else float32.

    Raises:
        InputError: Names are missing or unknown, shapes do not fit each other, or the token kind is not
            supported.
    """
    if tokens not in get_args(TokenKind):
        supported = " or ".join(repr(kind) for kind in get_args(TokenKind))
        raise InputError(
            f"Official weights for {tokens!r} tokens cannot be taken.", f"Supported: {supported}."
        )
    tensors = _tensors(state)
    official_name: Callable[[str], str] = _official_name
    if tokens == "events":
        config = _event_config_of(tensors, heads, head_dim)
        tensors = {name: value for name, value in tensors.items() if not name.endswith(_UNUSED)}
        official_name = partial(_official_name, places=_OFFICIAL_EVENT_PLACE)
    else:
        config = _config_of(tensors, tokens, heads, head_dim)
    with torch.device("meta"):  # one wrong size may ask for more memory than there is
        _check_fit(Encoder(config), tensors, official_name)
    encoder = Encoder(config)
    _load(encoder, tensors, official_name)
    return encoder.eval()


def unused_of_reference(state: State, tokens: TokenKind) -> tuple[str, ...]:
    """Official names that `encoder_from_reference` leaves out, sorted."""
    return tuple(sorted(name for name in state if tokens == "events" and name.endswith(_UNUSED)))


def heads_of_reference(state: State) -> tuple[int, int]:
    """Number and width of the attention heads, read off the weights: one frequency serves two dimensions.

    Args:
        state: As `encoder_from_reference`.

    Raises:
        InputError: There are no frequencies or no attention among the weights, or they do not fit each other.
    """
    tensors = _tensors(state)
    head_dim = 2 * _shape(tensors, "rotary_emb.omega", 1)[0]
    attention = next((name for name in sorted(tensors) if name.endswith(".to_qkv.weight")), None)
    if attention is None:
        raise InputError(f"The weights have no attention; found {_some(sorted(tensors))}.", _FIX)
    inner, left = divmod(_shape(tensors, attention, 2)[0], 3)
    if left or not inner or inner % head_dim:
        raise InputError(
            f"{attention} has {3 * inner + left} rows, which is not 3 times a number of heads of {head_dim} "
            "(twice the length of rotary_emb.omega).",
            _FIX,
        )
    return inner // head_dim, head_dim


def loss_from_reference(state: State, tau: float = 0.2) -> DecoupledContrastiveLoss:
    """Make the loss that holds the official implementation's projector.

    Args:
        state: Official names, without the prefix ``loss.``, to arrays or tensors.
        tau: Temperature of similarities between the views.

    Returns:
        The loss in eval mode on the CPU, float64 if the state holds float64, else float32.

    Raises:
        InputError: Names are missing or unknown, or shapes do not fit each other.
    """
    tensors = _tensors(state)
    loss = DecoupledContrastiveLoss(_shape(tensors, "projector.1.weight", 2)[1], LossConfig(tau=tau))
    _load(loss, tensors, str)
    return loss.eval()


def _tensors(state: State) -> dict[str, Tensor]:
    return {
        name: value.detach() if isinstance(value, Tensor) else torch.tensor(value)
        for name, value in state.items()
    }


def _shape(tensors: Mapping[str, Tensor], name: str, n_axes: int) -> tuple[int, ...]:
    if name not in tensors:
        raise InputError(f"The weights lack {name}; found {_some(sorted(tensors))}.", _FIX)
    shape = tuple(tensors[name].shape)
    if len(shape) != n_axes or 0 in shape:
        raise InputError(f"{name} has shape {shape}; it must have {n_axes} axes, none empty.", _FIX)
    return shape


def _config_of(tensors: Mapping[str, Tensor], kind: TokenKind, heads: int, head_dim: int) -> ModelConfig:
    """Read the sizes off the weights; what does not fit them is found when they are loaded."""
    dim, samples = _shape(tensors, "read_in.weight", 2)
    turning = _turning(tensors)
    # Periods run from 1 patch to 8 windows, so the slowest pair tells the window's length.
    patches = (
        round(2 * math.pi / min(turning) / 8) if len(turning) > 1 else getattr(ModelConfig, f"{kind}_patches")
    )
    sizes: dict[str, Any] = {f"{kind}_samples": samples, f"{kind}_patches": patches}
    return ModelConfig(tokens=(kind,), **sizes, **_trunk_sizes(tensors, dim, turning, heads, head_dim))


def _event_config_of(tensors: Mapping[str, Tensor], heads: int, head_dim: int) -> ModelConfig:
    """As `_config_of`, of spike events."""
    if "latent_times" not in tensors:
        raise InputError(
            f"These are no weights of an encoder of spike events; found {_some(sorted(tensors))}.", _FIX
        )
    dim, _ = _shape(tensors, "cross_attn.to_out.weight", 2)
    (n_latents,) = _shape(tensors, "latent_times", 1)
    times = tensors["latent_times"].double()
    return ModelConfig(
        tokens=("events",),
        events_latents=n_latents,
        events_window_s=float(times[0] + times[-1]),  # half a spacing is left at either end
        **_trunk_sizes(tensors, dim, _turning(tensors), heads, head_dim),
    )


def _turning(tensors: Mapping[str, Tensor]) -> list[float]:
    """Frequencies of the pairs that turn."""
    _shape(tensors, "rotary_emb.omega", 1)
    return [omega for omega in tensors["rotary_emb.omega"].tolist() if omega > 0]


def _trunk_sizes(
    tensors: Mapping[str, Tensor], dim: int, turning: list[float], heads: int, head_dim: int
) -> dict[str, Any]:
    up = next((name for name in sorted(tensors) if name.endswith(".in_proj.weight")), None)
    return {
        "dim": dim,
        "heads": heads,
        "head_dim": head_dim,
        "temporal_layers": _n_blocks(tensors, "t_blocks"),
        "spatiotemporal_layers": _n_blocks(tensors, "st_blocks"),
        "ffn_mult": 1 if up is None else max(1, _shape(tensors, up, 2)[0] // (2 * dim)),
        "rotary_fraction": min(1.0, 2 * len(turning) / head_dim) if head_dim else 0.0,
    }


def _n_blocks(tensors: Mapping[str, Tensor], blocks: str) -> int:
    indices = {match[1] for match in (re.match(rf"{blocks}\.(\d+)\.", name) for name in tensors) if match}
    return len(indices)


def _official_name(ours: str, places: Mapping[str, str] = _OFFICIAL_PLACE) -> str:
    """Translate a name of our encoder's state dict; `places` are those of the layers in a block."""
    if match := _OUR_LAYER.fullmatch(ours):
        blocks, index, place, parameter = match.groups()
        return ".".join((_OFFICIAL[blocks], index, places[place], _OFFICIAL[parameter]))
    if ours in _OFFICIAL:
        return _OFFICIAL[ours]
    if match := _OUR_EVENT_LAYER.fullmatch(ours):
        return f"{_OFFICIAL[match[1]]}.{_OFFICIAL[match[2]]}"
    prefix, _, parameter = ours.rpartition(".")
    return f"rotary_emb.{parameter}" if prefix.startswith("rotary.") else f"read_in.{parameter}"


def _load(module: nn.Module, tensors: Mapping[str, Tensor], official_name: Callable[[str], str]) -> None:
    """Copy `tensors` into `module`, all of them and nothing else.

    Raises:
        InputError: As `_check_fit`.
    """
    ours = _check_fit(module, tensors, official_name)
    double = any(value.dtype == torch.float64 for value in tensors.values())
    module.to(torch.float64 if double else torch.float32)
    module.load_state_dict({ours[official]: value for official, value in tensors.items()})


def _check_fit(
    module: nn.Module, tensors: Mapping[str, Tensor], official_name: Callable[[str], str]
) -> dict[str, str]:
    """Official name -> name in `module`, whose numbers are not looked at.

    Raises:
        InputError: Names are missing, unknown, or of another shape; the message lists them.
    """
    ours = {official_name(name): name for name in module.state_dict()}
    expected = {official: tuple(module.state_dict()[name].shape) for official, name in ours.items()}
    problems = []
    if missing := sorted(expected.keys() - tensors.keys()):
        problems.append(f"missing: {_some(missing)}")
    if unexpected := sorted(tensors.keys() - expected.keys()):
        problems.append(f"unexpected: {_some(unexpected)}")
    misshapen = [
        f"{name} {tuple(tensors[name].shape)}, not {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if misshapen:
        problems.append(f"of another shape: {_some(misshapen)}")
    if problems:
        raise InputError(f"The weights do not fit: {'; '.join(problems)}.", _FIX)
    return ours


def _some(names: list[str]) -> str:
    """List the first few of `names`."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more
