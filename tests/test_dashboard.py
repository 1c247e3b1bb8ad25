"""The dashboard in a real browser: it plays, tells, adds and removes, and runs nothing it shows."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.media import make_clip, moving_shapes
from tests.test_live_http import TOKEN, LoopedVideo, SmallWorker
from vidai.live.http import HttpServer
from vidai.live.output import OutputStatus

T = TypeVar("T")
WAIT = 30.0  # s until a condition has to hold
EVIL = "<img src=x onerror=\"document.title='evil'\">"


def until(ask: Callable[[], T], what: str) -> T:
    """What ask() says as soon as it is true."""
    end = time.monotonic() + WAIT
    while not (said := ask()):
        assert time.monotonic() < end, f"not within {WAIT} s: {what}"
        time.sleep(0.05)
    return said


class Page:
    """The dashboard in a browser."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """The text of the first one that is there, also if it is out of sight."""
        script = "return document.querySelector(arguments[0])?.textContent ?? ''"
        return str(self.driver.execute_script(script, selector))

    def shows(self, selector: str) -> bool:
        return any(found.is_displayed() for found in self.all(selector))

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def sign_in(self, url: str, token: str = TOKEN) -> None:
        self.driver.get(url)
        until(lambda: self.shows("#token"), "the form to sign in")
        self.find("#token").send_keys(token, Keys.ENTER)

    def open(self, url: str) -> None:
        self.sign_in(url)
        until(lambda: self.shows("#board"), "the streams")

    def prefer(self, scheme: str) -> None:
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )

    def _log(self, kind: str) -> list[dict[str, Any]]:
        return list(self.driver.get_log(kind))  # type: ignore[no-untyped-call]

    def errors(self) -> list[str]:
        """What the console complained of since the last call."""
        return [
            str(line["message"])
            for line in self._log("browser")
            if line["level"] in ("SEVERE", "WARNING")
        ]

    def requested(self) -> list[str]:
        """All addresses that were asked for since the last call."""
        messages = [json.loads(line["message"])["message"] for line in self._log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    browser, service = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or service is None:
        told = "needs chromium and chromedriver: apt-get install chromium chromium-driver"
        if os.environ.get("CI"):
            pytest.fail(told)
        pytest.skip(told)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--autoplay-policy=no-user-gesture-required", "--window-size=1400,900"),
        f"--user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(service))
    driver.set_page_load_timeout(WAIT)
    yield driver
    driver.quit()


@pytest.fixture
def page(driver: webdriver.Chrome) -> Page:
    """Nobody is signed in, and nothing is in the logs."""
    driver.get("about:blank")
    driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    page = Page(driver)
    page.prefer("light")
    page.errors()
    page.requested()
    return page


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> LoopedVideo:
    return LoopedVideo(tmp_path_factory.mktemp("hls") / "parts")


@pytest.fixture
def worker() -> SmallWorker:
    return SmallWorker()


@pytest.fixture
def url(worker: SmallWorker) -> Iterator[str]:
    server = HttpServer(worker, port=0)
    server.start()
    yield server.url
    server.close()


def add_live(worker: SmallWorker, name: str, video: LoopedVideo | None = None) -> None:
    worker.add(name, {"url": f"rtsp://camera/{len(worker.streams)}"})
    stream = worker.streams[name]
    stream.state, stream.connections, stream.since = "live", 3, time.time() - 60
    stream.width, stream.height, stream.codec = 160, 96, "h264"
    stream.fps_in, stream.fps_out, stream.fps_analysed = 25.0, 24.5, 12.25
    stream.latency = {"p50": 0.02, "p95": 0.038, "max": 1.5}
    stream.ledger.received, stream.ledger.processed = 12_345, 12_000
    stream.ledger.dropped["late"] = 345
    stream.history.extend((20.0 + n % 5, 0.03) for n in range(30))
    stream.watching = video is not None
    if video is not None:
        worker.videos[name] = video


def pixel(page: Page) -> list[int]:
    """Of the picture that the first video shows, its middle."""
    drawn = page.run(
        """const video = document.querySelector('.tile video');
        const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
        const pen = canvas.getContext('2d');
        pen.drawImage(video, 0, 0);
        return [...pen.getImageData(80, 48, 1, 1).data];"""
    )
    return [int(value) for value in drawn]


def test_live_video_plays(page: Page, url: str, worker: SmallWorker, video: LoopedVideo) -> None:
    """Its clip ends and begins anew after 4 s, as a camera does that reconnects."""
    add_live(worker, "yard", video)
    page.open(url)
    time_of = "return document.querySelector('.tile video').currentTime"
    until(lambda: page.run(time_of) > 0.2, "pictures")
    assert page.run("return document.querySelector('.tile video').videoWidth") == 160
    assert page.run("return document.querySelector('.tile video').videoHeight") == 96
    assert page.find(".tile .screen").get_attribute("data-moves") is not None
    assert sum(pixel(page)[:3]) > 60  # the gradient's middle, or the bright square
    begun = float(page.run(time_of))
    until(lambda: page.run(time_of) > begun + 5, "pictures after the clip began anew")
    assert page.errors() == []


def test_nobody_watches_what_is_not_seen(
    page: Page, url: str, worker: SmallWorker, video: LoopedVideo
) -> None:
    """So that the worker need not encode it."""
    for number in range(12):
        add_live(worker, f"camera-{number}", video)
    page.open(url)
    playing = "return [...document.querySelectorAll('.tile video')].map((v) => Boolean(v.src))"
    until(lambda: page.run(playing)[0], "the first one plays")
    assert page.run(playing)[-1] is False
    page.run("document.querySelector('.tile:last-child').scrollIntoView()")
    until(lambda: page.run(playing)[-1], "the last one plays when it is in view")
    until(lambda: not page.run(playing)[0], "the first one stops")


def test_a_stream_without_video_shows_its_newest_picture(
    page: Page, url: str, worker: SmallWorker
) -> None:
    def jpeg(index: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(moving_shapes(index, 160, 96)).save(file, "jpeg")
        return file.getvalue()

    add_live(worker, "yard")
    worker.pictures["yard"] = jpeg(0)
    page.open(url)
    until(lambda: page.run("return document.querySelector('.tile img').naturalWidth"), "a picture")
    assert page.run("return document.querySelector('.tile img').naturalWidth") == 160
    first = page.find(".tile img").get_attribute("src")
    until(lambda: page.find(".tile img").get_attribute("src") != first, "another one")
    assert page.errors() == []


def test_what_the_worker_says_is_told(page: Page, url: str, worker: SmallWorker) -> None:
    add_live(worker, "yard")
    worker.add("gate", {"url": "rtsp://gate"})
    gate = worker.streams["gate"]
    gate.state, gate.error = "retrying", "gate does not answer: connection refused"
    gate.wanted_fps, gate.granted_fps = 25.0, 5.0
    gate.outputs.append(OutputStatus("mqtt", state="the broker is away"))
    page.open(url)
    assert page.text("#fact-model") == "yolox-nano, fp32"
    assert page.text("#fact-capacity") == "12.3 of 90.0 /s"
    assert page.text("#fact-batch") == "75\u202f% full"
    assert page.text("#fact-up").startswith("1\u202fh 1\u202fmin")
    assert page.text("#summary") == "1 live · 1 retrying"
    tile = "[data-stream=yard] "
    assert page.text(tile + ".fps-out") == "24.5"
    assert page.text(tile + ".late-p95") == "38"
    assert page.text(tile + ".late-more") == "median 20\u202fms"
    assert page.text(tile + ".again") == "2 reconnects"
    assert page.text(tile + ".lost") == "12\u202f345 frames · 345 skipped"
    line = page.find(tile + ".chart.fps .line").get_attribute("d")
    assert len(re.findall("[ML]", line or "")) == 30
    assert page.text("[data-stream=gate] .badge .word") == "retrying"
    assert page.text("[data-stream=gate] .fps-more") == ""  # it is not the device that is short
    wrong = page.text("[data-stream=gate] .trouble")
    assert wrong == "gate does not answer: connection refused · mqtt: the broker is away"
    gate.state, gate.error = "live", None
    gate.outputs.clear()
    until(lambda: page.text("#summary") == "2 live", "the news")
    assert page.text("[data-stream=gate] .fps-more") == "seen 0.0 of 25.0"
    assert not page.shows("[data-stream=gate] .trouble")
    assert page.text("#said") == "gate: live"  # to those who listen


def test_a_stream_larger(page: Page, url: str, worker: SmallWorker, video: LoopedVideo) -> None:
    add_live(worker, "yard", video)
    output = OutputStatus("webhook", "https://example.org", "ok", 10, 7, 1, 2048)
    output.lost["full"] = 2
    worker.streams["yard"].outputs.append(output)
    page.open(url)
    page.find("[data-stream=yard] .open").send_keys(Keys.ENTER)  # by the keyboard
    until(lambda: page.shows("#detail"), "the larger view")
    ledger = page.text("#detail-ledger")
    assert "Received12\u202f345" in ledger
    assert "Dropped: late345" in ledger
    assert "On their way0" in ledger
    outputs = page.text("#detail-outputs")
    assert "max 1.50\u202fs" in page.text("#detail-now")
    assert "10 accepted: 7 delivered, 1 waiting (2.0\u202fkB), lost: full 2" in outputs
    until(lambda: "rtsp://camera/0" in page.text("#detail-settings"), "the settings")
    moves = "return document.querySelector('#detail video').currentTime"
    until(lambda: page.run(moves) > 0, "pictures")
    page.find("body").send_keys(Keys.ESCAPE)
    until(lambda: not page.shows("#detail"), "the end of it")
    assert not page.run("return Boolean(document.querySelector('#detail video').src)")
    assert page.errors() == []


def test_adding_a_stream(page: Page, url: str, worker: SmallWorker) -> None:
    page.open(url)
    assert page.shows("#empty")
    page.find("#add-first").click()
    page.find("#add-name").send_keys("yard")
    page.find("#add-url").send_keys("rtsp://camera/1")
    page.find("#add-fps").send_keys("12.5")
    page.find("#add-priority").send_keys("2", Keys.ENTER)
    until(lambda: page.shows("[data-stream=yard]"), "its tile")
    assert worker.settings == {
        "yard": {"url": "rtsp://camera/1", "analyze_fps": 12.5, "priority": 2}
    }
    assert not page.shows("#adding")
    assert not page.shows("#empty")
    page.find("#add").click()
    page.find("#add-name").send_keys("yard")
    page.find("#add-url").send_keys("rtsp://camera/2", Keys.ENTER)
    said = until(lambda: page.text("#add-form .form-error"), "why not")
    assert said == "There is a stream yard already: choose another name."
    assert page.shows("#adding")
    assert list(worker.settings) == ["yard"]


def test_removing_a_stream(page: Page, url: str, worker: SmallWorker) -> None:
    add_live(worker, "yard")
    page.open(url)
    page.find("[data-stream=yard] .open").click()
    page.find("#detail-remove").click()
    assert page.text("#removing-head") == "Remove yard?"
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)  # by default it is kept
    until(lambda: not page.shows("#removing"), "the question has gone")
    assert list(worker.settings) == ["yard"]
    page.find("#detail-remove").click()
    page.find("#removing [type=submit]").click()
    until(lambda: page.shows("#empty"), "nothing is left")
    assert worker.settings == {}
    assert not page.shows("#detail")


def test_a_wrong_token(page: Page, url: str) -> None:
    page.sign_in(url, "wrong")
    said = until(lambda: page.text("#login-form .form-error"), "what is wrong")
    assert said == "This is not the worker's token."
    assert not page.shows("#board")
    page.find("#token").clear()
    page.find("#token").send_keys(TOKEN, Keys.ENTER)
    until(lambda: page.shows("#board"), "the streams")
    page.driver.refresh()
    until(lambda: page.shows("#board"), "the streams, still signed in")
    page.find("#logout").click()
    until(lambda: page.shows("#token"), "signed out")
    page.driver.refresh()
    until(lambda: page.shows("#token"), "still signed out")


def test_a_token_in_the_address(page: Page, url: str) -> None:
    page.driver.get(f"{url}/#token={TOKEN}")
    until(lambda: page.shows("#board"), "the streams")
    assert TOKEN not in page.driver.current_url


def test_names_and_words_are_no_markup(
    page: Page, url: str, worker: SmallWorker, video: LoopedVideo
) -> None:
    add_live(worker, EVIL, video)
    worker.streams[EVIL].error = EVIL
    worker.streams[EVIL].address = EVIL
    worker.streams[EVIL].outputs.append(OutputStatus(EVIL, EVIL, EVIL))
    worker.events.emit(EVIL, EVIL, EVIL)
    worker.events.emit("clip", EVIL, EVIL, path="gone", picture=EVIL)
    page.open(url)
    assert page.text(".tile h3") == EVIL
    until(lambda: page.run("return document.querySelector('.tile video').currentTime") > 0, "video")
    page.find(".tile .open").click()
    until(lambda: EVIL in page.text("#detail-outputs"), "the larger view")
    until(lambda: "rtsp" in page.text("#detail-settings"), "its settings")
    assert EVIL in page.text("#events")
    assert page.run("return document.querySelectorAll('[onerror]').length") == 0
    assert page.driver.title == "1/1 live – vidai"
    page.find("#detail-remove").click()
    page.find("#removing [type=submit]").click()
    until(lambda: not worker.settings, "it is removed by its name")


def test_events_and_clips(page: Page, url: str, worker: SmallWorker, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "yard.mp4", width=160, height=96, frames=50)
    picture = tmp_path / "yard.jpg"
    Image.fromarray(moving_shapes(0, 160, 96)).save(picture)
    worker.events.emit(
        "clip",
        "door: a clip of 2.0 s from 2026-01-31T12:00:00.000Z",
        "yard",
        path=str(clip),
        picture=str(picture),
        rules=["door", "yard"],
        seconds=2.04,
    )
    page.open(url)
    until(
        lambda: page.run("return document.querySelector('.thumb img')?.naturalWidth"), "thumbnail"
    )
    page.find(".thumb").click()
    until(
        lambda: page.run("return document.querySelector('#clip video').currentTime") > 0, "a clip"
    )
    assert page.run("return document.querySelector('#clip video').videoWidth") == 160
    assert page.text("#events .text") == "door, yard, 2.04\u202fs"
    head = page.text("#clip-head")
    assert re.fullmatch(r"yard · door, yard, 2.04\u202fs · \d\d:\d\d:\d\d", head), head
    page.find("#clip .close").click()
    for number in range(150):
        worker.events.emit("rate", f"event {number}", "yard")
    until(lambda: page.text("#events .text") == "event 149", "the newest first")
    assert len(page.all("#events li")) == 100  # a page that is open for months does not grow
    assert page.errors() == []


def test_dark_and_light(page: Page, url: str) -> None:
    def ground() -> int:
        color = page.run("return getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in re.findall(r"\d+", color)[:3])

    page.open(url)
    light = ground()
    page.prefer("dark")
    dark = until(lambda: ground() < light and ground(), "the system's theme")
    assert dark < 100 < 600 < light
    page.find("#theme").click()
    assert ground() == light
    page.driver.refresh()
    until(lambda: page.shows("#board"), "the streams")
    assert ground() == light  # what was chosen is kept
    page.find("#theme").click()
    assert ground() == dark


@pytest.mark.parametrize("width", [320, 390, 1400, 3840])
def test_nothing_is_wider_than_the_screen(
    page: Page, url: str, worker: SmallWorker, width: int
) -> None:
    add_live(worker, "a-camera-with-a-name-as-long-as-a-name-of-a-camera-may-ever-become")
    worker.add("gate", {"url": "rtsp://" + "long" * 40})
    worker.streams["gate"].error = "x" * 300
    worker.events.emit("lost", "y" * 300, "gate")
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.open(url)
        assert page.run("return document.documentElement.scrollWidth") <= width
        page.find("[data-stream=gate] .open").click()
        until(lambda: page.shows("#detail"), "the larger view")
        script = "const d = document.getElementById('detail'); return d.scrollWidth - d.clientWidth"
        assert page.run(script) <= 0
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_worker_that_goes_and_comes_back(page: Page, worker: SmallWorker) -> None:
    add_live(worker, "yard")
    worker.events.emit("connected", "before", "yard")
    server = HttpServer(worker, port=0)
    server.start()
    port = int(server.url.rpartition(":")[2])
    try:
        page.open(server.url)
        server.close()
        until(lambda: page.shows("#gone"), "the worker is gone")
        assert "does not answer since" in page.text("#gone")
        assert page.shows("[data-stream=yard]")  # what was last known
        again = SmallWorker()
        add_live(again, "gate")
        again.started += 10
        again.events.emit("connected", "after", "gate")
        server = HttpServer(again, port=port)
        server.start()
        until(lambda: page.shows("[data-stream=gate]"), "the worker is back")
        assert not page.shows("#gone")
        assert not page.shows("[data-stream=yard]")
        words = page.text("#events")
        assert "after" in words
        assert "before" not in words
    finally:
        server.close()


def test_everything_is_from_the_worker(
    page: Page, url: str, worker: SmallWorker, video: LoopedVideo
) -> None:
    add_live(worker, "yard", video)
    page.open(url)
    until(lambda: page.run("return document.querySelector('.tile video').currentTime") > 0, "video")
    asked = page.requested()
    assert any(address.endswith(".m4s") for address in asked)
    elsewhere = [
        a for a in asked if not a.startswith((url + "/", "blob:" + url, "about:", "data:"))
    ]
    assert elsewhere == []


def test_all_can_be_named_and_reached(page: Page, url: str, worker: SmallWorker) -> None:
    """By those who listen, and those who have no pointer."""
    add_live(worker, "yard")
    page.open(url)
    nameless = page.run(
        """const all = 'button, input:not([hidden]), dialog, [role]';
        return [...document.querySelectorAll(all)]
        .filter((e) => !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length
            || e.getAttribute('role') === 'status' || e.getAttribute('role') === 'alert'))
        .map((e) => e.outerHTML.slice(0, 99))"""
    )
    assert nameless == []
    reached = set()
    for _ in range(12):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        reached.add(
            page.run("return document.activeElement.id || document.activeElement.className")
        )
    assert {"theme", "logout", "add", "open"} <= reached
