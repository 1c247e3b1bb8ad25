"""Records to an MQTT broker, which has acknowledged each before it counts as delivered."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from vidai.batcher import daemon
from vidai.errors import ConfigError, SinkError
from vidai.live.output import Output, Place
from vidai.live.spool import Refused, Spooled, SpoolOptions, Waiting, topic_of, unreachable
from vidai.tags import reason

if TYPE_CHECKING:
    from paho.mqtt.client import Client

KEEPALIVE = 30  # s without a packet, after which the broker tells the stream's status as offline
# MQTT's codes for a message that is no better the next time: malformed, protocol error, topic name
# invalid, packet too large, payload format invalid. Some brokers end the connection with them, and
# mosquitto 2.0's answer to what is too large is one that paho takes for a protocol error.
NEVER = (0x81, 0x82, 0x90, 0x95, 0x99)


def _text(version: Any) -> Any:
    """YAML takes 5 for a number."""
    return str(version) if type(version) is int else version


class Options(SpoolOptions):
    """Where records go: JSON, with QoS 1. {stream} stands for the stream's name."""

    host: str = Field("127.0.0.1", min_length=1, description="the broker")
    port: int | None = Field(None, ge=1, le=65535, description="1883, or 8883 with TLS")
    user: str | None = None
    password: str | None = Field(None, repr=False)
    tls: bool = Field(False, description="encrypted, with the broker's certificate checked")
    ca: Path | None = Field(None, description="PEM file of who signed it; none: the system's")
    certificate: Path | None = Field(None, description="PEM file to be known by, with its key")
    version: Annotated[Literal["5", "3.1.1"], BeforeValidator(_text)] = Field(
        "5", description="of MQTT"
    )
    topic: str = Field("vidai/{stream}/detections", description="of records")
    events_topic: str = Field("vidai/{stream}/events", description="of events")
    status_topic: str | None = Field(
        "vidai/{stream}/status", description="retained: online or offline; none: not told"
    )

    def destination(self) -> str:
        return f"{self.host}:{self.port} {self.topic}"


def open(options: Options, place: Place) -> Output:  # noqa: A001
    """Raises ConfigError for what cannot work."""
    try:
        import paho.mqtt.client  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "the output mqtt needs the package paho-mqtt: pip install 'vidai[mqtt]'"
        ) from error
    return Mqtt(options, place).start()


class Mqtt(Spooled):
    """One connection, made anew after a failure. It tells the stream's status too."""

    kind = "mqtt"

    def __init__(self, options: Options, place: Place) -> None:
        self._options = options
        self._tls = _context(options)
        self._topics = {
            "detections": _topic(options.topic, place.stream),
            "events": _topic(options.events_topic, place.stream),
        }
        self._status_topic = options.status_topic and _topic(options.status_topic, place.stream)
        port = options.port or (8883 if options.tls else 1883)
        self._address = f"{options.host}:{port}"
        self._host, self._port = options.host, port
        self._connection: Connection | None = None
        super().__init__(options, place, f"{self._address} {self._topics['detections']}")

    def _ready(self) -> None:
        if self._connection is not None and self._connection.gone is None:
            return
        self._drop()
        self._connection = Connection(self._client(), self._address, self._patience)
        self._connection.open(self._host, self._port)
        self._tell("online")

    def _send(self, messages: Sequence[Waiting]) -> None:
        assert self._connection is not None, "_ready comes first"
        self._connection.publish([(self._topics[m.topic], m.body) for m in messages])

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.cut()
            self._connection = None

    def _leave(self) -> None:
        if self._connection is not None:
            with suppress(SinkError):
                self._tell("offline")
            self._connection.close()

    def _tell(self, status: str) -> None:
        if self._status_topic and self._connection is not None:
            self._connection.publish([(self._status_topic, status.encode())], retain=True)

    def _client(self) -> Client:
        from paho.mqtt import client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        options = self._options
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            protocol=mqtt.MQTTv5 if options.version == "5" else mqtt.MQTTv311,
            reconnect_on_failure=False,
        )
        client.suppress_exceptions = True
        if options.user is not None or options.password is not None:
            client.username_pw_set(options.user or "", options.password)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        if self._status_topic:
            client.will_set(self._status_topic, b"offline", qos=1, retain=True)
        return client


