// The snapshot length filter: ordered rules, of which the first that matches says what is kept of a packet.
import { html } from "htm/preact";
import { useEffect, useState } from "preact/hooks";
import { ask, part } from "./api.js";
import { bytes, count, share } from "./format.js";
import { Dialog, Failure, RingSwitch, Table, useAnswer } from "./parts.js";
import { current, may, open, overview } from "./state.js";

const POLL_MS = 2000;
const KINDS = {
  all: ["every packet"], ip: ["IP address", "192.0.2.0/24"], mac: ["MAC address", "02:00:00:00:00:01"], "tcp port": ["TCP port", "443 or 8000-8080"],
  "udp port": ["UDP port", "53"], port: ["port, TCP or UDP", "53"], vlan: ["VLAN", "100"], app: ["application", "QUIC"], interface: ["interface", "eth0"],
  bpf: ["BPF expression", "icmp or arp"],
};
const INNER = ["ip", "tcp port", "udp port", "port"];
const ACTIONS = {
  full: ["keep the whole packet"], discard: ["discard the packet"], snap: ["keep the first bytes", "bytes"], l3: ["keep headers up to layer 3"],
  l4: ["keep headers up to layer 4"], "l4+": ["keep headers up to layer 4, and some bytes", "bytes"], flow: ["keep the first bytes of each connection", "bytes"],
  sample: ["keep one conversation of", "conversations"],
};

function action_of(kind, number) {
  switch (kind) {
    case "snap": return { kind, bytes: number };
    case "flow": return { kind, bytes: number };
    case "sample": return { kind, one_in: number };
    case "l3": return { kind: "headers", layers: "l3" };
    case "l4": return { kind: "headers", layers: "l3+l4" };
    case "l4+": return { kind: "headers", layers: "l3+l4", bytes: number };
    default: return { kind };
  }
}

function kind_of(action) {
  if (action.kind !== "headers") return action.kind;
  return action.layers === "l3" ? "l3" : action.bytes ? "l4+" : "l4";
}

function Condition({ at, condition, change, remove }) {
  const [, example] = KINDS[condition.kind];
  const put = (what) => change(at, { ...condition, ...what });
  return html`<div class="condition" role="group" aria-label=${`condition ${at + 1}`}>
    <select aria-label="condition" onChange=${(event) => put({ kind: event.target.value, value: "", inner: false })}>${Object.entries(KINDS).map(([kind, [text]]) =>
      html`<option value=${kind} selected=${kind === condition.kind}>${text}</option>`)}</select>
    ${example && html`<input aria-label="value" required maxlength="2048" placeholder=${example} value=${condition.value} spellcheck="false" onInput=${(event) => put({ value: event.target.value })} />`}
    <label class="check"><input type="checkbox" checked=${condition.not} onChange=${(event) => put({ not: event.target.checked })} /> negate</label>
    ${INNER.includes(condition.kind) && html`<label class="check"><input type="checkbox" checked=${condition.inner} onChange=${(event) => put({ inner: event.target.checked })} /> inside tunnels</label>`}
    ${remove && html`<button type="button" aria-label=${`Remove condition ${at + 1}`} onClick=${() => remove(at)}>×</button>`}
  </div>`;
}

function Action({ name, label, action, change }) {
  const kinds = name === "until_known" ? Object.entries(ACTIONS).filter(([kind]) => kind !== "flow" && kind !== "sample") : Object.entries(ACTIONS);
  const [, unit] = ACTIONS[action.kind];
  return html`<label>${label}<span class="pair"><select aria-label=${label} onChange=${(event) => change({ ...action, kind: event.target.value })}>
    ${kinds.map(([kind, [text]]) => html`<option value=${kind} selected=${kind === action.kind}>${text}</option>`)}</select>
    ${unit && html`<input aria-label=${unit} type="number" min="1" max="16777215" required value=${action.number} onInput=${(event) => change({ ...action, number: Number(event.target.value) })} />
      <span class="unit">${unit}</span>`}</span></label>`;
}

