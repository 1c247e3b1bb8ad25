"""CenterFace (Xu et al., 2019): faces as points of a heat map of stride 4.

Four outputs: heat map (N,1,h,w), sizes (N,2,h,w), offsets (N,2,h,w) and five landmarks
(N,10,h,w), which are not used.
"""

from __future__ import annotations

from typing import Any

from vidai.device import Device
from vidai.models.model import Model
from vidai.models.onnx_file import OnnxFile
from vidai.ops.candidates import Candidates, View, candidates
from vidai.types import InputSpec

NAME = "centerface"


def matches(file: OnnxFile) -> bool:
    dims = [output.dims for output in file.outputs]
    return all(len(d) == 4 for d in dims) and [d[1] for d in dims] == [1, 2, 2, 10]


def load(file: OnnxFile) -> Model:
    # The published file declares 10 pictures of 32 × 32, and runs with any number and size.
    dims = {t.name: ("N", t.dims[1], "h", "w") for t in file.outputs}
    dims[file.inputs[0].name] = ("N", 3, "H", "W")
    return CenterFace(
        name=file.name,
        spec=InputSpec(0, 0, place="stretch", dtype=file.dtype, multiple=32, longest=960),
        names=("face",),
        onnx=file.with_symbolic_dims(dims),
    )


class CenterFace(Model):
    """Pictures are RGB, 0–255, of any size in multiples of 32."""

    def candidates(
        self, device: Device, outputs: list[Any], size: tuple[int, int], conf: float
    ) -> list[Candidates]:
        heat, sizes, offsets, _ = outputs
        pictures, _, rows, columns = heat.shape
        cells = rows * columns
        return candidates(
            device,
            pictures=pictures,
            anchors=cells,
            classes=1,
            boxes=View(sizes, 0, 1, cells, 2 * cells),
            scores=View(heat, 0, 1, cells, cells),
            offsets=View(offsets, 0, 1, cells, 2 * cells),
            coding="centerface",
            size=size,
            conf=conf,
        )
