"""One layer in eight bits: its input's scale and centre, its weights, its bias.

What the rounding does to a layer's output is known from the columns that it was shown: the error
of the output is W E for an error E of the columns, and (W - W') X for one of the weights. Three
things make it small, each where it is:

- The input is *centred*: the mean of each channel is subtracted before rounding, and what it
  contributes is added to the bias. A float's rounding error is a part of its magnitude, so a large
  mean makes noise without carrying information. Only for layers that pad nothing, where this
  is exact, and only where it pays.
- The weights are rounded one input at a time, and what each one's rounding does to the output is
  taken up by those still to come (GPTQ: Frantar et al., 2023, arXiv 2210.17323).
- The bias takes the mean of the error that is left (Nagel et al., 2019, arXiv 1906.04721).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vidai.quantization.calibration import Seen
from vidai.quantization.formats import Format
from vidai.quantization.graph import Layer, Network

Array = npt.NDArray[Any]

PAYS = 0.5  # of the error without it: centring costs a subtraction a value
BLOCK = 128  # inputs
DAMPING = 0.03  # of the mean variance, added to every input's


@dataclass(frozen=True)
class QuantizedLayer:
    """scale: of the input, float32. centre: (channels,) float32 to subtract from it, empty for
    none. codes: of the weights, in their own shape. weight_scales, bias: (outputs,) float32."""

    scale: Array
    centre: Array
    codes: Array
    weight_scales: Array
    bias: Array


def quantized(network: Network, layer: Layer, seen: Seen, form: Format) -> QuantizedLayer:
    """The layer in eight bits. seen: of its input, on the calibration pictures."""
    weights = network.matrix(layer)
    plain = _input(weights, seen, form, np.zeros(0, np.float32))
    best = plain
    if layer.pointwise:
        centre = seen.mean.astype(form.rest).astype(np.float32)
        centred = _input(weights, seen, form, centre)
        if centred.error < PAYS * plain.error:
            best = centred
    shown, mean = best.rounded, best.rounded.mean(1, keepdims=True, dtype=np.float64)
    weight_scales = _weight_scales(weights, form)
    rounded = compensated(weights, shown - mean.astype(np.float32), weight_scales, form)
    off = weights @ seen.columns.mean(1, dtype=np.float64)
    off -= (rounded * weight_scales[:, None]) @ mean[:, 0]
    codes = form.encoded(rounded).reshape(layer.outputs, *layer.others)
    return QuantizedLayer(
        scale=best.scale,
        centre=best.centre,
        codes=np.moveaxis(codes, 0, layer.axis),
        weight_scales=weight_scales,
        bias=(network.bias(layer) + off).astype(np.float32),
    )


@dataclass(frozen=True)
class _Input:
    """A choice of scale and centre: the columns after rounding, and the output's error."""

    scale: Array
    centre: Array
    rounded: Array
    error: float


def _input(weights: Array, seen: Seen, form: Format, centre: Array) -> _Input:
    """The best scale for a centre (empty for none)."""
    shift = centre if len(centre) else np.zeros(len(seen.mean), np.float32)
    largest = np.maximum(np.abs(seen.high - shift), np.abs(seen.low - shift)).max()
    exact = seen.columns - np.repeat(shift, len(seen.columns) // len(shift))[:, None]
    weights = weights.astype(np.float32)  # as wide as the columns, which are many
    tried = []
    for clip in form.input_clips:
        scale = form.scale(largest * clip)
        rounded = form.rounded(exact / scale) * scale
        error = rounded - exact
        error -= error.mean(1, keepdims=True)  # which the bias takes
        tried.append(_Input(scale, centre, rounded, float(np.square(weights @ error).sum())))
    return min(tried, key=lambda choice: choice.error)


def _weight_scales(weights: Array, form: Format) -> Array:
    """(outputs,) float32: for each row of the weights the one that rounds it best on its own."""
    largest = np.abs(weights).max(1)
    scales = np.stack([form.scale(largest * clip) for clip in form.weight_clips])
    steps = scales[:, :, None].astype(np.float64)
    errors = np.square(form.rounded(weights / steps) * steps - weights).sum(2)
    best: Array = scales[errors.argmin(0), np.arange(len(weights))]
    return best


def compensated(weights: Array, columns: Array, scales: Array, form: Format) -> Array:
    """(outputs, inputs) float64: numbers of the format, whose products with the scales are the
    weights.

    columns: (inputs, samples), of mean 0. scales: (outputs,). Inputs go in the order of their
    variance, largest first, and in blocks: within one each repairs the next, those behind it are
    repaired by the block as a whole.
    """
    covariance = (columns @ columns.T / columns.shape[1]).astype(np.float64)
    covariance += np.eye(len(covariance)) * max(DAMPING * np.diag(covariance).mean(), 1e-12)
    order = np.argsort(-np.diag(covariance), kind="stable")
    inverse = np.linalg.inv(covariance[np.ix_(order, order)])
    follow = np.linalg.cholesky((inverse + inverse.T) / 2).T  # upper: who takes up whose error
    left = weights[:, order]
    steps = scales.astype(np.float64)
    rounded, errors = np.empty_like(left), np.empty_like(left)
    for first in range(0, len(order), BLOCK):
        block = slice(first, first + BLOCK)
        for place in range(len(order))[block]:
            rounded[:, place] = form.rounded(left[:, place] / steps)
            errors[:, place] = left[:, place] - rounded[:, place] * steps
            errors[:, place] /= follow[place, place]
            left[:, place : block.stop] -= np.outer(
                errors[:, place], follow[place, place : block.stop]
            )
        left[:, block.stop :] -= errors[:, block] @ follow[block, block.stop :]
    return rounded[:, np.argsort(order)]
