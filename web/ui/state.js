// What the pages share: who one is, what the recorder says, which page, ring and time are looked at. These are in the
// address, so that a link shows what was seen.
import { signal, computed, effect } from "@preact/signals";
import { ask } from "./api.js";
import { seconds } from "./format.js";

export const LIVE_S = [300, 900, 3600, 6 * 3600, 86400, 7 * 86400];
const SAMPLES = 300;

export const session = signal(undefined); // undefined: not known yet; null: nobody
export const overview = signal(null);
export const trouble = signal(null); // why there is no fresh overview
export const losses = signal({}); // by ring: what was lost within the last seconds, by cause
export const stalls = signal({}); // by ring: seconds in which packets came and nothing was written
export const samples = signal({}); // by ring: what no history keeps, since this page was opened
export const dialog = signal(null);
export const notice = signal(null); // what was just done
export const utc = signal(localStorage.getItem("utc") !== "false");
export const page = signal("ring");
export const chosen = signal(null); // the ring's name
export const span = signal(null); // {from, to} in seconds: back in time; null: live
export const live_s = signal(LIVE_S[0]);

function read_address() {
  const parameters = new URLSearchParams(location.search);
  const from = Number(parameters.get("from")), to = Number(parameters.get("to"));
  page.value = parameters.get("page") || "ring";
  chosen.value = parameters.get("ring");
  span.value = parameters.has("from") && parameters.has("to") && from < to ? { from, to } : null;
  if (LIVE_S.includes(Number(parameters.get("live")))) live_s.value = Number(parameters.get("live"));
}

function address() {
  const wanted = new URLSearchParams();
  if (page.value !== "ring") wanted.set("page", page.value);
  if (chosen.value) wanted.set("ring", chosen.value);
  if (span.value) {
    wanted.set("from", span.value.from);
    wanted.set("to", span.value.to);
  } else wanted.set("live", live_s.value);
  return `/?${wanted}`;
}

read_address();
window.addEventListener("popstate", read_address);
effect(() => history.replaceState(null, "", address()));
effect(() => localStorage.setItem("utc", utc.value));
effect(() => {
  if (!notice.value) return;
  const timer = setTimeout(() => { notice.value = null; }, 30000);
  return () => clearTimeout(timer);
});

// Another page, to which the browser's own button leads back.
export function go(name) {
  if (page.value === name) return;
  history.pushState(null, "", address());
  notice.value = null;
  page.value = name;
  window.scrollTo(0, 0);
}

export const open = (what, props) => { dialog.value = { what, props }; };
export const close = () => { dialog.value = null; };

export const rings = computed(() => (overview.value ? overview.value.rings : []));
export const current = computed(() =>
  rings.value.find((status) => status.ring.name === chosen.value) || rings.value[0] || null);
export const now = computed(() => (overview.value ? seconds(overview.value.now_ns) : Date.now() / 1000));
export const shown = computed(() => span.value || { from: now.value - live_s.value, to: now.value });

export const may = (scope) => Boolean(session.value && session.value.scopes.includes(scope));

export const LOSSES = ["dropped_kernel", "dropped_queue", "lost_disk", "refused"];
export const lost = (account) => LOSSES.reduce((sum, line) => sum + account[line], 0);
let before = {};

// What changed since the last look: counters only grow, but start anew with the recorder.
function compare(fresh) {
  const after = {}, losing = {}, stalled = {}, sampled = {};
  const at = seconds(fresh.now_ns);
  for (const status of fresh.rings) {
    const name = status.ring.name, last = before[name];
    const kept = last ? { ...last } : { stored: at };
    if (last && status.account.seen >= last.account.seen) {
      for (const line of LOSSES) {
        const more = status.account[line] - last.account[line];
        if (more > 0) kept.loss = { ...(kept.loss && at - kept.loss.at < 10 ? kept.loss : {}), at, [line]: more / Math.max(at - last.at, 0.1) };
      }
      if (status.stored_bytes > last.stored_bytes || status.account.seen === last.account.seen) kept.stored = at;
    } else kept.stored = at;
    if (kept.loss && at - kept.loss.at < 10) losing[name] = kept.loss;
    if (status.ring.state === "recording" && at - kept.stored >= 5) stalled[name] = Math.round(at - kept.stored);
    after[name] = { ...kept, at, account: status.account, stored_bytes: status.stored_bytes };
    sampled[name] = [...(samples.value[name] || []), {
      used: status.ring.used_bytes, in_flight: status.in_flight_bytes, reach: status.reach_back_s, forecast: status.forecast_s,
    }].slice(-SAMPLES);
  }
  before = after;
  losses.value = losing;
  stalls.value = stalled;
  samples.value = sampled;
}

export async function look() {
  if (!session.value || session.value.must_change_password || document.hidden) return;
  try {
    const fresh = await ask("GET", "/overview");
    compare(fresh);
    overview.value = fresh;
    trouble.value = null;
  } catch (problem) {
    if (problem.status === 401) session.value = null;
    else trouble.value = problem.message;
  }
}

export async function begin() {
  try {
    session.value = await ask("GET", "/session");
  } catch {
    session.value = null;
  }
  const turn = async () => {
    await look();
    setTimeout(turn, 1000);
  };
  turn();
  document.addEventListener("visibilitychange", look);
}
