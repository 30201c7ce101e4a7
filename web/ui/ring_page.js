// The ring buffer: what it holds, what comes, what is lost, and the way to its packets.
import { html } from "htm/preact";
import { useEffect, useState } from "preact/hooks";
import { ask } from "./api.js";
import { Chart } from "./chart.js";
import { CreateRing, Packets, StartCapture, StopCapture, stopExtraction } from "./dialogs.js";
import { bytes, count, duration, rate, seconds, time } from "./format.js";
import { LIVE_S, chosen, current, dialog, live_s, losses, may, now, overview, rings, shown, span, stalls, utc } from "./state.js";

const CAUSES = {
  dropped_kernel: "dropped by the kernel before the recorder saw them",
  dropped_queue: "dropped because the disks were too slow",
  lost_disk: "lost because no disk could store them",
  refused: "refused: too long to be stored",
};
const POINTS = 300;
const open = (what, props) => () => { dialog.value = { what, props }; };

function Tile({ label, value, hint }) {
  return html`<div class="tile"><dt>${label}</dt><dd>${value}</dd>${hint && html`<dd class="hint">${hint}</dd>`}</div>`;
}

function Numbers({ status }) {
  const { ring, account, account_bytes } = status;
  const dropped = account.dropped_kernel + account.dropped_queue + account.lost_disk + account.refused;
  const copies = ring.copies;
  const size = (raw) => (copies > 1 ? `${bytes(raw / copies)} (${bytes(raw)})` : bytes(raw));
  const forecast = status.bytes_per_s > 0 ? ring.total_bytes / copies / status.bytes_per_s : null;
  const seen = account_bytes && typeof account_bytes === "object" ? account_bytes.seen : status.stored_bytes;
  return html`<dl class="tiles">
    <${Tile} label="Oldest packet" value=${time(seconds(ring.oldest_ns), utc.value)}
      hint=${status.reach_back_s > 0 ? `reaches back ${duration(status.reach_back_s)}` : "empty"} />
    <${Tile} label="Total size" value=${size(ring.total_bytes)} />
    <${Tile} label="Used" value=${size(ring.used_bytes)} hint=${`${count(ring.packets)} packets`} />
    <${Tile} label="Captured since start" value=${bytes(seen)} hint=${`${count(account.seen)} packets`} />
    <${Tile} label="Dropped" value=${`${count(dropped)} packets`} hint=${account.seen > 0 ? `${((dropped / account.seen) * 100).toFixed(2)} % of all seen` : ""} />
    <${Tile} label="Left out or cut by rules" value=${`${count(account.discarded)} packets`} hint=${`${count(status.cut_packets || 0)} cut`} />
    <${Tile} label="Data in flight" value=${bytes(status.in_flight_bytes)} />
    <${Tile} label="Will reach back" value=${forecast ? duration(forecast) : "–"} hint=${forecast ? `at ${bytes(status.bytes_per_s)}/s` : "nothing is coming in"} />
  </dl>`;
}

function Warnings({ status }) {
  const name = status.ring.name, loss = losses.value[name], stalled = stalls.value[name];
  return html`
    ${status.ring.error && html`<p class="banner bad" role="alert">${status.ring.error}</p>`}
    ${stalled && html`<p class="banner bad" role="alert">Nothing has been written for ${stalled} s, while packets come in.</p>`}
    ${loss && Object.keys(CAUSES).filter((line) => loss[line]).map((line) =>
      html`<p class="banner bad" role="alert">${rate(loss[line])} packets a second ${CAUSES[line]}.</p>`)}
    ${status.degraded && html`<p class="banner warn" role="status">Degraded: fewer disks or copies than the ring has.</p>`}`;
}

// The history of what is shown: asked for anew when that changes, and each second while live.
function useHistory(name, from, to) {
  const [columns, setColumns] = useState(null);
  useEffect(() => {
    let wanted = true;
    const step = Math.max(1, Math.ceil((to - from) / POINTS));
    ask("GET", `/rings/${name}/history?from=${Math.floor(from)}&to=${Math.ceil(to)}&step=${step}`)
      .then((answer) => { if (wanted) setColumns(answer); }, () => {});
    return () => { wanted = false; };
  }, [name, Math.floor(from), Math.ceil(to)]);
  return columns;
}

