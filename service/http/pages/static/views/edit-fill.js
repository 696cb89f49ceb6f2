// Filling in a part of a picture: a mask that one paints, and several fills side by side.
import { html, useEffect, useMemo, useRef, useState } from "../lib/preact.js";
import { useAddress, change, useParam } from "../lib/address.js";
import { postJson } from "../lib/api.js";
import { NO_CLASS, NumberFields, classesOf, conditionFields, useNumbers } from "../lib/conditions.js";
import { MaskArea, PRESETS, presetMask } from "../lib/draw.js";
import { asSeen, fittedNotes } from "../lib/items.js";
import { outputsOf } from "../lib/made.js";
import { inputsOf, nouns } from "../lib/models.js";
import { randomSeed, readSeed } from "../lib/numbers.js";
import { Failure, Field, NumberInput, Progress, Select, save } from "../lib/ui.js";
import { base64, blobOf } from "../lib/files.js";
import { useTask } from "../lib/tasks.js";

const FIRST = "lower";  // the mask at first
const CANDIDATES = 4;  // by default: fewer than the service's default, because several fills are drawn

/** Return a painted mask as a text for the address, in base64 without padding. */
function writeMask(mask) {
  const bytes = new Uint8Array(Math.ceil(mask.length / 8));
  mask.forEach((bit, i) => { bytes[i >> 3] |= bit << (i & 7); });
  return `~${btoa(String.fromCharCode(...bytes)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "")}`;
}

/** Return the mask of a text: the name of a preset, or a painted mask; null if it is none of this size. */
function readMask(text, width, height) {
  if (PRESETS.some(([name]) => name === text)) return presetMask(text, width, height);
  if (!/^~[\w-]+$/.test(text)) return null;
  let bytes;
  try { bytes = atob(text.slice(1).replace(/-/g, "+").replace(/_/g, "/")); } catch { return null; }  // a part of the text is missing
  return bytes.length === Math.ceil((width * height) / 8) ? Uint8Array.from({ length: width * height }, (_, i) => (bytes.charCodeAt(i >> 3) >> (i & 7)) & 1) : null;
}

/** Return a mask as a PNG in base64: white where the item is known. */
function maskFile(mask, width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height }), context = canvas.getContext("2d"), image = context.createImageData(width, height);
  mask.forEach((unknown, i) => image.data.set([...Array(3).fill(unknown ? 0 : 255), 255], 4 * i));
  context.putImageData(image, 0, 0);
  return base64(canvas.toDataURL());
}

