// The disks of a ring: how many copies are written, which disks there are, and what becomes of their packets when they
// come and go.
import { html } from "htm/preact";
import { useState } from "preact/hooks";
import { ask, part } from "./api.js";
import { COPIES } from "./dialogs.js";
import { bytes, count, duration, seconds, share, time } from "./format.js";
import { Dialog, Failure, RingSwitch, SizeField, Table, disk_of, useAnswer } from "./parts.js";
import { current, may, now, open, overview, utc } from "./state.js";

const POLL_MS = 3000;
const STATES = {
  fresh: ["new", ""], active: ["active", "good"], suspect: ["slow: it is waited for", "warn"], failed: ["failed", "bad"], missing: ["missing", "bad"],
  removed: ["removed", ""], foreign: ["something else is in its place", "bad"], offline: ["ring not up", "warn"],
};
const AWAY = ["missing", "foreign", "removed"];

function said(report) {
  const found = Object.entries(report || {}).filter(([, number]) => number > 0).map(([what, number]) => `${what.replaceAll("_", " ")} ${count(number)}`);
  return found.length ? ` Found: ${found.join(", ")}.` : "";
}

function AddDisk({ ring, copies }) {
  const send = async (form) => {
    const { disk, report } = await ask("POST", `/rings/${part(ring)}/disks`, { disk: disk_of(form), force: form.get("force") === "on" });
    return `Disk ${disk.number} (${disk.path}) is in the cluster.${said(report)}`;
  };
  return html`<${Dialog} title="Add a disk to the cluster" button="Add to cluster" send=${send}>
    <label>Disk<input name="path" required placeholder="/dev/sdc or /srv/ring2.disk" spellcheck="false" /></label>
    <${SizeField} />
    <label class="check"><input type="checkbox" name="force" /> Overwrite what is on the disk</label>
    <p class="hint">The disk is formatted: what is on it is lost, and without the mark above a disk that holds anything is refused. New packets go to it at
      once, also while it records, and the ring buffer reaches back further.${copies > 1 ? " Copies that are missing are made on it in the background." : ""}</p>
  <//>`;
}

function ResumeDisk({ disk }) {
  const send = async (form) => {
    const path = form.get("path").trim(), force = form.get("force") === "on";
    const { report } = path && path !== disk.path
      ? await ask("POST", `/rings/${part(disk.ring)}/disks/resume`, { disk: path, force })
      : await ask("POST", `/rings/${part(disk.ring)}/disks/${part(disk.number)}/resume`, { force });
    return `Disk ${disk.number} is in the cluster again, with its packets.${said(report)}`;
  };
  return html`<${Dialog} title=${`Resume disk ${disk.number} in the cluster`} button="Resume in cluster" send=${send}>
    <p>Its packets are part of the ring buffer again: what is still good is kept, what the ring buffer has overwritten meanwhile counts as free. Nothing is formatted.</p>
    <label>Where it is now<input name="path" defaultValue=${disk.path} spellcheck="false" /></label>
    <label class="check"><input type="checkbox" name="force" /> Even if another recorder has written to it since</label>
  <//>`;
}

function RemoveDisk({ disk, copies, last }) {
  const away = AWAY.includes(disk.state), removed = disk.state === "removed";
  const send = async (form) => {
    const forget = removed || form.get("forget") === "on";
    await ask("DELETE", `/rings/${part(disk.ring)}/disks/${part(disk.number)}?forget=${forget}`);
    return forget ? `Disk ${disk.number} is off the list.` : `Disk ${disk.number} is removed. Its packets stay on it.`;
  };
  return html`<${Dialog} title=${removed ? `Take disk ${disk.number} off the list?` : `Remove disk ${disk.number} from the cluster?`} button=${removed ? "Forget" : "Remove from cluster"} danger send=${send}>
    <p><code>${disk.path}</code></p>
    ${removed ? html`<p>Its packets stay on it. It can be resumed by its path all the same.</p>`
    : away ? html`<p>It is not waited for any more.</p>`
    : copies > 1 ? html`<p>Its packets stay on it, and leave the ring buffer with it. Those with a copy on another disk can be found all the same, and get their missing copies on the other disks in the background.</p>`
    : html`<p>Its packets stay on it, but cannot be found until it is resumed: this ring buffer has one copy of each packet only${last ? ", and this is its last disk: recording ends" : ""}.</p>`}
    ${!removed && html`<label class="check"><input type="checkbox" name="forget" /> Take it off the list, too</label>`}
  <//>`;
}

// The lamp at the disk's place. Whether it is lit is not told by the hardware: what was last asked for is shown.
function Locator({ disk, say }) {
  const [lit, setLit] = useState(false);
  if (!may("control")) return "–";
  const turn = async () => {
    try {
      await ask("POST", `/rings/${part(disk.ring)}/disks/${part(disk.number)}/locate`, { on: !lit });
      setLit(!lit);
      say(null);
    } catch (problem) {
      say(`Disk ${disk.number}: ${problem.message}`);
    }
  };
  return html`<button class=${`lamp ${lit ? "lit" : ""}`} aria-pressed=${lit} aria-label=${`Locator of disk ${disk.number}`} onClick=${turn}>${lit ? "on" : "off"}</button>`;
}