class Connection:
    """From a connect to the first failure. patience: s that may be waited for an answer.

    gone: why it is of no use any more, or None.
    """

    def __init__(self, client: Client, address: str, patience: Callable[[], float]) -> None:
        self.gone: str | None = None
        self._client = client
        self._address = address
        self._patience = patience
        self._greeted = False
        self._refused = False  # for what was said on it
        self._acknowledged: dict[int, Any] = {}  # the broker's answer by the message's number
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        client.on_connect = self._on_connect
        client.on_publish = self._on_publish
        client.on_disconnect = self._on_disconnect

    def open(self, host: str, port: int) -> None:
        """Raises SinkError."""
        self._client.connect_timeout = max(0.1, self._patience())
        try:
            self._client.connect(host, port, KEEPALIVE)
        except (OSError, ValueError) as error:
            raise unreachable(error, self._address) from error
        self._thread = daemon(f"vidai-mqtt-{self._address}", self._loop)
        self._wait(lambda: self._greeted)

    def publish(self, messages: Sequence[tuple[str, bytes]], *, retain: bool = False) -> None:
        """Returns when all are acknowledged. Raises SinkError."""
        self._acknowledged.clear()
        topics = {
            self._client.publish(topic, body, qos=1, retain=retain).mid: topic
            for topic, body in messages
        }
        try:
            self._wait(lambda: topics.keys() <= self._acknowledged.keys())
        except SinkError as error:
            if self._refused:
                raise Refused(str(error)) from error
            raise
        for number, topic in topics.items():
            code = self._acknowledged[number]
            if code.is_failure:
                kind = Refused if code.value in NEVER else SinkError
                raise kind(f"{self._address} refuses what is sent to {topic}: {code}")

    def close(self) -> None:
        """Part as friends."""
        self._client.disconnect()
        self.cut(self._patience())

    def cut(self, patience: float = 0.0) -> None:
        """End it at once, or after so many s in which it may end by itself."""
        if self._thread is None:
            return
        self._thread.join(patience)
        connected: Any = self._client.socket()
        if connected is not None:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
        self._thread.join(1.0)

    def _wait(self, done: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: done() or self.gone is not None, self._patience())
            if done():
                return
            if self.gone is None:
                self.gone = f"no answer from {self._address}"
            raise SinkError(self.gone)

    def _loop(self) -> None:
        try:
            self._client.loop_forever()
        except Exception as error:  # what a server sent that is not MQTT
            self._end(f"{self._address} does not speak MQTT as it should: {reason(error)}")
        self._end(f"connection to {self._address} broken")

    def _end(self, why: str) -> None:
        with self._changed:
            self.gone = self.gone or why
            self._changed.notify_all()

    def _on_connect(self, _client: Client, _data: Any, _flags: Any, code: Any, _: Any) -> None:
        if code.is_failure:
            self._end(f"{self._address} refuses the login: {code}")
            return
        with self._changed:
            self._greeted = True
            self._changed.notify_all()

    def _on_publish(self, _client: Client, _data: Any, number: int, code: Any, _: Any) -> None:
        with self._changed:
            self._acknowledged[number] = code
            self._changed.notify_all()

    def _on_disconnect(self, _client: Client, _data: Any, _flags: Any, code: Any, _: Any) -> None:
        self._refused = code.value in NEVER
        self._end(f"connection to {self._address} broken: {code}")


def _topic(template: str, stream: str) -> str:
    topic = topic_of(template, stream)
    if not topic or any(letter in topic for letter in "+#\0{}") or len(topic.encode()) > 65535:
        raise ConfigError(
            f"the output mqtt cannot send to the topic {topic!r}: leave out '+', '#' and NUL; "
            "{stream} alone stands for something"
        )
    return topic


def _context(options: Options) -> ssl.SSLContext | None:
    if not options.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=options.ca)
        if options.certificate is not None:
            context.load_cert_chain(options.certificate)
    except (OSError, ssl.SSLError) as error:
        files = " or ".join(str(file) for file in (options.ca, options.certificate) if file)
        raise ConfigError(
            f"the output mqtt cannot read the certificates in {files}: {reason(error)}"
        ) from error
    return context
