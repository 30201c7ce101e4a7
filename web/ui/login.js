// Logging in, and setting a password of one's own.
import { html } from "htm/preact";
import { useState } from "preact/hooks";
import { ask } from "./api.js";
import { session, look } from "./state.js";

function Form({ title, hint, fields, button, send }) {
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    const values = Object.fromEntries(new FormData(event.target));
    setBusy(true);
    try {
      await send(values);
      look();
    } catch (problem) {
      setError(problem.message);
      setBusy(false);
    }
  };
  return html`<main class="login"><form onSubmit=${submit}>
    <h1>tapeloop</h1><h2>${title}</h2>
    ${hint && html`<p>${hint}</p>`}
    ${fields.map(([name, label, type, complete], i) => html`<label>${label}
      <input name=${name} type=${type} autocomplete=${complete} required autofocus=${i === 0} /></label>`)}
    ${error && html`<p class="error" role="alert">${error}</p>`}
    <button class="main" disabled=${busy}>${button}</button>
  </form></main>`;
}

export function Login() {
  return html`<${Form} key="login" title="Log in" button="Log in"
    fields=${[["user", "User", "text", "username"], ["password", "Password", "password", "current-password"]]}
    send=${async (values) => { session.value = await ask("POST", "/session", values); }} />`;
}

export function NewPassword() {
  return html`<${Form} key="password" title="Set a password of your own" button="Set password"
    hint="The password that you logged in with is good for this only. The new one needs 10 characters or more."
    fields=${[["old_password", "Password that you were given", "password", "current-password"],
              ["password", "New password", "password", "new-password"],
              ["again", "New password again", "password", "new-password"]]}
    send=${async ({ old_password, password, again }) => {
      if (password !== again) throw new Error("the two new passwords differ");
      session.value = await ask("POST", "/session/password", { old_password, password });
    }} />`;
}
