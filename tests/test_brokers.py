"""Records reach real brokers, in order and all of them, whatever happens to broker and worker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.live.brokers import Broker, KafkaBroker, Mosquitto, RedisServer, free_port, until
from tests.test_record_outputs import record
from vidai.errors import ConfigError
from vidai.live import spool
from vidai.live.events import Event, Events
from vidai.live.output import Output, OutputStatus, Place

SECRET = "pass-w0rd"


class Service(ABC):
    """A kind of broker, and a reader of its own that keeps what arrives."""

    kind: str

    def __init__(self, folder: Path, secret: str | None = None) -> None:
        self.folder = folder
        self.secret = secret
        self.broker: Broker

    @abstractmethod
    def options(self) -> dict[str, Any]: ...

    @abstractmethod
    def listen(self) -> None:
        """Begin to keep what arrives; again after the broker was restarted."""

    @abstractmethod
    def arrived(self) -> list[tuple[str, dict[str, Any]]]:
        """Topic and content of all that has come."""

    def close(self) -> None:
        self.broker.kill()

    def frames(self) -> list[int]:
        return [body["frame"] for _, body in self.arrived() if "frame" in body]


class MqttService(Service):
    kind = "mqtt"

    def __init__(self, folder: Path, secret: str | None = None) -> None:
        super().__init__(folder, secret)
        self.broker = Mosquitto(folder, None if secret is None else {"me": secret})
        self._arrived: list[tuple[str, bytes]] = []
        self._client: Any = None

    def options(self) -> dict[str, Any]:
        return {"host": "127.0.0.1", "port": self.broker.port}

    def listen(self) -> None:
        from paho.mqtt import client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        if self._client is not None:
            return  # its session outlives the broker
        greeted = threading.Event()
        self._client = client = mqtt.Client(
            CallbackAPIVersion.VERSION2, "reader", clean_session=False
        )
        client.reconnect_delay_set(1, 1)
        client.on_message = lambda _c, _d, m: self._arrived.append((m.topic, bytes(m.payload)))
        client.on_subscribe = lambda *_: greeted.set()
        client.username_pw_set("me", self.secret)
        client.connect("127.0.0.1", self.broker.port)
        client.subscribe("vidai/#", qos=1)
        client.loop_start()
        assert greeted.wait(30)

    def arrived(self) -> list[tuple[str, dict[str, Any]]]:
        return [(t, json.loads(b)) for t, b in list(self._arrived) if not t.endswith("/status")]

    def statuses(self) -> list[str]:
        return [b.decode() for t, b in list(self._arrived) if t == "vidai/gate/status"]

    def close(self) -> None:
        if self._client is not None:
            self._client.loop_stop()
            self._client.disconnect()
        super().close()


class RedisService(Service):
    kind = "redis"

    def __init__(self, folder: Path, secret: str | None = None) -> None:
        super().__init__(folder, secret)
        self.broker = RedisServer(folder, secret)

    def options(self) -> dict[str, Any]:
        return {"url": f"redis://127.0.0.1:{self.broker.port}/0"}

    def listen(self) -> None:
        """Redis keeps what it gets."""

    def arrived(self) -> list[tuple[str, dict[str, Any]]]:
        import redis

        with redis.Redis(port=self.broker.port, password=self.secret) as client:
            return [
                (key, json.loads(body))
                for key in ("vidai:gate", "vidai:gate:events")
                for _, fields in client.xrange(key)
                for body in fields.values()
            ]


class KafkaService(Service):
    kind = "kafka"

    def __init__(self, folder: Path, secret: str | None = None) -> None:
        super().__init__(folder, secret)
        self.broker = KafkaBroker(folder)
        self._arrived: list[tuple[str, bytes, bytes]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def options(self) -> dict[str, Any]:
        return {"servers": f"127.0.0.1:{self.broker.port}"}

    def listen(self) -> None:
        self._end()
        self._stop.clear()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        import logging

        from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

        consumer = Consumer(
            {
                "bootstrap.servers": f"127.0.0.1:{self.broker.port}",
                "group.id": "reader",
                "allow.auto.create.topics": True,
                "logger": logging.Logger("silent", logging.CRITICAL + 1),
            }
        )
        parts = []
        for topic in ("vidai.detections", "vidai.events"):
            known = consumer.list_topics(topic, timeout=30).topics[topic]  # makes it, too
            parts += [TopicPartition(topic, n, OFFSET_BEGINNING) for n in known.partitions]
        consumer.assign(parts)
        while not self._stop.is_set():
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                self._arrived.append(
                    (message.topic() or "", message.key() or b"", message.value() or b"")
                )
        consumer.close()

    def arrived(self) -> list[tuple[str, dict[str, Any]]]:
        assert {key for _, key, _ in self._arrived} <= {b"gate"}
        return [(topic, json.loads(body)) for topic, _, body in list(self._arrived)]

    def _end(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(30)

    def close(self) -> None:
        self._end()
        super().close()


SERVICES: dict[str, type[Service]] = {
    service.kind: service for service in (MqttService, RedisService, KafkaService)
}

Serve = Callable[..., Service]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for long attempts."""
    monkeypatch.setattr(spool, "RETRIES", (0.05, 0.5))
    monkeypatch.setattr(spool, "LOCK_PATIENCE", 0.1)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Makes services that are not started yet, and end with the test."""
    made: list[Service] = []

    def serve(kind: str, secret: str | None = None) -> Service:
        folder = tmp_path / "broker"
        folder.mkdir()
        made.append(SERVICES[kind](folder, secret))
        return made[-1]

    yield serve
    for service in made:
        service.close()


@pytest.fixture(params=list(SERVICES))
def service(request: pytest.FixtureRequest, serve: Serve) -> Service:
    """Of each kind, not started yet."""
    return serve(request.param)


class Sender:
    """An output, and the events that it told."""

    def __init__(self, kind: str, folder: Path, options: dict[str, Any]) -> None:
        folder.mkdir(exist_ok=True)
        self.events = Events()
        module = import_module(f"vidai.live.outputs.{kind}")
        place = Place("gate", folder, self.events.emit)
        self.output: Output = module.open(module.Options(**options), place)

    def send(self, frames: range) -> None:
        for number in frames:
            self.output.record(record(number))
            self.status()

    def status(self) -> OutputStatus:
        """Always balanced."""
        status = self.output.status()
        assert status.accepted == status.delivered + status.waiting + sum(status.lost.values())
        return status

    def delivered(self) -> None:
        until(lambda: self.status().waiting == 0, "delivery of all")

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events.since()]

    def close(self) -> None:
        self.output.close()


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """The output's folder."""
    return tmp_path / "output"


