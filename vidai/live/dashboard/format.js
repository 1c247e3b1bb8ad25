// Numbers and times as people read them.

export const fps = (value) => (value == null ? "–" : value.toFixed(value < 99.95 ? 1 : 0));

export const whole = (value) => Math.round(value).toLocaleString("en").replaceAll(",", "\u202f");

/** [number, unit] of a time in s. */
export function seconds(value) {
  if (value == null) return ["–", ""];
  return value < 0.9995 ? [(value * 1000).toFixed(0), "ms"] : [value.toFixed(value < 10 ? 2 : 1), "s"];
}

export const time = (value) => seconds(value).join("\u202f").trim();

/** How long ago: "3 d 4 h". */
export function duration(value) {
  const parts = [
    [Math.floor(value / 86400), "d"],
    [Math.floor(value / 3600) % 24, "h"],
    [Math.floor(value / 60) % 60, "min"],
    [Math.floor(value) % 60, "s"],
  ];
  const first = parts.findIndex(([number]) => number > 0);
  if (first < 0) return "0\u202fs";
  return parts
    .slice(first, first + 2)
    .filter(([number]) => number > 0)
    .map(([number, unit]) => `${number}\u202f${unit}`)
    .join(" ");
}

/** The time of day, with the day if it was another one. */
export function clock(value) {
  const then = new Date(value * 1000);
  const day = then.toDateString() === new Date().toDateString();
  const options = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
  return then.toLocaleString(
    navigator.language,
    day ? options : { ...options, second: undefined, month: "short", day: "numeric" },
  );
}

export function bytes(value) {
  const power = value < 1000 ? 0 : Math.min(4, Math.floor(Math.log10(value) / 3));
  return `${(value / 1000 ** power).toFixed(power ? 1 : 0)}\u202f${["B", "kB", "MB", "GB", "TB"][power]}`;
}

/** Changes a text only if it is another one, so that what is selected stays selected. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
