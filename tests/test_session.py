from __future__ import annotations

from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from tests.surfaces import cpu
from tests.tiny_model import picture, write_tiny_model
from vidai.device import Device
from vidai.devices.cpu.session import OnnxSession
from vidai.errors import ModelError


@pytest.fixture
def model(tiny_model: Path) -> bytes:
    return tiny_model.read_bytes()


def as_input(rgb: np.ndarray, dtype: str = "float32") -> np.ndarray:
    return np.ascontiguousarray(rgb[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(dtype))


def test_gives_the_raw_outputs_of_every_picture(device: Device, model: bytes) -> None:
    batch = np.concatenate([as_input(picture([(8, 16, c)])) for c in range(3)])
    (output,) = device.session(model).run(batch)
    assert output.shape == (3, 336, 8)
    best = output[:, :, 5:].argmax(axis=1)
    assert [best[c, c] for c in range(3)] == [2 * 16 + 1] * 3
    assert [output[c, 33, 5 + c] for c in range(3)] == pytest.approx([1, 1, 1])


def test_runs_float16_models(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "half.onnx", dtype="float16")
    session = OnnxSession(cpu(), (tmp_path / "half.onnx").read_bytes())
    (output,) = session.run(as_input(picture([(0, 0, 2)]), "float16"))
    assert output.dtype == np.float16
    assert output[0, 0, 7] == pytest.approx(1, abs=0.01)


def test_sessions_run_side_by_side(model: bytes) -> None:
    results: dict[int, np.ndarray] = {}

    def work(class_id: int) -> None:
        session = OnnxSession(cpu(), model)
        for _ in range(20):
            (results[class_id],) = session.run(as_input(picture([(0, 0, class_id)])))

    threads = [Thread(target=work, args=(c,)) for c in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [int(results[c][0, 0, 5:].argmax()) for c in range(3)] == [0, 1, 2]


def test_a_damaged_model_is_a_model_error(model: bytes) -> None:
    with pytest.raises(ModelError, match=r"cannot load the model: .*protobuf"):
        OnnxSession(cpu(), model[: len(model) // 2])


def test_an_input_of_the_wrong_size_is_a_model_error(model: bytes) -> None:
    with pytest.raises(ModelError, match=r"float32 input of shape \(1, 3, 64, 64\)"):
        OnnxSession(cpu(), model).run(np.zeros((1, 3, 64, 64), np.float32))
