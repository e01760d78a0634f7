// The little that htmx and uPlot do not do themselves: charts from the page's data, and failures said in words.
"use strict";

const dark = matchMedia("(prefers-color-scheme: dark)");

// a canvas does not know light-dark(): the browser resolves it where it is a colour
function ink(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

// data: {x: [...], time: bool, series: [{name, values, kind?: "line"|"bars"|"step", color?: 1..6}], y?: {min, max, unit}}
function draw(figure) {
  const target = figure.querySelector(".plot");
  const data = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
  target.replaceChildren();
  const unit = (data.y && data.y.unit) || "";
  const axis = { stroke: ink("--ink"), grid: { stroke: ink("--line") }, ticks: { stroke: ink("--line") } };
  const paths = { bars: () => uPlot.paths.bars({ size: [0.8, 60] }), step: () => uPlot.paths.stepped({ align: 1 }) };
  const series = data.series.map((one, at) => ({
    label: one.name,
    stroke: ink(`--chart-${one.color || at + 1}`),
    fill: one.kind === "bars" ? ink(`--chart-${one.color || at + 1}`).replace("rgb(", "rgba(").replace(")", ", .5)") : undefined,
    width: 2,
    paths: paths[one.kind] ? paths[one.kind]() : undefined,
    value: (_, value) => (value == null ? "-" : `${+value.toPrecision(4)}${unit}`),
  }));
  const range = data.y && data.y.max != null ? [data.y.min || 0, data.y.max] : undefined;
  new uPlot(
    {
      width: Math.max(240, target.clientWidth),
      height: 240,
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      scales: { x: { time: Boolean(data.time) }, y: range ? { range: () => range } : {} },
      axes: [axis, { ...axis, values: (_, ticks) => ticks.map((tick) => `${tick}${unit}`) }],
      series: [{ label: data.x_name || (data.time ? "time" : "x") }, ...series],
    },
    [data.x, ...data.series.map((one) => one.values)],
    target,
  );
}

function drawAll(root) {
  if (typeof uPlot === "undefined") return;
  for (const figure of root.querySelectorAll("figure[data-chart]")) draw(figure);
}

function say(text) {
  const problem = document.getElementById("problem");
  problem.textContent = text;
  problem.hidden = !text;
}

document.addEventListener("DOMContentLoaded", () => drawAll(document));
document.addEventListener("htmx:afterSwap", (event) => drawAll(event.target));
document.addEventListener("htmx:beforeRequest", () => say(""));
document.addEventListener("htmx:sendError", () => say("The gateway did not answer. Try again."));
document.addEventListener("htmx:responseError", (event) => {
  const answer = event.detail.xhr;
  try {
    say(JSON.parse(answer.responseText).error.message);
  } catch {
    say(`The gateway answered ${answer.status}.`);
  }
});
dark.addEventListener("change", () => drawAll(document));
let waiting;
addEventListener("resize", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => drawAll(document), 150);
});
