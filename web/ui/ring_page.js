// The ring buffer: what it holds, what comes, what is lost, and the way to its packets.
import { html } from "htm/preact";
import { useEffect, useState } from "preact/hooks";
import { ask, part } from "./api.js";
import { Chart } from "./chart.js";
import { CreateRing, StartCapture, StopCapture } from "./dialogs.js";
import { ExtractionTable, Packets } from "./extractions.js";
import { bytes, count, duration, rate, seconds, share, time } from "./format.js";
import { Failure, RingSwitch, Spark } from "./parts.js";
import { LIVE_S, LOSSES, current, go, live_s, losses, lost, may, now, open, overview, samples, shown, span, stalls, trouble, utc } from "./state.js";

const CAUSES = {
  dropped_kernel: "dropped by the kernel or the adapter before the recorder saw them",
  dropped_queue: "dropped because the disks are too slow for what comes",
  lost_disk: "lost because no disk could store them",
  refused: "refused: too long to be stored",
};
const POINTS = 300;
const POLL_MAX_S = 60;

function Tile({ label, value, hint, values, color = "" }) {
  return html`<div class="tile"><dt>${label}</dt><dd class="figure">${value}</dd><dd class="hint">${hint || " "}</dd>
    <dd class="graph"><${Spark} values=${values} color=${color} /></dd></div>`;
}

function Numbers({ status, columns }) {
  const { ring, account, account_bytes } = status;
  const dropped = lost(account), dropped_bytes = lost(account_bytes);
  const size = (logical, raw) => (ring.copies > 1 ? html`${bytes(logical)} <span class="faint">(${bytes(raw)})</span>` : bytes(raw));
  const seen = samples.value[ring.name] || [];
  const went = (what) => seen.map((one) => one[what]);
  const column = (what) => (columns ? what(columns) : []);
  const sum = (lines) => (lines.length ? lines[0].map((_, i) => (lines[0][i] === null ? null : lines.reduce((total, line) => total + line[i], 0))) : []);
  const rules = account.discarded + status.cut_packets;
  return html`<dl class="tiles">
    <${Tile} label="Oldest packet" value=${time(seconds(ring.oldest_ns), utc.value)}
      hint=${ring.oldest_ns === null ? "nothing has been recorded yet" : status.reach_back_s > 0 ? `reaches back ${duration(status.reach_back_s)}` : "just now"} values=${went("reach")} />
    <${Tile} label="Total size" value=${size(ring.logical_total_bytes, ring.total_bytes)} hint=${ring.disks === 1 ? "on one disk" : status.degraded ? `on those of ${ring.disks} disks that are there` : `on ${ring.disks} disks`}
      values=${[]} />
    <${Tile} label="Used size" value=${size(ring.logical_used_bytes, ring.used_bytes)} hint=${`${share(ring.used_bytes, ring.total_bytes)}, ${count(ring.packets)} packets`} values=${went("used")} />
    <${Tile} label="Captured since start" value=${bytes(account_bytes.seen)} hint=${`${count(account.seen)} packets`} values=${column((all) => all.bytes.seen)} />
    <${Tile} label="Dropped" value=${`${bytes(dropped_bytes)}`} hint=${`${count(dropped)} packets, ${share(dropped, account.seen)} of all`} color="red"
      values=${column((all) => sum(LOSSES.map((line) => all.packets[line])))} />
    <${Tile} label="Discarded or cut by rules" value=${bytes(account_bytes.discarded + Math.max(0, account_bytes.stored - status.stored_bytes))}
      hint=${rules === 0 ? "no packets" : `${count(account.discarded)} discarded, ${count(status.cut_packets)} cut`} color="green"
      values=${column((all) => sum([all.packets.discarded, all.cut_packets]))} />
    <${Tile} label="Data in flight" value=${bytes(status.in_flight_bytes)} hint=${`${count(status.buffers.free)} of ${count(status.buffers.total)} buffers free`} values=${went("in_flight")} />
    <${Tile} label="Will reach back" value=${status.forecast_s === null ? "–" : duration(status.forecast_s)}
      hint=${status.forecast_s === null ? "nothing is coming in" : `at ${bytes(status.bytes_per_s)} a second`} values=${went("forecast")} />
  </dl>`;
}

function Warnings({ status }) {
  const name = status.ring.name, loss = losses.value[name], stalled = stalls.value[name];
  return html`
    ${status.ring.error && html`<p class=${`banner ${status.ring.state === "failed" ? "bad" : "warn"}`} role="alert">${status.ring.error}</p>`}
    ${stalled && html`<p class="banner bad" role="alert">Nothing has been written for ${stalled} s, while packets come in.</p>`}
    ${loss && LOSSES.filter((line) => loss[line]).map((line) =>
      html`<p class="banner bad" role="alert" key=${line}>${rate(loss[line])} packets a second ${CAUSES[line]}.</p>`)}
    ${status.degraded && html`<p class="banner warn" role="status">Degraded: fewer disks or copies than the ring buffer should have.
      <button class="quiet" onClick=${() => go("cluster")}>See cluster configuration</button></p>`}`;
}

// The history of what is shown: asked for anew when that changes, and while live as often as there is a new step.
function useHistory(name, from, to) {
  const [columns, setColumns] = useState(null);
  const [error, setError] = useState(null);
  const step = Math.max(1, Math.ceil((to - from) / POINTS));
  const every = span.value ? 1 : Math.min(step, POLL_MAX_S);
  const key = Math.floor(to / every);
  useEffect(() => {
    let wanted = true;
    ask("GET", `/rings/${part(name)}/history?from=${Math.floor(from)}&to=${Math.ceil(to)}&step=${step}`).then((answer) => {
      if (!wanted) return;
      setColumns(answer);
      setError(null);
    }, (problem) => { if (wanted) setError(problem.message); });
    return () => { wanted = false; };
  }, [name, span.value ? Math.floor(from) : null, key, step]);
  return { columns, error };
}

