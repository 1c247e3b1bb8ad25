"""A stream's pictures, drawn and encoded while some output wants them."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import av
from av.container import OutputContainer

from vidai.device import Device, Encoder, EncoderSettings
from vidai.live.outlet import Outlet
from vidai.live.output import Media, Sample
from vidai.steps import Redact, Step
from vidai.types import Detections, Frame, StreamInfo


class Times(NamedTuple):
    """When drawing and encoding began and ended, s of time.monotonic."""

    drawing: tuple[float, float]
    encoding: tuple[float, float]


class Annotated:
    """Used by one thread, but for `sound`."""

    def __init__(
        self,
        device: Device,
        steps: Sequence[Step],
        settings: EncoderSettings,
        outlets: Sequence[Outlet],
    ) -> None:
        self._device = device
        # Where something is to be made unrecognisable, a picture in which nobody looked for it
        # is not shown.
        self.discreet = any(isinstance(step, Redact) for step in steps)
        self._steps = steps
        self._settings = settings
        self._outlets = [o for o in outlets if o.output.pictures == "annotated"]
        self._encoder: Encoder | None = None
        self._home: OutputContainer | None = None  # the encoder's stream needs one
        self._info: StreamInfo | None = None
        self._camera: Media | None = None

    def draw(self, frame: Frame, detections: Detections) -> Frame:
        """The frame after all steps."""
        for step in self._steps:
            frame = step(frame, detections)
        return frame

    def show(self, frame: Frame, detections: Detections, camera: Media) -> Times | None:
        """Draw, encode and give away; None where nobody wants it. camera: the connection that
        the frame is from; its sound goes with the pictures."""
        if not any(outlet.output.wanted for outlet in self._outlets):
            self.end()
            return None
        if self._info != frame.info or self._camera is not camera:
            self.end()
            self._begin(frame.info, camera)
        assert self._encoder is not None
        began = time.monotonic()
        drawn = self.draw(frame, detections)
        between = time.monotonic()
        self._give(self._encoder.encode(drawn))
        return Times((began, between), (between, time.monotonic()))

    def sound(self, sample: Sample, camera: Media) -> None:
        """A packet of the camera's sound, in the reader's thread."""
        if self._camera is camera:
            for outlet in self._outlets:
                outlet.sample(sample)

    def end(self) -> None:
        """Until the next frame."""
        encoder, self._encoder = self._encoder, None
        self._info = self._camera = None
        if encoder is None:
            return
        try:
            self._give(encoder.encode(None))
        finally:
            self._home = None
            for outlet in self._outlets:
                outlet.end()

    def _begin(self, info: StreamInfo, camera: Media) -> None:
        encoder = self._device.encoder(info, self._settings)
        home = av.open(io.BytesIO(), "w", format="mp4")
        video = encoder.add_to(home)
        if video.codec_context is not None:
            home.start_encoding()  # this also fills in what outputs take from the stream
        media = Media(replace(info, codec=self._settings.codec), video, camera.audio)
        for outlet in self._outlets:
            outlet.begin(media)
        self._encoder, self._home, self._info, self._camera = encoder, home, info, camera

    def _give(self, packets: Sequence[av.Packet]) -> None:  # type: ignore[type-arg]
        for packet in packets:
            assert packet.pts is not None
            dts = packet.pts if packet.dts is None else packet.dts
            sample = Sample(packet, "video", packet.pts, dts)
            for outlet in self._outlets:
                outlet.sample(sample)
