// One stream in the grid.

import { draw } from "./chart.js";
import { fps, seconds, time, whole, write } from "./format.js";
import { Screen } from "./screen.js";

const template = document.getElementById("tile");
const sum = (counts) => Object.values(counts).reduce((a, b) => a + b, 0);

/** Colour and word of a state, into a .badge. */
export function badge(element, state) {
  element.dataset.state = state;
  write(element.querySelector(".word"), state);
}

/** The charts of a stream, into what has an svg.fps and an svg.late. */
export function charts(root, stream) {
  const rates = stream.history.map(([rate]) => rate);
  const times = stream.history.map(([, late]) => late);
  const now = [fps(stream.fps_out), time(stream.latency.p95)];
  draw(root.querySelector(".chart.fps"), rates, `Frames a second over two minutes, now ${now[0]}`);
  draw(root.querySelector(".chart.late"), times, `Latency over two minutes, now ${now[1]}`);
}

/** What is wrong with a stream, "" when nothing is. */
export function trouble(stream) {
  const outputs = stream.outputs.filter(({ state }) => state !== "ok" && state !== "idle");
  const told = outputs.map(({ kind, state }) => `${kind}: ${state}`);
  return [stream.error, ...told].filter(Boolean).join(" · ");
}

export function showTrouble(element, stream) {
  const text = trouble(stream);
  element.hidden = !text;
  write(element, text);
}

export class Tile {
  #inView = false;
  #covered = false;

  /** open: called with the stream's name when it is to be seen larger. */
  constructor(name, open) {
    this.element = template.content.firstElementChild.cloneNode(true);
    this.element.dataset.stream = name;
    this.screen = new Screen(this.element.querySelector(".screen"), name);
    this.find("h3").textContent = name;
    this.find(".open .unseen").textContent = `Show ${name} larger`;
    this.find(".open").addEventListener("click", () => open(name));
    this.watcher = new IntersectionObserver(([entry]) => {
      this.#inView = entry.isIntersecting;
      this.#show();
    });
    this.watcher.observe(this.element);
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  /** covered: nobody can see the grid now. */
  cover(covered) {
    this.#covered = covered;
    this.#show();
  }

  #show() {
    this.screen.show(this.#inView && !this.#covered);
  }

  update(stream) {
    this.screen.update(stream);
    badge(this.find(".badge"), stream.state);
    write(this.find(".size"), stream.width ? `${stream.width}×${stream.height} ${stream.codec}` : "");
    write(this.find(".address"), stream.address);
    write(this.find(".fps-out"), fps(stream.fps_out));
    const live = stream.state === "live";
    const short = live && stream.wanted_fps != null && stream.granted_fps < stream.wanted_fps * 0.95;
    const seen = `seen ${fps(stream.fps_analysed)}`;
    const told = !live ? "" : short ? `${seen} of ${fps(stream.wanted_fps)}` : `in ${fps(stream.fps_in)} · ${seen}`;
    write(this.find(".fps-more"), told);
    this.find(".fps-more").classList.toggle("warn", short);
    const [number, unit] = seconds(stream.latency.p95);
    write(this.find(".late-p95"), number);
    write(this.find(".measure small"), unit);
    write(this.find(".late-more"), stream.latency.p50 == null ? "" : `median ${time(stream.latency.p50)}`);
    charts(this.element, stream);
    this.#foot(stream);
    showTrouble(this.find(".trouble"), stream);
  }

  #foot(stream) {
    const { received, dropped, failed } = stream.ledger;
    const times = stream.reconnects === 1 ? "1 reconnect" : `${whole(stream.reconnects)} reconnects`;
    write(this.find(".again span"), times);
    this.find(".again").classList.toggle("some", stream.reconnects > 0);
    const told = [`${whole(received)} frames`];
    if (sum(dropped)) told.push(`${whole(sum(dropped))} skipped`);
    if (sum(failed)) told.push(`${whole(sum(failed))} failed`);
    write(this.find(".lost"), told.join(" · "));
  }

  close() {
    this.watcher.disconnect();
    this.screen.show(false);
    this.element.remove();
  }
}
