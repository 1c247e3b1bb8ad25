// The picture of a stream: live video, or the newest frame every other second.

import { write } from "./format.js";
import { Player } from "./player.js";

const EVERY = 2000; // ms between snapshots
const NOTES = {
  connecting: "Connecting…",
  live: "Waiting for pictures…",
  retrying: "No connection. Trying again…",
  ended: "The file has ended",
  stopped: "Stopped",
  refused: "Not accepted",
};

export class Screen {
  #on = false;
  #shown = null; // "video", "pictures" or null
  #timer = 0;

  /** root: has a <video>, an <img> and a .note. */
  constructor(root, name) {
    this.root = root;
    this.name = encodeURIComponent(name);
    this.image = root.querySelector("img");
    this.note = root.querySelector(".note");
    const base = `/live/${this.name}/`;
    this.player = new Player(root.querySelector("video"), base, (moves) => this.#tell(moves));
    this.#tell(false);
  }

  update(stream) {
    this.stream = stream;
    write(this.note, NOTES[stream.state] ?? stream.state);
    this.#follow();
  }

  /** Whether somebody can see it: nothing is fetched for a picture that nobody sees. */
  show(on) {
    this.#on = on;
    this.#follow();
  }

  #follow() {
    const live = this.#on && this.stream?.state === "live";
    const shown = live ? (this.stream.watching ? "video" : "pictures") : null;
    if (shown === this.#shown) return;
    this.#shown = shown;
    clearTimeout(this.#timer);
    this.image.hidden = shown !== "pictures";
    this.image.onload = this.image.onerror = null;
    this.#tell(false);
    if (shown === "video") this.player.start();
    else this.player.stop();
    if (shown === "pictures") this.#picture();
    else this.image.removeAttribute("src");
  }

  #picture() {
    const next = (moves) => () => {
      this.#tell(moves);
      this.#timer = setTimeout(() => this.#picture(), EVERY);
    };
    this.image.onload = next(true);
    this.image.onerror = next(false);
    this.image.src = `/snapshot/${this.name}.jpg?${Date.now()}`;
  }

  #tell(moves) {
    this.root.toggleAttribute("data-moves", moves);
  }
}
