// Jobs: extractions into files in the recorder's care, and ranges that are kept under names.
import { html } from "htm/preact";
import { ask, part } from "./api.js";
import { bytes, count, seconds, time } from "./format.js";
import { Dialog, Failure, Table, useAnswer } from "./parts.js";
import { may, open, session, utc } from "./state.js";

const LOOK_MS = 2000;
const WAYS = { download: "downloaded now", job: "a file here, downloaded later", keep: "kept here under a name" };
const KEPT = { "": "until they are deleted", "+1d": "for a day", "+7d": "for a week", "+30d": "for 30 days" };
const STATES = { waiting: "waits for its turn", running: "running", done: "done", failed: "failed", cancelled: "stopped" };
const LIMITS = { packets: "ended at its limit of packets", bytes: "ended at its limit of bytes", seconds: "ended at its limit of time",
  quota: "ended where the room for results ended", disk: "ended where the disk's room ended" };

export const WAY_BUTTONS = { download: "Download", job: "Extract", keep: "Keep" };

// Undecided: what layer 7 found of their flows, which the filter asks for, is not recorded.
export function missing(one) {
  if (one.complete !== false) return "";
  return (one.gaps_total || !one.undecided ? ", packets are missing" : "") + (one.undecided ? `, ${count(one.undecided)} packets are undecided` : "");
}

// The fields of the dialog for packets that say what becomes of them.
export function Way({ way, setWay }) {
  return html`<label>What becomes of them<select name="way" onChange=${(event) => setWay(event.target.value)}>
      ${Object.entries(WAYS).map(([name, text]) => html`<option value=${name} selected=${name === way}>${text}</option>`)}</select></label>
    ${way === "keep" && html`<label>Name<input name="name" required maxlength="63" pattern="[a-zA-Z0-9_][a-zA-Z0-9_.\\-]*" placeholder="incident-7"
        title="letters, digits, and _ . - behind the first" autocomplete="off" /></label>
      <label>Kept<select name="expires">${Object.entries(KEPT).map(([value, text]) => html`<option value=${value}>${text}</option>`)}</select></label>
      <p class="hint">A copy, whatever the ring buffer overwrites later.</p>`}`;
}

// Starts what the form says; the sentence for the page.
export async function startJob(way, form, wish) {
  const more = way === "keep" ? { name: form.get("name"), ...(form.get("expires") ? { expires: form.get("expires") } : {}) } : {};
  const job = await ask("POST", "/jobs", { ...wish, ...more });
  return `${job.name ? `It is being kept as ${job.name}` : `Job ${job.number} has begun`}: see the extractions.`;
}

const called = (job) => job.name || `job ${job.number}`;

function State({ job }) {
  if (job.state === "running") return html`<progress max="1" value=${job.share} aria-label="progress"></progress>`;
  return html`<span class=${job.state === "failed" ? "bad" : ""}>${STATES[job.state]}${job.error && job.state === "failed" ? `: ${job.error}` : ""}${job.limit ? `, ${LIMITS[job.limit]}` : ""}${missing(job)}</span>`;
}

function DeleteJob({ job, again }) {
  const send = async () => {
    await ask("DELETE", `/jobs/${job.number}`);
    again();
    return `${called(job)} is deleted.`;
  };
  return html`<${Dialog} title=${`Delete ${called(job)}?`} button="Delete" danger send=${send}>
    <p>Its ${count(job.packets)} packets are in no other file here; what the ring buffer still holds stays there.</p><//>`;
}

