"use strict";
/* The timeline and the memory chart: two uPlots that share their time axis, with drawing of our own. */

const LABEL = 11; /* CSS pixels of text in ops */
const FEW = 12; /* ranks that have a line each in the memory chart */

/** The visible span of time, shared by both charts. */
class View {
  constructor(span) {
    this.span = span;
    [this.low, this.high] = [0, span];
    this.listeners = [];
  }

  get isWhole() {
    return this.low <= 0 && this.high >= this.span;
  }

  /** Show low..high, as far as that lies in the step; charts follow with the next frame. */
  show(low, high) {
    const size = Math.min(this.span, Math.max(high - low, this.span * 1e-9, 1000));
    this.low = Math.min(Math.max(0, low), this.span - size);
    this.high = this.low + size;
    if (!this.waiting) {
      this.waiting = requestAnimationFrame(() => {
        this.waiting = 0;
        this.listeners.forEach((listener) => listener(this.low, this.high));
      });
    }
  }

  zoom(factor, around) {
    const centre = around === undefined ? (this.low + this.high) / 2 : around;
    this.show(centre - (centre - this.low) * factor, centre + (this.high - centre) * factor);
  }

  move(share) {
    const size = this.high - this.low;
    this.show(this.low + share * size, this.high + share * size);
  }
}

/** Colours of the page as it is shown now. */
function readTheme() {
  const style = getComputedStyle(document.documentElement);
  const get = (name) => style.getPropertyValue("--" + name).trim();
  const names = ["page", "panel", "ink", "muted", "line", "idle", "quiet", "accent", "alarm", "path", "halo"];
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  return Object.assign({ isDark }, ...names.map((name) => ({ [name]: get(name) })));
}

/** Options that both charts have. */
function common(chart, height, axes, scale) {
  const { data, view } = chart;
  const step = () => (view.high - view.low) / 8;
  const time = {
    stroke: () => chart.theme.muted,
    font: "12px system-ui, sans-serif",
    grid: { show: false },
    ticks: { stroke: () => chart.theme.line, size: 5 },
    size: 32,
    space: 90,
    values: (plot, splits) => splits.map((split) => timeText(data, split, splits[1] - splits[0] || step())),
    ...axes.time,
  };
  return {
    width: chart.host.clientWidth,
    height,
    legend: { show: false },
    cursor: { sync: { key: "time" }, y: false, points: { show: false }, drag: { x: false, y: false, setScale: false } },
    scales: { x: { time: false, range: () => [view.low, view.high] }, y: scale },
    series: [{}, { show: false }],
    axes: [time, { stroke: () => chart.theme.muted, font: "12px system-ui, sans-serif", size: 62, ...axes.value }],
    hooks: { drawClear: [(plot) => chart.draw(plot)] },
    padding: [2, 14, 0, 0],
  };
}

/** What both charts do alike: follow the view and the width of the page. */
class Chart {
  constructor(host, data, view) {
    Object.assign(this, { host, data, view, theme: readTheme() });
    view.listeners.push((low, high) => this.plot.setScale("x", { min: low, max: high }));
    new ResizeObserver(() => this.plot && this.plot.setSize({ width: host.clientWidth, height: this.plot.height })).observe(host);
  }

  start(options) {
    this.plot = new uPlot(options, [[0, this.data.span], [0, 1]], this.host);
    return this;
  }

  dress() {
    this.theme = readTheme();
    this.plot.redraw();
  }

  /** Device pixel of a moment. */
  x(moment) {
    const { left, width } = this.plot.bbox;
    return left + ((moment - this.view.low) / (this.view.high - this.view.low)) * width;
  }
}

