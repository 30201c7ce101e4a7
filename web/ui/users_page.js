// Users and their roles.
import { html } from "htm/preact";
import { useState } from "preact/hooks";
import { ask, part } from "./api.js";
import { time } from "./format.js";
import { Dialog, Failure, Table, useAnswer } from "./parts.js";
import { open, session, utc } from "./state.js";

const ROLES = {
  viewer: "sees statistics, events, what there is", analyst: "also gets packets", operator: "also changes ring buffers, rules, recordings", admin: "also changes users",
};
const LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"; // 32 that nobody mistakes for one another

function password() {
  return [...crypto.getRandomValues(new Uint8Array(20))].map((byte, i) => (i && i % 5 === 0 ? "-" : "") + LETTERS[byte % LETTERS.length]).join("");
}

function Role({ role }) {
  return html`<label>Role<select name="role">${Object.entries(ROLES).map(([name, text]) => html`<option value=${name} selected=${name === role}>${name}: ${text}</option>`)}</select></label>`;
}

function OneTime() {
  const [made] = useState(password);
  return html`<label>One-time password<input name="password" value=${made} minlength="10" maxlength="256" required autocomplete="off" spellcheck="false" /></label>
    <p class="hint">Tell it to the user: it is good for setting another one only.</p>`;
}

function CreateUser({ again }) {
  const send = async (form) => {
    await ask("POST", "/users", { user: form.get("user"), role: form.get("role"), password: form.get("password") });
    again();
    return `User ${form.get("user")} has the one-time password ${form.get("password")}`;
  };
  return html`<${Dialog} title="Create user" button="Create" send=${send}>
    <label>Name<input name="user" required maxlength="63" pattern="[a-zA-Z0-9_@][a-zA-Z0-9_.@\\-]*" title="letters, digits, and _ @ . -" autocomplete="off" /></label>
    <${Role} role="viewer" /><${OneTime} /><//>`;
}

function ChangeRole({ user, again }) {
  const send = async (form) => {
    await ask("PATCH", `/users/${part(user.user)}`, { role: form.get("role") });
    again();
    return `User ${user.user} is ${form.get("role")} now.`;
  };
  return html`<${Dialog} title=${`Role of ${user.user}`} button="Save" send=${send}><${Role} role=${user.role} /><//>`;
}

function NewPassword({ user, again }) {
  const send = async (form) => {
    await ask("PATCH", `/users/${part(user.user)}`, { password: form.get("password") });
    again();
    return `User ${user.user} has the one-time password ${form.get("password")}`;
  };
  return html`<${Dialog} title=${`New password for ${user.user}`} button="Set password" send=${send}><${OneTime} /><p class="hint">All sessions of the user end.</p><//>`;
}

function DeleteUser({ user, again }) {
  const send = async () => {
    await ask("DELETE", `/users/${part(user.user)}`);
    again();
    return `User ${user.user} is deleted.`;
  };
  return html`<${Dialog} title=${`Delete user ${user.user}?`} button="Delete" danger send=${send}><p>Sessions and tokens end with the user.</p><//>`;
}

export function UsersPage() {
  const { value, error, again } = useAnswer("/users");
  return html`<div class="bar"><h2>Users</h2><span class="space"></span><button class="main" onClick=${() => open(CreateUser, { again })}>Create user</button></div>
    <${Failure} error=${error} />
    <${Table} label="users" heads=${["User", "Role", "Password", "Since", "Actions"]}>
      ${(value ? value.users : []).map((user) => html`<tr key=${user.user}><td><b>${user.user}</b>${user.user === session.value.user ? html` <span class="faint">(you)</span>` : ""}</td>
        <td>${user.role}<br /><span class="faint">${ROLES[user.role]}</span></td><td>${user.must_change_password ? "one-time password, not changed yet" : "own"}</td><td>${time(user.created_s, utc.value)}</td>
        <td class="actions"><button aria-label=${`Role of ${user.user}`} onClick=${() => open(ChangeRole, { user, again })}>Role</button>
          <button aria-label=${`New password for ${user.user}`} onClick=${() => open(NewPassword, { user, again })}>New password</button>
          <button aria-label=${`Delete ${user.user}`} onClick=${() => open(DeleteUser, { user, again })}>Delete</button></td></tr>`)}<//>`;
}