function Graphs({ status, columns }) {
  const times = columns.stored_bytes.map((_, i) => columns.from_s + i * columns.step_s);
  const per_s = (column) => column.map((value) => (value === null ? null : value / columns.step_s));
  const { packets } = columns;
  const held = { from: seconds(status.ring.oldest_ns), to: status.ring.state === "recording" ? now.value : seconds(status.ring.newest_ns) };
  return html`
    <${Chart} title="Bytes a second" binary held=${held} unit=${bytes}
      series=${[{ label: "on the wire", color: "--faint" }, { label: "stored", color: "--blue", fill: true }]} data=${[times, per_s(columns.bytes.seen), per_s(columns.stored_bytes)]} />
    <${Chart} title="Packets a second" held=${held} unit=${rate}
      series=${[{ label: "seen", color: "--faint" }, { label: "stored", color: "--blue", fill: true }, { label: "discarded", color: "--green" }, { label: "cut", color: "--violet" }]}
      data=${[times, per_s(packets.seen), per_s(packets.stored), per_s(packets.discarded), per_s(columns.cut_packets)]} />
    <${Chart} title="Lost packets a second, by cause" held=${held} unit=${rate}
      series=${[{ label: "kernel", color: "--red", fill: true }, { label: "disks too slow", color: "--orange" }, { label: "disks failed", color: "--violet" }, { label: "too long", color: "--faint" }]}
      data=${[times, ...LOSSES.map((line) => per_s(packets[line]))]} />`;
}

// A time as the browser's own field wants it, and back.
const field_of = (at) => time(at, utc.value).replace(" ", "T");
const time_of = (text) => Date.parse(utc.value ? `${text}Z` : text) / 1000;

function Span() {
  const change = (which) => (event) => {
    const at = time_of(event.target.value);
    const wanted = { ...span.value, [which]: at };
    if (Number.isFinite(at) && wanted.from < wanted.to) span.value = wanted;
  };
  return html`<label class="inline">from <input type="datetime-local" step="1" value=${field_of(span.value.from)} onChange=${change("from")} /></label>
    <label class="inline">to <input type="datetime-local" step="1" value=${field_of(span.value.to)} onChange=${change("to")} /></label>
    <span class="range">${duration(span.value.to - span.value.from)}</span>`;
}

function Times() {
  const { from, to } = shown.value;
  return html`<div class="times" role="group" aria-label="time">
    <div class="switch">
      <button aria-pressed=${!span.value} onClick=${() => { span.value = null; }}>LIVE</button>
      <button aria-pressed=${Boolean(span.value)} onClick=${() => { span.value = span.value || { from: Math.floor(from), to: Math.ceil(to) }; }}>BACK IN TIME</button>
    </div>
    ${span.value ? html`<${Span} />` : html`<select aria-label="how much is shown" onChange=${(event) => { live_s.value = Number(event.target.value); }}>
      ${LIVE_S.map((one) => html`<option value=${one} selected=${one === live_s.value}>last ${duration(one)}</option>`)}</select>
      <span class="range">${time(from, utc.value)} – ${time(to, utc.value)}</span>`}
    <button class="quiet" title="switch between UTC and local time" onClick=${() => { utc.value = !utc.value; }}>${utc.value ? "UTC" : "local time"}</button>
    <span class="space"></span>
    <span class="hint keys">Drag selects a time, Shift-drag moves it, a double click zooms out. Keys on a graph: ← → + − Esc.</span>
  </div>`;
}

function Ring({ status }) {
  const name = status.ring.name;
  const { from, to } = shown.value;
  const { columns, error } = useHistory(name, from, to);
  const listed = overview.value.extractions.filter((one) => one.state === "running" || one.state === "waiting");
  return html`
    <${Warnings} status=${status} />
    <${Numbers} status=${status} columns=${columns} />
    <${Times} />
    <${Failure} error=${error} />
    ${columns && html`<${Graphs} status=${status} columns=${columns} />`}
    ${may("packets") && listed.length > 0 && html`<section><h2>Running extractions</h2><${ExtractionTable} list=${listed} /></section>`}`;
}

export function RingPage() {
  if (!overview.value) return html`<p class="empty">…</p>`;
  const status = current.value;
  if (!status)
    return html`<div class="empty"><p>There is no ring buffer yet. It is where packets are kept: a place of fixed size on a disk, in which the oldest make room for the newest.</p>
      ${may("control") ? html`<button class="main" onClick=${() => open(CreateRing)}>Create ring buffer</button>` : html`<p>An operator can create one.</p>`}</div>`;
  const name = status.ring.name;
  return html`
    <${RingSwitch}>
      <span class=${`state ${trouble.value ? "" : status.ring.state}`}>${trouble.value ? "not known" : status.ring.state}</span>
      ${may("control") && html`
        ${status.ring.state === "recording" ? html`<button onClick=${() => open(StopCapture, { ring: name })}>Stop recording</button>`
          : html`<button onClick=${() => open(StartCapture, { ring: name })}>Record</button>`}
        <button onClick=${() => open(CreateRing)}>Create ring buffer</button>`}
      ${may("packets") && html`<span class="space"></span>
        <button class="main" onClick=${() => open(Packets, { ring: name })}>Packets</button>
        <button onClick=${() => open(Packets, { ring: name, everything: true })}>Extract packet ring buffer</button>`}
    <//>
    <${Ring} key=${name} status=${status} />`;
}
