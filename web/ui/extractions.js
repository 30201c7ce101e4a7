// Packets: the dialog that gets them, and the list of those who get, or have got, some.
import { html } from "htm/preact";
import { useEffect, useState } from "preact/hooks";
import { ask, part } from "./api.js";
import { bytes, count, duration, seconds, time } from "./format.js";
import { Jobs, WAY_BUTTONS, Way, missing, startJob } from "./jobs.js";
import { Dialog, Table } from "./parts.js";
import { live_s, look, lost, may, overview, rings, session, span, utc } from "./state.js";

const STILL_MS = 400;
const BACK_S = [0, 60, 300, 900, 3600, 21600, 86400];
const STATES = { waiting: "waits for its download", running: "running", done: "done", failed: "failed", stopped: "stopped", expired: "was not fetched" };

// What an extraction would hand out, asked for when the fields have been still for a moment: whether the filter is understood
// as well.
function Estimate({ ring, wish, live }) {
  const [found, setFound] = useState(null);
  const key = JSON.stringify(wish);
  useEffect(() => {
    let wanted = true;
    const timer = setTimeout(() => ask("POST", `/rings/${part(ring)}/estimate`, wish).then((answer) => { if (wanted) setFound({ key, answer }); },
      (problem) => { if (wanted) setFound({ key, error: problem.message }); }), STILL_MS);
    return () => {
      wanted = false;
      clearTimeout(timer);
    };
  }, [ring, key]);
  if (!found || found.key !== key) return html`<p class="estimate hint" role="status">…</p>`;
  if (found.error) return html`<p class="estimate error" role="alert">${found.error}</p>`;
  const { packets, bytes: size, missing, purged, account, seconds: takes, filter: meant, catalog_whole: whole } = found.answer;
  const left_out = account.discarded + account.duplicates + account.sampled_out;
  const status = rings.value.find((one) => one.ring.name === ring), oldest = status && seconds(status.ring.oldest_ns);
  const from = wish.from && !wish.from.startsWith("-") ? Number(wish.from) : null;
  return html`<p class="estimate hint" role="status">${wish.filter ? "The filter is understood. It is applied to about" : "About"} ${count(packets)} packets, ${bytes(size)}${takes >= 1 ? `, ${duration(takes)}` : ""}${live ? (wish.filter ? ", and to what comes" : ", and what comes") : ""}.
    ${whole ? "" : html` <span class="bad">The catalog has lost something, and there may be more: rebuild the ring.</span>`}
    ${purged > 0 ? ` About ${count(purged)} of this time were purged.` : ""}
    ${missing > 0 ? html` <span class="bad">${count(missing)} packets are known to be gone.</span>` : ""}
    ${lost(account) > 0 ? html` <span class="bad">${count(lost(account))} packets of this time were dropped.</span>` : ""}
    ${left_out > 0 ? ` ${count(left_out)} were left out by rules.` : ""}
    ${oldest !== null && from !== null && from < oldest ? html` <span class="warn">Nothing is held from before ${time(oldest, utc.value)}.</span>` : ""}
    ${wish.query ? html` <br />As a filter of pcap-filter(7) it is <code>${meant || "none: all packets"}</code>${wish.filter && (found.answer.from_ns || found.answer.to_ns)
      ? `, from ${found.answer.from_ns ? time(seconds(found.answer.from_ns), utc.value) : "the oldest"} to ${found.answer.to_ns ? time(seconds(found.answer.to_ns), utc.value) : "the newest"}` : ""}.` : ""}</p>`;
}

const QUERIES = { pcap: "pcap-filter(7), as tcpdump has it", steno: "stenographer's words" };
const EXAMPLES = { pcap: "all packets; or: host 192.0.2.7 and tcp port 443; or: app DNS", steno: "all packets; or: host 192.0.2.7 and after 3h ago" };

