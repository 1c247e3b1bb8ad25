"""What cameras.yaml says, read and checked."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from pkgutil import iter_modules
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationError,
    field_validator,
    model_validator,
)
from typing_extensions import Self

from vidai.errors import ConfigError
from vidai.live import outputs
from vidai.live.output import Options
from vidai.live.rules import Rule
from vidai.live.secrecy import hidden
from vidai.live.yaml_file import read_yaml
from vidai.sources.address import Address, shown
from vidai.steps import steps_from

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class OutputConfig(Options):
    """An entry of `outputs`. kind: a module of vidai.live.outputs."""

    kind: str
    options: Any


def _output(entry: Any) -> Any:
    """An OutputConfig from "hls" or {"record": {…}}."""
    if isinstance(entry, OutputConfig):
        return entry
    if isinstance(entry, str):
        entry = {entry: None}
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise ValueError("an output is a name, or one name with its options below it")
    ((kind, options),) = entry.items()
    kinds = output_kinds()
    if kind not in kinds:
        raise ValueError(f"there is no such output{_meant(kind, kinds)}: use {', '.join(kinds)}")
    model = importlib.import_module(f"vidai.live.outputs.{kind}").Options
    try:
        options = model.model_validate({} if options is None else options)
    except ValidationError as error:
        raise ValueError(f"{kind}: {_sentence(error, model)}") from None
    return OutputConfig(kind=kind, options=options)


def output_kinds() -> list[str]:
    return sorted(module.name for module in iter_modules(outputs.__path__))


def _plain(output: OutputConfig) -> dict[str, Any]:
    return {output.kind: output.options.model_dump(mode="json", exclude_unset=True)}


OutputEntry = Annotated[OutputConfig, BeforeValidator(_output), PlainSerializer(_plain)]


def _steps(entries: list[Any]) -> list[Any]:
    try:
        steps_from(entries)
    except ConfigError as error:
        raise ValueError(str(error)) from error
    return entries


def _url(url: str) -> str:
    try:
        Address(url)
    except ConfigError as error:
        raise ValueError(str(error)) from error
    return url


class StreamConfig(Options):
    """One camera."""

    url: Annotated[str, AfterValidator(_url)] = Field(description="rtsp://…, rtmp://…, a file, …")
    transport: Literal["tcp", "udp", "auto"] = Field("tcp", description="of RTSP")
    loop: bool = Field(False, description="a file begins again at its end")
    connect_timeout: float = Field(10.0, gt=0, le=120, description="s")
    read_timeout: float = Field(10.0, gt=0, le=120, description="s without a picture: reconnect")
    policy: Literal["newest", "every"] = Field(
        "newest", description="newest: late frames are dropped; every: the camera is held back"
    )
    max_delay: float = Field(2.0, gt=0, le=30, description="s that frames may wait, with every")
    max_fps: float = Field(60.0, gt=0, description="frames a second beyond which it is a flood")
    analyze_fps: float | None = Field(
        None, gt=0, le=1000, description="analyses a second; none: every frame"
    )
    least_fps: float = Field(
        0.5, ge=0, le=1000, description="analyses a second that are kept under overload"
    )
    priority: int = Field(0, description="under overload lower ones go down first")
    track: bool = Field(True, description="ids that stay with an object")
    steps: Annotated[list[Any], AfterValidator(_steps)] = Field(
        ["overlay"], description="what is done to the annotated picture"
    )
    codec: Literal["h264", "hevc"] = Field("h264", description="of annotated pictures")
    quality: int | None = Field(None, ge=0, le=51, description="CRF, lower is better")
    rules: list[Rule] = Field([], description="what is worth an event")
    outputs: list[OutputEntry] = Field(["hls"], validate_default=True)

    @field_validator("rules")
    @classmethod
    def _distinct(cls, rules: list[Rule]) -> list[Rule]:
        names = [rule.name for rule in rules]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two rules are named {', '.join(sorted(twice))}")
        return rules

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        """Rules and outputs."""
        known = {rule.name for rule in self.rules}
        for output in self.outputs:
            wanted = set(getattr(output.options, "rules", None) or ())
            if output.kind == "clips" and (not known or not wanted <= known):
                raise ValueError(
                    f"clips are made of what rules find, and there is no rule "
                    f"{', '.join(sorted(wanted - known)) or 'yet'}: write it under rules"
                )
        if sum(output.kind == "hls" for output in self.outputs) > 1:
            raise ValueError("one output hls is enough: pages can show no other")
        return self

    def told(self) -> dict[str, Any]:
        """The settings as in YAML, without secrets: for pages."""
        plain = self.model_dump(mode="json", exclude_unset=True)
        return {**hidden(plain), "url": str(Address(self.url))}


class AnalysisConfig(Options):
    """How frames share the device."""

    budget_fps: float | None = Field(
        None, gt=0, description="analyses a second in all; none: what the device can"
    )
    max_batch: int | None = Field(None, ge=1, le=256, description="none: the device's best")
    max_wait_ms: float = Field(5.0, ge=0, le=1000, description="for a batch to fill")


class HttpConfig(Options):
    """Where pages, metrics and changes are served."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535, description="0: any free one")
    token: str | None = Field(
        None, min_length=8, description="none: made at the first start, kept in the state folder"
    )


