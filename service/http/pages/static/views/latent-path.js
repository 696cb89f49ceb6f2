// A path between two latents A and B: its images as a strip, and one of them large, which a slider chooses.
import { html, useEffect, useMemo, useRef, useState } from "../lib/preact.js";
import { between, decodePictures } from "../lib/latents.js";
import { useLive } from "../lib/live.js";
import { makesPictures, nouns } from "../lib/models.js";
import { drawGrid } from "../lib/pictures.js";
import { Choice, Failure, Slider } from "../lib/ui.js";
import { Output } from "./latent-output.js";
import { Strip } from "./latent-sliders.js";

const FRAMES = 41, EVERY = 4, SECONDS = 3;  // images of a path; every fourth is in the strip; duration of one way

const METHODS = [["lerp", "straight line"], ["slerp", "arc (slerp)"]];

/** Return the latents of a path, or none if an end is missing. */
export const pathOf = ([a, b], method) => (a && b ? [...Array(FRAMES).keys()].map(i => between(a, b, i / (FRAMES - 1), method)) : []);

/** The path, the place on it, and its controls. `frame` is a place from 0 to 40, which setFrame changes. */
export function Path({ model, space, fields, path, method, setMethod, frame, setFrame, clear }) {
  const canvas = useRef(null), [pictures, set] = useState(null), [playing, play] = useState(false);
  const pixels = makesPictures(model), noun = nouns(model);
  const live = useLive((latents, signal) => decodePictures(model, space, latents, fields, { signal }), set);
  useEffect(() => { if (pixels) live.ask(path); }, [path, JSON.stringify(fields)]);
  const some = (start, count, step = 1) => {
    const [n, ...shape] = pictures.shape, length = pictures.data.length / n, data = new Uint8ClampedArray(count * length);
    for (let i = 0; i < count; i++) data.set(pictures.data.subarray((start + i * step) * length, (start + i * step + 1) * length), i * length);
    return { shape: [count, ...shape], data };
  };
  const strip = useMemo(() => pictures && some(0, Math.ceil(FRAMES / EVERY), EVERY), [pictures]);
  useEffect(() => { if (pictures && canvas.current) drawGrid(canvas.current, some(frame, 1), 1); }, [pictures, frame]);
  useEffect(() => {
    if (!playing) return undefined;
    const start = performance.now() - (frame / (FRAMES - 1)) * SECONDS * 1000;
    let next = requestAnimationFrame(function step(now) {
      const way = ((now - start) / (SECONDS * 1000)) % 2, place = Math.round((way > 1 ? 2 - way : way) * (FRAMES - 1));
      setFrame(Math.max(0, Math.min(FRAMES - 1, place)));
      next = requestAnimationFrame(step);
    });
    return () => cancelAnimationFrame(next);
  }, [playing]);
  const label = `${Math.round((100 * frame) / (FRAMES - 1))}% of the way from A to B`;
  return html`<section class="latent-path" aria-label="Path from A to B"><h2>The path from A to B</h2>
    ${live.error && html`<${Failure} error=${live.error} retry=${live.retry} />`}
    ${pictures && html`<${Strip} pictures=${strip}
      label=${`Path from A to B in ${Math.ceil(FRAMES / EVERY)} ${noun.many}`} current=${frame / EVERY}
      titles=${i => `${i * 10}% of the way`} take=${i => { play(false); setFrame(i * EVERY); }} />`}
    <div class=${pixels ? "latent-scrub" : "latent-scrub wide"}>
      ${pixels ? html`<canvas ref=${canvas} class="pixels" role="img" aria-label=${label}></canvas>` : html`<${Output} model=${model} space=${space}
        latent=${path[frame]} fields=${fields} label=${label} />`}
      <div>
        <${Slider} label="Place" min="0" max=${FRAMES - 1} step="1" value=${frame} set=${value => { play(false); setFrame(value); }}
          format=${value => `${Math.round((100 * value) / (FRAMES - 1))}%`} />
        <div class="controls"><button type="button" aria-pressed=${playing} onClick=${() => play(!playing)}>${playing ? "Pause" : "Play"}</button>
          <${Choice} label="Kind of path" value=${method} set=${setMethod} options=${METHODS} /> <button type="button" class="plain"
            onClick=${clear}>Remove A and B</button></div>
      </div>
    </div>
  </section>`;
}