function Graphs({ status }) {
  const { from, to } = shown.value;
  const columns = useHistory(status.ring.name, from, to);
  if (!columns) return html`<p>…</p>`;
  const times = columns.stored_bytes.map((_, i) => columns.from_s + i * columns.step_s);
  const per_s = (column) => column.map((value) => (value === null ? null : value / columns.step_s));
  const { packets } = columns;
  const held = { from: seconds(status.ring.oldest_ns), to: status.ring.state === "recording" ? now.value : seconds(status.ring.newest_ns) };
  const lost = ["dropped_kernel", "dropped_queue", "lost_disk", "refused"];
  return html`
    <${Chart} title="Stored bytes a second" binary held=${held} unit=${(value) => `${bytes(value)}`}
      series=${[{ label: "stored", color: "--blue", fill: true }]} data=${[times, per_s(columns.stored_bytes)]} />
    <${Chart} title="Packets a second" held=${held} unit=${rate}
      series=${[{ label: "seen", color: "--faint" }, { label: "stored", color: "--blue", fill: true }, { label: "left out by rules", color: "--green" }]}
      data=${[times, per_s(packets.seen), per_s(packets.stored), per_s(packets.discarded)]} />
    <${Chart} title="Lost packets a second" held=${held} unit=${rate}
      series=${[{ label: "kernel", color: "--red", fill: true }, { label: "buffers", color: "--orange" }, { label: "disks", color: "--violet" }, { label: "too long", color: "--faint" }]}
      data=${[times, ...lost.map((line) => per_s(packets[line]))]} />`;
}

function Times() {
  const { from, to } = shown.value;
  return html`<div class="times" role="group" aria-label="time">
    <div class="switch">
      <button aria-pressed=${!span.value} onClick=${() => { span.value = null; }}>LIVE</button>
      <button aria-pressed=${Boolean(span.value)} onClick=${() => { span.value = span.value || { from: Math.floor(from), to: Math.ceil(to) }; }}>BACK IN TIME</button>
    </div>
    ${!span.value && html`<select aria-label="how much is shown" onChange=${(event) => { live_s.value = Number(event.target.value); }}>
      ${LIVE_S.map((one) => html`<option value=${one} selected=${one === live_s.value}>last ${duration(one)}</option>`)}</select>`}
    <span class="range">${time(from, utc.value)} – ${time(to, utc.value)}</span>
    <button class="quiet" onClick=${() => { utc.value = !utc.value; }}>${utc.value ? "UTC" : "local time"}</button>
  </div>`;
}

const STATES = { waiting: "waits for its download", running: "running", done: "done", failed: "failed", stopped: "stopped", expired: "was not fetched" };

function Extractions() {
  const list = overview.value.extractions.slice(0, 20);
  if (!may("packets") || list.length === 0) return null;
  return html`<section><h2>Extractions</h2><div class="scroll"><table>
    <thead><tr><th>Ring</th><th>From</th><th>To</th><th>Filter</th><th>User</th><th>State</th><th>Packets</th><th>Size</th><th></th></tr></thead>
    <tbody>${list.map((one) => html`<tr key=${one.extraction}>
      <td>${one.ring}</td><td>${one.from_ns ? time(seconds(one.from_ns), utc.value) : "oldest"}</td>
      <td>${one.to_ns ? time(seconds(one.to_ns), utc.value) : "newest"}</td><td><code>${one.filter || "all"}</code></td><td>${one.user}</td>
      <td>${one.state === "running" && one.segments_total > 0
        ? html`<progress max=${one.segments_total} value=${one.segments_done} aria-label="progress"></progress>`
        : STATES[one.state]}${one.error ? `: ${one.error}` : ""}${one.complete === false ? ", with gaps" : ""}</td>
      <td class="number">${count(one.packets)}</td><td class="number">${bytes(one.output_bytes)}</td>
      <td>${(one.state === "running" || one.state === "waiting") && html`<button onClick=${() => stopExtraction(one.extraction)}>Stop</button>`}</td>
    </tr>`)}</tbody></table></div></section>`;
}

export function RingPage() {
  if (!overview.value) return html`<p class="empty">…</p>`;
  const status = current.value;
  if (!status)
    return html`<div class="empty"><p>There is no ring buffer yet.</p>
      ${may("control") ? html`<button class="main" onClick=${open(CreateRing)}>Create ring buffer</button>` : html`<p>An operator can create one.</p>`}</div>`;
  const name = status.ring.name;
  return html`
    <div class="bar">
      <div class="switch" role="group" aria-label="ring">${rings.value.map((one) =>
        html`<button aria-pressed=${one === status} onClick=${() => { chosen.value = one.ring.name; }}>${one.ring.name}</button>`)}</div>
      <span class=${`state ${status.ring.state}`}>${status.ring.state}</span>
      ${may("control") && html`
        ${status.ring.state === "recording" ? html`<button onClick=${open(StopCapture, { ring: name })}>Stop recording</button>`
          : html`<button onClick=${open(StartCapture, { ring: name })}>Record</button>`}
        <button onClick=${open(CreateRing)}>Create ring buffer</button>`}
      ${may("packets") && html`<span class="space"></span>
        <button class="main" onClick=${open(Packets, { ring: name })}>Packets</button>
        <button onClick=${open(Packets, { ring: name, everything: true })}>Extract packet ring buffer</button>`}
    </div>
    <${Warnings} status=${status} />
    <${Numbers} status=${status} />
    <${Times} />
    <${Graphs} key=${name} status=${status} />
    <${Extractions} />`;
}
