// A graph of the ring's history. Drag selects a time, Shift and drag pans, a double click zooms out. Times that the ring no
// longer or not yet holds lie under dark grey.
import uPlot from "uplot";
import { html } from "htm/preact";
import { useEffect, useRef } from "preact/hooks";
import { time } from "./format.js";
import { span, shown, utc, now } from "./state.js";

const HEIGHT = 150;
const SHORTEST_S = 1;
const LONGEST_S = 399 * 86400; // that the API has a history of
const DAY_S = 86400;
const TIME_STEPS = [1, 5, 10, 15, 30, 60, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, DAY_S, 7 * DAY_S, 30 * DAY_S];
const BINARY_STEPS = Array.from({ length: 50 }, (_, i) => 2 ** i);

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function select(from, to) {
  if (to - from < SHORTEST_S) return;
  span.value = { from: Math.floor(from), to: Math.ceil(to) };
}

export function zoomOut() {
  const { from, to } = shown.value;
  const length = Math.min(to - from, LONGEST_S / 2);
  span.value = { from: Math.floor(from - length / 2), to: Math.ceil(Math.min(to + length / 2, Math.max(now.value, to))) };
}

// What the mouse can do, for the keyboard.
function keys(event) {
  const { from, to } = shown.value, quarter = Math.max(1, Math.round((to - from) / 4));
  if (event.key === "ArrowLeft") span.value = { from: Math.floor(from - quarter), to: Math.ceil(to - quarter) };
  else if (event.key === "ArrowRight") span.value = { from: Math.floor(from + quarter), to: Math.ceil(to + quarter) };
  else if (event.key === "+" && to - from > 4 * SHORTEST_S) span.value = { from: Math.floor(from + quarter), to: Math.ceil(to - quarter) };
  else if (event.key === "-") zoomOut();
  else if (event.key === "Escape") span.value = null;
  else return;
  event.preventDefault();
}

// Panning is ours; uPlot would select.
function pan(plot) {
  let start = null;
  plot.over.addEventListener("mousedown", (event) => {
    if (!event.shiftKey) return;
    event.stopImmediatePropagation();
    event.preventDefault();
    start = { x: event.clientX, ...shown.value };
    const move = (more) => {
      const shift = Math.round(((start.x - more.clientX) / plot.over.clientWidth) * (start.to - start.from));
      span.value = { from: Math.floor(start.from + shift), to: Math.ceil(start.to + shift) };
    };
    const stop = () => {
      window.removeEventListener("mousemove", move);
      window.removeEventListener("mouseup", stop);
    };
    window.addEventListener("mousemove", move);
    window.addEventListener("mouseup", stop);
  }, true);
}

function shade(plot, held) {
  const { ctx, bbox } = plot;
  const edge = (at) => Math.min(Math.max(plot.valToPos(at, "x", true), bbox.left), bbox.left + bbox.width);
  const oldest = held && held.from !== null ? edge(held.from) : bbox.left + bbox.width;
  const newest = held && held.to !== null ? edge(held.to) : bbox.left + bbox.width;
  ctx.save();
  ctx.fillStyle = color("--not-held");
  ctx.fillRect(bbox.left, bbox.top, oldest - bbox.left, bbox.height);
  ctx.fillRect(newest, bbox.top, bbox.left + bbox.width - newest, bbox.height);
  ctx.restore();
}

// Days where days are seen, else the time of the day, with seconds where seconds are.
function label(at) {
  const { from, to } = shown.value;
  const [day, clock] = time(at, utc.value).split(" ");
  return to - from > 2 * DAY_S ? day : to - from > 1800 ? clock.slice(0, 5) : clock;
}

function options(props, width, held) {
  const axis = { stroke: color("--faint"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line"), width: 1 } };
  return {
    width,
    height: HEIGHT,
    legend: { live: true },
    cursor: { sync: { key: "time" }, drag: { x: true, y: false, setScale: false }, bind: { dblclick: () => () => { zoomOut(); } } },
    scales: { x: { time: false, range: () => [shown.value.from, shown.value.to] }, y: { range: (_, low, high) => [Math.min(low || 0, 0), high > 0 ? high * 1.1 : 1] } },
    axes: [
      { ...axis, size: 28, space: 80, incrs: TIME_STEPS, values: (_, values) => values.map(label) },
      { ...axis, size: 70, incrs: props.binary ? BINARY_STEPS : undefined, values: (_, values) => values.map((value) => props.unit(value)) },
    ],
    series: [
      { label: "time", value: (_, value) => (value === null ? "–" : time(value, utc.value)) },
      ...props.series.map((one) => ({
        label: one.label, stroke: color(one.color), fill: one.fill ? `${color(one.color)}33` : undefined, width: 1.5,
        points: { show: false }, value: (_, value) => (value === null ? "–" : props.unit(value)),
      })),
    ],
    hooks: {
      ready: [pan],
      drawClear: [(plot) => shade(plot, held.current)],
      setSelect: [(plot) => {
        const { left, width: wide } = plot.select;
        if (wide > 3) select(plot.posToVal(left, "x"), plot.posToVal(left + wide, "x"));
        plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
      }],
    },
  };
}

// props: title, series [{label, color, fill}], data [times, values...], unit, held {from, to}
export function Chart(props) {
  const place = useRef(null), plot = useRef(null), held = useRef(props.held);
  held.current = props.held;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  useEffect(() => {
    const make = () => {
      if (plot.current) plot.current.destroy();
      plot.current = new uPlot(options(props, place.current.clientWidth, held), props.data, place.current);
    };
    make();
    const size = new ResizeObserver(() => plot.current.setSize({ width: place.current.clientWidth, height: HEIGHT }));
    size.observe(place.current);
    dark.addEventListener("change", make);
    return () => {
      size.disconnect();
      dark.removeEventListener("change", make);
      plot.current.destroy();
      plot.current = null;
    };
  }, [utc.value]);
  useEffect(() => { if (plot.current) plot.current.setData(props.data); });
  return html`<figure class="chart" role="group" tabindex="0" aria-label=${`${props.title}. Arrow keys move, plus and minus zoom, Escape goes live`} onKeyDown=${keys}><figcaption>${props.title}</figcaption><div ref=${place}></div></figure>`;
}