class Timeline extends Chart {
  constructor(host, data, view) {
    super(host, data, view);
    const { lanes, height } = layOut(data);
    Object.assign(this, { lanes, lanesHeight: height, showsPath: false });
    this.painter = new Painter(data, lanes);
    this.painter.dress(this.theme);
    const lane = Math.max(2, Math.min(30, 620 / height));
    this.rows = lanes.filter((each) => each.resource === "compute");
    const every = Math.ceil(13 / (lane * (height / this.rows.length)));
    const named = this.rows.filter((_, i) => i % every === 0);
    const middle = (each) => (each.top + each.bottom) / 2;
    const value = {
      splits: () => named.map(middle),
      values: () => named.map((each) => (this.rows.length > 12 ? "" : "rank ") + each.rank),
      grid: { show: false },
      ticks: { show: false },
      gap: 6,
    };
    this.start(common(this, Math.round(lane * height) + 34, { value, time: {} }, { dir: -1, range: [0, height] }));
  }

  dress() {
    this.painter.dress(readTheme());
    super.dress();
  }

  draw(plot) {
    const { ctx, bbox } = plot;
    this.plot = plot;
    const width = Math.round(bbox.width), height = Math.round(bbox.height);
    const place = (y) => (y / this.lanesHeight) * height;
    const picture = this.painter.paint(this.view.low, this.view.high, width, height, place);
    ctx.drawImage(picture, Math.round(bbox.left), Math.round(bbox.top));
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    if (!this.painter.fine) this.drawLabels(ctx, bbox, place);
    if (this.showsPath) this.drawPath(ctx, bbox, place);
    ctx.restore();
    document.getElementById("mode").textContent = this.painter.fine
      ? "Too fine to draw op by op: heights are shares of time."
      : "";
  }

  /** Micro-batches in ops that are wide enough; whole names where nearly all ops have room for them. */
  drawLabels(ctx, bbox, place) {
    const { data } = this, ratio = devicePixelRatio, labels = this.labels(bbox, place);
    const roomy = labels.filter((each) => each.room > 0.66 * each.letter * token(data, each.op).length + 4 * ratio);
    const whole = roomy.length > 0.9 * labels.length;
    ctx.textAlign = "center";
    ctx.textBaseline = "middle";
    for (const { op, x, y, room, letter } of labels) {
      const text = whole ? token(data, op) : String(data.microbatch[op]);
      if (room < 0.6 * letter * text.length + 2 * ratio) continue;
      const look = data.styles[data.style[op]];
      ctx.font = `${letter}px system-ui, sans-serif`;
      ctx.fillStyle = this.theme.isDark ? look.darkInk : look.ink;
      ctx.fillText(text, x, y + 0.04 * letter);
    }
  }

  /** Where there may be labels, in device pixels. */
  labels(bbox, place) {
    const { data, painter } = this, found = [];
    this.lanes.forEach((lane, number) => {
      const top = place(lane.top), size = place(lane.bottom) - top;
      if (lane.resource !== "compute" || size < 10 * devicePixelRatio) return;
      for (let op = painter.seen[number][0]; op < painter.seen[number][1]; op++) {
        const left = Math.max(this.x(data.start[op]), bbox.left);
        const room = Math.min(this.x(data.end[op]), bbox.left + bbox.width) - left;
        const tall = data.half[op] ? size / 2 : size;
        const letter = Math.min(LABEL * devicePixelRatio, 0.7 * size, 0.9 * tall);
        if (room < 1.1 * letter || data.microbatch[op] < 0) continue;
        const middle = data.half[op] === 2 ? 0.75 : data.half[op] === 1 ? 0.25 : 0.5;
        found.push({ op, x: left + room / 2, y: bbox.top + top + middle * size, room, letter });
      }
    });
    return found;
  }

  /** The critical path along the lower edge of its ops, stepping from rank to rank. */
  drawPath(ctx, bbox, place) {
    const { pathRank, pathStart, pathEnd } = this.data;
    const lane = new Map(this.rows.map((each) => [each.rank, each]));
    ctx.beginPath();
    for (let i = 0; i < pathRank.length; i++) {
      const { top, bottom } = lane.get(pathRank[i]);
      const y = bbox.top + place(bottom - 0.13 * (bottom - top));
      ctx[i ? "lineTo" : "moveTo"](this.x(pathStart[i]), y);
      ctx.lineTo(this.x(pathEnd[i]), y);
    }
    ctx.lineJoin = "round";
    for (const [colour, width] of [[this.theme.halo, 4], [this.theme.path, 1.8]]) {
      ctx.strokeStyle = colour;
      ctx.lineWidth = width * devicePixelRatio;
      ctx.stroke();
    }
  }

