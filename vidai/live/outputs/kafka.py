"""Records to Kafka, acknowledged by all replicas."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from vidai.errors import ConfigError, SinkError
from vidai.live.output import Output, Place
from vidai.live.spool import TIMEOUT, Refused, Spooled, SpoolOptions, Waiting, topic_of

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message, Producer

TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
GREETING = 1.0  # s that is waited for a broker at a time
SLICE = 0.1  # s that a wait lasts at most before it is seen whether the output closes
OURS = ("acks", "bootstrap.servers", "enable.idempotence", "message.timeout.ms")
REFUSED = re.compile(r"Connect to \S*?#?([^#\s]+) failed: Connection refused")
# What librdkafka would say at every attempt is in the output's state.
SILENCE = logging.Logger("librdkafka", logging.CRITICAL + 1)


class Options(SpoolOptions):
    """Where records go: JSON, with the stream's name as key. {stream} stands for it."""

    servers: str = Field("127.0.0.1:9092", min_length=1, description="host:port,host:port …")
    topic: str = Field("vidai.detections", description="of records")
    events_topic: str = Field("vidai.events", description="of events")
    config: dict[str, str | int | float | bool] = Field(
        {}, repr=False, description="more settings of librdkafka, as sasl.password"
    )

    def destination(self) -> str:
        return f"{self.servers} {self.topic}"


def open(options: Options, place: Place) -> Output:  # noqa: A001
    """Raises ConfigError for what cannot work."""
    try:
        import confluent_kafka  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "the output kafka needs the package confluent-kafka: pip install 'vidai[kafka]'"
        ) from error
    return Kafka(options, place).start()


class Kafka(Spooled):
    """An idempotent producer, made anew after a failure."""

    kind = "kafka"

    def __init__(self, options: Options, place: Place) -> None:
        self._key = place.stream
        self._servers = options.servers
        self._topics = {
            "detections": _topic(options.topic, place.stream),
            "events": _topic(options.events_topic, place.stream),
        }
        if taken := [name for name in OURS if name in options.config]:
            raise ConfigError(f"the output kafka sets {taken[0]} itself: take it out of `config`")
        self._config: dict[str, Any] = {
            "client.id": "vidai",
            "compression.type": "zstd",
            "linger.ms": 5,
            **options.config,
            "acks": "all",
            "bootstrap.servers": options.servers,
            "enable.idempotence": True,
            "message.timeout.ms": round(2000 * TIMEOUT),
            "error_cb": self._on_error,
            "logger": SILENCE,
        }
        self._trouble = ""  # what librdkafka said last
        self._producer: Producer | None = self._new_producer()
        self._greeted = False
        super().__init__(options, place, f"{options.servers} {self._topics['detections']}")

    def _ready(self) -> None:
        from confluent_kafka import KafkaException

        if self._greeted:
            return
        if self._producer is None:
            self._producer = self._new_producer()
        self._trouble = ""
        end = time.monotonic() + self._patience()
        while not self._greeted:
            try:
                self._producer.list_topics(self._topics["detections"], timeout=GREETING)
                self._greeted = True
            except KafkaException as error:
                self._producer.poll(0)  # brings `_trouble`
                if self._trouble or time.monotonic() > end or not self._patience():
                    raise self._meaning(error.args[0]) from error

    def _send(self, messages: Sequence[Waiting]) -> None:
        from confluent_kafka import KafkaException

        assert self._producer is not None, "_ready comes first"
        reports: list[KafkaError | None] = []

        def reported(error: KafkaError | None, _: Message) -> None:
            reports.append(error)

        try:
            for message in messages:
                self._producer.produce(
                    self._topics[message.topic],
                    message.body,
                    key=self._key.encode(),
                    on_delivery=reported,
                )
        except KafkaException as error:
            raise self._meaning(error.args[0]) from error
        self._trouble = ""
        begin = time.monotonic()
        while len(reports) < len(messages) and self._patience():
            self._producer.poll(SLICE)
            waited = time.monotonic() - begin
            if waited > 3 * TIMEOUT:
                break
            if self._trouble or waited > TIMEOUT:  # librdkafka tries again by itself meanwhile
                self._tell_trouble(self._trouble or f"no answer from {self._servers}")
        for failure in reports:
            if failure is not None:
                raise self._meaning(failure)
        if len(reports) < len(messages):
            raise SinkError(self._trouble or f"no answer from {self._servers}")

    def _drop(self) -> None:
        self._greeted = False
        if self._producer is not None:
            self._producer.purge()
            self._producer = None

    def _new_producer(self) -> Producer:
        """Raises ConfigError for settings that librdkafka refuses."""
        from confluent_kafka import KafkaException, Producer

        try:
            return Producer(self._config)
        except (KafkaException, TypeError, ValueError) as error:
            what = error.args[0] if error.args else error
            text = what.str() if hasattr(what, "str") else str(what)
            raise ConfigError(f"the output kafka: {text}: mend `config`") from error

    def _on_error(self, error: KafkaError) -> None:
        if error.code() != error._ALL_BROKERS_DOWN:
            self._trouble = self._words(error)

    def _meaning(self, error: KafkaError) -> SinkError:
        if error.code() in (error.MSG_SIZE_TOO_LARGE, error.INVALID_RECORD):
            return Refused(f"{self._servers} refuses a message: {error.str()}")
        vague = (error._TRANSPORT, error._TIMED_OUT, error._MSG_TIMED_OUT, error._ALL_BROKERS_DOWN)
        if error.code() in vague:
            return SinkError(self._trouble or f"no answer from {self._servers}")
        return SinkError(self._words(error))

    def _words(self, error: KafkaError) -> str:
        if refused := REFUSED.search(error.str()):
            return f"connection refused by {refused[1]}"
        return f"{self._servers}: {error.str()}"


def _topic(template: str, stream: str) -> str:
    topic = topic_of(template, stream)
    if not TOPIC.fullmatch(topic) or topic in (".", ".."):
        raise ConfigError(
            f"the output kafka cannot send to the topic {topic!r}: use up to 249 letters, digits, "
            f"'.', '_' and '-'"
        )
    return topic
