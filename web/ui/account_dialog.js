// One's own account: the password, and tokens for scripts.
import { html } from "htm/preact";
import { useState } from "preact/hooks";
import { ask } from "./api.js";
import { Dialog, useAnswer } from "./parts.js";
import { session, utc } from "./state.js";
import { time } from "./format.js";

const SCOPES = { read: "statistics", packets: "packets", control: "changes", users: "users" };

function Tokens() {
  const { value, again } = useAnswer("/tokens");
  const [made, setMade] = useState(null);
  const [error, setError] = useState(null);
  const attempt = (what) => what.then(() => setError(null), (problem) => setError(problem.message)).then(again);
  const make = (event) => {
    const field = (name) => event.target.closest("fieldset").querySelector(`[name=${name}]`);
    const scopes = Object.keys(SCOPES).filter((scope) => field(`scope-${scope}`) && field(`scope-${scope}`).checked);
    attempt(ask("POST", "/tokens", { name: field("token").value, scopes }).then(setMade));
  };
  return html`<fieldset><legend>Tokens for scripts</legend>
    ${value && value.tokens.length === 0 && html`<p class="faint">None.</p>`}
    ${value && value.tokens.map((one) => html`<p class="line" key=${one.token}><span><b>${one.name}</b> <span class="faint">${one.scopes.join(", ")}; since ${time(one.created_s, utc.value)}</span></span>
      <button type="button" onClick=${() => attempt(ask("DELETE", `/tokens/${one.token}`))} aria-label=${`Delete token ${one.name}`}>Delete</button></p>`)}
    ${made && html`<p role="status">The secret of <b>${made.name}</b>, shown this once: <code class="secret">${made.secret}</code></p>`}
    <label>Name<input name="token" maxlength="63" /></label>
    <div class="checks">${Object.entries(SCOPES).filter(([scope]) => session.value.scopes.includes(scope)).map(([scope, label]) =>
      html`<label class="check"><input type="checkbox" name=${`scope-${scope}`} checked=${scope === "read"} /> ${label}</label>`)}</div>
    ${error && html`<p class="error" role="alert">${error}</p>`}
    <div><button type="button" onClick=${make}>Make a token</button></div>
  </fieldset>`;
}

export function Account() {
  const send = async (form) => {
    if (form.get("password") !== form.get("again")) throw new Error("the two new passwords differ");
    session.value = await ask("POST", "/session/password", { old_password: form.get("old_password"), password: form.get("password") });
    return "The password is changed. All other sessions have ended.";
  };
  return html`<${Dialog} title=${session.value.user} button="Set password" send=${send}>
    <label>Old password<input name="old_password" type="password" autocomplete="current-password" required /></label>
    <label>New password, 10 characters or more<input name="password" type="password" autocomplete="new-password" minlength="10" required /></label>
    <label>New password again<input name="again" type="password" autocomplete="new-password" required /></label>
    <${Tokens} />
  <//>`;
}
