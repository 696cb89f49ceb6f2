// Generated items: pictures with their seed and index, and records in a table. Each opens large.
import { html } from "../lib/preact.js";
import { line } from "../lib/csv.js";
import { nouns, pictureType } from "../lib/models.js";
import { brief } from "../lib/numbers.js";
import { DataTable } from "../lib/ui.js";

/** Return an item of a line of the stream: {index, outputs: [{role, data, picture, value}], chosen} with `chosen`, its class or weights. */
export function itemOf(model, content) {
  const specs = model.items ? Object.entries(model.items) : [["", model.data]];
  const outputs = specs.map(([role, data]) => {
    const values = role ? content.items[role] : content, type = pictureType(data), value = values[nouns({ data }).one] ?? values.data;
    return { role, data, picture: type !== undefined, value: type ? `data:${type};base64,${value}` : value };
  });
  return { index: content.item, outputs, chosen: content.class };
}

/** Return the class of an item as text: a name, or the shares of a mixture. Empty if it has none. */
export function className(chosen) {
  if (chosen === undefined || chosen === null) return "";
  if (typeof chosen !== "object") return String(chosen);
  const shares = Object.entries(chosen).filter(([, share]) => share > 0).sort(([, a], [, b]) => b - a);
  return shares.map(([name, share]) => `${name} ${Math.round(100 * share)}%`).join(" + ");
}

/** Return a seed as a short text. */
export const shortSeed = seed => (String(seed).length > 7 ? `${String(seed).slice(0, 3)}…${String(seed).slice(-3)}` : String(seed));

/** Return the width in which pictures of `data` are shown: a whole multiple of their own width near `target`, if they are smaller. */
export const widthOf = (data, target) => (data.width && data.width <= target ? data.width * Math.max(1, Math.round(target / data.width)) : target);

const target = n => (n === 1 ? 336 : n <= 4 ? 196 : n <= 12 ? 130 : 88);

/** Records have the form {name: value}. */
export const isRecord = value => value !== null && typeof value === "object" && !Array.isArray(value);

/** All items, by output. `open(index)` opens one. */
export function Items({ model, items, seed, n, open }) {
  const { one } = nouns(model), outputs = items[0]?.outputs ?? [], fixed = seed === null || seed === undefined;
  return outputs.map(({ role, data, picture }, place) => html`<section key=${role} aria-label=${role || undefined}>
    ${role && html`<h3>${role}</h3>`}
    ${picture ? html`<ul class=${n === 1 ? "sample-tiles one" : n <= 4 ? "sample-tiles few" : "sample-tiles"}>${items.map(item => {
      const name = className(item.chosen), about = fixed ? `index ${item.index}` : `seed ${seed}, index ${item.index}`;
      return html`<li key=${item.index}><button type="button" class="plain picture" title=${`${about}${name && `, class ${name}`}: open`}
        onClick=${() => open(item.index)}>
        <img class="pixels" src=${item.outputs[place].value} width=${widthOf(data, target(n))}
          alt=${`${role || one} with ${about}${name && `, class ${name}`}`} /></button>
        <small>${fixed ? "" : `${shortSeed(seed)}:`}${item.index}${typeof item.chosen === "string" && html` · <span>${name}</span>`}</small></li>`;
    })}</ul>` : html`<${Records} model=${model} items=${items} place=${place} role=${role} open=${open} />`}
  </section>`);
}

function Records({ model, items, place, role, open }) {
  const { one } = nouns(model), value = item => item.outputs[place].value, record = isRecord(value(items[0]));
  const names = record ? Object.keys(value(items[0])) : [];
  const columns = [
    { name: "index", title: "Index", numeric: true, cell: item => html`<button type="button" class="plain" aria-label=${`Open ${one} ${item.index}`}
      onClick=${() => open(item.index)}>${item.index}</button>` },
    ...(items[0].chosen === undefined ? [] : [{ name: "class", title: "Class", value: item => className(item.chosen) }]),
    ...(record ? names.map(name => ({ name: `column ${name}`, title: name, numeric: typeof value(items[0])[name] === "number",
      value: item => value(item)[name] })) : [{ name: "value", title: "Value", sort: false, cell: item => JSON.stringify(value(item)) }]),
  ];
  return html`<${DataTable} caption=${role || `Generated ${nouns(model).many}`} columns=${columns} rows=${items} keyOf=${item => item.index} />`;
}

/** Return the records of an output as a CSV file. */
export function csvOf(items, place) {
  const value = item => item.outputs[place].value, names = Object.keys(value(items[0]));
  return [line(names), ...items.map(item => line(names.map(name => value(item)[name])))].join("");
}

/** One record, as a list of names and values. */
export function Record({ value, digits = 6 }) {
  if (!isRecord(value)) return html`<p>${JSON.stringify(value)}</p>`;
  return html`<div class="scroll sample-record" tabindex="0" role="region" aria-label="Values"><table>
    ${Object.entries(value).map(([name, each]) => html`<tr><th scope="row">${name}</th><td class=${typeof each === "number" ? "number" : ""}>${brief(each, digits)}</td></tr>`)}
  </table></div>`;
}