def sender(service: Service, box: Path, **more: Any) -> closing[Sender]:
    return closing(Sender(service.kind, box, {**service.options(), **more}))


def in_order(frames: list[int]) -> list[int]:
    """Without those that came again: after a failure some may."""
    once: list[int] = []
    for frame in frames:
        if not once or frame > once[-1]:
            once.append(frame)
    return once


def test_records_arrive_exactly_and_in_order(service: Service, box: Path) -> None:
    service.broker.start()
    service.listen()
    with sender(service, box) as one:
        one.send(range(300))
        one.delivered()
        until(lambda: len(service.frames()) >= 300)
        status = one.status()
        assert (status.accepted, status.delivered, status.state) == (300, 300, "ok")
        assert str(service.broker.port) in status.detail
    arrived = [body for _, body in service.arrived()]
    assert arrived == [record(number).to_dict() for number in range(300)]
    assert one.kinds() == []


def test_events_of_rules_are_sent_if_asked_for(service: Service, box: Path) -> None:
    service.broker.start()
    service.listen()
    happened = Event(7, 1_700_000_000.25, "rule", "somebody came in", "gate", {"zone": "door"})
    with sender(service, box, events=True) as one:
        one.output.event(happened)
        one.output.event(Event(8, 1_700_000_001.0, "rate", "not for brokers", "gate"))
        one.delivered()
        until(service.arrived)
        assert one.status().delivered == 1
    ((topic, body),) = service.arrived()
    assert topic.endswith("events")
    assert body["event"]["text"] == "somebody came in"
    assert body["event"]["data"] == {"zone": "door"}
    assert body["event"]["time"] == "2023-11-14T22:13:20.250Z"
    shutil.rmtree(box)
    with sender(service, box) as one:
        one.output.event(happened)
        assert one.status().accepted == 0