// Live: from how far back, and on with what is recorded, unless that is not wanted. Back in time: exactly the span that is shown. Everything: that.
export function Packets({ ring, everything }) {
  const [fixed] = useState(everything ? {} : span.value);
  const [back, setBack] = useState(BACK_S.includes(live_s.value) ? live_s.value : BACK_S[1]);
  const [filter, setFilter] = useState("");
  const [query, setQuery] = useState("pcap");
  const [on, setOn] = useState(true);
  const [way, setWay] = useState("download");
  const now = way === "download"; // what is extracted into a file has an end
  const wish = { filter: filter.trim() };
  if (query !== "pcap") wish.query = query;
  if (!fixed) Object.assign(wish, { from: back ? `-${back}s` : "now", ...(on && now ? {} : { to: "now" }) });
  else if (!everything) Object.assign(wish, { from: String(fixed.from), to: String(fixed.to) });
  const live = !fixed && on && now;
  const send = async (form) => {
    const asked = { ...wish, ring, format: form.get("format") };
    if (form.get("no_index") === "on") asked.no_index = true;
    if (!now) return startJob(way, form, asked);
    const { url } = await ask("POST", "/extractions", { ...asked, follow: live });
    const link = document.createElement("a");
    link.href = url;
    link.click();
    return live ? "The download has begun, and goes on until it is stopped among the extractions."
      : "The download has begun. It can be watched, and stopped, among the extractions.";
  };
  return html`<${Dialog} title=${everything ? "Extract packet ring buffer" : "Packets"} button=${WAY_BUTTONS[way]} send=${send}>
    ${everything ? html`<p>Everything that ring buffer <b>${ring}</b> holds.</p>`
    : fixed ? html`<p>Exactly what is selected of ring buffer ${ring}:<br /><b>${time(fixed.from, utc.value)}</b> to <b>${time(fixed.to, utc.value)}</b> ${utc.value ? "UTC" : ""} (${duration(fixed.to - fixed.from)}).</p>`
    : html`<label>From how far back
        <select name="back" onChange=${(event) => setBack(Number(event.target.value))}>${BACK_S.filter((one) => one || (on && now)).map((one) => html`<option value=${one} selected=${one === back}>${one ? duration(one) : "now"}</option>`)}</select></label>
      <label class="check"><input type="checkbox" checked=${live} disabled=${!now} onChange=${(event) => { setOn(event.target.checked); if (!back) setBack(BACK_S[1]); }} /> Go on live, until it is stopped</label>`}
    <label>Filter<input name="filter" value=${filter} onInput=${(event) => setFilter(event.target.value)} maxlength="4096" placeholder=${EXAMPLES[query]} spellcheck="false" autocomplete="off" /></label>
    <${Estimate} ring=${ring} wish=${wish} live=${live} />
    <label>Format<select name="format"><option>pcapng</option><option>pcap</option><option value="pcap-us">pcap, microseconds</option></select></label>
    <${Way} way=${way} setWay=${(wanted) => { setWay(wanted); if (wanted !== "download" && !back) setBack(BACK_S[1]); }} />
    <details><summary>Advanced</summary>
      <label>The filter is written in<select name="query" onChange=${(event) => setQuery(event.target.value)}>${Object.entries(QUERIES).map(([name, text]) =>
        html`<option value=${name} selected=${name === query}>${text}</option>`)}</select></label>
      <label class="check"><input type="checkbox" name="no_index" /> Do not use the index: read everything. The packets are the same, it takes longer</label>
    </details>
  <//>`;
}

const stop = (one) => ask("DELETE", `/extractions/${one.extraction}`).then(look, look);

function State({ one }) {
  if (one.state === "running" && one.follow) return html`running live`;
  if (one.state === "running" && one.segments_total > 0)
    return html`<progress max=${one.segments_total} value=${one.segments_done} aria-label="progress"></progress>`;
  return html`<span class=${one.state === "failed" ? "bad" : ""}>${STATES[one.state]}${one.error ? `: ${one.error}` : ""}${missing(one)}</span>`;
}

export function ExtractionTable({ list }) {
  return html`<${Table} label="extractions" heads=${["Ring buffer", "From", "To", "Filter", "State", { number: "Packets" }, { number: "Size" }, "User", "Asked for", ""]}>
    ${list.map((one) => html`<tr key=${one.extraction}>
      <td>${one.ring}</td><td>${one.from_ns ? time(seconds(one.from_ns), utc.value) : "oldest"}</td>
      <td>${one.to_ns ? time(seconds(one.to_ns), utc.value) : one.follow ? "live" : "newest"}</td><td><code class="filter">${one.filter || "all"}</code></td>
      <td class="text"><${State} one=${one} /></td>
      <td class="number">${count(one.packets)}</td><td class="number">${bytes(one.output_bytes)}</td><td>${one.user}</td><td>${time(one.created_s, utc.value)}</td>
      <td>${(one.state === "running" || one.state === "waiting") && (one.user === session.value.user || may("users"))
        && html`<button onClick=${() => stop(one)} aria-label=${`Stop extraction ${one.extraction}`}>Stop</button>`}</td>
    </tr>`)}<//>`;
}

export function ExtractionsPage() {
  if (!overview.value) return html`<p class="empty">…</p>`;
  const list = overview.value.extractions;
  return html`<h2>Extractions</h2>
    <p class="hint">Those of this interface and of scripts, of everybody; the newest first.</p>
    ${list.length === 0 ? html`<p class="empty">Nobody has asked for packets yet. Select a time on the page <i>Ring buffer</i>, then press <i>Packets</i>.</p>`
      : html`<${ExtractionTable} list=${list} />`}
    <${Jobs} />`;
}
