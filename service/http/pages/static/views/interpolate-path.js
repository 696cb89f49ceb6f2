// The frames of a path: scrubbing, playing, the strip of all frames, saving, and the path of records as lines.
import { html, useEffect, useRef, useState } from "../lib/preact.js";
import { useParam } from "../lib/address.js";
import { thereAndBack, writeGif, writeWebp } from "../lib/animation.js";
import { postJson } from "../lib/api.js";
import { outputsOf } from "../lib/made.js";
import { brief } from "../lib/numbers.js";
import { differs } from "../lib/records.js";
import { Choice, Field, NumberInput, Progress, save } from "../lib/ui.js";
import { pixelsOf } from "../lib/files.js";
import { useTask } from "../lib/tasks.js";

export const TITLES = { slerp: "On an arc (slerp)", lerp: "On a line (lerp)" };
const HINTS = {
  slerp: "Spherical interpolation: the length of the latent changes evenly from that of one end to that of the other.",
  lerp: "Linear interpolation: the straight line between the latents, which passes nearer to the origin, where few latents of the prior are.",
};

/** Request a path: the response with `method`, its items by output (`outputs`), and `frames`, the pictures of the first output as ImageData. */
export async function requestPath(model, fields, signal) {
  const answer = await postJson("interpolate", { model: model.name, version: model.version, seed: 0, ...fields }, { signal });
  const outputs = outputsOf(model, answer), frames = outputs[0].picture ? await Promise.all(outputs[0].items.map(src => pixelsOf(src))) : null;
  return { ...answer, method: fields.method, outputs, frames };
}

/** Return the factor that makes small pictures at least 256 pixels wide. */
export const scaleOf = width => Math.max(1, Math.min(8, Math.ceil(512 / width)), Math.ceil(256 / width));

/** The paths by each method, one above the other, with one slider for all. */
export function PathOutput({ model, paths, old, ends }) {
  const n = paths[0].outputs[0].items.length, [text, setAt] = useParam("at", "0");
  const [position, setPosition] = useState(() => clamp(Number(text), n)), [playing, play] = useState(false), [rate, setRate] = useState(12);
  const at = Math.min(position, n - 1), written = useRef(text);
  useEffect(() => { if (text !== written.current) { written.current = text; setPosition(clamp(Number(text), n)); } }, [text]);
  useEffect(() => {  // the address follows a moment later, and not while the frames play
    if (playing) return undefined;
    const timer = setTimeout(() => { written.current = String(at); if (text !== String(at)) setAt(at); }, 300);
    return () => clearTimeout(timer);
  }, [at, playing]);
  useEffect(() => {
    if (!playing) return undefined;
    const order = thereAndBack(n), start = performance.now() - (at * 1000) / rate;
    let request = 0;
    const next = now => {
      setPosition(order[Math.floor(((now - start) * rate) / 1000) % order.length]);
      request = requestAnimationFrame(next);
    };
    request = requestAnimationFrame(next);
    return () => cancelAnimationFrame(request);
  }, [playing, rate, n]);
  const move = value => { play(false); setPosition(value); };
  const name = `${model.name}-${ends.map(end => (end.item?.name ?? end.text).replace(/[^\w-]+/g, "-").toLowerCase()).join("-to-")}`;
  const pictures = paths[0].frames !== null;
  return html`<section aria-label="Path" class=${old ? "interpolate old" : "interpolate"} aria-busy=${old}>
    <div class="interpolate-scrub">
      <button type="button" class="main" aria-pressed=${playing} onClick=${() => play(!playing)}>${playing ? "Pause" : "Play"}</button>
      <label class="slider"><span>Position</span><input type="range" min="0" max=${n - 1} step="1" value=${at} aria-valuetext=${`Step ${at + 1} of ${n}`}
        onInput=${event => move(Number(event.target.value))} /><output>${at + 1} / ${n}</output></label>
      <${Field} label="Frames per second"><${NumberInput} min="1" max="60" value=${rate} set=${each => setRate(Math.min(60, Math.max(1, Number(each) || 12)))} /><//>
    </div>
    ${paths.map(path => html`<${OnePath} key=${path.method} path=${path} at=${at} move=${move} name=${name} rate=${rate}
      webp=${model.data.media_types?.find(type => type.endsWith("/webp"))} />`)}
    ${!pictures && html`<${RecordPath} model=${model} paths=${paths} at=${at} move=${move} />`}
    ${pictures && paths.length > 1 && html`<p class="quiet">${differenceOf(paths)}</p>`}
  </section>`;
}

const clamp = (value, n) => (Number.isInteger(value) ? Math.min(Math.max(0, value), n - 1) : 0);

/** Return where two paths differ most, as a sentence. */
function differenceOf([a, b]) {
  const gaps = a.frames.map((frame, i) => frame.data.reduce((sum, value, k) => sum + Math.abs(value - b.frames[i].data[k]), 0) / (frame.width * frame.height * 3 * 255));
  const most = gaps.indexOf(Math.max(...gaps));
  return gaps[most] < 1e-3 ? "Both paths look the same."
    : `Both paths have the same ends. They differ most at step ${most + 1}: by ${(100 * gaps[most]).toFixed(1)}% of the range of a pixel, on average.`;
}