function Disk({ disk, copies, last, say }) {
  const [word, tone] = STATES[disk.state] || [disk.state, ""];
  const away = AWAY.includes(disk.state), errors = disk.read_errors + disk.write_errors;
  return html`<tr>
    <td class="text"><b>${disk.number}</b> <span class="path" title=${disk.stable_path || disk.path}>${disk.path}</span></td>
    <td>${disk.enclosure ? `${disk.enclosure}${disk.enclosure_slot ? `, slot ${disk.enclosure_slot}` : ""}` : "–"}</td>
    <td><span class=${`dot ${tone}`}>${word}</span>${errors > 0 ? html` <span class="bad">${count(errors)} errors</span>` : ""}</td>
    <td><${Locator} disk=${disk} say=${say} /></td>
    <td class="number">${bytes(disk.bytes)}</td>
    ${away ? html`<td>${disk.last_seen_ns ? time(seconds(disk.last_seen_ns), utc.value) : "–"}</td>`
      : html`<td class="number">${share(disk.used_bytes, disk.bytes)}</td><td>${time(seconds(disk.oldest_ns), utc.value)}</td><td class="number">${bytes(disk.in_flight_bytes)}</td>`}
    ${may("control") && html`<td class="actions">
      ${["missing", "removed", "failed", "foreign"].includes(disk.state) && html`<button onClick=${() => open(ResumeDisk, { disk })}>Resume in cluster</button>`}
      <button onClick=${() => open(RemoveDisk, { disk, copies, last })}>${disk.state === "removed" ? "Forget" : "Remove from cluster"}</button></td>`}
  </tr>`;
}

function Redundancy({ ring, disks, say }) {
  const change = async (event) => {
    const copies = event.target.value;
    try {
      await ask("PATCH", `/rings/${part(ring.name)}/settings`, { settings: { copies } });
      say(null);
    } catch (problem) {
      event.target.value = String(ring.copies);
      say(problem.message);
    }
  };
  return html`<label class="redundancy"><b>Write redundancy level</b>
    <select disabled=${!may("control")} onChange=${change}>${COPIES.map((text, i) => html`<option value=${i + 1} selected=${ring.copies === i + 1}>${text}</option>`)}</select>
    <span class="hint">${ring.copies === 1 ? "A disk that fails takes its packets with it." : `Every packet is on ${ring.copies} disks: ${ring.copies - 1} may fail at once.`}
      ${ring.copies > disks ? " There are fewer disks than copies." : ""} A change is in force at once; older packets follow in the background.</span></label>`;
}

function Health({ status }) {
  const { mending } = status;
  if (!mending) return null;
  const { scrub } = mending;
  return html`<section><h2>Health</h2><dl class="facts">
    <dt>Segments that lack a copy</dt><dd>${mending.degraded_segments ? html`<span class="warn">${count(mending.degraded_segments)} (${bytes(mending.degraded_bytes)})${mending.healing ? ", being made again" : ", waiting"}</span>` : "none"}</dd>
    <dt>Copies made again</dt><dd>${count(mending.healed_segments)} (${bytes(mending.healed_bytes)})</dd>
    <dt>Damaged places mended</dt><dd>${count(mending.repaired)}${mending.unrepairable ? html`, <span class="bad">${count(mending.unrepairable)} cannot be</span>` : ""}</dd>
    <dt>Checking all that is stored</dt><dd>${scrub.running ? html`<progress max="1" value=${scrub.progress} aria-label="progress of the check"></progress> ${share(scrub.progress, 1)}`
      : scrub.last ? `last ended ${duration(now.value - seconds(scrub.last.ended_ns))} ago, ${count(scrub.last.found)} damaged places found` : "not yet"}</dd>
  </dl></section>`;
}

export function ClusterPage() {
  const status = current.value;
  const name = status ? status.ring.name : null;
  const { value, error } = useAnswer(name && `/disks?ring=${part(name)}&oldest=true`, POLL_MS);
  const [problem, say] = useState(null);
  if (!overview.value) return html`<p class="empty">…</p>`;
  if (!status) return html`<p class="empty">There is no ring buffer yet: it is made on the page <i>Ring buffer</i>.</p>`;
  const { ring } = status;
  const disks = value ? value.disks : [];
  const here = disks.filter((disk) => !AWAY.includes(disk.state)), missing = disks.filter((disk) => ["missing", "foreign"].includes(disk.state));
  const removed = disks.filter((disk) => disk.state === "removed");
  const heads = ["Disk", "Enclosure", "Status", "Locator", { number: "Size" }];
  const actions = may("control") ? ["Actions"] : [];
  const rows = (list) => list.map((disk) => html`<${Disk} key=${disk.id} disk=${disk} copies=${ring.copies} last=${here.length === 1} say=${say} />`);
  return html`<${RingSwitch}>
      ${may("control") && html`<button class="main" onClick=${() => open(AddDisk, { ring: name, copies: ring.copies })}>Add to cluster</button>`}<//>
    <${Failure} error=${error || problem} />
    <${Redundancy} key=${name} ring=${ring} disks=${here.length} say=${say} />
    <h2>Disks</h2>
    ${here.length === 0 ? html`<p class="empty">${value ? "This ring buffer has no disk: add one, and it can record." : "…"}</p>`
      : html`<${Table} label="disks" heads=${[...heads, { number: "Used" }, "Oldest packet", { number: "In flight" }, ...actions]}>${rows(here)}<//>`}
    ${missing.length > 0 && html`<h2>Missing disks</h2><p class="hint">They are looked for now and then, and taken up again by themselves.</p>
      <${Table} label="missing disks" heads=${[...heads, "Last seen", ...actions]}>${rows(missing)}<//>`}
    ${removed.length > 0 && html`<h2>Removed disks</h2><p class="hint">Their packets are still on them.</p>
      <${Table} label="removed disks" heads=${[...heads, "Last seen", ...actions]}>${rows(removed)}<//>`}
    <${Health} status=${status} />`;
}
