// The page: asks the worker every other second and shows what it says.

import { ask, Gone, Refused } from "./api.js";
import { coverDetail, openDetail, shownStream, updateDetail } from "./detail.js";
import { addEvents, clearEvents } from "./events.js";
import { clock, duration, fps, write } from "./format.js";
import { Tile } from "./tile.js";

const EVERY = 2000; // ms between two looks
const find = (id) => document.getElementById(id);
const tiles = new Map();
let streams = [];
let started = 0; // of the worker that answered last
let lastEvent = 0;
let timer = 0;
let failedAt = 0; // ms, of the first look that failed; 0 while all is well

// Looking

async function look() {
  clearTimeout(timer);
  const round = (timer = setTimeout(look, 60_000)); // should this one never end
  try {
    const status = await ask("/api/status");
    if (status.started !== started) {
      started = status.started;
      lastEvent = 0;
      clearEvents();
    }
    const { events } = await ask(`/api/events?after=${lastEvent}`);
    failedAt = 0;
    show(status);
    addEvents(events);
    lastEvent = events.at(-1)?.number ?? lastEvent;
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return signIn();
    if (!(error instanceof Gone || error instanceof Refused)) console.error(error);
    failedAt ||= Date.now();
    write(find("gone-since"), `since ${clock(failedAt / 1000)}`);
  }
  find("gone").hidden = failedAt === 0;
  document.body.toggleAttribute("data-gone", failedAt !== 0);
  if (timer !== round) return; // somebody looks already
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(look, EVERY);
}

document.addEventListener("visibilitychange", () => {
  cover();
  if (!document.hidden && document.body.dataset.view === "board") look();
});

function cover() {
  const larger = shownStream() !== null;
  for (const tile of tiles.values()) tile.cover(document.hidden || larger);
  coverDetail(document.hidden);
}

// Showing

function show(status) {
  document.body.dataset.view = "board";
  facts(status);
  for (const stream of status.streams) tell(stream);
  streams = status.streams;
  for (const [name, tile] of tiles) {
    if (streams.some((stream) => stream.name === name)) continue;
    tile.close();
    tiles.delete(name);
  }
  streams.forEach((stream, index) => place(stream, index));
  updateDetail(streams);
  summary();
  find("empty").hidden = streams.length > 0;
}

function place(stream, index) {
  let tile = tiles.get(stream.name);
  if (!tile) {
    tile = new Tile(stream.name, larger);
    tiles.set(stream.name, tile);
  }
  const grid = find("tiles");
  // Moving an element stops its video, so only what stands elsewhere is moved.
  if (grid.children[index] !== tile.element) grid.insertBefore(tile.element, grid.children[index]);
  tile.update(stream);
}

function larger(name) {
  openDetail(streams.find((stream) => stream.name === name), cover);
  cover();
}

/** A changed state, to those who listen. */
function tell(stream) {
  const before = streams.find(({ name }) => name === stream.name);
  if (before && before.state !== stream.state) write(find("said"), `${stream.name}: ${stream.state}`);
}

function facts(status) {
  write(find("fact-model"), status.precision ? `${status.model}, ${status.precision}` : status.model);
  write(find("fact-device"), status.device);
  write(find("fact-up"), duration(Date.now() / 1000 - status.started));
  const used = status.streams.reduce((sum, stream) => sum + stream.fps_analysed, 0);
  const capacity = status.capacity_fps;
  write(find("fact-capacity"), capacity ? `${fps(used)} of ${fps(capacity)} /s` : `${fps(used)} /s`);
  gauge(find("gauge-capacity"), capacity ? used / capacity : 0);
  find("gauge-capacity").toggleAttribute("data-full", capacity != null && used > 0.95 * capacity);
  write(find("fact-batch"), `${(100 * status.batch_fill).toFixed(0)}\u202f% full`);
  gauge(find("gauge-batch"), status.batch_fill);
  find("loading-model").hidden = status.ready;
}

function gauge(element, share) {
  const percent = Math.min(100, Math.max(0, 100 * share));
  element.setAttribute("aria-valuenow", percent.toFixed(0));
  element.firstElementChild.style.width = `${percent}%`;
}

function summary() {
  const counts = new Map();
  for (const { state } of streams) counts.set(state, (counts.get(state) ?? 0) + 1);
  write(find("summary"), [...counts].map(([state, count]) => `${count} ${state}`).join(" · "));
  document.title = streams.length ? `${counts.get("live") ?? 0}/${streams.length} live – vidai` : "vidai";
}

// Signing in and out

function signIn() {
  clearTimeout(timer);
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  for (const tile of tiles.values()) tile.close();
  tiles.clear();
  streams = [];
  find("gone").hidden = true;
  document.body.dataset.view = "login";
  find("token").focus();
}

form("login-form", async (form) => {
  await ask("/api/login", "POST", { token: form.elements.token.value.trim() });
  form.reset();
  await look();
});

find("logout").addEventListener("click", async () => {
  await ask("/api/logout", "POST", {}).catch(() => {});
  signIn();
});

// Adding and removing

for (const id of ["add", "add-first"]) {
  find(id).addEventListener("click", () => {
    fail(find("add-form"), "");
    find("adding").showModal();
  });
}

form("add-form", async (form) => {
  const { name, url, analyze_fps, priority } = form.elements;
  const settings = { name: name.value.trim(), url: url.value.trim() };
  if (analyze_fps.value) settings.analyze_fps = Number(analyze_fps.value);
  if (priority.value) settings.priority = Number(priority.value);
  await ask("/api/streams", "POST", settings);
  form.reset();
  find("adding").close();
  look();
});

find("detail-remove").addEventListener("click", () => {
  write(find("removing-name"), shownStream());
  fail(find("remove-form"), "");
  find("removing").showModal();
});

form("remove-form", async () => {
  await ask(`/api/streams/${encodeURIComponent(find("removing-name").textContent)}`, "DELETE");
  find("removing").close();
  find("detail").close();
  look();
});

/** Sends a form with what is given, once at a time; what goes wrong is told in it. */
function form(id, send) {
  const element = find(id);
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = element.querySelector("[type=submit]");
    if (button.disabled) return;
    button.disabled = true;
    fail(element, "");
    try {
      await send(element);
    } catch (error) {
      if (error instanceof Refused && error.status === 401 && id !== "login-form") signIn();
      else fail(element, error.message);
    } finally {
      button.disabled = false;
    }
  });
}

function fail(form, text) {
  const said = text && text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
  write(form.querySelector(".form-error"), said);
}

for (const button of document.querySelectorAll("dialog .close")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}

// Dark and light

find("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const theme = (root.dataset.theme ?? (dark ? "dark" : "light")) === "dark" ? "light" : "dark";
  root.dataset.theme = theme;
  localStorage.setItem("vidai-theme", theme);
});

// Beginning: a token after the # signs in, and does not stay in the address

async function begin() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) {
    history.replaceState(null, "", location.pathname);
    await ask("/api/login", "POST", { token }).catch((error) => fail(find("login-form"), error.message));
  }
  const { signed_in } = await ask("/api/login").catch(() => ({ signed_in: true }));
  if (signed_in) await look();
  else signIn();
}

begin();
