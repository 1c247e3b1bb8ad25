"""The files in deploy/ and the operators' guide agree with the code and with each other."""

from __future__ import annotations

import http.server
import importlib
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
UID = 10001
ENVIRONMENT = {"VIDAI_TOKEN": "a-long-enough-token", "CAMERA_PASSWORD": "secret"}


def steps(kind: str) -> list[str]:
    """The arguments of each instruction of a kind in the Dockerfile, on one line."""
    text = (DEPLOY / "Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    lines = (line.split(maxsplit=1) for line in text.splitlines() if line.strip())
    return [" ".join(rest[0].split()) for name, *rest in lines if name == kind]


def extras() -> set[str]:
    text = (ROOT / "pyproject.toml").read_text()
    section = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    return set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))


def is_ignored(path: str) -> bool:
    """Whether .dockerignore keeps this file out; its last matching line decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        parts = path.split("/")
        if pattern.startswith("**/"):
            found = any(fnmatch(part, pattern[3:]) for part in parts)
        else:
            found = fnmatch(parts[0], pattern)
        if found:
            ignored = not line.startswith("!")
    return ignored


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text("utf-8")))


def kubernetes(kind: str) -> Any:
    (found,) = [each for each in documents("kubernetes.yaml") if each["kind"] == kind]
    return found


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    copied = [each.split() for each in steps("COPY") if not each.startswith("--from")]
    sources = [source for *sources, _ in copied for source in sources]
    assert {"pyproject.toml", "setup.py", "vidai", "kernels", "pipelines"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists()
        assert not is_ignored(source)
    assert is_ignored("vidai/libkernels-baseline.so")  # built for another machine
    assert is_ignored("vidai/live/__pycache__/logs.cpython-311.pyc")
    assert is_ignored(".git/config")
    assert is_ignored("shared/models/yolox_nano.onnx")
    assert is_ignored("deploy/cameras.env")


def test_the_image_has_all_that_the_build_reads() -> None:
    """Files that pyproject.toml and setup.py name."""
    copied = " ".join(each for each in steps("COPY")).split()
    text = (ROOT / "pyproject.toml").read_text()
    files = re.findall(r'^(?:readme = |license-files = \[)"(.+?)"', text, re.MULTILINE)
    assert len(files) == 2
    assert set(files) <= set(copied)
    folders = re.findall(r'^"vidai\.\w+" = "(\w+)"$', text, re.MULTILINE)
    assert folders
    assert set(folders) <= set(copied)


def test_an_installed_package_has_all_its_files() -> None:
    """pyproject.toml lists what goes along with the code: pages too."""
    text = (ROOT / "pyproject.toml").read_text()
    packages = re.findall(r'^    "(vidai[\w.]*)",$', text, re.MULTILINE)
    section = text.partition("[tool.setuptools.package-data]")[2].partition("\n[")[0]
    patterns = {
        name: re.findall(r'"([^"]+)"', rest)
        for name, rest in re.findall(r'^"?([\w.*]+)"? = \[([^\]]*)\]', section, re.MULTILINE)
    }
    homes = {ROOT.joinpath(*name.split(".")): name for name in packages}
    for path in (ROOT / "vidai").rglob("*"):
        if path.is_dir() or path.suffix == ".so" or "__pycache__" in path.parts:
            continue
        home = next(folder for folder in path.parents if folder in homes)
        if path.suffix == ".py" and path.parent == home:
            continue
        named = [*patterns.get("*", []), *patterns.get(homes[home], [])]
        installed = {file for pattern in named for file in home.glob(pattern)}
        assert path in installed, f"{path.relative_to(ROOT)} is not installed"


def test_extras_that_are_installed_exist() -> None:
    text = "".join(path.read_text("utf-8") for path in DEPLOY.iterdir() if path.is_file())
    named = re.findall(r"EXTRAS[=:] ?\"?([a-z][\w,]*)", text) + re.findall(r"\.\[([a-z,]+)\]", text)
    assert len(named) >= 4
    for each in named:
        assert set(each.split(",")) <= extras()
        assert "serve" in each.split(",")


def test_the_container_is_no_root_and_writes_to_one_folder() -> None:
    assert steps("USER") == [str(UID)]
    assert any(f"--uid {UID} " in each for each in steps("RUN"))
    assert steps("VOLUME") == ["/state"]
    environ = dict(each.split("=", 1) for each in steps("ENV")[0].split())
    assert environ["HOME"] == "/state"
    assert environ["VIDAI_CACHE"].startswith("/state/")
    assert set(environ["NVIDIA_DRIVER_CAPABILITIES"].split(",")) == {"compute", "video", "utility"}


def test_the_container_gets_the_signals_itself() -> None:
    """A shell before the command would keep them."""
    assert steps("STOPSIGNAL") == ["SIGTERM"]
    assert yaml.safe_load(steps("ENTRYPOINT")[0]) == ["vidai"]
    assert yaml.safe_load(steps("CMD")[0]) == ["serve", "/config/cameras.yaml"]
    assert kubernetes("Deployment")["spec"]["template"]["spec"]["containers"][0]["args"] == [
        "serve",
        "/config/cameras.yaml",
    ]


def test_probes_ask_what_the_worker_answers() -> None:
    from vidai.live.config import HttpConfig
    from vidai.live.http import OPEN

    port = HttpConfig.model_fields["port"].default
    assert steps("EXPOSE") == [str(port)]
    (health,) = steps("HEALTHCHECK")
    assert f"http://127.0.0.1:{port}/healthz" in health
    container = kubernetes("Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert container["ports"] == [{"name": "http", "containerPort": port}]
    paths = {}
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[name]["httpGet"]["port"] == "http"
        paths[name] = container[name]["httpGet"]["path"]
    # A worker that has lost its cameras is not ready, but a restart would not find them.
    assert paths == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    annotations = kubernetes("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == "/metrics"
    assert {*paths.values(), "/metrics"} <= OPEN
    assert annotations["prometheus.io/port"] == str(port)


def test_the_health_check_tells_well_from_ill() -> None:
    """Its very command, on a server that is well, ill, and away."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    status = 200
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = yaml.safe_load(steps("HEALTHCHECK")[0].partition(" CMD ")[2])
    assert command[0] == "python"
    command = [sys.executable, *(part.replace("8080", str(port)) for part in command[1:])]

    def check() -> int:
        return subprocess.run(command, stderr=subprocess.DEVNULL, timeout=60).returncode

    assert check() == 0
    status = 503
    assert check() == 1
    server.shutdown()
    server.server_close()
    assert check() == 1