def test_a_broker_that_comes_later(service: Service, box: Path) -> None:
    with sender(service, box) as one:
        one.send(range(50))
        refused = f"retrying: connection refused by 127.0.0.1:{service.broker.port}"
        until(lambda: one.status().state == refused, refused)
        assert one.status().waiting == 50
        assert one.status().waiting_bytes == sum(
            len(record(number).to_json()) for number in range(50)
        )
        service.broker.start()
        service.listen()
        if service.kind != "mqtt":  # whose broker forgets what nobody had asked for yet
            one.delivered()
            until(lambda: len(service.frames()) >= 50)
            assert in_order(service.frames()) == list(range(50))
        until(lambda: one.status().state == "ok")
        one.delivered()
    assert one.kinds() == ["output-retrying", "output-back"]


def test_a_broker_that_is_killed_and_comes_back(service: Service, box: Path) -> None:
    service.broker.start()
    service.listen()
    with sender(service, box) as one:
        one.send(range(100))
        one.delivered()
        until(lambda: len(service.frames()) >= 100)
        if isinstance(service.broker, Mosquitto):  # which forgets who listens otherwise
            until(service.broker.remembers_readers)
        service.broker.kill()
        one.send(range(100, 300))
        until(lambda: one.status().state.startswith("retrying: "))
        assert one.status().waiting == 200
        service.broker.start()
        service.listen()
        one.send(range(300, 400))
        one.delivered()
        until(lambda: in_order(service.frames())[-1:] == [399])
        assert one.status().delivered == 400
    assert in_order(service.frames()) == list(range(400))


@pytest.mark.parametrize("service", ["mqtt", "redis"], indirect=True)
def test_a_broker_that_ends_while_records_flow(service: Service, box: Path) -> None:
    """Redis by a kill; mosquitto in order, as it keeps what it acknowledged only then."""
    service.broker.start()
    service.listen()
    with sender(service, box) as one:
        stop = threading.Event()
        sent = 0

        def flow() -> None:
            nonlocal sent
            while not stop.is_set():
                one.send(range(sent, sent + 1))
                sent += 1

        thread = threading.Thread(target=flow)
        thread.start()
        try:
            for _ in range(2):
                before = one.status().delivered
                until(lambda b=before: one.status().delivered > b + 50)  # type: ignore[misc]
                if service.kind == "redis":
                    service.broker.kill()
                else:
                    service.broker.stop()
                until(lambda: one.status().state.startswith("retrying: "))
                service.broker.start()
        finally:
            stop.set()
            thread.join(30)
        one.delivered()
        assert one.status().delivered == sent
        until(lambda: in_order(service.frames())[-1:] == [sent - 1])
    assert in_order(service.frames()) == list(range(sent))


def test_a_broker_that_hangs_holds_up_nothing(
    service: Service, box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "DRAIN", 0.5)
    service.broker.start()
    service.listen()
    with sender(service, box) as one:
        one.send(range(10))
        one.delivered()
        service.broker.pause()
        one.send(range(10, 500))  # waits for nothing, or never ends
        closer = threading.Thread(target=one.close)
        closer.start()
        closer.join(30)
        assert not closer.is_alive()
        assert one.status().waiting == 490
        service.broker.resume()
    until(lambda: not [t.name for t in threading.enumerate() if t.name.startswith("vidai-")])
    with sender(service, box) as two:
        assert two.status().accepted >= 490
        two.delivered()
        until(lambda: in_order(service.frames())[-1:] == [499])
    assert in_order(service.frames()) == list(range(500))


