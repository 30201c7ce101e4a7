import "uplot/dist/uPlot.min.css";
import "./style.css";
import { render } from "preact";
import { html } from "htm/preact";
import { useEffect, useRef } from "preact/hooks";
import { ask } from "./api.js";
import { begin, close, dialog, go, may, notice, open, overview, page, session, trouble } from "./state.js";
import { Login, NewPassword } from "./login.js";
import { RingPage } from "./ring_page.js";
import { ClusterPage } from "./cluster_page.js";
import { RulesPage } from "./rules_page.js";
import { InterfacesPage } from "./interfaces_page.js";
import { ExtractionsPage } from "./extractions.js";
import { EventsPage } from "./events_page.js";
import { UsersPage } from "./users_page.js";
import { SettingsPage } from "./settings_page.js";
import { Account } from "./account_dialog.js";

const PAGES = [
  ["ring", "Ring buffer", RingPage, "read"],
  ["cluster", "Cluster configuration", ClusterPage, "read"],
  ["rules", "Snapshot length filter", RulesPage, "read"],
  ["interfaces", "Interfaces", InterfacesPage, "read"],
  ["extractions", "Extractions", ExtractionsPage, "packets"],
  ["events", "Events", EventsPage, "read"],
  ["users", "Users", UsersPage, "users"],
  ["settings", "Settings", SettingsPage, "read"],
];

async function log_out() {
  try {
    await ask("DELETE", "/session");
  } finally {
    session.value = null;
    overview.value = null;
    close();
  }
}

function Navigation({ now }) {
  const running = overview.value ? overview.value.extractions.filter((one) => one.state === "running").length : 0;
  const place = useRef(null);
  useEffect(() => { place.current.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" }); }, [now]); // where they do not all fit
  return html`<nav aria-label="pages" ref=${place}>${PAGES.filter(([, , , scope]) => may(scope)).map(([name, title]) =>
    html`<a key=${name} href=${`/?page=${name}`} aria-current=${name === now ? "page" : undefined}
      onClick=${(event) => { if (!event.metaKey && !event.ctrlKey) { event.preventDefault(); go(name); } }}>${title}${
        name === "extractions" && running > 0 ? html` <span class="badge" aria-label=${`${running} running`}>${running}</span>` : ""}</a>`)}</nav>`;
}

function App() {
  if (session.value === undefined) return html`<p class="empty">…</p>`;
  if (session.value === null) return html`<${Login} />`;
  if (session.value.must_change_password) return html`<${NewPassword} />`;
  const shown = dialog.value;
  const [name, title, Page] = PAGES.find(([name, , , scope]) => name === page.value && may(scope)) || PAGES[0];
  document.title = `${title} – tapeloop`;
  return html`
    <a class="skip" href="#main">Skip to the page</a>
    <header><div class="head"><h1><img src="/icon.svg" alt="" width="22" height="22" /> tapeloop</h1>
      <span class="space"></span>
      <button class="quiet" onClick=${() => open(Account)}>${session.value.user} <span class="faint">(${session.value.role})</span></button>
      <button class="quiet" onClick=${log_out}>Log out</button></div>
      <${Navigation} now=${name} /></header>
    <main id="main" tabindex="-1">
      ${trouble.value && html`<p class="banner bad" role="alert">${trouble.value}</p>`}
      ${notice.value && html`<p class="banner good" role="status">${notice.value}
        <button class="quiet" aria-label="dismiss" onClick=${() => { notice.value = null; }}>×</button></p>`}
      <${Page} key=${name} />
    </main>
    ${shown && html`<${shown.what} ...${shown.props || {}} />`}`;
}

document.getElementById("app").textContent = "";
render(html`<${App} />`, document.getElementById("app"));
begin();
