// What happened, the newest first.
import { html } from "htm/preact";
import { useEffect, useState } from "preact/hooks";
import { ask } from "./api.js";
import { seconds, time } from "./format.js";
import { Failure, Table } from "./parts.js";
import { overview, rings, utc } from "./state.js";

const POLL_MS = 2000;
const MANY = 10000;
const SHOWN = 100;
const SEVERITIES = { info: "", warning: "warn", error: "bad" };

export function EventsPage() {
  const [events, setEvents] = useState([]);
  const [error, setError] = useState(null);
  const [severity, setSeverity] = useState("info");
  const [ring, setRing] = useState("");
  const [many, setMany] = useState(SHOWN);
  useEffect(() => {
    let wanted = true, timer = null, after = 0;
    const turn = async () => {
      try {
        const fresh = (await ask("GET", `/events?after=${after}&limit=${MANY}`)).events;
        if (!wanted) return;
        if (fresh.length) after = fresh[fresh.length - 1].number;
        if (fresh.length) setEvents((known) => [...fresh.reverse(), ...known]);
        setError(null);
      } catch (problem) {
        if (wanted) setError(problem.message);
      }
      if (wanted) timer = setTimeout(turn, POLL_MS);
    };
    turn();
    return () => {
      wanted = false;
      clearTimeout(timer);
    };
  }, []);
  if (!overview.value) return html`<p class="empty">…</p>`;
  const rank = Object.keys(SEVERITIES);
  const list = events.filter((one) => rank.indexOf(one.severity) >= rank.indexOf(severity) && (!ring || one.ring === ring));
  return html`<div class="bar"><h2>Events</h2><span class="space"></span>
      <select aria-label="severity" onChange=${(event) => setSeverity(event.target.value)}><option value="info">all</option><option value="warning">warnings and errors</option><option value="error">errors</option></select>
      <select aria-label="ring" onChange=${(event) => setRing(event.target.value)}><option value="">all ring buffers</option>${rings.value.map((one) => html`<option>${one.ring.name}</option>`)}</select></div>
    <${Failure} error=${error} />
    ${list.length === 0 ? html`<p class="empty">Nothing of that kind has happened.</p>` : html`<${Table} label="events" heads=${["Time", "Severity", "Ring buffer", "Event", "What happened"]}>
      ${list.slice(0, many).map((one) => html`<tr key=${one.number}><td>${time(seconds(one.time_ns), utc.value)}</td>
        <td><span class=${`dot ${SEVERITIES[one.severity] || ""}`}>${one.severity}</span></td><td>${one.ring || "–"}</td><td>${one.kind}</td><td class="text">${one.text}</td></tr>`)}<//>
      ${list.length > many && html`<p><button onClick=${() => setMany(many + SHOWN)}>Show more</button></p>`}`}`;
}
