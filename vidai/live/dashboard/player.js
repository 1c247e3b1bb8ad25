// Live video by HLS in a <video>: natively where the browser can, else by Media Source Extensions.

const BEGIN = 2; // segments from the live edge to begin with
const STILL = 5000; // ms without movement, after which the last picture is not shown any more
const KEEP = 20; // s that stay in the buffer behind the playhead
const NATIVE =
  document.createElement("video").canPlayType("application/vnd.apple.mpegurl") !== "" &&
  (navigator.vendor.startsWith("Apple") || !("MediaSource" in window));

/** Plays `${base}index.m3u8` between start and stop, and begins anew after whatever goes wrong.
 *  tell(true) comes when pictures move, tell(false) when they do not. */
export class Player {
  #running = null;

  constructor(video, base, tell) {
    this.video = video;
    this.base = base;
    this.tell = tell;
  }

  start() {
    if (this.#running) return;
    this.#running = new AbortController();
    this.#run(this.#running.signal);
  }

  stop() {
    if (!this.#running) return;
    this.#running.abort();
    this.#running = null;
    this.video.removeAttribute("src");
    this.video.load();
    this.tell(false);
  }

  async #run(signal) {
    const { video } = this;
    let failures = 0;
    const moves = () => {
      failures = 0;
      this.tell(true);
    };
    video.addEventListener("playing", moves, { signal });
    while (!signal.aborted) {
      try {
        await (NATIVE ? this.#native(signal) : this.#session(signal));
      } catch (error) {
        if (signal.aborted) return;
        console.info(`live video of ${this.base}: ${error.message}`);
        this.tell(false);
        await pause(Math.min(1000 * 2 ** failures++, 10_000), signal);
      }
    }
  }

  async #native(signal) {
    this.video.src = `${this.base}index.m3u8`;
    this.video.play().catch(() => {});
    await new Promise((_, reject) => {
      const failed = () => reject(new Error("the browser gave up"));
      this.video.addEventListener("error", failed, { once: true, signal });
      signal.addEventListener("abort", failed, { once: true });
    });
  }

  /** Feeds one MediaSource until something fails. */
  async #session(signal) {
    const { video } = this;
    const media = new MediaSource();
    const url = URL.createObjectURL(media);
    video.src = url;
    try {
      await event(media, "sourceopen", signal);
      const feed = new Feed(media, this.base, signal);
      let [last, moved] = [0, performance.now()];
      for (;;) {
        const target = await feed.more();
        if (video.currentTime !== last) [last, moved] = [video.currentTime, performance.now()];
        else if (performance.now() - moved > STILL) this.tell(false);
        stayLive(video, target);
        feed.forget(video.currentTime - KEEP);
        await pause(target * 500, signal);
        if (video.error) throw new Error(video.error.message);
      }
    } finally {
      URL.revokeObjectURL(url);
    }
  }
}

/** Brings new segments of a live playlist into a SourceBuffer. */
class Feed {
  #address = "";
  #buffer = null;
  #type = "";
  #map = "";
  #next = -1;

  constructor(media, base, signal) {
    this.media = media;
    this.base = base;
    this.signal = signal;
  }