class WorkerConfig(Options):
    """All of cameras.yaml."""

    model: str = "yolox-nano"
    family: str | None = None
    device: str = "auto"
    precision: Literal["auto", "fp32", "fp16", "fp8", "int8"] | None = None
    conf: float = Field(0.35, ge=0, le=1)
    iou: float = Field(0.45, ge=0, le=1)
    classes: list[str] | None = None
    analysis: AnalysisConfig = AnalysisConfig()
    http: HttpConfig | None = HttpConfig()
    state: Path = Path("vidai-state")
    defaults: dict[str, Any] = Field({}, description="of all streams")
    streams: dict[str, StreamConfig] = Field({})


def read_config(path: str | Path) -> WorkerConfig:
    """The YAML file; ${NAME} is taken from the environment. Relative paths of `state` and `model`
    are seen from its folder. Raises ConfigError with the place of what is wrong."""
    path = Path(path)
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{path} needs at least `streams:` with one stream")
    config = worker_config(data, str(path))
    base = path.parent
    model = base / config.model
    return config.model_copy(
        update={
            "state": base / config.state,
            "model": str(model) if model.is_file() else config.model,
        }
    )


def worker_config(data: Mapping[str, Any], where: str = "the configuration") -> WorkerConfig:
    """Checked. Raises ConfigError."""
    data = _filled(dict(data), where)
    named = {key: {} if data.get(key) is None else data[key] for key in ("defaults", "streams")}
    for key, value in named.items():
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: {key} needs names with settings below them")
    defaults, streams = named["defaults"], named["streams"]
    stream_config({"url": "anything", **defaults}, f"{where}: defaults")
    checked = {}
    for name, settings in streams.items():
        check_name(name, f"{where}: ")
        if not isinstance(settings, Mapping):
            raise ConfigError(f"{where}: streams.{name} needs at least a line `url: …`")
        checked[name] = stream_config({**defaults, **settings}, f"{where}: streams.{name}")
    try:
        config = WorkerConfig.model_validate({**data, "streams": {}, "defaults": defaults})
    except ValidationError as error:
        raise ConfigError(f"{where}: {_sentence(error, WorkerConfig)}") from None
    return config.model_copy(update={"streams": checked})


def stream_config(settings: Mapping[str, Any], where: str) -> StreamConfig:
    """Checked. Raises ConfigError."""
    try:
        return StreamConfig.model_validate(dict(settings))
    except ValidationError as error:
        raise ConfigError(f"{where}: {_sentence(error, StreamConfig)}") from None


def check_name(name: Any, where: str = "") -> str:
    """A stream's name, which also names folders. where: what the error begins with. Raises
    ConfigError."""
    if not isinstance(name, str):
        raise ConfigError(
            f"{where}a stream's name needs quotes here: YAML does not take it for text, but for "
            f"{name}"
        )
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{where}{shown(name)!r} cannot name a stream: use up to 64 letters, digits, '-', '_' "
            "and '.', the first a letter or digit"
        )
    return name


def _filled(value: Any, where: str, place: str = "") -> Any:
    """With the environment's values for ${NAME}."""
    if isinstance(value, Mapping):
        inner = f"{place}." if place else ""
        return {
            key: _filled(item, where, f"{inner}{shown(str(key))}") for key, item in value.items()
        }
    if isinstance(value, list):
        return [_filled(item, where, f"{place}.{n}") for n, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def named(match: re.Match[str]) -> str:
        try:
            return os.environ[match[1]]
        except KeyError:
            raise ConfigError(
                f"{where}: {place} uses ${{{match[1]}}}, which is not set in the environment"
            ) from None

    return VARIABLE.sub(named, value)


def _sentence(error: ValidationError, model: type[BaseModel]) -> str:
    """The first thing that is wrong, its place, and how many more there are. Values are left
    out: they may be secrets."""
    first, *rest = error.errors(include_input=False, include_url=False)
    place = _dotted(first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        meant = _meant(first["loc"][-1], _known_at(model, first["loc"]))
        reason = f"is not known here{meant or ': check the spelling'}"
    elif first["type"] == "missing":
        reason = "is missing"
    elif first["type"] == "invalid_key":
        place = _dotted(first["loc"][:-1])
        reason = "a name here is no text: on, off, yes, no and numbers need quotes to be one"
    more = f" (and {len(rest)} more)" if rest else ""
    return f"{place}: {reason}{more}" if place else f"{reason}{more}"


def _dotted(place: Sequence[int | str]) -> str:
    return ".".join(shown(str(part)) for part in place)


def _meant(written: Any, known: Iterable[str]) -> str:
    close = get_close_matches(str(written), known, n=1)
    return f", did you mean {close[0]}?" if close else ""


def _known_at(model: type[BaseModel], place: Sequence[int | str]) -> Iterable[str]:
    """The names of what may be written beside what is at that place."""
    for part in place[:-1]:
        field = model.model_fields.get(str(part))
        if field is not None:
            inner = [kind for kind in _kinds(field.annotation) if issubclass(kind, BaseModel)]
            model = inner[0] if inner else model
    return model.model_fields


def _kinds(annotation: Any) -> Iterator[type]:
    """The classes that a type is made of."""
    if isinstance(annotation, type) and not get_args(annotation):
        yield annotation
    for part in get_args(annotation):
        yield from _kinds(part)