export function FillIn({ model, facts, chosen, given }) {
  const { width, height } = model.data, params = useAddress(), [maskText] = useParam("mask", FIRST), [painted, setPainted] = useState(null), timer = useRef(0);
  const stored = useMemo(() => readMask(maskText, width, height), [maskText, width, height]), mask = painted ?? stored;
  useEffect(() => { setPainted(null); clearTimeout(timer.current); }, [maskText]);
  useEffect(() => () => clearTimeout(timer.current), []);
  const paint = next => {
    setPainted(next);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => change({ mask: writeMask(next), filled: null }, { replace: true }), 300);
  };
  const [seedText, setSeed] = useParam("seed", "1"), [nText, setN] = useParam("n", "4"), [fillClass, setFillClass] = useParam("fillclass", ""),
    [options, setOptions] = useNumbers("options");
  const seed = readSeed(seedText), n = /^\d+$/.test(nText) && Number(nText) >= 1 && Number(nText) <= 16 ? Number(nText) : null;
  const inputs = inputsOf(model, "impute"), classes = facts.impute.has("condition") ? classesOf(model)?.filter(each => each !== NO_CLASS) : null,
    ordered = facts.impute.has("uniform"), heated = ["temperature", "latent"].some(source => facts.impute.has(source));
  const task = useTask(), [fills, setFills] = useState(null), [seen, setSeen] = useState(null), { content, item } = chosen;
  const known = !fillClass || classes?.includes(fillClass), unknown = mask?.some(Boolean);
  useEffect(() => {
    let current = true;
    if (item?.src) asSeen(item.src, model.data, needsFit(item, chosen)).then(src => current && setSeen({ src, item }));
    return () => { current = false; };
  }, [item?.src]);

  const run = async () => {
    change({ mask: painted ? writeMask(painted) : maskText === FIRST ? null : maskText, filled: "1" }, { replace: true });
    setFills([]);
    await task.run(async signal => {
      const numbers = Object.fromEntries(inputs.filter(input => options[input.name] !== undefined).map(input => [input.name, options[input.name]]));
      for (let i = 0; i < n; i++) {
        const made = await postJson("impute", {
          model: model.name, version: model.version, [nouns(model).many]: [content], masks: [maskFile(mask, width, height)], seed, first: i,
            ...conditionFields(model, fillClass || null, given),
          ...(ordered && { candidates: options.candidates ?? CANDIDATES }), ...(options.temperature !== undefined && { temperature: options.temperature }),
            ...(Object.keys(numbers).length && { inputs: numbers }),
        }, { signal });
        if (i === 0 && item.file && made.fitted?.[0]) setSeen({ src: await asSeen(item.src, model.data, made.fitted[0]), item, fitted: made.fitted[0] });
        setFills(before => [...(before ?? []), { src: outputsOf(model, made)[0].items[0], found: made.classes?.[0], index: i, seed }]);
      }
      return true;
    });
  };
  const usable = content && mask && unknown && seed !== null && n && known;
  const started = useRef(false), last = useRef();
  useEffect(() => { if (!started.current && usable && params.filled === "1") { started.current = true; run(); } }, [Boolean(usable)]);
  useEffect(() => {  // fills of another item are removed
    if (last.current !== undefined && content !== last.current) { task.clear(); setFills(null); }
    if (content !== undefined) last.current = content;
  }, [content]);
  const number = (name, text, low, high) => {
    const value = Number(text);
    setOptions({ ...options, [name]: text === "" || !Number.isFinite(value) ? undefined : Math.min(high, Math.max(low, value)) });
  };
  return html`<section aria-labelledby="fill" class="edit-section"><h2 id="fill">Fill in a part</h2>
    <p>Mark the part that the model should fill in. The rest stays as it is.</p>
    ${!stored && html`<p class="failure" role="alert">The address has the mask “${maskText.slice(0,
      20)}”, which does not fit this model. Choose one of the buttons, or paint.</p>`}
    <div class="fill">
      <div>
        <div class="choice" role="group" aria-label="Masks">${PRESETS.map(([name, title]) => html`<button type="button" aria-pressed=${!painted && maskText === name}
          onClick=${() => { clearTimeout(timer.current); setPainted(null); change({ mask: name === FIRST ? null : name, filled: null }); }}>${title}</button>`)}</div>
        ${seen && html`<${MaskArea} src=${seen.src} width=${width} height=${height} mask=${mask ?? presetMask("none", width, height)} onMask=${paint}
          label="Mask: mark what is filled in" />`}
        ${seen?.fitted && fittedNotes(seen.fitted, item)?.map(note => html`<p class="note">${note}</p>`)}
      </div>
      <div>
        <div class="controls">
          <${Field} label="Fills"><${NumberInput} min="1" max="16" value=${nText} set=${each => setN(each)} /><//>
          <${Field} label="Seed"><input inputmode="numeric" value=${seedText} onChange=${event => setSeed(event.target.value.trim())} /><//>
          <button type="button" onClick=${() => setSeed(String(randomSeed()))}>New seed</button>
          ${classes && html`<${Field} label="Class"><${Select} value=${fillClass} set=${setFillClass} options=${[["", "any"], ...classes]} /><//>`}
          ${ordered && html`<${Field} label="Candidates"><${NumberInput} min="1" max="64"
            title="Completions drawn for each fill. One is chosen by how well it explains the known pixels: more take longer and fit better."
              value=${options.candidates ?? CANDIDATES} set=${text => number("candidates", String(Math.round(Number(text)) || ""), 1, 64)} /><//>`}
          <${NumberFields} inputs=${inputs} values=${options} set=${setOptions} />
          ${heated && html`<${Field} label="Temperature"><${NumberInput} step="any" min="0.01" max="100" title="Below 1: more typical; above 1: more varied."
            value=${options.temperature ?? 1} set=${text => number("temperature", text, 0.01, 100)} /><//>`}
          <button type="button" class="main" disabled=${!usable || task.running} onClick=${run}>Fill in</button>
        </div>
        ${seed === null && html`<p class="failure" role="alert">A seed is a whole number from 0 to 9223372036854775807. Enter one, or press “New seed”.</p>`}
        ${!n && html`<p class="failure" role="alert">“${nText}” fills are not possible. Enter a whole number from 1 to 16.</p>`}
        ${!known && html`<p class="failure" role="alert">This model has no class “${fillClass}”. Choose one from the list.</p>`}
        ${mask && !unknown && html`<p class="note">Nothing is marked. Paint on the picture, or choose one of the buttons.</p>`}
        ${task.error ? html`<${Failure} error=${task.error} retry=${run} />` : html`<${Progress} task=${task}
          text=${`Fill ${Math.min(n ?? 1, (fills?.length ?? 0) + 1)} of ${n}…`} />`}
        ${fills?.length > 0 && html`<div class="fills" aria-live="polite">${fills.map(fill => html`<figure class="shown" key=${fill.index}><img class="pixels"
          src=${fill.src} alt=${`Fill ${fill.index + 1}`} width="126" />
          <figcaption><small>seed ${String(fill.seed)}, index ${fill.index}${fill.found !== undefined ? `, class ${fill.found}` : ""}</small>
            <span><button type="button" class="plain" onClick=${() => chosen.setOwn({ src: fill.src, content: base64(fill.src), name: "Filled in", exact: true },
              true)}>Use as input</button><button type="button" class="plain"
                onClick=${async () => save(blobOf(fill.src),
                  `${model.name}-fill-${fill.seed}-${fill.index}.png`)}>Save</button></span></figcaption></figure>`)}</div>`}
      </div>
    </div>
  </section>`;
}

/** Return steps like those of the service for a file that is shown before it is sent; null for items of the model's size. */
const needsFit = (item, { spec }) => (item.file && spec?.from === "own" ? { steps: ["scaled"] } : null);