  /** Appends what is new; the playlist's target duration in s. */
  async more() {
    if (!this.#address) {
      const lines = (await this.#text("index.m3u8")).split("\n");
      this.#address = lines.find((line) => line && !line.startsWith("#")).trim();
    }
    const { target, segments } = read(await this.#text(this.#address));
    const last = segments.at(-1)?.number ?? this.#next;
    const lost = segments.length > 0 && segments[0].number > this.#next;
    if (lost || last < this.#next - 1) this.#next = -1; // too late, or the worker began anew
    const fresh =
      this.#next < 0 ? segments.slice(-BEGIN) : segments.filter((s) => s.number >= this.#next);
    for (const segment of fresh) {
      if (segment.map !== this.#map) await this.#begin(segment.map);
      await this.#append(await this.#bytes(segment.address));
      this.#next = segment.number + 1;
    }
    return target;
  }

  async #begin(map) {
    const init = await this.#bytes(map);
    const codecs = /CODECS="([^"]+)"/.exec(await this.#text("index.m3u8"))?.[1];
    const type = `video/mp4; codecs="${codecs ?? codecOf(init)}"`;
    if (!MediaSource.isTypeSupported(type)) throw new Error(`this browser cannot play ${type}`);
    if (!this.#buffer) {
      this.#buffer = this.media.addSourceBuffer(type);
      // One segment after the other, whatever their clocks say: no gap after a reconnect.
      this.#buffer.mode = "sequence";
    } else if (type !== this.#type) {
      this.#buffer.changeType(type);
    }
    await this.#append(init);
    this.#map = map;
    this.#type = type;
  }

  async #append(bytes) {
    this.#buffer.appendBuffer(bytes);
    await event(this.#buffer, "updateend", this.signal, "error");
  }

  /** Drops what is before a time. */
  forget(end) {
    const { buffered } = this.#buffer ?? {};
    if (!buffered?.length || buffered.start(0) >= end - KEEP || this.#buffer.updating) return;
    this.#buffer.remove(0, end);
  }

  async #text(name) {
    return (await this.#fetch(name)).text();
  }

  async #bytes(name) {
    while (this.#buffer?.updating) await event(this.#buffer, "updateend", this.signal);
    return (await this.#fetch(name)).arrayBuffer();
  }

  async #fetch(name) {
    const response = await fetch(this.base + name, { signal: this.signal });
    if (!response.ok) throw new Error(`${name}: ${response.status}`);
    return response;
  }
}

/** {target: s, segments: [{number, map, address}]} of a media playlist. */
function read(text) {
  let [target, number, map] = [2, 0, ""];
  const segments = [];
  for (const line of text.split("\n").map((raw) => raw.trim())) {
    const [tag, value] = line.split(/:(.*)/s);
    if (tag === "#EXT-X-TARGETDURATION") target = Number(value);
    else if (tag === "#EXT-X-MEDIA-SEQUENCE") number = Number(value);
    else if (tag === "#EXT-X-MAP") map = /URI="([^"]+)"/.exec(value)[1];
    else if (line && !line.startsWith("#")) segments.push({ number: number++, map, address: line });
  }
  return { target, segments };
}

/** H.264's name as its record in an init segment says it. */
function codecOf(init) {
  const bytes = new Uint8Array(init);
  const at = bytes.findIndex((_, i) => "avcC".split("").every((c, k) => bytes[i + k] === c.charCodeAt(0)));
  if (at < 0) throw new Error("no codec is told");
  const hex = [...bytes.slice(at + 5, at + 8)].map((byte) => byte.toString(16).padStart(2, "0"));
  return `avc1.${hex.join("")}`;
}

/** Goes a little faster when it is behind, and jumps when it is far behind or in a gap. */
function stayLive(video, target) {
  const { buffered } = video;
  if (!buffered.length) return;
  const [start, end] = [buffered.start(buffered.length - 1), buffered.end(buffered.length - 1)];
  const ahead = end - video.currentTime;
  if (ahead > (BEGIN + 2) * target + 2 || video.currentTime < start || ahead < 0) {
    video.currentTime = Math.max(start, end - BEGIN * target);
  }
  video.playbackRate = ahead > (BEGIN + 0.5) * target ? 1.07 : 1;
  if (video.paused) video.play().catch(() => {});
}

function event(target, name, signal, failure = "none") {
  return new Promise((resolve, reject) => {
    const end = new AbortController();
    const on = (source, kind, then) =>
      source.addEventListener(kind, () => (end.abort(), then()), { signal: end.signal });
    on(target, name, resolve);
    on(target, failure, () => reject(new Error(`${failure} instead of ${name}`)));
    on(signal, "abort", () => reject(new Error("stopped")));
  });
}

function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(end, ms);
    signal.addEventListener("abort", end);
    function end() {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    }
  });
}
