// Settings of the recorder and of each ring, in groups. Only what was changed is sent.
import { html } from "htm/preact";
import { useState } from "preact/hooks";
import { ask, part } from "./api.js";
import { DeleteRing } from "./dialogs.js";
import { Failure, RingSwitch, useAnswer } from "./parts.js";
import { current, may, notice, open, overview } from "./state.js";

const GROUPS = [
  ["Queue", /^(buffer_|flush_)/], ["Governor: what gives way when the machine is overloaded", /^governor/], ["Duplicates", /^duplicate/],
  ["Redundancy: healing and checking", /^(heal|scrub)_/], ["Disks", /^disk_/], ["Extractions", /^(job|keep|extract)/], ["Other", /./],
];
const words = (name) => name.replaceAll("_", " ");

function Field({ about, value }) {
  const sentence = about.help[0].toUpperCase() + about.help.slice(1);
  const range = about.kind === "switch" ? "" : ` From ${about.min} to ${about.max}.`;
  return html`<label class="setting"><span class="name">${words(about.name)}</span>
    ${about.kind === "switch" ? html`<select name=${about.name} disabled=${!may("control")}>${["on", "off"].map((one) => html`<option selected=${one === value}>${one}</option>`)}</select>`
      : html`<input name=${about.name} defaultValue=${value} disabled=${!may("control")} spellcheck="false" autocomplete="off" />`}
    <span class="hint">${sentence}.${range}${about.default === value ? "" : ` Default: ${about.default}.`}</span></label>`;
}

// `fields`: [title, [about]...]...; `values`: {name: text}
function Form({ path, fields, values, again, button }) {
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    const changed = Object.fromEntries([...form].map(([name, text]) => [name, text.trim()]).filter(([name, text]) => text !== values[name]));
    if (Object.keys(changed).length === 0) return;
    setBusy(true);
    try {
      const kept = await ask("PATCH", path, { settings: changed });
      for (const name of Object.keys(changed)) event.target.elements[name].value = kept.settings[name] || changed[name];
      notice.value = `Kept: ${Object.keys(changed).map(words).join(", ")}. ${kept.in_force ? "In force now." : kept.note}`;
      window.scrollTo(0, 0);
      setError(null);
    } catch (problem) {
      setError(problem.message);
    }
    setBusy(false);
    again();
  };
  return html`<form class="card" onSubmit=${submit}>
    ${fields.map(([title, list]) => html`<fieldset key=${title}><legend>${title}</legend>${list.map((about) => html`<${Field} key=${about.name} about=${about} value=${values[about.name]} />`)}</fieldset>`)}
    ${error && html`<p class="error" role="alert">${error}</p>`}
    ${may("control") && html`<div class="buttons"><button class="main" disabled=${busy}>${button}</button></div>`}
  </form>`;
}

function Rings({ settings, rings, again }) {
  const [error, setError] = useState(null);
  const change = async (event) => {
    try {
      await ask("PATCH", "/settings", { settings: { max_rings: event.target.value } });
      notice.value = "Kept: number of ring buffers.";
      setError(null);
    } catch (problem) {
      setError(problem.message);
    }
    again();
  };
  return html`<label class="setting"><span class="name">number of ring buffers</span>
    <input type="number" min="1" defaultValue=${settings.max_rings} disabled=${!may("control")} onChange=${change} />
    <span class="hint">So many may be made; there ${rings === 1 ? "is one" : `are ${rings}`}.</span></label>
    ${error && html`<p class="error" role="alert">${error}</p>`}`;
}

function OfRing({ about }) {
  const status = current.value;
  const name = status && status.ring.name;
  const { value, error, again } = useAnswer(name && `/rings/${part(name)}/settings`);
  if (!status) return null;
  const group = (one) => GROUPS.find(([, pattern]) => pattern.test(one.name))[0];
  const fields = GROUPS.map(([title]) => [title, about.filter((one) => group(one) === title)]).filter(([, list]) => list.length > 0);
  return html`<h2>Ring buffers</h2><${RingSwitch} /><${Failure} error=${error} />
    ${value && html`<${Form} key=${name} path=${`/rings/${part(name)}/settings`} fields=${fields} values=${value.settings} again=${again} button="Save settings" />`}
    ${may("control") && html`<p><button class="danger" onClick=${() => open(DeleteRing, { ring: name })}>Delete ring buffer ${name}</button></p>`}`;
}

export function SettingsPage() {
  const { value, error, again } = useAnswer("/settings");
  if (!overview.value) return html`<p class="empty">…</p>`;
  const { recorder } = overview.value;
  return html`<h2>Recorder</h2><${Failure} error=${error} />
    <p class="hint">tapeloop ${recorder.tapeloop}, process ${recorder.pid}.</p>
    ${value && html`<div class="card"><${Rings} settings=${value.settings} rings=${value.rings} again=${again} /></div>
      <${OfRing} about=${value.of_rings} />`}`;
}
