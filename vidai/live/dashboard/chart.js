// Small charts of the last values, from 0 up.

const SVG = "http://www.w3.org/2000/svg";
const POINTS = 60; // what the worker keeps
const WIDTH = 120;
const HEIGHT = 32;

/** Draws values, oldest first, into an <svg>; the newest is at the right. */
export function draw(svg, values, label) {
  if (!svg.firstChild) {
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    for (const name of ["area", "line"]) {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("class", name);
      svg.append(path);
    }
  }
  svg.setAttribute("aria-label", label);
  const top = Math.max(...values, 1e-9) * 1.15;
  const points = values.map((value, index) => {
    const x = WIDTH - ((values.length - 1 - index) * WIDTH) / (POINTS - 1);
    return `${x.toFixed(1)},${(HEIGHT - 1 - (value / top) * (HEIGHT - 2)).toFixed(1)}`;
  });
  const line = points.length > 1 ? `M${points.join("L")}` : "";
  const first = points.length ? points[0].split(",")[0] : WIDTH;
  const [area, stroke] = svg.children;
  area.setAttribute("d", line && `${line}L${WIDTH},${HEIGHT}L${first},${HEIGHT}Z`);
  stroke.setAttribute("d", line);
}
