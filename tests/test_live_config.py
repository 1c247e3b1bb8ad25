"""cameras.yaml: what it may say, and the one sentence for what it may not."""

from __future__ import annotations

import itertools
import json
import string
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vidai.errors import ConfigError
from vidai.live.config import (
    WorkerConfig,
    check_name,
    output_kinds,
    read_config,
    stream_config,
    worker_config,
)
from vidai.live.yaml_file import read_yaml

SECRET = "hunter2-S3cret"


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "cameras.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refused(folder: Path, text: str | bytes) -> str:
    """The sentence, less the file's name."""
    path = written(folder, text)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    return sentence(caught.value).removeprefix(str(path)).removeprefix(": ")


def sentence(error: BaseException | None) -> str:
    """What an error says: one readable line without a secret, and so for what caused it."""
    said = str(error)
    assert said
    assert "\n" not in said
    assert len(said) < 600
    while error is not None:
        assert SECRET not in str(error)
        assert SECRET not in repr(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return said


def one(settings: str, rest: str = "") -> str:
    """A file with one stream."""
    lines = "".join(f"\n    {line}" for line in settings.splitlines())
    return f"{rest}\nstreams:\n  door:\n    url: rtsp://camera/1{lines}\n"


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    text = """
model: yolox-s
device: cpu
conf: 0.5
classes: [person, car]
analysis: {budget_fps: 40, max_batch: 4}
http: {host: 0.0.0.0, port: 9000, token: long-enough}
defaults: {analyze_fps: 5, outputs: [hls]}
streams:
  door:
    url: rtsp://admin:pw@camera/1
    priority: 3
    rules: [{name: someone, classes: [person]}]
    outputs:
      - hls
      - record: {}
      - jsonl:
      - mqtt: {host: broker, user: me, password: pw}
  yard: {url: yard.mp4, loop: true, policy: every, analyze_fps: null}
"""
    config = read_config(written(tmp_path, text))
    assert (config.model, config.device, config.conf) == ("yolox-s", "cpu", 0.5)
    assert config.analysis.budget_fps == 40
    assert config.http is not None
    assert config.http.port == 9000
    assert config.state == tmp_path / "vidai-state"
    door, yard = config.streams["door"], config.streams["yard"]
    assert [output.kind for output in door.outputs] == ["hls", "record", "jsonl", "mqtt"]
    assert door.outputs[3].options.password == "pw"
    assert (door.analyze_fps, door.priority, door.rules[0].name) == (5, 3, "someone")
    assert (yard.analyze_fps, yard.loop, yard.policy) == (None, True, "every")
    assert [output.kind for output in yard.outputs] == ["hls"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("analyse_fps: 3", "analyse_fps: is not known here, did you mean analyze_fps?"),
        ("xylophone: 3", "xylophone: is not known here: check the spelling"),
        ("policy: newst", "policy: Input should be 'newest' or 'every'"),
        ("max_delay: soon", "max_delay: Input should be a valid number"),
        ("max_delay: .nan", "max_delay: Input should be "),
        ("analyze_fps: 0", "analyze_fps: Input should be greater than 0"),
        (
            "track: maybe\ncodec: av1",
            "track: Input should be a valid boolean, unable to interpret input (and 1 more)",
        ),
        ("outputs: hls", "outputs: Input should be a valid list"),
        ("outputs: [hsl]", "outputs.0: there is no such output, did you mean hls?: use clips, "),
        ("outputs: [7]", "outputs.0: an output is a name, or one name with its options below it"),
        ("outputs: [hls, {hls: {}, mqtt: {}}]", "outputs.1: an output is a name, or one name"),
        ("outputs: [hls: 0]", "outputs.0: hls: Input should be a valid dictionary"),
        ("outputs: [mqtt: {hots: x}]", "outputs.0: mqtt: hots: is not known here, did you mean ho"),
        ("outputs: [mqtt: {port: x}]", "outputs.0: mqtt: port: Input should be a valid integer"),
        ("rules: [{zone: []}]", "rules.0.name: is missing (and 1 more)"),
        ("rules: [{name: a, ancor: x}]", "rules.0.ancor: is not known here, did you mean anchor?"),
        ("rules: [{name: a}, {name: a}]", "rules: two rules are named a"),
        ("steps: [overly]", "steps: "),
        ("7: x", "a name here is no text: on, off, yes, no and numbers need quotes"),
    ],
)
def test_a_wrong_setting_is_named_with_its_place(
    settings: str, expected: str, tmp_path: Path
) -> None:
    assert refused(tmp_path, one(settings)).startswith(f"streams.door: {expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "needs at least `streams:`"),
        ("# only a comment", "needs at least `streams:`"),
        ("- door\n- yard", "needs at least `streams:`"),
        ("door", "needs at least `streams:`"),
        ("streams: [door]", "streams needs names with settings below them"),
        ("streams: false", "streams needs names with settings below them"),
        ("defaults: 3\nstreams: {}", "defaults needs names with settings below them"),
        ("streams: {door: }", "streams.door needs at least a line `url: …`"),
        ("streams: {door: rtsp://camera}", "streams.door needs at least a line `url: …`"),
        ("streams: {door: {}}", "streams.door: url: is missing"),
        ("streams: {door: {url: }}", "streams.door: url: Input should be a valid string"),
        ("streams: {door: {url: ' '}}", "streams.door: url: the address of a stream is empty"),
        ("streams: {door: {url: gopher://x}}", "streams.door: url: gopher://x: no stream is read"),
        ("stream: {}", "stream: is not known here, did you mean streams?"),
        ("defaults: {polcy: every}", "defaults: polcy: is not known here, did you mean policy?"),
        ("http: {prot: 1}", "http.prot: is not known here, did you mean port?"),
        ("http: {port: 70000}", "http.port: Input should be less than or equal to 65535"),
        ("http: {token: short}", "http.token: String should have at least 8 characters"),
        ("analysis: {max_batch: 0}", "analysis.max_batch: Input should be greater than or equal"),
        ("conf: 2", "conf: Input should be less than or equal to 1"),
        ("on: 1", "a name here is no text: on, off"),
        ("model: []", "model: Input should be a valid string"),
        ("streams: {on: {url: x}}", "a stream's name needs quotes here: YAML does not take it for"),
        ("streams: {7: {url: x}}", "a stream's name needs quotes here"),
        ("streams: {'': {url: x}}", "'' cannot name a stream: use up to 64 letters"),
        ("streams: {../x: {url: x}}", "'../x' cannot name a stream"),
        ("streams: {.: {url: x}}", "'.' cannot name a stream"),
        ("streams: {a/b: {url: x}}", "'a/b' cannot name a stream"),
        ("streams: {Tür: {url: x}}", "'Tür' cannot name a stream"),
        ('streams: {"a\\n": {url: x}}', "'a\\n' cannot name a stream"),
        (f"streams: {{{'a' * 65}: {{url: x}}}}", f"'{'a' * 65}' cannot name a stream"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(text: str, expected: str, tmp_path: Path) -> None:
    assert expected in refused(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("streams:\n\tdoor: 1", ", line 2, column 1: found character '\\t' that cannot start any"),
        ("streams: {", ", line 1, column 11: "),
        ("a: b: c", ", line 1, column 5: mapping values are not allowed here"),
        ("a: *base", ", line 1, column 4: found undefined alias …"),
        (
            "a: !!python/object:os.system {}",
            ", line 1, column 4: could not determine a constructor",
        ),
        ("? [a, b]\n: c", "found unhashable key"),
        ("a: 1\n---\nb: 2", "but found another document"),
        ("state: 2026-99-99", "has a number or date that does not exist"),
        ("&a [*a]", "something here contains itself"),
        ("streams: &s\n  door: {x: *s}", "something here contains itself"),
        ("[" * 1000, "is nested too deeply"),
        (b"\x00\x01\x02", "has control characters in it"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "is no text in UTF-8 (byte 0)"),
        ("streams: {}".encode("utf-16"), "is no text in UTF-8"),
        ("# " + "x" * (1 << 20), "has more than 1 MiB: is it the right file?"),
        (
            "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n"
            + "".join(
                f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
                for before, name in itertools.pairwise("abcdefgh")
            ),
            "there are more than 100000 values",
        ),
    ],
)
def test_what_is_no_yaml_is_refused_with_its_line(
    text: str | bytes, expected: str, tmp_path: Path
) -> None:
    assert expected in refused(tmp_path, text)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path, expected in (
        (tmp_path / "no.yaml", f"there is no file {tmp_path / 'no.yaml'}: check the name"),
        (tmp_path, f"{tmp_path} cannot be read: Is a directory"),
        (Path("/dev/zero"), "/dev/zero has more than 1 MiB: is it the right file?"),
    ):
        with pytest.raises(ConfigError) as caught:
            read_config(path)
        assert str(caught.value) == expected


def test_a_mark_at_the_beginning_of_the_file_is_no_harm(tmp_path: Path) -> None:
    text = one("").encode("utf-8-sig")
    assert list(read_config(written(tmp_path, text)).streams) == ["door"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "streams:\n  door: {url: a}\n  yard: {url: b}\n  door: {url: c}",
            ", line 4, column 3: door stands here twice",
        ),
        ("streams: {a: {url: x}}\nstreams: {b: {url: y}}", ", line 2, column 1: streams stands"),
        (one("url: rtsp://other/1"), ", line 5, column 5: url stands here twice"),
        (one("outputs: [mqtt: {port: 1, port: 2}]"), "port stands here twice"),
        ("streams: {a: {url: x}, 'a': {url: y}}", "a stands here twice"),
    ],
)
def test_a_name_that_stands_twice_loses_no_camera_in_silence(
    text: str, expected: str, tmp_path: Path
) -> None:
    assert expected in refused(tmp_path, text)