  /** What lies under a pointer: {rank, op, idle}; op and idle are numbers or -1, null outside of the lanes. */
  at(left, top) {
    const moment = this.plot.posToVal(left, "x"), y = this.plot.posToVal(top, "y");
    const lane = this.lanes.find((each) => y >= each.top - 0.06 && y < each.bottom + 0.06);
    if (!lane || moment < 0 || moment > this.data.span) return null;
    const { data } = this;
    let op = covering(data.start, data.end, moment, lane.first, lane.last);
    if (op >= 0 && data.half[op] === 1 && y > (lane.top + lane.bottom) / 2 && op + 1 < lane.last) op += 1;
    if (op >= 0 && data.half[op] === 2 && y < (lane.top + lane.bottom) / 2) op -= 1;
    const first = data.idleRank[lane.row], last = data.idleRank[lane.row + 1];
    const isCompute = lane.resource === "compute";
    const idle = isCompute && op < 0 ? covering(data.idleStart, data.idleEnd, moment, first, last) : -1;
    return { lane, moment, op, idle };
  }
}

class Memory extends Chart {
  constructor(host, data, view) {
    super(host, data, view);
    this.rank = -1;
    this.peaks = data.ranks.map((_, row) => this.peak(row));
    this.fullest = this.peaks.indexOf(Math.max(...this.peaks));
    const top = Math.max(...this.peaks, data.capacity || 0) * 1.07 || 1;
    const value = {
      values: (plot, splits) => splits.map((split) => bytesText(data, split)),
      splits: (plot, axis, low, high) => ticks(high / data.bytes.size).map((tick) => tick * data.bytes.size),
      grid: { stroke: () => this.theme.line, width: 1 },
      ticks: { show: false },
      gap: 6,
    };
    this.start(common(this, 190, { value, time: {} }, { range: [0, top] }));
    this.say();
  }

  peak(row) {
    let most = 0;
    for (let i = this.data.memoryRank[row]; i < this.data.memoryRank[row + 1]; i++) most = Math.max(most, this.data.memoryBytes[i]);
    return most;
  }

  /** Emphasise the memory of one rank, by its row; -1 for the fullest. */
  point(row) {
    if (row === this.rank) return;
    this.rank = row;
    this.say();
    this.plot.redraw(false, false);
  }

  say() {
    const row = this.rank < 0 ? this.fullest : this.rank, { data } = this;
    const which = this.rank < 0 && data.ranks.length > 1 ? ", the fullest" : "";
    const others = data.ranks.length < 2 ? "" : this.few ? "; thin: the other ranks" : "; shaded: from the least to the most of all ranks";
    document.getElementById("memory-note").textContent =
      `rank ${data.ranks[row]}${which}, peak ${bytesText(data, this.peaks[row])}${others}`;
  }

  /** Whether every rank has a line of its own. */
  get few() {
    return this.data.ranks.length <= FEW;
  }

  draw(plot) {
    this.plot = plot;
    const { ctx, bbox } = plot, width = Math.max(1, Math.round(bbox.width));
    const y = (bytes) => plot.valToPos(bytes, "y", true);
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    const shown = this.rank < 0 ? this.fullest : this.rank;
    if (this.few) this.data.ranks.forEach((_, row) => this.drawLine(ctx, bbox, width, y, row, this.theme.muted + "80", 0.8));
    else this.drawRange(ctx, bbox, width, y);
    this.drawLine(ctx, bbox, width, y, shown, this.theme.accent, 1.8);
    if (this.data.capacity) this.drawCapacity(ctx, bbox, y);
    ctx.restore();
  }