// The API names the member of the rule; a person sees fields.
const readable = (message) => message.replace(/^conditions\[(\d+)\]: value: (column \d+: )?/, (_, at) => `Condition ${Number(at) + 1}: `);

const number_of = (action) => action.bytes || action.one_in || 128;

function Rule({ ring, rule, revision }) {
  const [conditions, setConditions] = useState(rule ? rule.conditions.map((one) => ({ not: false, inner: false, value: "", ...one }))
    : [{ kind: "ip", value: "", not: false, inner: false }]);
  const [action, setAction] = useState(rule ? { kind: kind_of(rule.action), number: number_of(rule.action) } : { kind: "snap", number: 128 });
  const until = rule && rule.until_known;
  const [before, setBefore] = useState(until ? { kind: kind_of(until), number: number_of(until) } : { kind: "full", number: 128 });
  const change = (at, condition) => setConditions((all) => all.map((one, i) => (i === at ? condition : one)));
  const remove = (at) => setConditions((all) => all.filter((_, i) => i !== at));
  const by_app = conditions.some((one) => one.kind === "app");
  const send = () => keep().catch((problem) => { throw new Error(readable(problem.message)); });
  const keep = async () => {
    const wish = {
      conditions: conditions.map(({ kind, value, not, inner }) => ({
        kind, ...(kind === "all" ? {} : { value: value.trim() }), ...(not ? { not } : {}), ...(inner ? { inner } : {}),
      })),
      action: action_of(action.kind, action.number),
    };
    if (by_app && before.kind !== "full") wish.until_known = action_of(before.kind, before.number);
    const made = rule ? await ask("PUT", `/rings/${part(ring)}/rules/${rule.number}`, { rule: wish }, revision)
      : await ask("POST", `/rings/${part(ring)}/rules`, { rule: wish }, revision);
    return `Rule ${made.number} is ${made.in_force ? "in force" : "kept, and will be in force when its disks answer"}: ${made.text}`;
  };
  return html`<${Dialog} wide title=${rule ? `Edit rule ${rule.number}` : "Create rule"} button=${rule ? "Save" : "Create"} send=${send}>
    <fieldset><legend>Condition</legend>
      ${conditions.map((one, at) => html`<${Condition} key=${at} at=${at} condition=${one} change=${change} remove=${conditions.length > 1 ? remove : null} />`)}
      <div><button type="button" onClick=${() => setConditions((all) => [...all, { kind: "ip", value: "", not: false, inner: false }])}>And another condition</button></div>
    </fieldset>
    <${Action} name="action" label="Action" action=${action} change=${setAction} />
    ${by_app && html`<${Action} name="until_known" label="As long as the application is not known" action=${before} change=${setBefore} />`}
    <p class="hint">The first rule that matches decides. A packet that no rule matches is kept whole. A packet's original length stays with it whatever is cut.</p>
  <//>`;
}

function DeleteRule({ ring, rule, revision }) {
  const send = async () => {
    await ask("DELETE", `/rings/${part(ring)}/rules/${rule.number}`, undefined, revision);
    return `Rule ${rule.number} is deleted.`;
  };
  return html`<${Dialog} title=${`Delete rule ${rule.number}?`} button="Delete" danger send=${send}>
    <p><code>${rule.text}</code></p><p>What it has cut or discarded does not come back.</p><//>`;
}

const saved = (counters, kept) => counters.bytes - kept;

