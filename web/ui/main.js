import "uplot/dist/uPlot.min.css";
import "./style.css";
import { render } from "preact";
import { html } from "htm/preact";
import { begin, dialog, session, trouble } from "./state.js";
import { Login, NewPassword } from "./login.js";
import { RingPage } from "./ring_page.js";
import { logOut } from "./dialogs.js";

function App() {
  if (session.value === undefined) return html`<p class="empty">…</p>`;
  if (session.value === null) return html`<${Login} />`;
  if (session.value.must_change_password) return html`<${NewPassword} />`;
  const open = dialog.value;
  return html`
    <header><h1><img src="/icon.svg" alt="" width="22" height="22" /> tapeloop</h1><nav><a href="/" aria-current="page">Ring buffer</a></nav>
      <span class="space"></span><span>${session.value.user} (${session.value.role})</span>
      <button class="quiet" onClick=${logOut}>Log out</button></header>
    <main>
      ${trouble.value && html`<p class="banner bad" role="alert">${trouble.value}</p>`}
      <${RingPage} />
    </main>
    ${open && html`<${open.what} ...${open.props || {}} />`}`;
}

document.getElementById("app").textContent = "";
render(html`<${App} />`, document.getElementById("app"));
begin();