  /** Between the least and the most that any rank holds. */
  drawRange(ctx, bbox, width, y) {
    const least = new Float64Array(width).fill(Infinity), most = new Float64Array(width);
    this.data.ranks.forEach((_, row) => {
      const { low, high } = this.columns(row, width);
      for (let x = 0; x < width; x++) {
        if (low[x] < least[x]) least[x] = low[x];
        if (high[x] > most[x]) most[x] = high[x];
      }
    });
    ctx.beginPath();
    for (let x = 0; x <= width; x++) ctx.lineTo(bbox.left + x, y(most[Math.min(x, width - 1)]));
    for (let x = width; x >= 0; x--) ctx.lineTo(bbox.left + x, y(least[Math.min(x, width - 1)]));
    ctx.closePath();
    ctx.fillStyle = this.theme.accent + (this.theme.isDark ? "38" : "2e");
    ctx.fill();
  }

  drawLine(ctx, bbox, width, y, row, colour, thickness) {
    const { low, high, last } = this.columns(row, width);
    ctx.beginPath();
    for (let x = 0; x < width; x++) {
      const at = bbox.left + x;
      if (!x || high[x] !== last[x - 1]) ctx.lineTo(at, y(high[x]));
      if (low[x] !== high[x]) ctx.lineTo(at, y(low[x]));
      ctx.lineTo(at, y(last[x]));
      if (x + 1 === width || high[x + 1] !== last[x] || low[x + 1] !== last[x]) ctx.lineTo(at + 1, y(last[x]));
    }
    ctx.strokeStyle = colour;
    ctx.lineWidth = thickness * devicePixelRatio;
    ctx.lineJoin = "round";
    ctx.stroke();
  }

  drawCapacity(ctx, bbox, y) {
    const at = Math.round(y(this.data.capacity)) + 0.5, ratio = devicePixelRatio;
    ctx.beginPath();
    ctx.setLineDash([5 * ratio, 4 * ratio]);
    ctx.moveTo(bbox.left, at);
    ctx.lineTo(bbox.left + bbox.width, at);
    ctx.strokeStyle = ctx.fillStyle = this.theme.alarm;
    ctx.lineWidth = ratio;
    ctx.stroke();
    ctx.setLineDash([]);
    ctx.font = `${11.5 * ratio}px system-ui, sans-serif`;
    ctx.textAlign = "right";
    ctx.textBaseline = "top";
    ctx.fillText(`capacity ${bytesText(this.data, this.data.capacity)}`, bbox.left + bbox.width - 4 * ratio, at + 3 * ratio);
  }

  /** Least, most and last of a rank's bytes in every column. */
  columns(row, width) {
    const { memoryRank, memoryTime, memoryBytes } = this.data, { low, high } = this.view;
    const first = memoryRank[row], last = memoryRank[row + 1], scale = width / (high - low);
    const [least, most, final] = [0, 1, 2].map(() => new Float64Array(width));
    let i = Math.max(first, firstAbove(memoryTime, low, first, last) - 1), level = first < last ? memoryBytes[i] : 0;
    for (let x = 0; x < width; x++) {
      const until = low + (x + 1) / scale;
      least[x] = most[x] = level;
      while (i + 1 < last && memoryTime[i + 1] < until) {
        level = memoryBytes[++i];
        if (level < least[x]) least[x] = level;
        if (level > most[x]) most[x] = level;
      }
      final[x] = level;
    }
    return { low: least, high: most, last: final };
  }

  /** Bytes that a rank holds at a moment. */
  held(row, moment) {
    const { memoryRank, memoryTime, memoryBytes } = this.data;
    const i = firstAbove(memoryTime, moment, memoryRank[row], memoryRank[row + 1]) - 1;
    return i < memoryRank[row] ? 0 : memoryBytes[i];
  }
}

/** Round numbers from 0 up to the most, four or five of them. */
function ticks(most) {
  const rough = most / 4, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 2.5, 5, 10].find((each) => each * power >= rough) || 10);
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, i) => i * step);
}