def test_a_hanging_broker_is_told_and_outlived(
    service: Service, box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("spool", "outputs.kafka", "outputs.redis"):
        monkeypatch.setattr(import_module(f"vidai.live.{module}"), "TIMEOUT", 0.5)
    service.broker.start()
    service.listen()
    with sender(service, box) as one:
        one.send(range(10))
        one.delivered()
        service.broker.pause()
        one.send(range(10, 200))
        until(lambda: "no answer from 127.0.0.1" in one.status().state)
        service.broker.resume()
        one.delivered()
        until(lambda: one.status().state == "ok")
        until(lambda: in_order(service.frames())[-1:] == [199])
    assert in_order(service.frames()) == list(range(200))


KILLED = """
import json, sys, time
from pathlib import Path
from tests.test_brokers import Sender
kind, folder, options = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
one = Sender(kind, folder, options)
one.send(range(400))
print("all are put", flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("there", [False, True], ids=["broker away", "broker there"])
def test_a_killed_worker_sends_the_rest_later(there: bool, service: Service, box: Path) -> None:
    service.broker.start()
    service.listen()
    if not there:
        if isinstance(service.broker, Mosquitto):
            until(service.broker.remembers_readers)
        service.broker.kill()
    arguments = [service.kind, str(box), json.dumps(service.options())]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "all are put\n"
        process.send_signal(signal.SIGKILL)
    if not there:
        service.broker.start()
        service.listen()
    with sender(service, box) as one:
        one.send(range(400, 410))
        one.delivered()
        status = one.status()
        until(lambda: in_order(service.frames())[-1:] == [409])
        assert status.delivered == status.accepted >= 10
        assert there or status.accepted == 410
    assert in_order(service.frames()) == list(range(410))


@pytest.mark.parametrize("kind", ["mqtt", "redis"])
def test_a_wrong_password_is_told_without_it(kind: str, serve: Serve, box: Path) -> None:
    service = serve(kind, "the-right-one")
    service.broker.start()
    service.listen()
    wrong: dict[str, Any] = (
        {**service.options(), "user": "me", "password": SECRET}
        if kind == "mqtt"
        else {"url": f"redis://:{SECRET}@127.0.0.1:{service.broker.port}/0"}
    )
    with closing(Sender(kind, box, wrong)) as one:
        one.send(range(3))
        until(lambda: "refuses the login" in one.status().state)
        told = f"{one.status()} {one.events.since()}"
        module = import_module(f"vidai.live.outputs.{kind}")
        assert SECRET not in told + repr(module.Options(**wrong))
    right = {**service.options(), "password": "the-right-one"}
    if kind == "mqtt":
        right["user"] = "me"
    with closing(Sender(kind, box, right)) as one:
        one.delivered()
        until(lambda: len(service.frames()) >= 3)
    assert service.frames() == [0, 1, 2]


def test_kafka_hides_its_settings_and_tells_of_wrong_ones(box: Path) -> None:
    from vidai.live.outputs import kafka

    options = kafka.Options(config={"sasl.password": SECRET, "sasl.username": "me"})
    assert SECRET not in repr(options)
    with pytest.raises(ConfigError, match="No such configuration property"):
        Sender("kafka", box, {"config": {"no.such.thing": 1}})
    with pytest.raises(ConfigError, match="sets acks itself"):
        Sender("kafka", box, {"config": {"acks": 1}})


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("mqtt", {"topic": "a/#"}, "cannot send to the topic"),
        ("mqtt", {"topic": "a/{strem}"}, "alone stands for something"),
        ("mqtt", {"tls": True, "ca": "/no/such/file.pem"}, "cannot read the certificates"),
        ("kafka", {"topic": "a b"}, "cannot send to the topic"),
        ("redis", {"url": f"http://:{SECRET}@h"}, "cannot use its url"),
        ("redis", {"url": f"redis://:{SECRET}@h:port"}, "cannot use its url"),
    ],
)
def test_what_cannot_work_is_one_sentence(
    kind: str, options: dict[str, Any], words: str, box: Path
) -> None:
    with pytest.raises(ConfigError, match=words) as told:
        Sender(kind, box, options)
    assert SECRET not in str(told.value)


@pytest.mark.parametrize("kind", list(SERVICES))
def test_a_full_spool_is_in_the_account(kind: str, box: Path) -> None:
    port = free_port()
    where: dict[str, dict[str, Any]] = {
        "mqtt": {"port": port},
        "redis": {"url": f"redis://127.0.0.1:{port}"},
        "kafka": {"servers": f"127.0.0.1:{port}"},
    }
    with closing(Sender(kind, box, {**where[kind], "spool_mb": 0.01})) as one:
        one.send(range(200))
        status = one.status()
        assert status.lost["spool full"] == 200 - status.waiting > 0
        assert status.waiting_bytes <= 10_000
        with pytest.raises(ConfigError, match="in use"):
            Sender(kind, box, where[kind])


def test_memory_stays_flat_while_a_broker_is_away(box: Path) -> None:
    def memory() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    big = record(1, found=5)
    with closing(Sender("mqtt", box, {"port": free_port()})) as one:
        for _ in range(2000):
            one.output.record(big)
        before = memory()
        for _ in range(18_000):
            one.output.record(big)
        grown = memory() - before
        status = one.status()
        assert status.waiting == 20_000
        assert status.waiting_bytes == 20_000 * len(big.to_json()) > 9e6
        assert grown < 4e6


def test_mqtt_tells_whether_the_stream_is_there(serve: Serve, box: Path) -> None:
    service = serve("mqtt")
    assert isinstance(service, MqttService)
    service.broker.start()
    service.listen()
    with sender(service, box):
        until(lambda: service.statuses() == ["online"])
    until(lambda: service.statuses() == ["online", "offline"])
    arguments = ["mqtt", str(box), json.dumps(service.options())]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        until(lambda: service.statuses()[2:] == ["online"])
        process.send_signal(signal.SIGKILL)
    until(lambda: service.statuses()[2:] == ["online", "offline"])


def test_the_version_of_mqtt_may_be_a_number() -> None:
    """As YAML takes it."""
    from vidai.live.outputs.mqtt import Options

    assert Options.model_validate({"version": 5}).version == "5"
    for wrong in (6, 5.0, True):
        with pytest.raises(ValueError, match="version"):
            Options.model_validate({"version": wrong})


def test_mqtt_3_and_topics_of_ones_own(serve: Serve, box: Path) -> None:
    service = serve("mqtt")
    assert isinstance(service, MqttService)
    service.broker.start()
    service.listen()
    own = {"version": "3.1.1", "topic": "vidai/site/{stream}", "status_topic": None}
    with sender(service, box, **own) as one:
        one.send(range(5))
        one.delivered()
        until(lambda: len(service.arrived()) >= 5)
    assert {topic for topic, _ in service.arrived()} == {"vidai/site/gate"}
    assert service.statuses() == []


# paho leaves a socket with a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
def test_mqtt_over_tls_checks_the_certificate(tmp_path: Path, box: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: apt install openssl")
    pem = tmp_path / "pair.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(pem), "-out", str(pem)),
        ],
        check=True,
        capture_output=True,
    )
    with Mosquitto(tmp_path, tls=pem) as broker:
        options = {"host": "127.0.0.1", "port": broker.port, "tls": True}
        with closing(Sender("mqtt", box, options)) as one:
            until(lambda: "TLS with 127.0.0.1" in one.status().state)
            one.send(range(5))
        with closing(Sender("mqtt", box, {**options, "ca": pem})) as one:
            one.delivered()
            assert one.status().delivered == 5


@pytest.mark.parametrize("kind", ["mqtt", "kafka"])
def test_a_message_that_is_refused_does_not_hold_up_the_rest(
    kind: str, serve: Serve, box: Path
) -> None:
    service = serve(kind)
    if kind == "mqtt":
        service.broker = Mosquitto(service.folder, more=("message_size_limit 20000",))
    service.broker.start()
    service.listen()
    more = {} if kind == "mqtt" else {"config": {"message.max.bytes": 20_000}}
    with sender(service, box, **more) as one:
        for number in range(30):
            one.output.record(record(number, found=1 if number != 17 else 500))
        one.delivered()
        assert one.status().delivered == 29
        assert one.status().lost == {"refused": 1}
        until(lambda: 29 in service.frames())
    assert in_order(service.frames()) == [*range(17), *range(18, 30)]
    assert "output-refused" in one.kinds()


def test_redis_keeps_so_many(serve: Serve, box: Path) -> None:
    service = serve("redis")
    service.broker.start()
    with sender(service, box, max_length=100) as one:
        one.send(range(1000))
        one.delivered()
    frames = service.frames()
    assert 100 <= len(frames) < 500
    assert frames[-1] == 999


def test_a_server_of_something_else_is_told(box: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def babble() -> None:
            server.settimeout(0.1)
            while not stop.is_set():
                try:
                    guest, _ = server.accept()
                except TimeoutError:
                    continue
                with guest:
                    guest.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    time.sleep(0.05)

        thread = threading.Thread(target=babble)
        thread.start()
        try:
            with closing(Sender("mqtt", box, {"port": server.getsockname()[1]})) as one:
                one.send(range(3))
                until(lambda: one.status().state.startswith("retrying: "))
                assert one.status().waiting == 3
        finally:
            stop.set()
            thread.join(30)
