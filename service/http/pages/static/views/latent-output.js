// What a latent decodes to, shown large, and the condition that decoding needs.
import { html, useEffect, useRef, useState } from "../lib/preact.js";
import { change, useAddress } from "../lib/address.js";
import { decodeOne } from "../lib/latents.js";
import { Rate, useLive } from "../lib/live.js";
import { hasNoClass, makesPictures, nouns, pictureType } from "../lib/models.js";
import { brief } from "../lib/numbers.js";
import { drawGrid } from "../lib/pictures.js";
import { Busy, Failure, Field, Select } from "../lib/ui.js";

/** The decoded item of a latent, which follows it. `label` says what it is. */
export function Output({ model, space, latent, fields, size = 280, label = "Decoded" }) {
  const canvas = useRef(null), [outputs, set] = useState(null), single = makesPictures(model) && !model.items;
  const live = useLive((input, signal) => decodeOne(model, space, input.latent, input.fields, { signal }), ({ pictures, outputs: made }) => {
    if (pictures && canvas.current) drawGrid(canvas.current, pictures, 1);
    if (made) set(made);
  });
  useEffect(() => { if (latent) live.ask({ latent, fields }); }, [latent, JSON.stringify(fields)]);
  return html`<div class="latent-output">
    ${single ? html`<canvas ref=${canvas} class="pixels" role="img" aria-label=${label} style=${{ width: `${size}px` }}></canvas>`
      : outputs?.map(each => html`<${Item} key=${each.name} ...${each} size=${size} label=${each.name || label} />`)}
    <p class="caption"><span>${label}</span> <${Rate} live=${live} noun=${nouns(model).many} /></p>
    ${live.error ? html`<${Failure} error=${live.error} retry=${live.retry} />` : live.slow && html`<${Busy} task=${live} text="Decoding…" />`}
  </div>`;
}

/** One output: a picture in base64, a record with a value for each column, or any other value as text. */
function Item({ data, value, size, label }) {
  if (pictureType(data)) return html`<img class="pixels" src=${`data:${pictureType(data)};base64,${value}`} alt=${label} width=${size} />`;
  const cells = value && typeof value === "object" && !Array.isArray(value) ? Object.entries(value) : [["value", JSON.stringify(value)]];
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${label}><table><caption class="hidden">${label}</caption>
    <thead><tr><th scope="col">Column</th><th scope="col" class="number">Value</th></tr></thead>
    <tbody>${cells.map(([name, cell]) => html`<tr key=${name}><th scope=row>${name}</th><td class="number">${brief(cell)}</td></tr>`)}</tbody>
  </table></div>`;
}

/**
 * Return {fields, controls, wrong} of the conditions that a model needs to encode and decode, from the address. The condition called `condition`
 * is the parameter `class`, others have their own name. `wrong` is a sentence about an invalid value.
 */
export function useConditions(model, space) {
  const params = useAddress(), conditions = {}, controls = [];
  let wrong = null;
  if (space.form === "codes") return { fields: {}, controls: null, wrong };  // a class belongs to the prior of codes, not to their decoder
  for (const [name, { kind, names = [], optional }] of Object.entries(model.conditioned ?? {})) {
    const param = name === "condition" ? "class" : `c-${name}`, given = params[param] ?? "";
    const set = value => change({ [param]: value }, { replace: true }), title = name === "condition" ? null : name;
    if (kind === "classes") {
      const choices = [...names, ...(optional || (name === "condition" && hasNoClass(model)) ? ["none"] : [])], usual = choices.includes("none") ? "none" : choices[0];
      if (given && !choices.includes(given)) {
        wrong = `The address has the class “${given}”, which ${model.name} does not have. “${usual}” is used. Choose another one.`;
      }
      const chosen = choices.includes(given) ? given : usual;
      conditions[name] = { class: chosen };
      controls.push(html`<${Field} label=${title ?? "Class"} key=${name}><${Select} value=${chosen} set=${set} options=${choices} /><//>`);
    } else if (kind === "values") {
      const numbers = given.split(",").map(Number), values = names.map((_, i) => (Number.isFinite(numbers[i]) ? numbers[i] : 0));
      conditions[name] = { values };
      names.forEach((each, i) => controls.push(html`<${Field} label=${each} key=${each}><input type="number" step="any" value=${values[i]}
        onChange=${event => set(values.map((value, j) => (i === j ? Number(event.target.value) || 0 : value)).join())} /><//>`));
    } else if (kind === "text") {
      if (given) conditions[name] = { texts: [given] };
      controls.push(html`<${Field} label=${title ?? "Text"} key=${name}><input value=${given} onChange=${event => set(event.target.value)} /><//>`);
    } else wrong = `${model.name} needs the condition “${name}”, which this view does not offer. Use POST /sample of the API.`;
  }
  return { fields: Object.keys(conditions).length ? { conditions } : {}, controls: controls.length ? controls : null, wrong };
}
