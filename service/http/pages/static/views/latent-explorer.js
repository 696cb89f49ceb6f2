// One model's latent space of vectors: the plane, what the pointer decodes to, sliders, a path, traversals and encoded items.
import { html, useMemo, useState } from "../lib/preact.js";
import { change, useAddress, useParam } from "../lib/address.js";
import { drawLatent, planeOf, scaleOf, useClassNames, useVector } from "../lib/latents.js";
import { useCalm } from "../lib/live.js";
import { makesPictures, nouns } from "../lib/models.js";
import { randomSeed, readSeed } from "../lib/numbers.js";
import { Choice, Failure, Field } from "../lib/ui.js";
import { Encoded } from "./latent-encoded.js";
import { useEncoded } from "./latent-items.js";
import { Output, useConditions } from "./latent-output.js";
import { Path, pathOf } from "./latent-path.js";
import { Chart } from "./latent-plane.js";
import { Sliders, Traversals, useShown } from "./latent-sliders.js";
import { useLoaded } from "../lib/tasks.js";

/** Clear what determines the latents of both models, and set other parameters instead. */
const startFrom = changes => change({ z: null, z2: null, point: null, seed: null, ...changes });

/**
 * The latent space of a model. `suffix` ends the names of its parameters in the address ("" or "2" for the second model); `shared` has what both
 * models share: {hidden, setHidden, near, setNear, showPlane, showPoints, click}. `items` are to be encoded, and `source` chooses them.
 */
