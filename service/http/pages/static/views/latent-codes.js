// A latent of codes: a grid of whole numbers, each of which names an entry of the model's codebook.
import { html, useEffect, useMemo, useRef, useState } from "../lib/preact.js";
import { change, useAddress } from "../lib/address.js";
import { decodePictures, drawLatent, readVector } from "../lib/latents.js";
import { makesPictures, nouns } from "../lib/models.js";
import { randomSeed, readSeed } from "../lib/numbers.js";
import { drawPicture } from "../lib/pictures.js";
import { Failure, Field, NumberInput, Progress } from "../lib/ui.js";
import { Downloads } from "./latent-encoded.js";
import { useEncoded, useItems } from "./latent-items.js";
import { Output } from "./latent-output.js";
import { useLoaded } from "../lib/tasks.js";

const TILES = 256;  // codes of the codebook that are decoded at once

/** Codes of shape [h, w]: a click on a cell changes its code, and the item is decoded at once. */
export function Codes({ model, space }) {
  const params = useAddress(), { items, source } = useItems(model, { single: true }), [result, encoding] = useEncoded(model, space, items, {});
  const { shape, levels, size } = space, columns = shape.at(-1), [cell, setCell] = useState(Math.floor(size / 2));
  const given = params.codes ? readVector(params.codes.replaceAll("-", ","), size) : null;
  const valid = given?.every(code => Number.isInteger(code) && code >= 0 && code < levels) ? given : null, wrong = params.codes && !valid;
  const seedText = params.seed ?? "0", seed = readSeed(seedText);
  const [drawn, drawing] = useLoaded(async signal => (seed === null ? null : (await drawLatent(model, space, seed, {}, { signal })).flat(Infinity)), [seedText]);
  const encoded = result?.codes[0].flat(Infinity), codes = valid ?? (items.length ? encoded : null) ?? drawn;
  const latent = useMemo(() => codes && nested(codes, shape), [codes?.join()]);
  const set = code => change({ codes: codes.map((old, i) => (i === cell ? code : old)).join("-") }, { replace: Boolean(valid) });
  const random = text => change({ codes: null, item: null, seed: text });
  useEffect(() => { if (items.length && params.codes && encoded && fresh.current !== items[0]) change({ codes: null }, { replace: true });
    fresh.current = items[0]; }, [encoded]);
  const fresh = useRef(items[0]), move = event => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key], next = cell + step;
    if (!step || next < 0 || next >= size) return;
    event.preventDefault();
    setCell(next);
    event.currentTarget.children[next].focus();
  };
  const noun = nouns(model).one, bits = Math.log2(levels), { height, width, channels } = model.data;
  return html`<p>Click a cell of the grid, then choose another code for it: the ${noun} is decoded again from the codes.</p>
    ${wrong && html`<p class="note" role="alert">“codes” in the address is not a list of ${size} whole numbers from 0 to ${levels - 1}. It is not used;
      change a code to set it.</p>`}
    ${seed === null && html`<p class="note" role="alert">The seed “${seedText}” is not a whole number from 0 to 2^63 − 1. Enter another one.</p>`}
    <div class="controls">
      <${Field} label="Codes drawn from the prior: seed"><input inputmode="numeric" value=${seedText} onChange=${event => random(event.target.value.trim())} /><//>
      <button type="button" onClick=${() => random(randomSeed())}>Random</button>
      ${valid && html`<button type="button" onClick=${() => change({ codes: null })}>Undo all changes</button>`}
    </div>
    ${drawing.error ? html`<${Failure} error=${drawing.error} retry=${drawing.retry} />` : !codes && html`<${Progress} task=${drawing} text="Drawing codes…" />`}
    ${codes && html`<div class="latent-main">
      <div><div class="latent-codes" role="group" aria-label="Codes" style=${{ gridTemplateColumns: `repeat(${columns}, minmax(0, 1fr))` }} onKeyDown=${move}>
        ${codes.map((code, i) => html`<button type="button" key=${i} aria-pressed=${i === cell} tabindex=${i === cell ? 0 : -1}
          aria-label=${`Line ${Math.floor(i / columns) + 1}, column ${(i % columns) + 1}: code ${code}`}
          style=${{ background: hue(code, levels) }} onClick=${() => setCell(i)}>${code}</button>`)}
      </div>
      <p class="quiet">${size} codes of ${bits % 1 ? bits.toFixed(1) : bits} bits are ${Math.round(size * bits)} bits${height ? `;
        the ${noun} has ${(8 * height * width * channels).toLocaleString("en")} bits` : ""}.</p></div>
      <div class="latent-side"><${Output} model=${model} space=${space} latent=${latent} fields=${{}} size=${260} label=${`The ${noun} decoded from these codes`} />
        <div class="controls"><${Field} label=${`Code of line ${Math.floor(cell / columns) + 1}, column ${(cell % columns) + 1}`}>
          <${NumberInput} value=${codes[cell]} min="0" max=${levels - 1} step="1" set=${text => { const code = Math.round(Number(text));
            if (text !== "" && code >= 0 && code < levels) set(code); }} /><//></div>
        <${Codebook} model=${model} space=${space} current=${codes[cell]} choose=${set} />
        <div class="controls"><${Downloads} model=${model} space=${space} result=${{ codes: [latent], items: [{ name: items[0]?.name ?? `seed ${seedText}` }] }} /></div>
      </div>
    </div>`}
    <section><h2>Encode ${/^[aeiou]/.test(noun) ? "an" : "a"} ${noun}</h2><p>Its codes fill the grid.</p>${source}<${Progress}
      task=${encoding} text="Encoding…" /></section>`;
}

