"use strict";
/* What the reader can do: zoom, move, point at things, follow a wait to its place. */

/** Wheel, drag, double-click and keys on a chart. */
function steer(chart, view) {
  const { host } = chart, over = host.querySelector(".u-over");
  let from = null;
  const moment = (event) => {
    const box = over.getBoundingClientRect();
    return view.low + ((event.clientX - box.left) / box.width) * (view.high - view.low);
  };
  over.addEventListener("wheel", (event) => {
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      view.move((event.deltaX || event.deltaY) / 1000);
    } else {
      if (view.isWhole && event.deltaY > 0) return; /* nothing left to show: let the page scroll */
      view.zoom(Math.exp(event.deltaY / 400), moment(event));
    }
    event.preventDefault();
  }, { passive: false });
  over.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    over.setPointerCapture(event.pointerId);
    from = { x: event.clientX, moment: moment(event), selects: event.shiftKey };
    host.classList.toggle("moving", !from.selects);
  });
  over.addEventListener("pointermove", (event) => {
    if (!from) return;
    if (from.selects) {
      const box = over.getBoundingClientRect(), ends = [from.x, event.clientX].map((x) => x - box.left).sort((a, b) => a - b);
      chart.plot.setSelect({ left: ends[0], top: 0, width: ends[1] - ends[0], height: box.height }, false);
    } else {
      const shift = from.moment - moment(event);
      view.show(view.low + shift, view.high + shift);
    }
  });
  over.addEventListener("pointerup", (event) => {
    if (from && from.selects) {
      const ends = [from.moment, moment(event)].sort((a, b) => a - b);
      chart.plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
      if (Math.abs(event.clientX - from.x) > 3) view.show(ends[0], ends[1]);
    }
    from = null;
    host.classList.remove("moving");
  });
  over.addEventListener("dblclick", () => view.show(0, view.span));
}

function steerByKeys(host, view) {
  const keys = {
    "+": () => view.zoom(0.6), "=": () => view.zoom(0.6), "-": () => view.zoom(1 / 0.6), 0: () => view.show(0, view.span),
    ArrowLeft: () => view.move(-0.2), ArrowRight: () => view.move(0.2), Home: () => view.show(0, view.span),
  };
  host.addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey) return;
    keys[event.key]();
    event.preventDefault();
  });
}

/** Lines of the box beside the pointer; the first one is what it is about. */
function described(data, memory, found) {
  const { lane, op, idle, moment } = found;
  const held = lane.resource === "compute" ? [`${bytesText(data, memory.held(lane.row, moment))} in memory`] : [];
  if (op >= 0) {
    const look = data.styles[data.style[op]];
    return [`${token(data, op)}  ${look.name}`, `rank ${lane.rank}${placed(data, op)}`, ...spanned(data, data.start[op], data.end[op]), ...held];
  }
  if (idle >= 0) {
    const cause = data.causes[data.idleCause[idle]], on = data.idleOn[idle];
    const what = data.idleFor[idle] && `for ${data.idleFor[idle]}${on < 0 ? "" : ` on rank ${on}`}`;
    return [`idle: ${cause}`, `rank ${lane.rank} waits ${what || ""}`, ...spanned(data, data.idleStart[idle], data.idleEnd[idle]), ...held];
  }
  return [`nothing on ${lane.resource}`, `rank ${lane.rank}`, ...held];
}

function placed(data, op) {
  const parts = [];
  if (data.stage[op] >= 0) parts.push(`stage ${data.stage[op]}`);
  if (data.microbatch[op] >= 0) parts.push(`micro-batch ${data.microbatch[op]}`);
  return parts.map((part) => ", " + part).join("");
}

function spanned(data, start, end) {
  const step = (end - start) / 1000;
  return [`${timeText(data, start, step)} to ${timeText(data, end, step)}`, `${timeText(data, end - start, step)} long`];
}

/** Show what the pointer is on, and the memory of its rank. */
function explainUnderPointer(data, timeline, memory) {
  const tip = document.getElementById("tip"), over = timeline.host.querySelector(".u-over");
  over.addEventListener("pointermove", (event) => {
    const box = over.getBoundingClientRect();
    const found = timeline.at(event.clientX - box.left, event.clientY - box.top);
    tip.hidden = !found || event.buttons > 0;
    if (!found) return;
    memory.point(found.lane.row);
    const [title, ...lines] = described(data, memory, found);
    tip.replaceChildren(Object.assign(document.createElement("b"), { textContent: title }));
    lines.forEach((line) => tip.append(Object.assign(document.createElement("div"), { textContent: line })));
    const right = event.clientX + 16 + tip.offsetWidth > innerWidth;
    tip.style.left = `${right ? event.clientX - tip.offsetWidth - 12 : event.clientX + 16}px`;
    tip.style.top = `${Math.min(event.clientY + 16, innerHeight - tip.offsetHeight - 8)}px`;
  });
  over.addEventListener("pointerleave", () => {
    tip.hidden = true;
    memory.point(-1);
  });
}

/** Clicking a wait shows it, with as much again on both sides. */
function followWaits(view) {
  document.querySelectorAll("tr.wait").forEach((row) => {
    const show = () => {
      const [start, end] = [Number(row.dataset.start), Number(row.dataset.end)];
      view.show(start - (end - start), end + (end - start));
      document.getElementById("timeline").scrollIntoView({ block: "center", behavior: "smooth" });
    };
    row.addEventListener("click", show);
    row.addEventListener("keydown", (event) => event.key === "Enter" && show());
  });
}

async function main() {
  const data = await load();
  const view = new View(data.span);
  const timeline = new Timeline(document.getElementById("timeline"), data, view);
  const memory = new Memory(document.getElementById("memory"), data, view);
  [timeline, memory].forEach((chart) => steer(chart, view));
  steerByKeys(timeline.host, view);
  explainUnderPointer(data, timeline, memory);
  followWaits(view);
  document.getElementById("in").addEventListener("click", () => view.zoom(0.6));
  document.getElementById("out").addEventListener("click", () => view.zoom(1 / 0.6));
  document.getElementById("fit").addEventListener("click", () => view.show(0, data.span));
  document.getElementById("critical").addEventListener("change", (event) => {
    timeline.showsPath = event.target.checked;
    timeline.plot.redraw(false, false);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => [timeline, memory].forEach((chart) => chart.dress()));
  Object.assign(window, { report: { data, view, timeline, memory } });
  document.body.dataset.ready = "yes";
}

main().catch((error) => {
  document.getElementById("timeline").textContent = `This browser cannot draw the timeline (${error}); one of 2023 or later can.`;
  document.body.dataset.ready = "failed";
});
