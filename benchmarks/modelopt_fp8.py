"""Quantise an ONNX model to FP8 with NVIDIA ModelOpt: what benchmarks/fp8.py compares with.

    PYTHON benchmarks/modelopt_fp8.py MODEL.onnx PICTURES.npy OUT.onnx max|entropy

PICTURES.npy: float32 (N, 3, height, width). PYTHON is that of an environment of its own, since
ModelOpt needs torch and other versions of onnx and onnxruntime than vidai; a CPU is enough:

    python3 -m venv modelopt
    modelopt/bin/pip install torch==2.13.0 nvidia-modelopt==0.47.0 "onnx~=1.21.0" \
        "onnxruntime~=1.24.2" "onnx-graphsurgeon>=0.6.1" "onnxconverter-common~=1.16.0" \
        "onnxslim>=0.1.76" "polygraphy>=0.53.4" lief ml_dtypes onnxscript cppimport
"""

from __future__ import annotations

import sys

import numpy as np
import onnx
from modelopt.onnx.quantization import quantize


def main() -> None:
    model, pictures, out, method = sys.argv[1:]
    quantize(
        model,
        quantize_mode="fp8",
        calibration_data={onnx.load(model).graph.input[0].name: np.load(pictures)},
        calibration_method=method,
        calibration_eps=["cpu"],
        output_path=out,
        log_level="WARNING",
    )


if __name__ == "__main__":
    main()
