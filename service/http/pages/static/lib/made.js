// Items that a model made or that test its page, as pictures or records, and the components that show them.
import { html, useMemo, useState } from "./preact.js";
import { getJson, postJson, send } from "./api.js";
import { describe, fileOf, listed, nouns, pictureType } from "./models.js";
import { brief } from "./numbers.js";
import { base64, loadPicture } from "./files.js";
import { splitGrid } from "./pictures.js";

/** Return the public manifest of a model by its name and version. It may be a version that the list does not contain yet. */
export function described(models, { name, version }) {
  const known = listed(models, { name, version });
  return known ? describe(known) : getJson(`models/${encodeURIComponent(name)}${version === undefined ? "" : `?version=${version}`}`);
}

/** Return the items of a response by output: [{role, picture: bool, items}]. Pictures are data URLs, other items are records or values. */
export function outputsOf(model, answer) {
  const specs = model.items ? Object.entries(model.items) : [["", model.data]];
  return specs.map(([role, data]) => {
    const type = pictureType(data), values = (role ? answer.items[role] : answer)[data.field] ?? [];
    return { role, picture: type !== undefined, items: type ? values.map(text => `data:${type};base64,${text}`) : values };
  });
}

/** Generate items: {outputs, latents, codes, classes, timing, seed, …}, the response with its items by output. */
export async function sample(model, fields, signal) {
  const answer = await postJson("sample", { model: model.name, version: model.version, ...fields }, { signal });
  return { ...answer, outputs: outputsOf(model, answer), pictures: outputsOf(model, answer)[0].items };
}

/** Send items (data URLs of pictures) to an endpoint that reads them. */
export async function sendItems(endpoint, model, pictures, fields, signal) {
  const asked = { model: model.name, version: model.version, [nouns(model).many]: pictures.map(base64), ...fields };
  const answer = await postJson(endpoint, asked, { signal });
  return { ...answer, pictures: pictureType(model.data) && (model.items || answer[model.data.field]) ? outputsOf(model, answer)[0].items : [] };
}

/** Request a picture of the service (with the API key, if one is in use) and return it as an element. Its `src` can be shown. */
export async function fetchPicture(path, signal) {
  return loadPicture(URL.createObjectURL(await (await send(path, { accept: "*/*", signal })).blob()));
}

/** Return test items of a model, from its sheet, where each is followed by its reconstruction; null if it has no such sheet. */
export async function testItems(model, most = 16, signal = undefined) {
  const path = fileOf(model, "sheet");
  if (!path || !pictureType(model.data) || !model.endpoints.includes("reconstruct")) return null;
  return (await splitGrid(await (await send(path, { accept: "*/*", signal })).blob(), model.data, 2)).slice(0, most);
}

/** Pictures side by side. `size` is the width of one in pixels, `captions` texts below them; onPick(index) makes them buttons. */
export function Pictures({ items, alt, size = 56, captions, onPick, picked, label }) {
  const picture = (src, i) => html`<img class="pixels" src=${src} alt=${typeof alt === "function" ? alt(i) : `${alt} ${i + 1}`} width=${size} height=${size} />`;
  return html`<div class="strip" role=${label ? "group" : undefined} aria-label=${label}>${items.map((src, i) => html`<span class="tile" key=${i}>
    ${onPick ? html`<button type="button" class="plain picture" aria-pressed=${picked === undefined ? undefined
      : picked === i} onClick=${() => onPick(i)}>${picture(src, i)}</button>` : picture(src, i)}
    ${captions && html`<small>${captions[i]}</small>`}</span>`)}</div>`;
}

/** A small table of records (objects by name) or of values. */
export function Records({ items, caption, most = 20 }) {
  const names = useMemo(() => [...new Set(items.flatMap(item => (item && typeof item === "object" ? Object.keys(item) : [])))], [items]);
  const [shown, show] = useState(most);
  return html`<div class="scroll short" tabindex="0" role="region" aria-label=${caption}><table><caption class="hidden">${caption}</caption>
    <thead><tr><th scope="col">item</th>${names.length ? names.map(name => html`<th scope="col">${name}</th>`) : html`<th scope="col">value</th>`}</tr></thead>
    <tbody>${items.slice(0, shown).map((item, i) => html`<tr key=${i}><th scope=row>${i}</th>
      ${names.length ? names.map(name => html`<td class=${typeof item?.[name] === "number" ? "number" : ""}>${brief(item?.[name])}</td>`)
        : html`<td>${JSON.stringify(item)}</td>`}</tr>`)}</tbody>
  </table></div>${items.length > shown && html`<button type="button" onClick=${() => show(items.length)}>Show all ${items.length}</button>`}`;
}
