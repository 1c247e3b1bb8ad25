"""The loop that everyone writes: OpenCV capture, onnxruntime with its defaults,
supervision's annotators, a PyAV writer. What vidai is measured against.

    python benchmarks/naive.py INPUT OUTPUT MODEL.onnx [--records OUT.jsonl]
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import av
import cv2
import numpy as np
import onnxruntime
import supervision as sv

CONF, IOU = 0.35, 0.45


def preprocess(image: Any, size: int) -> tuple[Any, float]:
    ratio = min(size / image.shape[0], size / image.shape[1])
    height, width = int(image.shape[0] * ratio), int(image.shape[1] * ratio)
    padded = np.full((size, size, 3), 114, np.uint8)
    padded[:height, :width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    tensor = np.ascontiguousarray(padded.transpose(2, 0, 1)[None], np.float32)
    return tensor, ratio


def grid_and_strides(size: int) -> tuple[Any, Any]:
    grids, strides = [], []
    for stride in (8, 16, 32):
        n = size // stride
        xv, yv = np.meshgrid(np.arange(n), np.arange(n))
        grids.append(np.stack((xv, yv), 2).reshape(-1, 2))
        strides.append(np.full((n * n, 1), stride))
    return np.concatenate(grids), np.concatenate(strides)


def postprocess(output: Any, grids: Any, strides: Any, ratio: float) -> sv.Detections:
    predictions = output[0]
    centres = (predictions[:, :2] + grids) * strides
    sizes = np.exp(predictions[:, 2:4]) * strides
    boxes = np.concatenate((centres - sizes / 2, centres + sizes / 2), 1) / ratio
    scores = predictions[:, 4:5] * predictions[:, 5:]
    class_ids = scores.argmax(1)
    confidence = scores.max(1)
    keep = confidence >= CONF
    found = sv.Detections(xyxy=boxes[keep], confidence=confidence[keep], class_id=class_ids[keep])
    return found.with_nms(IOU)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("model")
    parser.add_argument("--records")
    options = parser.parse_args()

    capture = cv2.VideoCapture(options.input)
    fps = capture.get(cv2.CAP_PROP_FPS)
    width = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
    height = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    session = onnxruntime.InferenceSession(options.model)
    name, size = session.get_inputs()[0].name, session.get_inputs()[0].shape[2]
    grids, strides = grid_and_strides(size)
    boxes, labels = sv.BoxAnnotator(), sv.LabelAnnotator()
    container = av.open(options.output, "w")
    stream = container.add_stream("libx264", rate=round(fps))
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.options = {"preset": "veryfast", "crf": "23"}
    records = open(options.records, "w") if options.records else None  # noqa: SIM115

    index = 0
    while True:
        ok, image = capture.read()
        if not ok:
            break
        tensor, ratio = preprocess(image, size)
        found = postprocess(session.run(None, {name: tensor})[0], grids, strides, ratio)
        if records:
            rows = [
                {"box": box.tolist(), "score": float(score), "class_id": int(class_id)}
                for box, score, class_id in zip(
                    found.xyxy, found.confidence, found.class_id, strict=True
                )
            ]
            records.write(json.dumps({"frame": index, "detections": rows}) + "\n")
        image = boxes.annotate(image, found)
        image = labels.annotate(
            image,
            found,
            [f"{c} {s:.2f}" for c, s in zip(found.class_id, found.confidence, strict=True)],
        )
        for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")):
            container.mux(packet)
        index += 1
    for packet in stream.encode():
        container.mux(packet)
    container.close()
    if records:
        records.close()
    print(f"{index} frames")


if __name__ == "__main__":
    main()