export function Explorer({ model, space, points, suffix = "", shared, items, source, narrow, samePoints }) {
  const params = useAddress(), scale = scaleOf(space, points), plane = useMemo(() => planeOf(space, points), [space, points]);
  const condition = useConditions(model, space), { fields } = condition, [held, hold] = useState(false), nameOf = useClassNames(model);
  const [z, setZ, wrongZ] = useVector(`z${suffix}`, space.size);
  const [a, setA, wrongA] = useVector(`a${suffix}`, space.size), [b, setB, wrongB] = useVector(`b${suffix}`, space.size);
  const [method, setMethod] = useParam(`method${suffix}`, space.method), [frame, setFrame] = useState(0), [shown, setShown] = useShown(space.size), [area,
    setArea] = useState(null);

  const seedText = params.seed ?? (points ? "" : "0"), seed = readSeed(seedText);
  const index = samePoints && /^\d+$/.test(params.point ?? "") ? Number(params.point) : null, picked = points?.means[index] ? index : null;
  const [drawn, drawing] = useLoaded(async signal => (seed === null ? null : drawLatent(model, space, seed, fields, { signal })), [seedText, JSON.stringify(fields)]);
  const start = useMemo(() => (picked !== null ? points.means[picked] : drawn ?? scale.mean), [picked, drawn, points]);
  const current = z ?? start, way = method === "lerp" ? "lerp" : "slerp";
  const [calm, setCalm] = useCalm(current), slide = next => { setCalm(next); setZ(next); };
  const path = useMemo(() => pathOf([a, b], way), [a, b, way]);
  const [encoded, encoding] = useEncoded(model, space, items, fields);

  const setEnd = (i, value, push) => (i ? setB : setA)(value, { push });
  const setEnds = ends => [a, b].forEach((old, i) => { if (ends[i] !== old) setEnd(i, ends[i], false); });
  const clear = () => { setA(null); setB(null); change({ [`a${suffix}`]: null, [`b${suffix}`]: null }); };
  const click = (place, item) => {
    if (shared.click === "item" && points) {
      const release = item === null || (held && item === picked && !z);
      hold(!release);
      if (!release) { setZ(null); startFrom({ point: item, ...classOf(model, points.labels[item], nameOf) }); }
      return;
    }
    const latent = plane.from(place);
    if (!a || b) setA(latent, { push: true, also: { [`b${suffix}`]: null } }); else setB(latent, { push: true });
    setFrame(0);
  };
  const key = name => {
    if (name !== "a" && name !== "b") return false;
    setEnd(Number(name === "b"), current, true);
    return true;
  };
  const marks = [
    ...(encoded && plane ? encoded.mean.map((mean, i) => ({ z: mean, text: String(i + 1) })) : []),
    ...(path.length ? [{ z: path[frame], text: "", role: "dot" }] : []),
  ];
  const go = latent => setZ(latent, { push: true, also: { point: null, seed: null } });
  const random = () => { setZ(null); startFrom({ seed: randomSeed() }); };
  const wrong = [wrongZ && "z", wrongA && "a", wrongB && "b"].filter(Boolean);
  const invalidPoint = params.point !== undefined && samePoints && picked === null;
  const text = picked !== null && !z ? `Test item ${picked + 1}${points.labels[picked] >= 0 ? `, class ${nameOf(points.labels[picked])}` : ""}` : "";
  const notes = [
    condition.wrong, ...wrong.map(name => `“${name}${suffix}” in the address is not a list of ${space.size} numbers for ${model.name}. It is not used;
      move the pointer or a slider to set it.`),
    invalidPoint && `${model.name} has no test item “${params.point}”. Click a point to choose one.`,
    seedText && seed === null && `The seed “${seedText}” is not a whole number from 0 to 2^63 − 1. Enter another one, or choose “Random”.`,
  ].filter(Boolean);

  const hint = a ? "A is set. Set B to see the path." : shared.click === "item" ? "“Set A here” and “Set B here” set the ends of a path."
    : "Click the plane twice to set the ends A and B of a path.";

  const decoded = html`
    ${condition.controls && html`<div class="controls">${condition.controls}</div>`}
    <${Output} model=${model} space=${space} latent=${current} fields=${fields} size=${narrow ? 180 : 260} label=${text || `The decoded ${nouns(model).one}`} />
    <div class="controls">
      ${plane && html`<button type="button" title="Set the start of a path at the pointer (key a)" onClick=${() => setEnd(0, current, true)}>Set A here</button>
        <button type="button" title="Set the end of a path at the pointer (key b)" onClick=${() => setEnd(1, current, true)}>Set B here</button>`}
      <button type="button" title=${points ? "The mean of the test items" : "All numbers 0"} onClick=${() => go([...scale.mean])}>${points ? "Mean" : "Zero"}</button>
      <button type="button" title="A random latent with a new seed" onClick=${random}>Random</button>
      ${z && html`<button type="button" title="Return to where the sliders started" onClick=${() => setZ(null, { push: true })}>Reset</button>`}
    </div>
    ${(!plane || params.seed) && html`<div class="controls"><${Field} label="Seed of the random latent"><input inputmode="numeric" value=${seedText}
      onChange=${event => { setZ(null); startFrom({ seed: event.target.value.trim() }); }} /><//></div>`}
    ${drawing.error && html`<${Failure} error=${drawing.error} retry=${drawing.retry} />`}`;
  const sliders = useMemo(() => html`<${Sliders} space=${space} points=${points} z=${calm} set=${slide} shown=${shown} setShown=${setShown} />
    ${plane && !plane.flat && html`<p class="quiet">The plane shows ${percent(points)} of the variance of the test items: it is their projection on the first two
      principal components. A place on it is decoded from the latent that is projected back, without what the other components add.</p>`}`, [calm, shown, space, points]);
  const traversals = useMemo(() => makesPictures(model) && space.size > 2 && !narrow
    && html`<${Traversals} model=${model} space=${space} points=${points} z=${calm} fields=${fields} shown=${shown} take=${go} />`,
  [calm, shown, space, points, narrow, JSON.stringify(fields)]);

  return html`<div class=${narrow ? "latent-explorer narrow" : "latent-explorer"} data-model=${model.name}>
    ${narrow && html`<h2>${model.name}</h2>`}
    ${notes.map(note => html`<p class="note" role="alert" key=${note}>${note}</p>`)}
    <div class="latent-main">
      ${!plane ? html`<div>${decoded}</div>` : html`<${Chart} model=${model} space=${space} points=${points} plane=${plane} fields=${fields} z=${current}
        onMove=${held ? undefined : next => setZ(next)} onClick=${click} onKey=${key}
        onLeave=${() => hold(false)} ends=${[a, b]} setEnds=${setEnds} path=${path} marks=${marks} picked=${shared.near ?? picked}
          onHover=${samePoints ? shared.setNear : undefined}
        hidden=${shared.hidden} setHidden=${shared.setHidden} area=${area} setArea=${setArea} showPlane=${shared.showPlane ?? plane.flat}
          showPoints=${shared.showPoints} />`}
      <div class="latent-side">${plane ? html`${decoded} ${sliders}` : sliders}</div>
    </div>
    ${path.length > 0 ? html`<${Path} model=${model} space=${space} fields=${fields} path=${path} method=${way} setMethod=${setMethod} frame=${frame}
      setFrame=${setFrame} clear=${clear} />`
      : plane && !narrow && html`<p class="quiet">${hint}</p>`}
    ${traversals}
    ${source}
    ${items.length > 0 && html`<${Encoded} model=${model} space=${space} result=${encoded} task=${encoding} order=${scale.active} take=${go} />`}
  </div>`;
}

/** The share of the variance that the plane shows, in percent. */
const percent = points => `${Math.round(100 * points.projection.explained.reduce((sum, each) => sum + each, 0))}%`;

/** The controls that both models share: what a click does, and what the plane shows. */
export function PlaneControls({ shared, flat, plane, hasPoints, pictures }) {
  if (!plane) return null;
  const shows = shared.showPlane ?? flat;
  return html`
    ${hasPoints && html`<div class="field"><span>A click on the plane</span><${Choice} label="A click on the plane" value=${shared.click}
      set=${shared.setClick} options=${[["path", "Sets A, then B"], ["item", "Takes a test item"]]} /></div>`}
    ${pictures && html`<label class="check"><input type="checkbox" checked=${shows}
      onChange=${event => shared.setShowPlane(event.target.checked)} /> Decoded images</label>`}
    ${hasPoints && html`<label class="check"><input type="checkbox" checked=${shared.showPoints}
      onChange=${event => shared.setShowPoints(event.target.checked)} /> Test items</label>`}`;
}

/** Return the state that two planes share, from the address: {hidden, near, showPlane, showPoints, click} and their setters. */
export function useShared(flat) {
  const [off, setOff] = useParam("off"), [plane, setPlane] = useParam("plane"), [points, setPoints] = useParam("points", "1"), [click,
    setClick] = useParam("click", flat ? "path" : "item"), [near, setNear] = useState(null);
  const hidden = useMemo(() => new Set(off.split(",").filter(text => /^\d+$/.test(text)).map(Number)), [off]);
  return {
    hidden, setHidden: next => setOff([...next].sort((x, y) => x - y).join()), near, setNear, click: click === "item" ? "item" : "path", setClick,
    showPlane: plane === "" ? null : plane !== "0", setShowPlane: on => setPlane(on ? "1" : "0"),
    showPoints: points !== "0", setShowPoints: on => setPoints(on ? "1" : "0"),
  };
}

/** The class of a test item as a parameter of the address, for a model that needs one. */
const classOf = (model, label, nameOf) => (model.conditioned?.condition?.names?.includes(nameOf(label)) && label >= 0 ? { class: nameOf(label) } : {});
