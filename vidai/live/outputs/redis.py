"""Records to a Redis stream (XADD)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import Field

from vidai.errors import ConfigError, SinkError
from vidai.live.output import Output, Place
from vidai.live.spool import TIMEOUT, Spooled, SpoolOptions, Waiting, topic_of, unreachable
from vidai.sources.address import shown

if TYPE_CHECKING:
    from redis import Redis, RedisError

FIELDS = {"detections": "record", "events": "event"}  # the field of an entry that has the JSON


class Options(SpoolOptions):
    """Where records go: an entry each, its field `record` is JSON. {stream} stands for the
    stream's name."""

    url: str = Field(
        "redis://127.0.0.1:6379/0",
        repr=False,
        description="redis://, rediss:// (TLS) or unix://, may have user:password@",
    )
    password: str | None = Field(None, repr=False, description="instead of one in the url")
    key: str = Field("vidai:{stream}", min_length=1, description="of the stream of records")
    events_key: str = Field("vidai:{stream}:events", min_length=1, description="of events")
    max_length: int | None = Field(
        100_000, ge=1, description="entries that Redis keeps, about; none: all"
    )

    def destination(self) -> str:
        return f"{shown(self.url)} {self.key}"


def open(options: Options, place: Place) -> Output:  # noqa: A001
    """Raises ConfigError for what cannot work."""
    try:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError as error:
        raise ConfigError(
            "the output redis needs the package redis: pip install 'vidai[redis]'"
        ) from error
    password = {} if options.password is None else {"password": options.password}
    try:
        client = Redis.from_url(
            options.url,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            retry=Retry(NoBackoff(), 0),  # the spool tries again
            **password,
        )
        address = _address(options.url)
    except (ValueError, TypeError):  # whose words have the password
        raise ConfigError(
            "the output redis cannot use its url: write it as redis://host:6379/0"
        ) from None
    return RedisStream(options, place, client, address).start()


class RedisStream(Spooled):
    """A batch is added whole or not at all."""

    kind = "redis"

    def __init__(self, options: Options, place: Place, client: Redis, address: str) -> None:
        self._client = client
        self._address = address
        self._keys = {
            "detections": topic_of(options.key, place.stream),
            "events": topic_of(options.events_key, place.stream),
        }
        self._max_length = options.max_length
        self._greeted = False
        super().__init__(options, place, f"{address} {self._keys['detections']}")

    def _ready(self) -> None:
        from redis import RedisError

        if self._greeted:
            return
        try:
            self._client.ping()
        except RedisError as error:
            raise self._meaning(error) from error
        self._greeted = True

    def _send(self, messages: Sequence[Waiting]) -> None:
        from redis import RedisError

        batch = self._client.pipeline(transaction=True)
        for message in messages:
            batch.xadd(
                self._keys[message.topic],
                {FIELDS[message.topic]: message.body},
                maxlen=self._max_length,
                approximate=True,
            )
        try:
            batch.execute()
        except RedisError as error:
            raise self._meaning(error) from error

    def _drop(self) -> None:
        self._greeted = False
        self._client.close()

    def _meaning(self, error: RedisError) -> SinkError:
        import redis

        if isinstance(error, redis.AuthenticationError):
            return SinkError(f"{self._address} refuses the login: {error}")
        if isinstance(error, redis.TimeoutError):
            return SinkError(f"no answer from {self._address}")
        if isinstance(error, redis.ConnectionError):
            cause = error.__cause__ or error.__context__
            return unreachable(cause if isinstance(cause, OSError) else error, self._address)
        return SinkError(f"{self._address} refuses records: {error}")


def _address(url: str) -> str:
    """Where it is, without user and password."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    host = parts.hostname or "localhost"
    return f"[{host}]:{parts.port or 6379}" if ":" in host else f"{host}:{parts.port or 6379}"
