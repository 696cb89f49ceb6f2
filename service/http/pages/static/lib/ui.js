// The components that all views share.
import { html, useEffect, useId, useRef, useState } from "./preact.js";
import { brief } from "./numbers.js";
import { href } from "./address.js";
import { useKey } from "./api.js";
import { refresh } from "./models.js";

/** A label above a control. `hint` is a short explanation below it. */
export function Field({ label, hint, children, wide }) {
  return html`<label class=${wide ? "field wide" : "field"}><span>${label}</span>${children}${hint && html`<small>${hint}</small>`}</label>`;
}

/** A number. `set` gets the text of the control when it is complete (Enter, blur, or the arrows). */
export function NumberInput({ value, set, ...rest }) {
  return html`<input type="number" value=${value} onChange=${event => set(event.target.value)} ...${rest} />`;
}

/** A choice from `options`: texts, or pairs [value, text]. */
export function Select({ value, set, options, ...rest }) {
  const pairs = options.map(option => (Array.isArray(option) ? option : [option, option]));
  return html`<select onChange=${event => set(event.target.value)} ...${rest}>
    ${pairs.map(([each, text]) => html`<option value=${each} selected=${String(each) === String(value)}>${text}</option>`)}
  </select>`;
}

/** A slider with its value beside it. `set` is called while it moves; `format` writes the value. */
export function Slider({ label, value, set, min, max, step = "any", format = brief, ...rest }) {
  return html`<label class="slider"><span>${label}</span>
    <input type="range" min=${min} max=${max} step=${step} value=${value} onInput=${event => set(Number(event.target.value))} ...${rest} />
    <output>${format(Number(value))}</output></label>`;
}

/** A row of buttons of which one is chosen. `options` are pairs [value, text]. */
export function Choice({ label, value, set, options }) {
  return html`<div class="choice" role="group" aria-label=${label}>
    ${options.map(([each, text]) => html`<button type="button" aria-pressed=${each === value} onClick=${() => set(each)}>${text}</button>`)}
  </div>`;
}

/** A note that work goes on, with a button that cancels it. It appears after half a second. `text` may give the progress. */
export function Busy({ task, text = "Working…" }) {
  return html`<div class="busy" role="status">${task.slow && html`<span class="spinner" aria-hidden="true"></span> ${text}
    <button type="button" onClick=${task.cancel}>Cancel</button>${task.long && html` This takes long: the service may be busy, or it may have stopped.`}`}</div>`;
}

/** A failure: what is wrong, what to do, and a button that repeats the request. */
export function Failure({ error, retry }) {
  if (!error) return null;
  const said = error.valid?.every(value => error.message.includes(value));  // the message has them already
  const valid = error.valid?.length && !said ? html`<p>Valid values: ${error.valid.slice(0, 40).join(", ")}${error.valid.length > 40 ? ", …" : ""}</p>` : null;
  return html`<div class="failure" role="alert">
    <p><strong>${error.message}</strong></p>${valid}
    <p>${error.advice ?? "Reload the page and try again."}${error.requestId && html` <small>Request id ${error.requestId}</small>`}</p>
    ${retry && html`<button type="button" onClick=${retry}>Try again</button>`}
    ${(error.status === 404 || error.status === 409) && html` <a href=${href({})}>All models</a>`}
  </div>`;
}

/** The state of a task: its failure, a note that it runs, or a note that it was cancelled, with a button that starts it again. */
export function Progress({ task, text }) {
  if (task.error) return html`<${Failure} error=${task.error} retry=${task.retry} />`;
  if (task.cancelled) return html`<p class="busy" role="status">Cancelled. <button type="button" onClick=${task.retry}>Start again</button></p>`;
  return html`<${Busy} task=${task} text=${text} />`;
}

/** A dialog in front of the page. The focus stays in it, and returns to its origin when it is closed. */
export function Dialog({ title, close, children }) {
  const dialog = useRef(null), id = useId();
  useEffect(() => {
    const from = document.activeElement;
    dialog.current.showModal();
    return () => from?.isConnected && from.focus();
  }, []);
  const outside = event => event.target === dialog.current && close();
  return html`<dialog ref=${dialog} aria-labelledby=${id} onClose=${close} onClick=${outside}>
    <div class="dialog"><header><h2 id=${id}>${title}</h2><button type="button" class="plain" aria-label="Close" onClick=${close}>✕</button></header>${children}</div>
  </dialog>`;
}

/** A button that copies a text. */
export function Copy({ text, label = "Copy" }) {
  const [done, set] = useState("");
  const copy = async () => {
    try { await navigator.clipboard.writeText(text); set("Copied"); } catch { set("Select the text and press Ctrl+C"); }
    setTimeout(() => set(""), 2000);
  };
  return html`<button type="button" class="plain" onClick=${copy}>${done || label}</button>`;
}

/** Code that scrolls inside its box, with a button that copies it. */
export function Code({ text, label }) {
  return html`<div class="code"><${Copy} text=${text} /><pre tabindex="0" aria-label=${label}>${text}</pre></div>`;
}

