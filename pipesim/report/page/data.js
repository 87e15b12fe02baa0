"use strict";
/* The arrays of the report: unpacked once, then read by the charts. Times are picoseconds since the step's start. */

const TYPES = { f8: Float64Array, i4: Int32Array, u2: Uint16Array, u1: Uint8Array };

/** The index with its arrays in place, differences summed up, and the end of every op and interval. */
async function load() {
  const index = JSON.parse(document.getElementById("index").textContent);
  const text = atob(document.getElementById("data").textContent.trim());
  const packed = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  const data = { ...index };
  for (const [name, [type, offset, length]] of Object.entries(index.arrays)) {
    data[name] = new TYPES[type](buffer, offset, length);
  }
  sumUp(data.start, data.lane);
  sumUp(data.idleStart, data.idleRank);
  sumUp(data.memoryTime, data.memoryRank);
  data.idleFor = new TextDecoder().decode(data.idleFor).split("\n");
  data.end = data.start.map((start, i) => start + data.length[i]);
  data.idleEnd = data.idleStart.map((start, i) => start + data.idleLength[i]);
  return data;
}

/** Turn differences into values, group by group; group g is first[g]..first[g + 1]. */
function sumUp(values, first) {
  for (let group = 0; group + 1 < first.length; group++) {
    for (let i = first[group] + 1; i < first[group + 1]; i++) values[i] += values[i - 1];
  }
}

/** First index in low..high whose value is greater than x; values are ascending. */
function firstAbove(values, x, low, high) {
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] > x) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** What takes place at a moment in a group of sorted intervals, or -1. */
function covering(start, end, moment, low, high) {
  const i = firstAbove(end, moment, low, high);
  return i < high && start[i] <= moment ? i : -1;
}

/** Picoseconds for people: as many digits as are needed to tell `step` apart. */
function timeText(data, picoseconds, step) {
  const value = picoseconds * data.unit.perPicosecond;
  const apart = Math.abs(step * data.unit.perPicosecond) || 1;
  const digits = Math.min(12, Math.max(0, Math.ceil(-Math.log10(apart) - 1e-9)));
  const text = value.toFixed(digits);
  return (digits ? text.replace(/\.?0+$/, "") : text) + (data.unit.name && "\u202f" + data.unit.name);
}

/** Bytes for people. */
function bytesText(data, bytes) {
  const value = bytes / data.bytes.size;
  return Number(value.toPrecision(3)).toString() + (data.bytes.name && "\u202f" + data.bytes.name);
}