function Test({ ring }) {
  const [result, setResult] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    const unwanted = new AbortController(); // the recorder need not read on
    ask("POST", `/rings/${part(ring)}/rules/test`, { from: "-1h", to: "now" }, undefined, unwanted.signal)
      .then(setResult, (problem) => { if (!unwanted.signal.aborted) setError(problem.message); });
    return () => unwanted.abort();
  }, [ring]);
  const line = (name, counters) => html`<tr><td class="text">${name}</td><td class="number">${count(counters.packets)}</td><td class="number">${bytes(counters.bytes)}</td>
    <td class="number">${bytes(counters.stored_bytes)}</td><td class="number">${bytes(counters.cut_bytes)}</td><td class="number">${bytes(counters.discarded_bytes)}</td></tr>`;
  return html`<${Dialog} wide title="Test on the last hour">
    <p class="hint">What the rules would make of what the ring buffer holds of the last hour. Nothing is changed.</p>
    ${error && html`<p class="error" role="alert">${error}</p>`}
    ${!error && !result && html`<p role="status"><span class="busy" aria-hidden="true"></span> Reading the last hour…</p>`}
    ${result && html`<p role="status">Of ${bytes(result.bytes)} in ${count(result.packets)} packets, <b>${share(result.cut_bytes + result.discarded_bytes, result.bytes)}</b> would not be stored.
      ${result.complete ? "" : " Packets of the hour are missing."}${result.error ? ` ${result.error.message}` : ""}</p>
      <${Table} label="result" heads=${["Rule", { number: "Packets" }, { number: "Bytes" }, { number: "Stored" }, { number: "Cut off" }, { number: "Discarded" }]}>
        ${result.rules.map((rule) => line(html`${rule.number}. <code>${rule.text}</code>`, rule.counters))}
        ${line("no rule", result.unmatched)}<//>`}
  <//>`;
}

function Counters({ counters }) {
  return html`<td class="number">${count(counters.packets)}</td><td class="number">${bytes(counters.bytes)}</td>
    <td class="number">${bytes(counters.cut_bytes)}</td><td class="number">${bytes(counters.discarded_bytes)}</td>`;
}

export function RulesPage() {
  const status = current.value;
  const name = status ? status.ring.name : null;
  const { value, error, again } = useAnswer(name && `/rings/${part(name)}/rules`, POLL_MS);
  const [problem, say] = useState(null);
  if (!overview.value) return html`<p class="empty">…</p>`;
  if (!status) return html`<p class="empty">There is no ring buffer yet: it is made on the page <i>Ring buffer</i>.</p>`;
  const control = may("control");
  const move = (rule, direction) => ask("POST", `/rings/${part(name)}/rules/${rule.number}/move`, { direction }, value.revision).then(() => say(null), (failed) => say(failed.message)).then(again);
  const rules = value ? value.rules : [];
  return html`<${RingSwitch}>
      ${control && html`<button class="main" disabled=${!value} onClick=${() => open(Rule, { ring: name, revision: value.revision })}>Create rule</button>
        <button disabled=${rules.length === 0} onClick=${() => open(Test, { ring: name })}>Test on the last hour</button>`}<//>
    <${Failure} error=${error || problem || (value && value.error)} />
    ${!value ? html`<p class="empty">…</p>` : rules.length === 0 ? html`<p class="empty">There is no rule: every packet is kept whole.</p>`
    : html`<${Table} label="rules" heads=${["No.", "Rule", { number: "Packets" }, { number: "Bytes" }, { number: "Cut off" }, { number: "Discarded" }, ...(control ? ["Actions"] : [])]}>
      ${rules.map((rule, i) => html`<tr key=${rule.id}><td>${rule.number}</td><td class="text"><code>${rule.text}</code></td><${Counters} counters=${rule.counters} />
        ${control && html`<td class="actions">
          <button aria-label=${`Move rule ${rule.number} up`} title="move up" disabled=${i === 0} onClick=${() => move(rule, "up")}>↑</button>
          <button aria-label=${`Move rule ${rule.number} down`} title="move down" disabled=${i === rules.length - 1} onClick=${() => move(rule, "down")}>↓</button>
          <button aria-label=${`Edit rule ${rule.number}`} onClick=${() => open(Rule, { ring: name, rule, revision: value.revision })}>Edit</button>
          <button aria-label=${`Delete rule ${rule.number}`} onClick=${() => open(DeleteRule, { ring: name, rule, revision: value.revision })}>Delete</button></td>`}</tr>`)}
      <tr class="rest"><td></td><td class="text">no rule: kept whole</td><${Counters} counters=${value.unmatched} />${control && html`<td></td>`}</tr><//>
      <p class="hint">The first rule that matches decides. Counted since the recorder started, in bytes as captured.</p>`}`;
}