def test_what_is_shared_by_aliases_may_be_said_anew(tmp_path: Path) -> None:
    text = """
defaults: &root {analyze_fps: 5}
streams:
  a: &a {<<: *root, url: a, analyze_fps: 6}
  b: {<<: *a, url: b}
  c: {<<: [*a, *root], url: c, priority: 2}
"""
    streams = read_config(written(tmp_path, text)).streams
    assert [(s.url, s.analyze_fps) for s in streams.values()] == [("a", 6), ("b", 6), ("c", 6)]


def test_defaults_hold_for_all_that_does_not_say_otherwise() -> None:
    config = worker_config(
        {
            "defaults": {"policy": "every", "outputs": ["jsonl", "hls"], "priority": 2},
            "streams": {"a": {"url": "x"}, "b": {"url": "y", "outputs": [], "priority": 0}},
        }
    )
    a, b = config.streams["a"], config.streams["b"]
    assert (a.policy, a.priority, [o.kind for o in a.outputs]) == ("every", 2, ["jsonl", "hls"])
    assert (b.policy, b.priority, b.outputs) == ("every", 0, [])
    assert config.defaults == {"policy": "every", "outputs": ["jsonl", "hls"], "priority": 2}


def test_nothing_needs_to_be_said(tmp_path: Path) -> None:
    for text in ("streams:", "streams: {}", "defaults:\nstreams:"):
        config = read_config(written(tmp_path, text))
        assert config.model_copy(update={"state": Path("vidai-state")}) == WorkerConfig()
    assert read_config(written(tmp_path, "http: null")).http is None


