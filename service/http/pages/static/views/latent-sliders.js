// Sliders for the numbers of a latent, and traversals: images along each of them.
import { html, useEffect, useMemo, useRef, useState } from "../lib/preact.js";
import { decodePictures, scaleOf } from "../lib/latents.js";
import { useLive } from "../lib/live.js";
import { brief } from "../lib/numbers.js";
import { drawGrid } from "../lib/pictures.js";
import { Failure, Slider } from "../lib/ui.js";

const FIRST = 8, STEPS = 8, REACH = 2.5;  // sliders shown at first; images of a traversal, and standard deviations to either side

/** A number with two decimals; not as -0.00. */
const fixed = value => (Math.round(100 * value) / 100 + 0).toFixed(2);

/** One slider for each number of the latent `z`, the most active first. */
export function Sliders({ space, points, z, set, shown, setShown }) {
  const { mean, spread, active } = scaleOf(space, points);
  const reach = j => Math.max(points && !space.normal ? 0.1 : 3, 3.5 * spread[j]);
  return html`<div class="latent-sliders" role="group" aria-label="Numbers of the latent">
    ${active.slice(0, shown).map(j => html`<${Slider} key=${j} label=${html`<span
      title=${points ? `Standard deviation over the test items: ${brief(spread[j], 3)}` : undefined}>z${j + 1}</span>`}
      value=${z[j]} min=${mean[j] - reach(j)} max=${mean[j] + reach(j)} format=${value => fixed(value)}
        set=${value => set(z.map((old, i) => (i === j ? value : old)))} />`)}
    ${active.length > FIRST && html`<p>
      ${shown < active.length && html`<button type="button" onClick=${() => setShown(shown + 2 * FIRST)}>Show more (${shown} of ${active.length})</button>`}
      ${shown > FIRST && html` <button type="button" onClick=${() => setShown(FIRST)}>Show fewer</button>`}</p>`}
    ${points && space.size > 2 && html`<p class="quiet">The most active number is first: the one whose mean, as the encoder computes it, varies most
      over the test items (largest standard deviation). Numbers that hardly vary carry no information.</p>`}
  </div>`;
}

/** For each of the most active numbers, the images along it from -2.5 to 2.5 standard deviations, with the others as in `z`. A click takes the latent of an image. */
export function Traversals({ model, space, points, z, fields, shown, take }) {
  const { mean, spread, active } = scaleOf(space, points), lines = active.slice(0, shown);
  const [pictures, setPictures] = useState(null);
  const value = (j, i) => mean[j] + (REACH * (2 * i / (STEPS - 1) - 1)) * spread[j];
  const along = (j, i) => z.map((old, k) => (k === j ? value(j, i) : old));
  const live = useLive((latents, signal) => decodePictures(model, space, latents, fields, { signal }), setPictures);
  useEffect(() => {
    const timer = setTimeout(() => live.ask(lines.flatMap(j => [...Array(STEPS).keys()].map(i => along(j, i)))), 150);
    return () => clearTimeout(timer);
  }, [z, shown, JSON.stringify(fields)]);
  const part = place => {
    const [n, ...shape] = pictures.shape, length = pictures.data.length / n * STEPS;
    return { shape: [STEPS, ...shape], data: pictures.data.subarray(place * length, (place + 1) * length) };
  };
  const parts = useMemo(() => pictures && lines.slice(0, pictures.shape[0] / STEPS).map((_, place) => part(place)), [pictures]);
  return html`<section class="latent-traversals" aria-label="Traversals"><h2>One number at a time</h2>
    <p>Each line changes one number from −2.5 to 2.5 standard deviations and keeps the others. Click an image to go there.</p>
    ${live.error && html`<${Failure} error=${live.error} retry=${live.retry} />`}
    ${pictures && html`<div>${lines.slice(0, parts.length).map((j, place) => html`<${Strip} key=${j} name=${`z${j + 1}`}
      pictures=${parts[place]} label=${`Images along z${j + 1}`}
      titles=${i => `z${j + 1} = ${fixed(value(j, i))}`} take=${i => take(along(j, i))} />`)}</div>`}
  </section>`;
}

/** Images side by side on a canvas. take(i) is called for a click on image i. */
export function Strip({ name, pictures, label, take, titles, current }) {
  const canvas = useRef(null), n = pictures.shape[0];
  useEffect(() => drawGrid(canvas.current, pictures, n, 1), [pictures]);
  const index = event => { const box = canvas.current.getBoundingClientRect();
    return Math.min(n - 1, Math.max(0, Math.floor((event.clientX - box.left) / box.width * n))); };
  const width = Math.min(64, Math.max(28, pictures.shape[3]) * (n > 9 ? 1.7 : 2));
  return html`<div class="latent-strip">${name && html`<span>${name}</span>`}<div style=${{ maxWidth: `${n * width}px` }}>
    <canvas ref=${canvas} class="pixels" role="img" aria-label=${label} onClick=${event => take(index(event))}
      onPointerMove=${event => { canvas.current.title = titles(index(event)); }}></canvas>
    ${current !== undefined && html`<i style=${{ left: `${(100 * (current + 0.5)) / n}%` }} aria-hidden="true"></i>`}</div></div>`;
}

/** The number of sliders and traversals that are shown. */
export const useShown = size => useState(Math.min(size, FIRST));
