// What all pages are made of: dialogs, tables, small graphs, answers that are asked for again and again.
import { html } from "htm/preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { ask } from "./api.js";
import { chosen, close, current, look, notice, rings } from "./state.js";

// A dialog with a form. `send` gets the form's data and may return a sentence for the page; what it throws is shown,
// and the dialog stays.
export function Dialog({ title, button, danger, wide, send, children }) {
  const place = useRef(null);
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  useEffect(() => { place.current.showModal(); }, []);
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      notice.value = (await send(new FormData(event.target))) || null;
      close();
      look();
    } catch (problem) {
      setError(problem.message);
      setBusy(false);
    }
  };
  return html`<dialog ref=${place} onClose=${close} class=${wide ? "wide" : ""} aria-labelledby="dialog-title"><form onSubmit=${submit} onInput=${() => setError(null)}>
    <h2 id="dialog-title">${title}</h2>
    ${children}
    ${error && html`<p class="error" role="alert">${error}</p>`}
    <div class="buttons"><button type="button" onClick=${close}>${button ? "Cancel" : "Close"}</button>
      ${button && html`<button class=${danger ? "danger" : "main"} disabled=${busy}>${busy ? html`<span class="busy" aria-hidden="true"></span>` : ""}${button}</button>`}</div>
  </form></dialog>`;
}

// An answer of the API, asked for anew every `every_ms`, when `path` changes, and at again().
export function useAnswer(path, every_ms) {
  const [answer, setAnswer] = useState({ path, value: null, error: null });
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    let wanted = true, timer = null;
    const turn = async () => {
      if (!document.hidden) {
        try {
          const value = await ask("GET", path);
          if (wanted) setAnswer({ path, value, error: null });
        } catch (problem) {
          if (wanted) setAnswer((last) => ({ path, value: last.path === path ? last.value : null, error: problem.message }));
        }
      }
      if (wanted && every_ms) timer = setTimeout(turn, every_ms);
    };
    if (path) turn();
    return () => {
      wanted = false;
      clearTimeout(timer);
    };
  }, [path, every_ms, turn]);
  const fresh = answer.path === path;
  return { value: fresh ? answer.value : null, error: fresh ? answer.error : null, again: () => setTurn((last) => last + 1) };
}

// Several rings: buttons on top.
export function RingSwitch({ children }) {
  return html`<div class="bar">
    <div class="switch" role="group" aria-label="ring">${rings.value.map((one) =>
      html`<button key=${one.ring.name} aria-pressed=${one === current.value} onClick=${() => { chosen.value = one.ring.name; }}>${one.ring.name}</button>`)}</div>
    ${children}</div>`;
}

export function Failure({ error }) {
  return error ? html`<p class="banner bad" role="alert">${error}</p>` : null;
}

// Where the window is narrow each row is a card, whose cells say what they are (style.css): so that nothing has to be scrolled to. A table
// that is shown as something else is none to a screen reader unless its roles are said.
export function Table({ label, heads, children }) {
  const place = useRef(null);
  useLayoutEffect(() => {
    for (const row of place.current.rows) {
      row.setAttribute("role", "row");
      [...row.cells].forEach((cell, i) => {
        if (cell.tagName !== "TD") return;
        cell.setAttribute("role", "cell");
        cell.dataset.label = ["Actions", undefined].includes(heads[i]) ? "" : heads[i].number || heads[i];
        cell.classList.toggle("nothing", cell.textContent === "–");
      });
    }
  });
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${label}><table ref=${place} role="table">
    <thead role="rowgroup"><tr>${heads.map((head) => (typeof head === "string" ? html`<th scope="col" role="columnheader">${head}</th>`
      : html`<th scope="col" role="columnheader" class="number">${head.number}</th>`))}</tr></thead>
    <tbody role="rowgroup">${children}</tbody></table></div>`;
}

// A line without axes: how a figure went. `values` may have nulls.
export function Spark({ values, color }) {
  const known = values.filter((value) => value !== null && value !== undefined);
  if (known.length < 2) return html`<svg class="spark" aria-hidden="true"></svg>`;
  const high = Math.max(...known), low = Math.min(0, ...known), range = high - low || 1;
  let path = "", pen = "M";
  values.forEach((value, i) => {
    if (value === null || value === undefined) pen = "M";
    else {
      path += `${pen}${((i / (values.length - 1)) * 100).toFixed(2)} ${(22 - ((value - low) / range) * 20).toFixed(2)}`;
      pen = "L";
    }
  });
  return html`<svg class="spark" viewBox="0 0 100 24" preserveAspectRatio="none" aria-hidden="true">
    <path d=${path} class=${color} vector-effect="non-scaling-stroke" /></svg>`;
}

const SIZES = { MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 };

export function SizeField({ label = "Size", placeholder = "all of the device" }) {
  return html`<label>${label} <span class="pair"><input name="size" type="number" min="0" step="any" placeholder=${placeholder} />
    <select name="unit" aria-label="unit">${Object.keys(SIZES).map((unit) => html`<option selected=${unit === "GiB"}>${unit}</option>`)}</select></span></label>`;
}

// What the fields path, size and unit say, as the API wants it.
export function disk_of(form) {
  return { path: form.get("path").trim(), bytes: Math.round(Number(form.get("size") || 0) * SIZES[form.get("unit")]) };
}
