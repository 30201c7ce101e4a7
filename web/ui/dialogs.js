// Dialogs about rings and recordings.
import { html } from "htm/preact";
import { useEffect, useState } from "preact/hooks";
import { ask, part } from "./api.js";
import { Dialog, SizeField, disk_of } from "./parts.js";
import { chosen, go, rings } from "./state.js";

export const COPIES = ["No redundancy: one copy", "Single: two copies", "Double: three copies", "Triple: four copies"];

export function CreateRing() {
  const send = async (form) => {
    const name = form.get("name");
    await ask("POST", "/rings", { name, disks: [disk_of(form)], force: form.get("force") === "on" });
    chosen.value = name;
    return `Ring buffer ${name} is there. It records as soon as you start it.`;
  };
  return html`<${Dialog} title="Create ring buffer" button="Create" send=${send}>
    <label>Name<input name="name" required maxlength="63" pattern="[a-zA-Z0-9_][a-zA-Z0-9_.\\-]*" placeholder="dmz"
      title="letters, digits, and _ . - behind the first" /></label>
    <label>Disk<input name="path" required placeholder="/dev/sdb or /srv/ring.disk" spellcheck="false" /></label>
    <${SizeField} />
    <label class="check"><input type="checkbox" name="force" /> Overwrite what is on the disk</label>
    <p class="hint">A block device is used as a whole; a file is made, with all its size at once. More disks, and copies on
      several of them, can be added later, also while it records.</p>
  <//>`;
}

export function DeleteRing({ ring }) {
  const send = async (form) => {
    if (form.get("name") !== ring) throw new Error(`type ${ring} to delete it`);
    await ask("DELETE", `/rings/${part(ring)}?wipe=${form.get("wipe") === "on"}`);
    chosen.value = null;
    go("ring");
    return `Ring buffer ${ring} is deleted.`;
  };
  return html`<${Dialog} title=${`Delete ring buffer ${ring}?`} button="Delete" danger send=${send}>
    <p>Recording into it ends, and it is taken off the list. Its disks keep their packets: <code>tapeloop ring adopt</code> brings it back.</p>
    <label class="check"><input type="checkbox" name="wipe" /> Wipe its disks, too: nothing brings the packets back</label>
    <label>Type its name<input name="name" autocomplete="off" required /></label>
  <//>`;
}

const BACKENDS = { auto: "chosen for the interface", packet: "AF_PACKET", pcap: "libpcap", generator: "made-up traffic, for a try" };

export function StartCapture({ ring, only }) {
  const [interfaces, setInterfaces] = useState(null);
  const [backend, setBackend] = useState("auto");
  const made_up = backend === "generator";
  useEffect(() => { ask("GET", "/interfaces").then((answer) => setInterfaces(answer.interfaces), () => setInterfaces([])); }, []);
  const send = async (form) => {
    const wish = { ring: form.get("ring") || ring, interfaces: made_up ? [] : form.getAll("interface"), backend };
    if (made_up) wish.generator = { packets_per_s: Number(form.get("rate")), seed: 1 };
    else if (wish.interfaces.length === 0) throw new Error("choose an interface");
    if (!made_up) wish.promiscuous = form.get("promiscuous") === "on";
    if (!made_up && form.get("snapshot")) wish.snapshot_bytes = Number(form.get("snapshot"));
    await ask("POST", "/captures", wish);
    return `Recording into ${wish.ring}.`;
  };
  return html`<${Dialog} title=${only ? `Record ${only}` : `Record into ${ring}`} button="Record" send=${send}>
    ${only && html`<label>Ring buffer<select name="ring">${rings.value.map((one) => html`<option selected=${one.ring.name === ring}>${one.ring.name}</option>`)}</select></label>`}
    ${!made_up && (only ? html`<input type="hidden" name="interface" value=${only} />` : html`<fieldset><legend>Interfaces</legend>
      ${interfaces === null ? "…" : interfaces.length === 0 ? "There is none." : interfaces.map((one) => html`<label class="check" key=${one.name}>
        <input type="checkbox" name="interface" value=${one.name} /> ${one.name} <span class="faint">${one.up ? "" : "down"}</span></label>`)}
    </fieldset>`)}
    <label>How<select name="backend" onChange=${(event) => setBackend(event.target.value)}>${Object.entries(BACKENDS).filter(([name]) => !only || name !== "generator").map(([name, text]) =>
      html`<option value=${name} selected=${name === backend}>${name}: ${text}</option>`)}</select></label>
    ${made_up ? html`<label>Packets a second<input name="rate" type="number" min="1" max="10000000" defaultValue="1000" required /></label>`
    : html`<label>Snapshot length in bytes<input name="snapshot" type="number" min="1" max="16777215" placeholder="whole packets" /></label>
      <label class="check"><input type="checkbox" name="promiscuous" checked /> Also what is not addressed to this machine</label>
      <p class="hint">It goes on until it is stopped, across restarts.</p>`}
  <//>`;
}

export function StopCapture({ ring }) {
  const send = async () => {
    await ask("DELETE", `/captures/${part(ring)}`);
    return `Recording into ${ring} has ended. What was recorded is safe on its disks.`;
  };
  return html`<${Dialog} title=${`Stop recording into ${ring}?`} button="Stop recording" send=${send}>
    <p>What has been recorded stays in the ring buffer.</p><//>`;
}