def test_relative_paths_are_seen_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, elsewhere = tmp_path / "config", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "my.onnx").touch()
    (folder / "yolox-nano").mkdir()  # a folder is no model
    monkeypatch.chdir(elsewhere)
    written(folder, "model: my.onnx\nstate: ../state\n")
    for path in (folder / "cameras.yaml", Path("../config/cameras.yaml")):
        config = read_config(path)
        assert Path(config.model).resolve() == folder / "my.onnx"
        assert config.state.resolve() == tmp_path / "state"
    written(folder, f"model: yolox-nano\nstate: {tmp_path}/absolute\n")
    config = read_config(folder / "cameras.yaml")
    assert config.model == "yolox-nano"
    assert config.state == tmp_path / "absolute"


def test_the_environment_fills_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMERA_LOGIN", "me:pw: {x}")  # nothing of it is YAML any more
    monkeypatch.setenv("FPS", "7.5")
    monkeypatch.setenv("EMPTY", "")
    text = """
streams:
  door:
    url: rtsp://${CAMERA_LOGIN}@camera${EMPTY}/1?x=$HOME&y=$${FPS}
    analyze_fps: ${FPS}
    outputs: [mqtt: {password: "${CAMERA_LOGIN}"}]
"""
    door = read_config(written(tmp_path, text)).streams["door"]
    assert door.url == "rtsp://me:pw: {x}@camera/1?x=$HOME&y=$7.5"
    assert door.analyze_fps == 7.5
    assert door.outputs[0].options.password == "me:pw: {x}"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (one("outputs: [mqtt: {password: '${NOT_SET}'}]"), "streams.door.outputs.0.mqtt.password"),
        ("model: x${NOT_SET}", "model"),
        ("http: {token: '${NOT_SET}'}", "http.token"),
        ("defaults: {rules: [{name: '${NOT_SET}'}]}", "defaults.rules.0.name"),
    ],
)
def test_what_the_environment_lacks_is_named_with_its_place(
    text: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    said = refused(tmp_path, text)
    assert said == f"{place} uses ${{NOT_SET}}, which is not set in the environment"


@pytest.mark.parametrize(
    "text",
    [
        # Wrong YAML around it.
        f"password: *{SECRET}",
        f"password: !{SECRET}",
        f"password: !{SECRET} x",
        f'password: "{SECRET}',
        f"password: @{SECRET}",
        f"password: %{SECRET}",
        f"password: '{SECRET}' tail",
        f"password: x: {SECRET}",
        f"a: &{SECRET} 1\nb: &{SECRET} 2\nc: }}",
        f"url: rtsp://me:{SECRET}@camera: 554",
        f"streams:\n  door:\n\turl: rtsp://me:{SECRET}@camera",
        f"{{password: {SECRET}, [}}",
        # Right YAML, wrong settings.
        f"http: {SECRET}",
        f"http: {{token: [{SECRET}]}}",
        f"http: {{tokn: {SECRET}}}",
        f"http: {{port: {SECRET}}}",
        f"conf: {SECRET}",
        f"precision: {SECRET}",
        f"streams: {SECRET}",
        f"streams: {{door: {SECRET}}}",
        f"streams: {{door: [{SECRET}]}}",
        f"streams: {{'rtsp://me:{SECRET}@camera': {{url: x}}}}",
        f"streams: {{'rtsp://me:{SECRET}@camera': }}",
        f"streams: {{door: {{'rtsp://me:{SECRET}@camera': }}}}",
        f"streams: {{door: {{'rtsp://me:{SECRET}@camera': '${{NOT_SET}}'}}}}",
        f"streams: {{a: {{'rtsp://me:{SECRET}@c': , 'rtsp://me:{SECRET}@c': }}}}",
        f"streams: {{door: {{url: 'gopher://me:{SECRET}@camera'}}}}",
        f"streams: {{door: {{url: 'rtsp://me:{SECRET}@camera:port/'}}}}",
        f"streams: {{door: {{url: ['rtsp://me:{SECRET}@camera']}}}}",
        f"streams: {{door: {{url: {{password: {SECRET}}}}}}}",
        one(f"transport: {SECRET}"),
        one(f"track: {SECRET}"),
        one(f"passwd: {SECRET}"),
        one(f"outputs: [{SECRET}]"),
        one(f"outputs: ['mqtt://me:{SECRET}@broker']"),
        one(f"outputs: [{{mqtt: {{}}, password: {SECRET}}}]"),
        one(f"outputs: [{{{SECRET}: {{}}}}]"),
        one(f"outputs: [mqtt: {SECRET}]"),
        one(f"outputs: [mqtt: {{password: [{SECRET}]}}]"),
        one(f"outputs: [mqtt: {{pasword: {SECRET}}}]"),
        one(f"outputs: [mqtt: {{port: {SECRET}}}]"),
        one(f"outputs: [redis: {{url: {{x: {SECRET}}}}}]"),
        one(f"outputs: [kafka: {{config: {{sasl.password: [{SECRET}]}}}}]"),
        one(f"outputs: [kafka: {{config: {SECRET}}}]"),
        f"defaults: {{outputs: [mqtt: {{password: {{x: {SECRET}}}}}]}}",
        f"defaults: {{max_delay: {SECRET}}}",
    ],
)
def test_no_sentence_repeats_a_secret(text: str, tmp_path: Path) -> None:
    refused(tmp_path, text)


def test_no_sentence_repeats_a_secret_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSWORD_OF_CAMERA", SECRET)
    for text in (
        one("max_delay: ${PASSWORD_OF_CAMERA}"),
        one("outputs: ['${PASSWORD_OF_CAMERA}']"),
        "streams: {door: {url: 'rtsp://me:${PASSWORD_OF_CAMERA}@:1'}}",
    ):
        refused(tmp_path, text)


SECRETS = st.text(
    string.ascii_letters + string.digits + ":@/?#&=%[] '\"!$*,;~^", min_size=12, max_size=24
).filter(lambda text: len(set(text)) > 8 and text.strip() == text)


@settings(max_examples=100, deadline=None)
@given(SECRETS, SECRETS, SECRETS, SECRETS, SECRETS)
def test_what_is_told_of_a_stream_has_no_secret_in_it(
    camera: str, mqtt: str, redis: str, kafka: str, second: str
) -> None:
    """Whatever characters it has."""
    config = stream_config(
        {
            "url": f"http://me:{quote(camera, '')}@camera/1?user=a&auth={quote(second, '')}",
            "outputs": [
                {"mqtt": {"host": "broker", "user": "me", "password": mqtt}},
                {"redis": {"url": f"redis://me:{quote(redis, '')}@host/0", "password": second}},
                {"kafka": {"config": {"sasl.password": kafka, "ssl.key.password": second}}},
                "hls",
            ],
        },
        "door",
    )
    told = config.told()
    shown = json.dumps(told, ensure_ascii=False) + repr(told)
    for secret in (camera, mqtt, redis, kafka, second):
        assert secret not in shown
        assert json.dumps(secret)[1:-1] not in shown
        assert quote(secret, "") not in shown
    assert "broker" in shown
    assert told["outputs"][-1] == {"hls": {}}


def test_what_is_told_can_be_read_by_people() -> None:
    config = stream_config(
        {
            "url": "rtsp://me:secret@camera/1",
            "analyze_fps": 5,
            "outputs": ["hls", {"mqtt": {"topic": "a", "password": "secret"}}],
        },
        "door",
    )
    assert config.told() == {
        "url": "rtsp://me:***@camera/1",
        "analyze_fps": 5.0,
        "outputs": [{"hls": {}}, {"mqtt": {"topic": "a", "password": "***"}}],
    }


@pytest.mark.parametrize("name", ["a", "0", "door.1", "Front_Door-2", "a" * 64])
def test_good_names_are_good(name: str) -> None:
    assert check_name(name) == name


def test_settings_survive_being_written_and_read(tmp_path: Path) -> None:
    """As changes over HTTP do."""
    config = stream_config(
        {
            "url": "rtsp://me:secret@camera/1",
            "analyze_fps": 5,
            "rules": [{"name": "a", "zone": [[0, 0], [1, 0], [1, 1]]}],
            "outputs": [kind for kind in output_kinds() if kind in ("hls", "record", "jsonl")],
        },
        "door",
    )
    plain: dict[str, Any] = config.model_dump(mode="json", exclude_unset=True)
    again = read_yaml(written(tmp_path, yaml.safe_dump(plain)))
    assert stream_config(again, "door") == config


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"outputs": ["clips"]}, "there is no rule yet"),
        (
            {"outputs": [{"clips": {"rules": ["gate"]}}], "rules": [{"name": "door"}]},
            "no rule gate",
        ),
        ({"outputs": ["hls", "hls"]}, "one output hls is enough"),
    ],
)
def test_outputs_that_can_never_do_anything_are_refused(
    settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        worker_config({"streams": {"front": {"url": "a.mp4", **settings}}})