def test_kubernetes_names_agree() -> None:
    deployment, service = kubernetes("Deployment"), kubernetes("Service")
    pod = deployment["spec"]["template"]
    container = pod["spec"]["containers"][0]
    assert deployment["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
    assert service["spec"]["selector"] == pod["metadata"]["labels"]
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
    volumes = {each["name"]: each for each in pod["spec"]["volumes"]}
    assert {each["name"] for each in container["volumeMounts"]} == set(volumes)
    assert volumes["config"]["configMap"]["name"] == kubernetes("ConfigMap")["metadata"]["name"]
    claim = volumes["state"]["persistentVolumeClaim"]["claimName"]
    assert claim == kubernetes("PersistentVolumeClaim")["metadata"]["name"]
    assert pod["spec"]["securityContext"]["runAsUser"] == UID
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert deployment["spec"]["replicas"] == 1


def test_all_leave_time_to_drain() -> None:
    """Streams take up to 10 s, then the last traces and lines of the log some more."""
    from vidai.live import logs, tracing
    from vidai.live.worker import STOPPED

    needed = STOPPED + 2 * tracing.PATIENCE + logs.PATIENCE + 1
    assert needed < 20
    pod = kubernetes("Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 20
    (compose,) = documents("compose.yaml")
    for name in ("vidai", "vidai-gpu"):
        service = compose["services"][name]
        assert service["stop_grace_period"] == "20s"
        assert service["restart"] == "unless-stopped"
        assert service["read_only"] is True
        assert "./config:/config:ro" in service["volumes"]
        assert "state:/state" in service["volumes"]
        assert service["logging"]["options"]["max-size"]
        assert (DEPLOY / service["build"]["context"]).resolve() == ROOT
        assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert compose["services"]["vidai-gpu"]["build"]["args"]["EXTRAS"].split(",")[-1] == "cuda"
    assert "TimeoutStopSec=20" in (DEPLOY / "vidai.service").read_text().splitlines()


@pytest.mark.parametrize("name", ["cameras.example.yaml", "kubernetes.yaml"])
def test_the_cameras_that_are_shipped_can_be_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vidai.live.config import read_config

    for variable, value in ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)
    text = (DEPLOY / name).read_text("utf-8")
    if name == "kubernetes.yaml":
        text = kubernetes("ConfigMap")["data"]["cameras.yaml"]
    (tmp_path / "cameras.yaml").write_text(text, "utf-8")
    config = read_config(tmp_path / "cameras.yaml")
    assert config.streams
    assert config.state == Path("/state")
    assert config.http is not None
    assert (config.http.host, config.http.port) == ("0.0.0.0", 8080)  # else no port reaches it
    assert config.http.token == ENVIRONMENT["VIDAI_TOKEN"]
    assert "secret" in config.streams["front"].url


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        if "CI" in os.environ:
            pytest.fail("systemd-analyze is missing: apt install systemd")
        pytest.skip("systemd-analyze is not installed: apt install systemd")
    unit = tmp_path / "vidai.service"
    text = (DEPLOY / "vidai.service").read_text()
    unit.write_text(text.replace("/opt/vidai/bin/vidai", "/bin/true"))  # must exist
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "Type=notify" in text
    assert "ExecReload=/bin/kill -HUP $MAINPID" in text


# The operators' guide

GUIDE = (ROOT / "docs" / "serve.md").read_text("utf-8")


def tables() -> dict[str, dict[str, str]]:
    """The tables of settings by their headings: default by setting."""
    found = {}
    for section in GUIDE.split("\n### ")[1:]:
        heading, _, text = section.partition("\n")
        text = text.partition("\n## ")[0]
        rows = re.findall(r"^\| `(\w+)` \|(.*?)\|.*\|$", text, re.MULTILINE)
        found[heading] = {name: default.strip() for name, default in rows}
    return found


def as_told(default: Any) -> Any:
    """A default as the guide has it, read as YAML."""
    if isinstance(default, BaseModel):
        return None
    return str(default) if isinstance(default, Path) else default


def test_the_guide_has_every_setting_with_its_default() -> None:
    from vidai.live import config
    from vidai.live.outputs.jsonl import FolderOptions
    from vidai.live.rules import Rule
    from vidai.live.spool import SpoolOptions

    models: dict[str, tuple[type[BaseModel], type[BaseModel] | None]] = {
        "The file": (config.WorkerConfig, None),
        "analysis": (config.AnalysisConfig, None),
        "http": (config.HttpConfig, None),
        "streams.NAME": (config.StreamConfig, None),
        "rules": (Rule, None),
        "servers": (SpoolOptions, None),
        "files of records": (FolderOptions, None),
    }
    for kind in config.output_kinds():
        options = importlib.import_module(f"vidai.live.outputs.{kind}").Options
        shared = [base for base in (SpoolOptions, FolderOptions) if issubclass(options, base)]
        models[kind] = options, shared[0] if shared else None
    told = tables()
    assert told.keys() == models.keys()
    for heading, (model, base) in models.items():
        fields = {
            name: field
            for name, field in model.model_fields.items()
            if base is None or name not in base.model_fields
        }
        assert list(told[heading]) == list(fields), heading
        for name, field in fields.items():
            default = told[heading][name]
            if field.is_required():
                assert default == "needed", (heading, name)
                continue
            said = None if default == "none" else yaml.safe_load(default or "null")
            expected = as_told(field.get_default(call_default_factory=True))
            assert said == expected or default == expected, (heading, name)


def test_the_cameras_of_the_guide_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vidai.live.config import read_config

    for variable, value in ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)
    examples = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    assert len(examples) == 2
    for text in examples:
        (tmp_path / "cameras.yaml").write_text(text, "utf-8")
        for stream in read_config(tmp_path / "cameras.yaml").streams.values():
            assert "://" in stream.url or (ROOT / stream.url).is_file()


def test_the_guide_names_every_metric_and_no_other() -> None:
    from vidai.live.metrics import Metrics
    from vidai.live.output import OutputStatus
    from vidai.live.status import StreamStatus, WorkerStatus
    from vidai.live.telemetry import FIGURES

    output = OutputStatus("mqtt", lost=Counter(full=1))
    stream = StreamStatus("front", "rtsp://cam", since=1.0, wanted_fps=5.0, granted_fps=5.0)
    stream.outputs.append(output)
    stream.ledger.dropped["flood"] = stream.ledger.failed["DecodeError"] = 1
    status = WorkerStatus("0", "m", "cpu", None, 1.0, True, True, 9.0, 1.0, [stream])
    metrics = Metrics(lambda: status)
    metrics.observe("front", "total", 0.1)
    metrics.observe_batch(1, 2)
    text = metrics.render()[0].decode()
    told = {
        found[0] + ("_total" if found[1] == "counter" and not found[0].endswith("_total") else "")
        for found in re.findall(r"^# TYPE (vidai_\w+) (\w+)$", text, re.MULTILINE)
    }
    told = {name for name in told if not name.endswith("_created")}
    assert told | set(FIGURES) == set(re.findall(r"`(vidai_\w+)", GUIDE))
