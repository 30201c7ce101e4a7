// Dialogs: a ring is made, a capture started or stopped, packets are taken out.
import { html } from "htm/preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { ask } from "./api.js";
import { chosen, dialog, live_s, look, session, span, utc } from "./state.js";
import { duration, time } from "./format.js";

const close = () => { dialog.value = null; };

function Dialog({ title, button, send, children }) {
  const place = useRef(null);
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  useEffect(() => { place.current.showModal(); }, []);
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    try {
      await send(new FormData(event.target));
      close();
      look();
    } catch (problem) {
      setError(problem.message);
      setBusy(false);
    }
  };
  return html`<dialog ref=${place} onClose=${close} aria-labelledby="dialog-title"><form onSubmit=${submit}>
    <h2 id="dialog-title">${title}</h2>
    ${children}
    ${error && html`<p class="error" role="alert">${error}</p>`}
    <div class="buttons"><button type="button" onClick=${close}>Cancel</button>
      <button class="main" disabled=${busy}>${button}</button></div>
  </form></dialog>`;
}

const SIZES = { MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 };

export function CreateRing() {
  const send = async (form) => {
    const name = form.get("name");
    const disk = { path: form.get("path"), bytes: Math.round(Number(form.get("size") || 0) * SIZES[form.get("unit")]) };
    await ask("POST", "/rings", { name, disks: [disk], force: form.get("force") === "on" });
    chosen.value = name;
  };
  return html`<${Dialog} title="Create ring buffer" button="Create" send=${send}>
    <label>Name<input name="name" required maxlength="63" pattern="[a-zA-Z0-9_][a-zA-Z0-9_.\\-]*" /></label>
    <label>Disk<input name="path" required placeholder="/dev/sdb or /srv/ring.disk" /></label>
    <label>Size <span class="pair"><input name="size" type="number" min="0" step="any" placeholder="all of the device" />
      <select name="unit" aria-label="unit">${Object.keys(SIZES).map((unit) => html`<option selected=${unit === "GiB"}>${unit}</option>`)}</select></span></label>
    <label class="check"><input type="checkbox" name="force" /> Overwrite what is on the disk</label>
  <//>`;
}

export function StartCapture({ ring }) {
  const [interfaces, setInterfaces] = useState(null);
  useEffect(() => { ask("GET", "/interfaces").then((answer) => setInterfaces(answer.interfaces), () => setInterfaces([])); }, []);
  const send = async (form) => {
    const names = form.getAll("interface");
    if (names.length === 0) throw new Error("choose an interface");
    await ask("POST", "/captures", { ring, interfaces: names });
  };
  return html`<${Dialog} title=${`Record into ${ring}`} button="Record" send=${send}>
    <fieldset><legend>Interfaces</legend>
      ${interfaces === null ? "…" : interfaces.length === 0 ? "there is none" : interfaces.map((one) => html`<label class="check">
        <input type="checkbox" name="interface" value=${one.name} /> ${one.name}${one.up ? "" : " (down)"}</label>`)}
    </fieldset>
    <p>It goes on until it is stopped, across restarts.</p>
  <//>`;
}

export function StopCapture({ ring }) {
  return html`<${Dialog} title=${`Stop recording into ${ring}?`} button="Stop recording"
    send=${() => ask("DELETE", `/captures/${ring}`)}>
    <p>What has been recorded stays in the ring.</p><//>`;
}

// Live: from how far back until now. Back in time: exactly the span that is shown.
export function Packets({ ring, everything }) {
  const fixed = everything ? {} : span.value;
  const send = async (form) => {
    const wish = { ring, filter: form.get("filter").trim(), format: form.get("format") };
    if (fixed) {
      if (fixed.from !== undefined) Object.assign(wish, { from: String(fixed.from), to: String(fixed.to) });
    } else Object.assign(wish, { from: `-${form.get("back")}s`, to: "now" });
    const { url } = await ask("POST", "/extractions", wish);
    const link = document.createElement("a");
    link.href = url;
    link.click();
  };
  return html`<${Dialog} title=${everything ? "Extract packet ring buffer" : "Packets"} button="Download" send=${send}>
    ${everything ? html`<p>Everything that ring ${ring} holds.</p>`
    : fixed ? html`<p>From <b>${time(fixed.from, utc.value)}</b> to <b>${time(fixed.to, utc.value)}</b>${` (${duration(fixed.to - fixed.from)})`} of ring ${ring}.</p>`
    : html`<label>Until now, from how far back
        <select name="back">${[60, 300, 900, 3600, 21600, 86400].map((seconds) =>
          html`<option value=${seconds} selected=${seconds === live_s.value}>${duration(seconds)}</option>`)}</select></label>`}
    <label>Filter<input name="filter" maxlength="4096" placeholder="all packets; or: host 192.0.2.7 and tcp port 443" spellcheck="false" /></label>
    <label>Format<select name="format"><option>pcapng</option><option>pcap</option><option value="pcap-us">pcap, microseconds</option></select></label>
  <//>`;
}

export function stopExtraction(number) {
  ask("DELETE", `/extractions/${number}`).then(look, look);
}

export async function logOut() {
  try {
    await ask("DELETE", "/session");
  } finally {
    session.value = null;
  }
}
