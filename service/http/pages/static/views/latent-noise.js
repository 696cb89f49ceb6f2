// A latent with the shape of an item, such as the noise of a flow: encode an item, look at its latent, and decode it again.
import { html, useEffect, useRef, useState } from "../lib/preact.js";
import { change, useAddress } from "../lib/address.js";
import { decodePictures } from "../lib/latents.js";
import { inputsOf, makesPictures, nouns } from "../lib/models.js";
import { drawGrid } from "../lib/pictures.js";
import { Field, NumberInput, Progress, Select } from "../lib/ui.js";
import { Downloads } from "./latent-encoded.js";
import { useEncoded, useItems } from "./latent-items.js";
import { useConditions } from "./latent-output.js";
import { useTask } from "../lib/tasks.js";

const REACH = 3;  // values of the latent that are drawn black (-3) and white (3)

/** A model that encodes items to arrays. */
export function Noise({ model, space }) {
  const params = useAddress(), { items, source } = useItems(model, { single: true }), condition = useConditions(model, space), noun = nouns(model).one;
  const numbers = [...new Map([...inputsOf(model, "encode"), ...inputsOf(model, "decode")].map(input => [input.name, input])).values()];
  const value = input => { const given = Number(params[input.name] ?? NaN);
    return Number.isFinite(given) && (!input.choices || input.choices.includes(given)) ? given : input.default; };
  const of = task => { const inputs = Object.fromEntries(inputsOf(model, task).map(input => [input.name, value(input)]));
    return Object.keys(inputs).length ? { inputs, ...condition.fields } : condition.fields; };
  const [encoded, task] = useEncoded(model, space, items, of("encode")), decoding = useTask(), [back, setBack] = useState(null);
  const set = (input, text) => change({ [input.name]: text === "" || Number(text) === input.default ? null : text }, { replace: true });
  const bad = numbers.filter(input => params[input.name] !== undefined && String(value(input)) !== params[input.name]);
  useEffect(() => {
    setBack(null);
    if (encoded && makesPictures(model)) decoding.run(signal => decodePictures(model, space, encoded.mean, of("decode"), { signal }), setBack);
  }, [encoded, JSON.stringify(of("decode"))]);
  return html`<p>The latent of this model is noise of the shape ${space.shape.join(" × ")}, one number for each value of the ${noun}:
      too many for sliders. Choose an ${noun} to see the noise that the model makes it from.</p>
    ${condition.wrong && html`<p class="note" role="alert">${condition.wrong}</p>`}
    ${bad.map(input => html`<p class="note" role="alert" key=${input.name}>“${params[input.name]}” is not valid for ${input.name}. ${value(input)} is used;
      choose another value.</p>`)}
    <div class="controls">${condition.controls}
      ${numbers.map(input => html`<${Field} label=${input.name[0].toUpperCase() + input.name.slice(1)} key=${input.name}>${input.choices
        ? html`<${Select} value=${value(input)} options=${input.choices} set=${text => set(input, text)} />`
        : html`<${NumberInput} value=${value(input)} step="any" min=${input.minimum} max=${input.maximum} set=${text => set(input, text)} />`}<//>`)}
    </div>
    ${source}
    <${Progress} task=${task} text="Encoding…" />
    ${encoded && html`<div class="latent-triple">
      <figure>${items[0]?.src ? html`<img class="pixels" src=${items[0].src}
        alt=${items[0].name} width="200" />` : html`<pre>${JSON.stringify(items[0]?.content)}</pre>`}<figcaption>${items[0]?.name}</figcaption></figure>
      <span aria-hidden="true">→</span>
      <figure><${Values} values=${encoded.mean[0]} shape=${space.shape} />
        <figcaption>Its latent, from −3 (black) to 3 (white): ${summary(encoded.mean[0])}</figcaption></figure>
      <span aria-hidden="true">→</span>
      <figure>${back && html`<${Picture} pictures=${back} label="Decoded from the latent" />`}<figcaption>Decoded from the latent</figcaption><${Progress}
        task=${decoding} text="Decoding…" /></figure>
    </div>
    <p class="quiet">More steps follow the model's path from ${noun} to noise and back more exactly.
      The prior is independent noise with mean 0 and standard deviation 1. The latent of a real ${noun} is often
      less noisy: plain areas, such as a background of one colour, keep little of it.</p>
    <${Downloads} model=${model} space=${space} result=${encoded} />`}`;
}

/** The mean and the standard deviation of an array as text. */
function summary(values) {
  const all = values.flat(Infinity), mean = all.reduce((sum, each) => sum + each, 0) / all.length;
  return `mean ${mean.toFixed(2)}, standard deviation ${Math.sqrt(all.reduce((sum, each) => sum + (each - mean) ** 2, 0) / all.length).toFixed(2)}`;
}

/** An array of the shape (C, H, W) as a picture; of another shape, its channels one below the other. */
function Values({ values, shape }) {
  const [height, width] = shape.slice(-2), channels = shape.length === 3 ? shape[0] : 1, all = values.flat(Infinity);
  const bytes = Uint8ClampedArray.from(all, each => 127.5 + (127.5 * each) / REACH);
  const together = channels === 1 || channels === 3 ? [1, channels] : [all.length / (height * width), 1];
  const pictures = { shape: [...together, height, width], data: bytes };
  return html`<${Picture} pictures=${pictures} label="The latent as a picture" />`;
}

function Picture({ pictures, label }) {
  const canvas = useRef(null);
  useEffect(() => drawGrid(canvas.current, pictures, 1), [pictures]);
  return html`<canvas ref=${canvas} class="pixels" role="img" aria-label=${label} style=${{ width: "200px" }}></canvas>`;
}
