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

// data: {x: [...], time: bool, series: [{name, values, kind?: "line"|"bars"|"step"|"dashed"|"points", color?: 1..6,
//        joined?: over what is null}],
//        y?: {min, max, unit}, bands?: [[upper, lower series, from 1], ...]}
function draw(figure) {
  const target = figure.querySelector(".plot");
  const data = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
  target.replaceChildren();
  const unit = (data.y && data.y.unit) || "";
  const axis = { stroke: ink("--ink"), grid: { stroke: ink("--line") }, ticks: { stroke: ink("--line") } };
  const paths = { bars: () => uPlot.paths.bars({ size: [0.8, 60] }), step: () => uPlot.paths.stepped({ align: 1 }), points: () => () => null };
  const pale = (color) => color.replace("rgb(", "rgba(").replace(")", ", .15)");
  const series = data.series.map((one, at) => ({
    label: one.name,
    stroke: ink(`--chart-${one.color || at + 1}`),
    fill: one.kind === "bars" ? ink(`--chart-${one.color || at + 1}`).replace("rgb(", "rgba(").replace(")", ", .5)") : undefined,
    width: 2,
    spanGaps: Boolean(one.joined),
    dash: one.kind === "dashed" ? [6, 4] : undefined,
    points: one.kind === "dashed" ? { show: false } : one.kind === "points" ? { show: true, size: 9, width: 3 } : undefined,
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
      bands: (data.bands || []).map((pair) => ({ series: pair, fill: pale(series[pair[0] - 1].stroke) })),
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
// what is read again by itself leaves a failure standing
document.addEventListener("htmx:beforeRequest", (event) => event.detail.elt.dataset.events || say(""));
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

// Changes: a form with hx-ext="json" is sent as JSON, its filled-in fields over what data-body holds. When a change is
// done, the page of data-then is shown, {id} being the answer's id; an empty one is this page again.
htmx.defineExtension("json", {
  onEvent(name, event) {
    if (name === "htmx:configRequest") event.detail.headers["Content-Type"] = "application/json";
    return true;
  },
  encodeParameters(_, parameters, element) {
    const body = JSON.parse(element.dataset.body || "{}");
    parameters.forEach((value, name) => {
      if (value === "") return;
      const field = element.elements && element.elements[name];
      body[name] = field && field.type === "number" ? Number(value) : value;
    });
    return JSON.stringify(body);
  },
});
document.addEventListener("htmx:afterRequest", (event) => {
  const then = event.detail.elt.dataset.then;
  if (then === undefined || !event.detail.successful) return;
  if (then === "") return location.reload();
  // a part of this page, which is read again then
  if (then.startsWith("#")) return htmx.trigger(then, "changed");
  location.assign(then.replace("{id}", () => encodeURIComponent(JSON.parse(event.detail.xhr.responseText).id)));
});

// A job: each of its events, once a second at most, has its part of the page read again; data-over ends that.
document.addEventListener("DOMContentLoaded", () => {
  const part = document.querySelector("[data-events]");
  if (!part) return;
  const source = new EventSource(part.dataset.events);
  let next;
  const again = () => {
    next = next || setTimeout(() => {
      next = undefined;
      htmx.trigger(part, "refresh");
    }, 1000);
  };
  for (const kind of part.dataset.kinds.split(" ")) source.addEventListener(kind, again);
  part.addEventListener("htmx:afterSwap", () => part.querySelector("[data-over]") && source.close());
});

// Router: the slider says what a point of the curve would do, and its form sends that point. What has no guarantee
// takes a tick.
document.addEventListener("input", (event) => {
  const slider = event.target.closest("[data-points]");
  if (!slider) return;
  const point = JSON.parse(document.getElementById(slider.dataset.points).textContent)[slider.value];
  const form = slider.form;
  slider.setAttribute("aria-valuetext", point.name);
  document.getElementById("point-said").textContent = point.said;
  form.dataset.body = JSON.stringify(point.body);
  form.setAttribute("hx-confirm", point.confirm);
  const accept = form.querySelector(".accept");
  if (!accept) return;
  accept.hidden = point.kept;
  Object.assign(accept.querySelector("input"), { disabled: point.kept, checked: false });
  form.querySelector("button").disabled = point.now;
});

// Keys: a form with hx-ext="typed" is sent as JSON, each field as its data-as says. What is empty is left out where a
// thing is made, and null where one is changed, which sets it back.
const AS = {
  flag: (values) => values[0] === "true",
  list: (values) => values.flatMap((value) => value.split(",")).map((value) => value.trim()).filter(Boolean),
  number: (values) => Number(values[0]),
};
htmx.defineExtension("typed", {
  onEvent(name, event) {
    if (name === "htmx:configRequest") event.detail.headers["Content-Type"] = "application/json";
    return true;
  },
  encodeParameters(_, __, form) {
    const sent = new FormData(form), body = {};
    for (const field of form.elements) {
      if (!field.name) continue;
      const values = sent.getAll(field.name).filter((value) => value.trim() !== "");
      if (values.length) body[field.name] = AS[field.dataset.as] ? AS[field.dataset.as](values) : values[0];
      else if (form.hasAttribute("hx-patch")) body[field.name] = null;
    }
    return JSON.stringify(body);
  },
});
// A secret is in the one answer and in the dialog while that is open, and nowhere else.
document.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.elt.dataset.secret === undefined || !event.detail.successful) return;
  const { key, secret } = JSON.parse(event.detail.xhr.responseText);
  const dialog = document.getElementById("secret");
  const field = dialog.querySelector("input");
  dialog.querySelector("[data-name]").textContent = key.name;
  field.value = secret;
  dialog.addEventListener("close", () => {
    field.value = "";
    location.assign(`/ops/keys/${encodeURIComponent(key.id)}`);
  }, { once: true });
  dialog.showModal();
  field.select();
});
document.addEventListener("click", (event) => {
  if (!event.target.matches("[data-copy]")) return;
  const field = event.target.form.querySelector("input");
  field.select();
  // where the browser has no clipboard for this address, what is selected is copied by hand
  if (navigator.clipboard) navigator.clipboard.writeText(field.value).then(() => (event.target.textContent = "Copied"), () => {});
});