/** Return a list as nested lists of a shape. */
const nested = (list, [n, ...rest]) => (rest.length ? [...Array(n).keys()].map(i => nested(list.slice(i * list.length / n, (i + 1) * list.length / n), rest)) : list);

/** A light colour for each code; neighbours in number differ in hue. */
const hue = (code, levels) => `hsl(${(code * 137.508) % 360} 60% ${72 + 12 * ((code * 7) % levels) / levels}%)`;

/** All codes, each drawn as the middle of what a grid of this code alone decodes to. */
function Codebook({ model, space, current, choose }) {
  const [pictures, task] = useLoaded(async signal => {
    if (!makesPictures(model)) return null;
    const all = [];
    for (let from = 0; from < space.levels; from += TILES) {
      const codes = [...Array(Math.min(TILES, space.levels - from)).keys()].map(i => nested(Array(space.size).fill(from + i), space.shape));
      all.push(await decodePictures(model, space, codes, {}, { signal }));
    }
    return all;
  }, [model.name, model.version]);
  if (!pictures) return task.error ? html`<${Failure} error=${task.error} retry=${task.retry} />` : null;
  return html`<details open><summary>Codebook of ${space.levels} codes</summary>
    <p class="quiet">Each tile shows a grid that has this code only.</p>
    <div class="latent-codebook" role="group" aria-label="Codebook">${[...Array(space.levels).keys()].map(code => html`<${Tile} key=${code} code=${code}
      pictures=${pictures[Math.floor(code / TILES)]} chosen=${code === current} choose=${choose} />`)}</div></details>`;
}

/** One code of the codebook. All can also be chosen by number, so that only the chosen one is a stop of the Tab key. */
function Tile({ code, pictures, chosen, choose }) {
  const canvas = useRef(null), side = 16;
  useEffect(() => {
    const [, , height, width] = pictures.shape;
    Object.assign(canvas.current, { width: Math.min(side, width), height: Math.min(side, height) });
    drawPicture(canvas.current.getContext("2d"), pictures, code % TILES,
      -Math.floor((width - canvas.current.width) / 2), -Math.floor((height - canvas.current.height) / 2));
  }, [pictures]);
  return html`<button type="button" aria-pressed=${chosen} aria-label=${`Code ${code}`} title=${`Code ${code}`} tabindex=${chosen ? 0 : -1}
    onClick=${() => choose(code)}><canvas ref=${canvas} class="pixels" aria-hidden="true"></canvas></button>`;
}
