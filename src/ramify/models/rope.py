"""Rotary positions: the frequencies a config asks for, and the rotation itself.

Shapes: T tokens, H heads, d head_dim, r rotated pairs (2r <= d).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ramify.errors import ModelError

ROPE_TYPES = ("default", "dynamic", "linear", "llama3", "longrope", "yarn")


@dataclass(slots=True, frozen=True)
class Rope:
    """Radians per position of every rotated pair, and the factor on cos and sin.

    `max_positions` is how far these frequencies hold.
    """

    inv_freq: tuple[float, ...]
    scale: float
    max_positions: int


def parse_rope(raw: Mapping[str, Any], head_dim: int) -> Rope:
    """The rotation described by a Hugging Face config, `rope_parameters` (new) or `rope_theta` and `rope_scaling`.

    Two kinds change their frequencies with the length of the text: "dynamic" and "longrope". Keys already in
    the cache would be wrong after the change, so only their first regime is offered and `max_positions` ends
    with it.

    Raises:
        ModelError: an unknown kind of scaling, or one that lacks a number.
    """
    spec = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    kind = spec.get("rope_type", spec.get("type", "default"))
    kind = "longrope" if "short_factor" in spec else kind  # Phi-3 also called it "su" and "yarn"
    theta = spec.get("rope_theta", raw.get("rope_theta", 10_000.0))
    partial = spec.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0))
    longest = raw.get("max_position_embeddings", 2048)
    original = raw.get("original_max_position_embeddings") or spec.get("original_max_position_embeddings", longest)
    dim = int(head_dim * partial)
    # float32 throughout, as the weights were trained with
    inv_freq = 1.0 / (theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
    scale = 1.0
    try:
        if kind == "linear":
            inv_freq = inv_freq / spec["factor"]
        elif kind == "llama3":
            inv_freq = _llama3(inv_freq, spec, original)
        elif kind == "yarn":
            inv_freq, scale = _yarn(theta, dim, spec, original, longest)
            longest = max(longest, int(original * (spec.get("factor") or 1)))
        elif kind == "longrope":
            inv_freq = inv_freq / torch.tensor(spec["short_factor"], dtype=torch.float32)
            scale = _longrope_scale(spec, original, longest)
            longest = min(longest, original)
        elif kind not in ("default", "dynamic"):
            raise ModelError(f"a rope type among {', '.join(ROPE_TYPES)}", repr(kind), "use another model")
    except KeyError as missing:
        raise ModelError(f"{missing} in the rope parameters of kind {kind!r}", str(spec), "mend config.json") from None
    return Rope(tuple(inv_freq.tolist()), scale, longest)


def _llama3(inv_freq: Tensor, spec: Mapping[str, Any], original: int) -> Tensor:
    """Slow pairs are divided by `factor`, fast ones kept, those between blended (Llama 3.1)."""
    factor, low, high = spec["factor"], spec["low_freq_factor"], spec["high_freq_factor"]
    wavelength = 2 * math.pi / inv_freq
    blend = ((original / wavelength - low) / (high - low)).clamp(0, 1)
    return (1 - blend) * inv_freq / factor + blend * inv_freq


def _yarn(theta: float, dim: int, spec: Mapping[str, Any], original: int, longest: int) -> tuple[Tensor, float]:
    """Pairs that turn less than `beta_slow` times in the original window are divided by `factor` (2309.00071)."""
    factor = spec.get("factor") or longest / original

    def pair_that_turns(times: float) -> float:
        return dim * math.log(original / (times * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_that_turns(spec.get("beta_fast") or 32), pair_that_turns(spec.get("beta_slow") or 1)
    if spec.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (max(high - low, 0.001))).clamp(0, 1)
    freq = theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    inv_freq = 1.0 / (factor * freq) * ramp + 1.0 / freq * (1 - ramp)

    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    scale = spec.get("attention_factor")
    if scale is None:
        top, bottom = spec.get("mscale"), spec.get("mscale_all_dim")
        scale = mscale(top) / mscale(bottom) if top and bottom else mscale(1.0)
    return inv_freq, scale


def _longrope_scale(spec: Mapping[str, Any], original: int, longest: int) -> float:
    """The factor on cos and sin that keeps attention as sharp as in the original window (2402.13753)."""
    given = spec.get("attention_factor")
    factor = spec.get("factor") or longest / original
    if given is not None:
        return float(given)
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


def angles(inv_freq_r: Tensor, scale: float, positions_T: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos_T1c and signed sin_T1c of the c = 2r rotated channels, in float32 (float64 for a float64 model) at first."""
    wide = torch.promote_types(dtype, torch.float32)
    angle_T1r = positions_T.to(wide)[:, None, None] * inv_freq_r.to(wide)
    cos_T1r, sin_T1r = (angle_T1r.cos() * scale).to(dtype), (angle_T1r.sin() * scale).to(dtype)
    return torch.cat((cos_T1r, cos_T1r), -1), torch.cat((-sin_T1r, sin_T1r), -1)


def rotate(x_THd: Tensor, cos_T1c: Tensor, sin_T1c: Tensor) -> Tensor:
    """Turn pair i, which is channels (i, i + r), by its angle; channels beyond c = 2r pass through."""
    c = cos_T1c.shape[-1]
    turned = x_THd[..., :c]
    turned = torch.addcmul(turned * cos_T1c, turned.roll(c // 2, -1), sin_T1c)
    return turned if c == x_THd.shape[-1] else torch.cat((turned, x_THd[..., c:]), -1)