/** Save a Blob, or the bytes or text `content`, as a file. */
export function save(content, name, type = "application/octet-stream") {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = Object.assign(document.createElement("a"), { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** A place to drop files, which is also a button that chooses them. `take` gets a list of File. Paste works while it has the focus. */
export function Drop({ take, accept, multiple, children, label = "Choose a file, or drop one here" }) {
  const [over, set] = useState(false), input = useRef(null);
  const give = files => { const list = [...files]; if (list.length) take(multiple ? list : list.slice(0, 1)); };
  const drop = event => { event.preventDefault(); set(false); give(event.dataTransfer.files); };
  return html`<div class=${over ? "drop over" : "drop"} onDragOver=${event => { event.preventDefault(); set(true); }} onDragLeave=${() => set(false)} onDrop=${drop}
      onPaste=${event => give(event.clipboardData.files)}>
    <button type="button" onClick=${() => input.current.click()}>${label}</button>
    <input ref=${input} type="file" hidden accept=${accept} multiple=${multiple} aria-label=${label} onChange=${event => { give(event.target.files); event.target.value = ""; }} />
    ${children}
  </div>`;
}

/** A small picture, enlarged without smoothing. `size` is its width on the screen in pixels. */
export function Pixels({ src, alt, size, ...rest }) {
  return html`<img class="pixels" src=${src} alt=${alt} width=${size} ...${rest} />`;
}

/**
 * A table that scrolls inside its box. `columns` are {name, title, value(row), cell(row), numeric, hint, sort: false}; a click on a title sorts by
 * `value`. `rows` are any objects. At most `limit` rows are drawn at once; a button shows more. `onRow(row)` makes rows clickable.
 */
export function DataTable({ columns, rows, caption, initial, limit = 100, onRow, rowClass, keyOf }) {
  const [order, setOrder] = useState(initial ?? null), [shown, setShown] = useState(limit);
  const by = order && columns.find(column => column.name === order.name);
  const value = (column, row) => (column.value ? column.value(row) : row[column.name]);
  const sorted = by ? [...rows].sort((a, b) => compare(value(by, a), value(by, b)) * (order.down ? -1 : 1)) : rows;
  const sort = column => setOrder({ name: column.name, down: order?.name === column.name ? !order.down : column.numeric === true });
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${caption}><table>
    <caption class="hidden">${caption}</caption>
    <thead><tr>${columns.map(column => html`<th scope="col" class=${column.numeric ? "number" : ""}
        aria-sort=${order?.name === column.name ? (order.down ? "descending" : "ascending") : undefined}>
      ${column.sort === false ? column.title : html`<button type="button" class="plain" title=${column.hint} onClick=${() => sort(column)}>${column.title}${order?.name === column.name ? (order.down ? " ▼" : " ▲") : ""}</button>`}
    </th>`)}</tr></thead>
    <tbody>${sorted.slice(0, shown).map((row, place) => html`<tr key=${keyOf ? keyOf(row) : place} class=${rowClass?.(row) ?? ""} onClick=${onRow && (() => onRow(row))}>
      ${columns.map(column => html`<td class=${column.numeric ? "number" : ""}>${column.cell ? column.cell(row) : brief(value(column, row))}</td>`)}
    </tr>`)}</tbody>
  </table></div>
  ${sorted.length > shown && html`<p><button type="button" onClick=${() => setShown(shown + 4 * limit)}>Show more (${shown} of ${sorted.length})</button></p>`}`;
}

/** Compare two values for sorting: numbers by size, missing values last, anything else as text. */
function compare(a, b) {
  const missing = value => value === null || value === undefined || Number.isNaN(value);
  if (missing(a) || missing(b)) return Number(missing(a)) - Number(missing(b));
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
}

/** A figure, such as "Fréchet distance 0.22 ↓", whose arrow says which direction is better. */
export function Figure({ text, better }) {
  if (!better) return html`<span class="figure">${text}</span>`;
  return html`<span class="figure" title=${`${better} is better`}>${text} <span aria-hidden="true">${better === "lower" ? "↓" : "↑"}</span><span class="hidden"> (${better} is better)</span></span>`;
}

/** The form for an API key, which appears when the service asks for one. */
export function KeyForm({ error, done }) {
  const [text, set] = useState("");
  const use = event => { event.preventDefault(); useKey(text); done(); refresh(); };
  return html`<form class="key" onSubmit=${use}>
    <p role="alert">${error.message}</p>
    <${Field} label="API key"><input type="password" autocomplete="off" placeholder="mf_…" value=${text} onInput=${event => set(event.target.value)} /><//>
    <button>Use this key</button>
  </form>`;
}

/** Tabs: links, of which one is the present place. `options` are [value, text, link]. */
export function Tabs({ label, value, options }) {
  return html`<nav class="tabs" aria-label=${label}>
    ${options.map(([each, text, link]) => html`<a href=${link} aria-current=${each === value ? "page" : undefined}>${text}</a>`)}
  </nav>`;
}

