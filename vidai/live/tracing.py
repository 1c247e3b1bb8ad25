"""Where the time of single frames goes, for a collector of OpenTelemetry."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING

from vidai.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

PATH = "v1/traces"  # OTLP's own, after a collector's address
SHARE = 0.01  # of all frames
SLOW = 1.0  # s that a frame takes to be told of in any case
SLOW_RATE = 5.0  # slow frames a second that are told of; in overload all are slow
QUEUE = 2048  # spans that wait for the collector; then the oldest go
TIMEOUT = 5.0  # s for the collector to take a batch
PATIENCE = 1.0  # s for the last batch when all ends, and as long again to give up

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def open(endpoint: str | None = None, *, share: float = SHARE, slow: float = SLOW) -> Tracer | None:  # noqa: A001
    """A tracer that sends to a collector by OTLP over HTTP; None where no collector is named.

    endpoint: its address, as http://collector:4318; None: as OpenTelemetry's own environment
    variables say, which also set headers, certificates and the service's name. share: of frames
    that are told of, 0–1. slow: s from a frame's arrival to its end beyond which it is told of
    too. Raises ConfigError for an address that is none, and where the package is missing.
    """
    if endpoint is None and not any(os.environ.get(name) for name in _ENDPOINTS):
        return None
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise ConfigError(
            "the address for traces must begin with http:// or https://, as http://collector:4318"
        )
    if not 0 <= share <= 1:
        raise ConfigError(f"the share of traced frames is from 0 to 1, not {share}")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"traces need the package {error.name}: pip install 'vidai[otel]'"
        ) from error
    exporter = OTLPSpanExporter(None if endpoint is None else _whole(endpoint), timeout=TIMEOUT)
    about = {"service.version": version("vidai")}
    if "OTEL_SERVICE_NAME" not in os.environ:
        about["service.name"] = "vidai"
    provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=QUEUE))
    return Tracer(provider, exporter, share, slow)


def _whole(endpoint: str) -> str:
    endpoint = endpoint.rstrip("/")
    return endpoint if endpoint.endswith(PATH) else f"{endpoint}/{PATH}"


class Tracer:
    """Tells a collector of some frames. A collector that is away costs nothing but those."""

    def __init__(
        self, provider: TracerProvider, exporter: SpanExporter, share: float, slow: float
    ) -> None:
        self._provider, self._exporter = provider, exporter
        self._tracer = provider.get_tracer("vidai")
        self._share, self._slow = share, slow
        self._random = random.Random()
        self._slow_before = float("-inf")

    def frame(self, stream: str, number: int, stages: Mapping[str, tuple[float, float]]) -> None:
        """One frame is through. stages: when each began and ended, in s of time.monotonic, by
        its name ("decode", "wait", "detect", "draw", "encode", "sinks"). From any thread."""
        if not stages:
            return
        begin = min(began for began, _ in stages.values())
        end = max(ended for _, ended in stages.values())
        if self._random.random() >= self._share and not self._is_told_slow(end - begin, end):
            return
        from opentelemetry.trace import set_span_in_context

        epoch = time.time_ns() - time.monotonic_ns()
        attributes: dict[str, str | int] = {"vidai.stream": stream, "vidai.frame": number}
        span = self._tracer.start_span(
            "frame", attributes=attributes, start_time=epoch + round(begin * 1e9)
        )
        context = set_span_in_context(span)
        for name, (began, ended) in stages.items():
            child = self._tracer.start_span(
                name, context=context, start_time=epoch + round(began * 1e9)
            )
            child.end(epoch + round(ended * 1e9))
        span.end(epoch + round(end * 1e9))

    def _is_told_slow(self, seconds: float, now: float) -> bool:
        if seconds < self._slow or now - self._slow_before < 1 / SLOW_RATE:
            return False
        self._slow_before = now
        return True

    def close(self) -> None:
        """Send what waits; takes twice PATIENCE at most."""
        # The SDK would wait half a minute for a collector that is away.
        last = threading.Thread(
            target=self._provider.shutdown, name="vidai-traces-close", daemon=True
        )
        last.start()
        last.join(PATIENCE)
        if last.is_alive():
            self._exporter.shutdown()  # ends the waiting between two attempts
            last.join(PATIENCE)