// The rows that say something: [what, value].
function steps(job) {
  const { plan } = job, used = plan.narrowing && !job.no_index;
  return [
    ["Asked for as", job.asked && html`<code>${job.asked}</code>`],
    ["Filter", html`<code>${job.filter || "none: all packets"}</code>`],
    ["The index decides", used ? html`<code>${plan.narrowing}</code>` : job.no_index ? "nothing: it was not to be used" : "nothing of this filter"],
    ["Segments of that time", count(plan.segments)],
    ["not read because of runs of keys", used && `${count(plan.segments_by_runs)} (runs asked: ${count(plan.runs)}, ${bytes(plan.run_bytes)} read)`],
    ["not read because of their own index", used && `${count(plan.segments_excluded)} of ${count(plan.segments_narrowed)} that were asked`],
    ["Blocks that may match", used && `${count(plan.blocks_wanted)} of 16 KiB`],
    ["Blocks read", `${count(plan.blocks_read)} of 16 KiB`],
    ["Read from the disks", `${bytes(plan.bytes_read)}${plan.index_bytes > 0 ? `, ${bytes(plan.index_bytes)} of it indexes` : ""}`],
    ["Packets looked at", count(plan.packets_judged)],
    ["Packets that match", count(job.packets)],
    ["Purged of that time", plan.purged > 0 && `${count(plan.purged)} packets, whatever the filter`],
    ["Indexes of no use", plan.runs_bad + plan.indexes_bad > 0 && html`<span class="warn">${count(plan.runs_bad)} runs, ${count(plan.indexes_bad)} segments: read whole instead</span>`],
  ].filter(([, value]) => value);
}

function HowFound({ number, name }) {
  const { value: job, error } = useAnswer(`/jobs/${part(number)}`);
  return html`<${Dialog} wide title=${`How the packets of ${name} were found`}>
    ${error && html`<p class="error" role="alert">${error}</p>`}
    ${!job ? !error && html`<p role="status">…</p>`
    : !job.plan ? html`<p>That is not known: it was made by an older version.</p>`
    : html`<dl class="facts">${steps(job).map(([what, value]) => html`<dt>${what}</dt><dd>${value}</dd>`)}</dl>`}
  <//>`;
}

function Actions({ job, again }) {
  const mine = job.user === session.value.user || may("users");
  const stop = () => ask("POST", `/jobs/${job.number}/cancel`, {}).then(again, again);
  if (job.state === "waiting" || job.state === "running")
    return mine && html`<button onClick=${stop} aria-label=${`Stop ${called(job)}`}>Stop</button>`;
  return html`${job.state === "done" && html`<a class="button" href=${`/api/v1/jobs/${part(job.number)}/packets`} aria-label=${`Download ${called(job)}`}>Download</a>
      <button onClick=${() => open(HowFound, { number: job.number, name: called(job) })} aria-label=${`How ${called(job)} was found`}>How found</button> `}
    ${mine && html`<button onClick=${() => open(DeleteJob, { job, again })} aria-label=${`Delete ${called(job)}`}>Delete</button>`}`;
}

export function Jobs() {
  const { value, error, again } = useAnswer("/jobs", LOOK_MS);
  if (!value) return html`<${Failure} error=${error} />`;
  const list = [...value.jobs].reverse();
  return html`<h2>Jobs and kept ranges</h2>
    <p class="hint">Files that the recorder writes and keeps here for a while, or under a name. A download that broke off can be taken up again.</p>
    ${list.length === 0 ? html`<p class="empty">There is none.</p>`
    : html`<${Table} label="jobs" heads=${["Job", "Range", "Filter", "State", { number: "Packets" }, { number: "Size" }, "User", "Expires", ""]}>
      ${list.map((job) => html`<tr key=${job.number}>
        <td>${job.name || job.number}<br /><span class="faint">of ${job.ring}</span></td>
        <td>${job.from_ns ? time(seconds(job.from_ns), utc.value) : "oldest"} –<br />${job.to_ns ? time(seconds(job.to_ns), utc.value) : "newest"}</td><td><code class="filter">${job.asked || job.filter || "all"}</code></td>
        <td class="text short"><${State} job=${job} /></td>
        <td class="number">${count(job.packets)}</td><td class="number">${bytes(job.output_bytes)}</td><td>${job.user}</td>
        <td>${job.expires_ns ? time(seconds(job.expires_ns), utc.value) : job.name ? "never" : ""}</td>
        <td class="actions row"><${Actions} job=${job} again=${again} /></td>
      </tr>`)}<//>`}`;
}
