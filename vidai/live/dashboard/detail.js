// One stream, larger, with all that is known of it.

import { ask } from "./api.js";
import { bytes, clock, fps, time, whole, write } from "./format.js";
import { Screen } from "./screen.js";
import { badge, charts, showTrouble } from "./tile.js";

const dialog = document.getElementById("detail");
const part = (name) => document.getElementById(`detail-${name}`);
let screen = null;
let name = null;

/** Shows the stream; closed() is called when it is no longer shown. */
export function openDetail(stream, closed) {
  name = stream.name;
  screen = new Screen(dialog.querySelector(".screen"), name);
  write(part("name"), name);
  write(part("settings"), "");
  updateDetail([stream]);
  dialog.showModal();
  screen.show(!document.hidden);
  dialog.onclose = () => {
    screen.show(false);
    screen = name = null;
    closed();
  };
  showSettings(name);
}

async function showSettings(asked) {
  const text = await ask(`/api/streams/${encodeURIComponent(asked)}`).then(
    ({ settings }) => (settings ? JSON.stringify(settings, null, 2) : "–"),
    (error) => error.message,
  );
  if (asked === name) write(part("settings"), text);
}

export const shownStream = () => name;

export function coverDetail(covered) {
  screen?.show(!covered);
}

export function updateDetail(streams) {
  if (name === null) return;
  const stream = streams.find((one) => one.name === name);
  if (!stream) {
    dialog.close();
    return;
  }
  screen.update(stream);
  badge(dialog.querySelector(".badge"), stream.state);
  charts(dialog, stream);
  const highest = (which) => Math.max(...stream.history.map((point) => point[which]));
  const known = stream.history.length > 0;
  write(dialog.querySelector(".fps-peak"), known ? `up to ${fps(highest(0))}` : "");
  write(dialog.querySelector(".late-peak"), known ? `up to ${time(highest(1))}` : "");
  showTrouble(dialog.querySelector(".trouble"), stream);
  pairs(part("now"), now(stream));
  pairs(part("ledger"), frames(stream));
  outputs(stream.outputs);
}

function now(stream) {
  const { p50, p95, max } = stream.latency;
  const rate = (value) => `${fps(value)} /s`;
  const wanted = stream.wanted_fps == null ? "every frame" : rate(stream.wanted_fps);
  const granted = stream.granted_fps == null ? "–" : rate(stream.granted_fps);
  return [
    ["Address", stream.address],
    ["State", `${stream.state} since ${clock(stream.since)}`],
    ["Picture", stream.width ? `${stream.width}×${stream.height} ${stream.codec}` : "–"],
    ["In, out", `${rate(stream.fps_in)}, ${rate(stream.fps_out)}`],
    ["Analysed", rate(stream.fps_analysed)],
    ["Wanted, granted", `${wanted}, ${granted}`],
    ["Latency", `median ${time(p50)}, p95 ${time(p95)}, max ${time(max)}`],
    ["Priority", String(stream.priority)],
    ["Reconnects", whole(stream.reconnects)],
    ["Frames waiting", whole(stream.waiting)],
    ["Damaged", whole(stream.damaged)],
  ];
}

function frames({ ledger, analysed }) {
  const of = (word, counts) =>
    Object.entries(counts).map(([reason, count]) => [`${word}: ${reason}`, whole(count)]);
  const lost = [...of("Dropped", ledger.dropped), ...of("Failed", ledger.failed)];
  const known = [...Object.values(ledger.dropped), ...Object.values(ledger.failed)];
  const flying = ledger.received - known.reduce((a, b) => a + b, ledger.processed);
  return [
    ["Received", whole(ledger.received)],
    ["Processed", whole(ledger.processed)],
    ...lost,
    ["On their way", whole(flying)],
    ["Analysed", whole(analysed)],
  ];
}

function pairs(list, entries) {
  const keys = entries.map(([key]) => key).join("\n");
  if (list.dataset.keys !== keys) {
    list.dataset.keys = keys;
    list.replaceChildren(
      ...entries.flatMap(([key]) => [made("dt", key), document.createElement("dd")]),
    );
  }
  const values = list.querySelectorAll("dd");
  entries.forEach(([, value], index) => write(values[index], value));
}

function outputs(told) {
  const lines = told.map((output) => {
    const line = document.createElement("li");
    const head = made("p", "", "output-head");
    const well = output.state === "ok" || output.state === "idle";
    head.append(made("strong", output.kind), made("span", output.state, well ? "dim" : "bad"));
    const lost = Object.entries(output.lost).map(([reason, count]) => `${reason} ${whole(count)}`);
    const size = output.waiting_bytes ? ` (${bytes(output.waiting_bytes)})` : "";
    const counts =
      `${whole(output.accepted)} accepted: ${whole(output.delivered)} delivered, ` +
      `${whole(output.waiting)} waiting${size}, ${lost.length ? `lost: ${lost.join(", ")}` : "none lost"}`;
    line.append(head, made("p", output.detail, "dim"), made("p", counts));
    return line;
  });
  part("outputs").replaceChildren(...(lines.length ? lines : [made("li", "None", "dim")]));
}

function made(tag, text, style = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  element.className = style;
  return element;
}

