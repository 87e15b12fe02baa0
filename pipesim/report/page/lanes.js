"use strict";
/* How the timeline becomes pixels: ops as boxes where they can be told apart, as shares of time where not. */

const APART = 3; /* device pixels per op below which shares are drawn */
const WINDOW = 12; /* ops over which shares are averaged */
const THIN = 0.36; /* height of a communication lane, where a compute lane's is 1 */

/** Where the lanes lie on an axis that grows downwards; one unit is a compute lane. */
function layOut(data) {
  const gap = data.ranks.length > 96 ? 0.08 : 0.16;
  const lanes = [];
  let y = gap / 2;
  data.ranks.forEach((rank, row) => {
    data.resources.forEach((resource, column) => {
      const number = row * data.resources.length + column;
      const height = resource === "compute" ? 1 : THIN;
      if (column && data.lane[number + 1] === data.lane[number]) return;
      lanes.push({ rank, row, resource, top: y, bottom: y + height, first: data.lane[number], last: data.lane[number + 1] });
      y += height + (column + 1 < data.resources.length ? 0.05 : 0);
    });
    y += gap;
  });
  return { lanes, height: y - gap / 2 };
}

/** `#rrggbb` as a pixel of an ImageData seen as 32-bit numbers (little-endian: alpha, blue, green, red). */
function pixel(colour) {
  const n = parseInt(colour.slice(1), 16);
  return (0xff000000 | ((n & 0xff) << 16) | (n & 0xff00) | (n >> 16)) >>> 0;
}

function darker(colour, share) {
  const part = (shift) => Math.round((((colour >>> shift) & 0xff) * share));
  return (0xff000000 | (part(16) << 16) | (part(8) << 8) | part(0)) >>> 0;
}

/** Draws lanes into an image of device pixels. */
class Painter {
  constructor(data, lanes) {
    this.data = data;
    this.lanes = lanes;
    this.kinds = [...new Set(data.styles.map((style) => style.kind))];
    this.kindOf = data.styles.map((style) => this.kinds.indexOf(style.kind));
    this.canvas = document.createElement("canvas");
  }

  /** Colours of the theme: {page, idle, quiet} as `#rrggbb`, and whether it is dark. */
  dress(theme) {
    this.theme = theme;
    this.colours = Uint32Array.from(this.data.styles, (s) => pixel(theme.isDark ? s.dark : s.light));
    this.stripes = this.colours.map((colour) => darker(colour, 0.6));
    const first = this.kinds.map((kind) => this.data.styles.find((style) => style.kind === kind));
    this.shades = Uint32Array.from(first, (s) => pixel(theme.isDark ? s.dark : s.light));
    [this.page, this.idle, this.quiet] = [theme.page, theme.idle, theme.quiet].map(pixel);
  }

  /** The image of the time from `low` to `high`; `place(y)` is the device pixel of a height in lanes. */
  paint(low, high, width, height, place) {
    if (this.canvas.width !== width || this.canvas.height !== height) {
      [this.canvas.width, this.canvas.height] = [width, height];
      this.context = this.canvas.getContext("2d");
      this.image = this.context.createImageData(width, height);
      this.pixels = new Uint32Array(this.image.data.buffer);
    }
    Object.assign(this, { low, high, width, height, scale: width / (high - low) });
    this.pixels.fill(this.page);
    this.seen = this.lanes.map((lane) => this.within(lane));
    const dense = this.fineResources();
    this.fine = dense.has("compute");
    this.lanes.forEach((lane, i) => {
      const top = Math.max(0, Math.round(place(lane.top)));
      const bottom = Math.min(height, Math.max(top + 1, Math.round(place(lane.bottom))));
      if (top >= bottom) return;
      this.fill(0, width, top, bottom, lane.resource === "compute" ? this.idle : this.quiet);
      if (dense.has(lane.resource)) this.shares(this.seen[i], top, bottom);
      else this.boxes(this.seen[i], top, bottom);
    });
    this.context.putImageData(this.image, 0, 0);
    return this.canvas;
  }

  /** The ops of a lane that can be seen. */
  within(lane) {
    const first = firstAbove(this.data.end, this.low, lane.first, lane.last);
    return [first, firstAbove(this.data.start, this.high, first, lane.last)];
  }

  /** Resources whose ops are too narrow to be told apart. */
  fineResources() {
    const ops = {}, room = {};
    this.lanes.forEach((lane, i) => {
      ops[lane.resource] = (ops[lane.resource] || 0) + this.seen[i][1] - this.seen[i][0];
      room[lane.resource] = (room[lane.resource] || 0) + this.width;
    });
    return new Set(Object.keys(ops).filter((name) => ops[name] * APART > room[name]));
  }

