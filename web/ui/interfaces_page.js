// The machine's interfaces: what comes in where, and where it is recorded.
import { html } from "htm/preact";
import { StartCapture, StopCapture } from "./dialogs.js";
import { bytes, count, share } from "./format.js";
import { Failure, Table, useAnswer } from "./parts.js";
import { current, lost, may, open, overview, rings } from "./state.js";

const POLL_MS = 3000;
const LINK_TYPES = { 1: "Ethernet", 101: "raw IP", 105: "802.11", 113: "Linux cooked", 127: "radiotap", 276: "Linux cooked 2" };

// By name: in which rings it is being recorded, and the account of all of them together.
function recorded() {
  const found = new Map();
  const of = (name) => {
    if (!found.has(name)) found.set(name, { rings: [], seen: 0, bytes: 0, stored: 0, discarded: 0, lost: 0 });
    return found.get(name);
  };
  for (const status of rings.value) {
    for (const recording of status.recordings || []) for (const name of recording.interfaces) of(name).rings.push(status.ring.name);
    for (const { name, account, account_bytes } of status.interfaces) {
      const one = of(name);
      one.seen += account.seen;
      one.bytes += account_bytes ? account_bytes.seen : 0;
      one.stored += account.stored;
      one.discarded += account.discarded;
      one.lost += lost(account);
    }
  }
  return found;
}

function Row({ name, about, one, control }) {
  return html`<tr><td><b>${name}</b></td>
    <td><span class=${`dot ${about && about.up ? "good" : ""}`}>${about ? (about.up ? "up" : "down") : "not an interface of this machine"}</span></td>
    <td>${about ? LINK_TYPES[about.link_type] || about.link_type : "–"}</td>
    <td class="number">${about ? count(about.mtu) : "–"}</td><td class="number">${about && about.speed_mbps > 0 ? count(about.speed_mbps) : "–"}</td>
    <td>${one && one.rings.length ? one.rings.map((ring) => html`<span class="state recording">${ring}</span> `) : "–"}</td>
    <td class="number">${one ? count(one.seen) : "–"}</td><td class="number">${one ? bytes(one.bytes) : "–"}</td><td class="number">${one ? count(one.stored) : "–"}</td>
    <td class="number">${one ? html`<span class=${one.lost ? "bad" : ""}>${count(one.lost)} (${share(one.lost, one.seen)})</span>` : "–"}</td>
    ${control && html`<td class="actions">${about && current.value && html`<button aria-label=${`Record ${name}`} onClick=${() => open(StartCapture, { ring: current.value.ring.name, only: name })}>Record</button>`}
      ${one && one.rings.map((ring) => html`<button aria-label=${`Stop recording into ${ring}`} onClick=${() => open(StopCapture, { ring })}>Stop</button>`)}</td>`}
  </tr>`;
}

export function InterfacesPage() {
  const { value, error } = useAnswer("/interfaces", POLL_MS);
  if (!overview.value || (!value && !error)) return html`<p class="empty">…</p>`;
  const accounts = recorded(), known = value ? value.interfaces : [], control = may("control");
  const others = [...accounts.keys()].filter((name) => !known.some((one) => one.name === name));
  return html`<h2>Interfaces</h2><${Failure} error=${error} />
    <${Table} label="interfaces" heads=${["Interface", "State", "Link type", { number: "MTU" }, { number: "Mbit/s" }, "Recorded into", { number: "Packets" }, { number: "Bytes" },
      { number: "Stored" }, { number: "Lost" }, ...(control ? ["Actions"] : [])]}>
      ${known.map((about) => html`<${Row} key=${about.name} name=${about.name} about=${about} one=${accounts.get(about.name)} control=${control} />`)}
      ${others.map((name) => html`<${Row} key=${name} name=${name} about=${null} one=${accounts.get(name)} control=${control} />`)}<//>
    <p class="hint">Counted since the recorder started. Lost: by the kernel, by disks that are too slow, by disks that fail.</p>`;
}