/** One path of pictures: the frame at the position, all frames, and buttons that save it. Other outputs of the model are listed below. */
function OnePath({ path, at, move, name, rate, webp }) {
  const { frames, outputs, method } = path, canvas = useRef(null), task = useTask(), others = outputs.slice(frames ? 1 : outputs.length);
  useEffect(() => { if (frames) canvas.current.getContext("2d").putImageData(frames[at], 0, 0); }, [frames, at]);
  if (!frames) return null;
  const [{ width, height }] = frames, scale = scaleOf(width), loop = () => thereAndBack(frames.length).map(i => frames[i]), delay = Math.round(1000 / rate);
  const gif = () => task.run(async signal => save(await writeGif(loop(), { scale, delay, signal }), `${name}-${method}.gif`));
  const toWebp = () => task.run(async signal => save(await writeWebp(loop(), { scale, delay, type: webp, signal }), `${name}-${method}.webp`));
  const key = event => {
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: frames.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    move(clamp(Math.max(0, next), frames.length));
  };
  return html`<figure class="interpolate-path">
    <figcaption><h2 title=${HINTS[method]}>${TITLES[method]}</h2><small class="quiet">${HINTS[method]}</small></figcaption>
    <canvas ref=${canvas} class="pixels" width=${width} height=${height} style=${{ width: `${width * scale}px` }} role="img" tabindex="0"
      aria-label=${`Step ${at + 1} of ${frames.length}, ${TITLES[method]}. Arrow keys move along the path.`} onKeyDown=${key}></canvas>
    <div>
      <div class="interpolate-strip" role="group" aria-label=${`All steps, ${TITLES[method]}`}>${outputs[0].items.map((src, i) => html`<button type="button" key=${i}
        tabindex=${i === at ? 0 : -1} aria-pressed=${i === at} aria-label=${`Step ${i + 1}`} onKeyDown=${key} onClick=${() => move(i)}>
        <img class="pixels" src=${src} alt="" width="48" /></button>`)}</div>
      <div class="controls"><button type="button" disabled=${task.running} onClick=${gif}>Save as GIF</button>
        ${webp && html`<button type="button" disabled=${task.running} onClick=${toWebp}>Save as WebP</button>`}
        <small class="quiet">The file goes there and back, ${rate} frames per second, ${width * scale} × ${height * scale} pixels.</small></div>
      <${Progress} task=${task} text="The file is written…" />
      ${others.map(output => html`<p><strong>${output.role}</strong>: ${output.picture ? html`<img class="pixels" src=${output.items[at]} alt=${output.role} width="96"
        />` : JSON.stringify(output.items[at])}</p>`)}
    </div>
  </figure>`;
}

/** The path of records: a line for each step, with bold values where they differ from the step before. */
function RecordPath({ model, paths, at, move }) {
  const [which, choose] = useState(0), [all, setAll] = useState(false), path = paths[Math.min(which, paths.length - 1)];
  const records = path.outputs[0].items, columns = model.data.columns;
  const changing = columns.filter(column => records.some((record, i) => i > 0 && differs(column, record[column.name], records[i - 1][column.name])));
  const shown = all ? columns : changing, current = useRef(null);
  useEffect(() => { const line = current.current, box = line?.closest(".scroll"); if (box) box.scrollTop = Math.max(0, line.offsetTop - box.clientHeight / 2); }, [at]);
  return html`<div class="controls">
      ${paths.length > 1 && html`<${Choice} label="Path" value=${which} set=${choose} options=${paths.map((each, i) => [i, TITLES[each.method]])} />`}
      <label class="check"><input type="checkbox" checked=${all} onChange=${event => setAll(event.target.checked)}
        /> Show the ${columns.length - changing.length} columns that do not change</label>
    </div>
    <p>Bold values with a mark (•) differ from the step before.</p>
    ${!shown.length ? html`<p class="note">No column changes on this path. Choose items that differ more.</p>` : html`<div class="scroll" tabindex="0" role="region"
      aria-label="Steps of the path"><table class="interpolate-steps">
      <caption class="hidden">Steps of the path</caption>
      <thead><tr><th scope="col">step</th>${shown.map(column => html`<th scope="col">${column.name}</th>`)}</tr></thead>
      <tbody>${records.map((record, i) => html`<tr key=${i} ref=${i === at ? current : undefined} class=${i === at ? "now" : ""}
        aria-current=${i === at ? "step" : undefined} onClick=${() => move(i)}>
        <th scope=row>${i + 1}</th>
        ${shown.map(column => { const changed = i > 0 && differs(column, record[column.name], records[i - 1][column.name]); return html`<td
          class=${column.categories ? "" : "number"}>${changed ? html`<strong>• ${brief(record[column.name])}</strong>` : brief(record[column.name])}</td>`; })}
      </tr>`)}</tbody></table></div>`}`;
}
