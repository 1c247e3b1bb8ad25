// What happened, newest first.

import { clock, time as span } from "./format.js";

const SHOWN = 100;
const list = document.getElementById("events");
const none = document.getElementById("no-events");
const template = document.getElementById("event");
const dialog = document.getElementById("clip");
const video = dialog.querySelector("video");
const TONES = {
  mark: /rule|clip/,
  bad: /lost|failed|error|refused/,
  warn: /retrying|rate|overload|damaged|stopped|removed|mended/,
  good: /connected|back|added|recovered|ready|started/,
};

video.addEventListener("error", () => {
  if (video.hasAttribute("src")) complain("This clip cannot be played, or is not kept any more.");
});
dialog.addEventListener("close", () => {
  video.pause();
  video.removeAttribute("src");
  video.load();
});

export function addEvents(events) {
  for (const event of events) {
    list.prepend(item(event));
    if (list.childElementCount > SHOWN) list.lastElementChild.remove();
  }
  none.hidden = list.childElementCount > 0;
}

export function clearEvents() {
  list.replaceChildren();
  none.hidden = false;
}

function item(event) {
  const made = template.content.firstElementChild.cloneNode(true);
  const tone = Object.keys(TONES).find((name) => TONES[name].test(event.kind));
  made.dataset.tone = tone ?? "plain";
  const time = made.querySelector("time");
  time.textContent = clock(event.time);
  time.dateTime = new Date(event.time * 1000).toISOString();
  time.title = new Date(event.time * 1000).toLocaleString();
  made.querySelector(".kind").textContent = event.stream ? `${event.stream} · ${event.kind}` : event.kind;
  made.querySelector(".text").textContent = told(event);
  if (event.clip) made.append(button(event));
  return made;
}

/** Of a clip its rules and length: when it was is beside it, in the time of this place. */
function told({ kind, text, data }) {
  return kind === "clip" && data.rules && data.seconds ? `${data.rules.join(", ")}, ${span(data.seconds)}` : text;
}

function button(event) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = "thumb";
  made.setAttribute("aria-label", `Play the clip: ${told(event)}`);
  if (event.thumbnail) {
    const image = new Image();
    image.alt = "";
    image.loading = "lazy";
    image.addEventListener("error", () => image.remove());
    image.src = event.thumbnail;
    made.append(image);
  }
  made.append(document.getElementById("play-icon").content.cloneNode(true));
  made.addEventListener("click", () => play(event));
  return made;
}

function play(event) {
  const head = [event.stream, told(event), clock(event.time)].filter(Boolean).join(" · ");
  document.getElementById("clip-head").textContent = head;
  complain("");
  video.src = event.clip;
  dialog.showModal();
  video.play().catch(() => {});
}

function complain(text) {
  dialog.querySelector(".form-error").textContent = text;
}