  fill(left, right, top, bottom, colour) {
    const { pixels, width } = this;
    if (right - left > 24) {
      for (let y = top; y < bottom; y++) pixels.fill(colour, y * width + left, y * width + right);
      return;
    }
    for (let y = top, row = top * width; y < bottom; y++, row += width) {
      for (let x = row + left; x < row + right; x++) pixels[x] = colour;
    }
  }

  /** One box per op, a line of background between neighbours where there is room, a stripe on later routes. */
  boxes([first, last], top, bottom) {
    const { start, end, style, half, route } = this.data;
    const middle = (top + bottom) >> 1;
    for (let i = first; i < last; i++) {
      const left = Math.max(0, Math.round((start[i] - this.low) * this.scale));
      let right = Math.min(this.width, Math.round((end[i] - this.low) * this.scale));
      if (right <= left) right = Math.min(this.width, left + 1);
      if (right - left > 4) right -= 1;
      const above = half[i] === 2 ? middle : top;
      const below = half[i] === 1 ? middle : bottom;
      this.fill(left, right, above, below, this.colours[style[i]]);
      if (route[i]) {
        const edge = above + Math.max(1, Math.round((below - above) * 0.14 * route[i]));
        this.fill(left, right, above, Math.min(edge, below), this.stripes[style[i]]);
      }
    }
  }

  /** For every column as much as it is busy, divided among kinds as the ops around it are, stacked from below. */
  shares([first, last], top, bottom) {
    if (first === last) return;
    const { width, pixels, shades } = this, kinds = this.kinds.length, size = bottom - top;
    const amount = this.amounts(first, last);
    const around = windowed(amount, kinds, width, Math.min(24, Math.round((WINDOW / 2) * this.typical(first, last) * this.scale)));
    for (let x = 0; x < width; x++) {
      let busy = 0, all = 0, total = 0, below = bottom;
      for (let k = 0; k < kinds; k++) {
        busy += amount[x * kinds + k];
        all += around[x * kinds + k];
      }
      if (busy <= 0 || all <= 0) continue;
      for (let k = 0; k < kinds; k++) {
        total += (busy * around[x * kinds + k]) / all;
        const above = Math.max(top, bottom - Math.round(total * size));
        for (let y = above; y < below; y++) pixels[y * width + x] = shades[k];
        below = Math.min(below, above);
      }
    }
  }

  /** Time per column and kind, in columns. */
  amounts(first, last) {
    const { start, end, style, half } = this.data;
    const kinds = this.kinds.length, amount = new Float32Array(this.width * kinds);
    for (let i = first; i < last; i++) {
      const left = Math.max(0, (start[i] - this.low) * this.scale);
      const right = Math.min(this.width, (end[i] - this.low) * this.scale);
      const weight = half[i] ? 0.5 : 1, kind = this.kindOf[style[i]];
      const until = Math.min(this.width - 1, Math.floor(right));
      let column = Math.floor(left);
      if (column >= until) {
        if (column < this.width) amount[column * kinds + kind] += weight * (right - left);
        continue;
      }
      amount[column * kinds + kind] += weight * (column + 1 - left);
      while (++column < until) amount[column * kinds + kind] += weight;
      amount[until * kinds + kind] += weight * (right - until);
    }
    return amount;
  }

  /** A duration that is usual in this lane. */
  typical(first, last) {
    const length = this.data.length, some = [];
    for (let i = first; i < last; i += Math.max(1, (last - first) >> 6)) some.push(length[i]);
    return some.sort((a, b) => a - b)[some.length >> 1];
  }
}

/** Sums of every column's values, `kinds` of them, and those of the columns up to `reach` away. */
function windowed(values, kinds, width, reach) {
  const sums = new Float64Array(kinds), around = new Float32Array(values.length);
  for (let i = 0; i < Math.min(reach, width) * kinds; i++) sums[i % kinds] += values[i];
  for (let x = 0; x < width; x++) {
    for (let k = 0; k < kinds; k++) {
      if (x + reach < width) sums[k] += values[(x + reach) * kinds + k];
      if (x > reach) sums[k] -= values[(x - reach - 1) * kinds + k];
      around[x * kinds + k] = Math.max(0, sums[k]);
    }
  }
  return around;
}

/** What an op is called: as in programs, with its stage, kind and micro-batch. */
function token(data, i) {
  const { kind } = data.styles[data.style[i]];
  if (data.stage[i] < 0) return kind;
  return data.stage[i] + kind + (data.microbatch[i] < 0 ? "" : data.microbatch[i]);
}
