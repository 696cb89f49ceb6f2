// The latent of an encoded item: bars of its numbers, the grid of its codes with their bits, or a picture of a latent with the shape of an item.
import { html, useMemo, useState } from "../lib/preact.js";
import { spaceOf } from "../lib/latents.js";
import { brief } from "../lib/numbers.js";
import { Raster } from "./edit-picture.js";

const MOST = 128;  // bars

/** The latents of the response of /encode for one item. */
export function Latent({ model, manifest, encoded }) {
  const space = spaceOf(manifest), parts = encoded.posteriors ? Object.entries(encoded.posteriors) : [["", encoded]];
  if (encoded.codes) return html`<${Codes} codes=${encoded.codes[0]} manifest=${manifest} data=${model.data} />`;
  return parts.map(([name, part]) => {
    const mean = part.mean?.[0], title = name ? `Latent “${name}”` : "Latent";
    if (!mean) return null;
    return Array.isArray(mean[0]?.[0]) ? html`<${ArrayLatent} key=${name} values=${mean} title=${title} />`
      : html`<${VectorLatent} key=${name} mean=${mean.flat()} variance=${part.log_variance?.[0]?.flat()} title=${title} normal=${space.normal} />`;
  });
}

/** Bars of the numbers of a latent, with their standard deviations as lines. */
function VectorLatent({ mean, variance, title, normal }) {
  const shown = mean.slice(0, MOST), spread = variance?.map(value => Math.exp(value / 2)),
    high = Math.max(...shown.map((value, i) => Math.abs(value) + (spread?.[i] ?? 0)), 1);
  const width = 12 * shown.length, y = value => 60 - (54 * value) / high;
  const used = spread?.filter(value => value < 0.9).length, facts = [`${mean.length} number${mean.length > 1 ? "s" : ""}${mean.length > MOST
    ? `, the first ${MOST} are shown` : ""}`, ...(normal && spread
      ? [`${used} of them carry information about this item (standard deviation below 0.9; the prior has 1)`] : [])];
  return html`<h3>${title}</h3><p class="quiet">${facts.join(". ")}. Bars are means${spread ? ", lines are ± one standard deviation"
    : ""}; the scale goes from −${brief(high, 2)} to ${brief(high, 2)}.</p>
    <div class="latent-bars" tabindex="0" role="region" aria-label=${`${title}: bars`}><svg viewBox=${`0 0 ${width} 120`}
      style=${{ width: `min(${Math.max(1.6 * width, 60)}px, 100%)` }} role="img"
        aria-label=${`${title}: ${shown.slice(0, 20).map(value => brief(value, 2)).join(", ")}${mean.length > 20 ? ", …" : ""}`}>
      <line x1="0" x2=${width} y1="60" y2="60" class="axis" />
      ${shown.map((value, i) => html`<g key=${i}><title>${`z${i + 1}: ${brief(value, 3)}${spread ? ` ± ${brief(spread[i], 2)}` : ""}`}</title><rect x=${12 * i} y="0"
        width="12" height="120" fill="transparent" />
        <rect class="value" x=${12 * i + 2} width="8" y=${Math.min(60, y(value))} height=${Math.max(0.8, Math.abs(y(value) - 60))} />
        ${spread && html`<line class="spread" x1=${12 * i + 6} x2=${12 * i + 6} y1=${y(value - spread[i])} y2=${y(value + spread[i])} />`}</g>`)}
    </svg></div>`;
}

/** The grid of codes, and how many bits they have compared with the pixels. */
function Codes({ codes, manifest, data }) {
  const { levels } = manifest.codes ?? { levels: 1 + Math.max(...codes.flat()) }, bits = Math.ceil(Math.log2(levels)), all = codes.flat(),
    [binary, setBinary] = useState(false);
  const raw = data.width ? data.width * data.height * (data.channels ?? 1) * 8 : null, total = all.length * Math.log2(levels), [at, point] = useState(null);
  const write = code => (binary ? code.toString(2).padStart(bits, "0") : code);
  return html`<h3>Codes</h3>
    <p class="quiet">${codes.length} × ${codes[0].length} codes, each one of ${levels} (${brief(Math.log2(levels), 3)} bits): ${brief(total, 4)} bits in all.${raw
      ? ` The input has ${raw} bits (8 for each value), ${brief(raw / total, 2)} times as many.` : ""}</p>
    <label class="check"><input type="checkbox" checked=${binary} onChange=${event => setBinary(event.target.checked)} /> Show codes as bits</label>
    <div class="scroll code-box" tabindex="0" role="region" aria-label="Codes"><table class="code-grid"><caption
      class="hidden">Codes of the item</caption><tbody>${codes.map((line, i) => html`<tr
        key=${i}>${line.map((code, j) => html`<td key=${j} class=${at !== null && code === at ? "same" : ""}
          title=${`Code ${code} = ${code.toString(2).padStart(bits, "0")}, at line ${i + 1}, column ${j + 1}`} onPointerEnter=${() => point(code)}
            onPointerLeave=${() => point(null)}>${write(code)}</td>`)}</tr>`)}</tbody></table></div>
    <p class="quiet"><small>${new Set(all).size} different codes. Point at one to mark its equals.</small></p>`;
}

/** A latent of the shape (C, H, W), as a grey picture of each channel from −3 to 3. */
function ArrayLatent({ values, title }) {
  const pictures = useMemo(() => (values.length === 3 ? [values] : values.map(plane => [plane, plane, plane])).map(planes => {
    const height = planes[0].length, width = planes[0][0].length, image = new ImageData(width, height);
    for (let i = 0; i < width * height; i++) image.data.set([...planes.map(plane => 127.5 + 42.5 * plane[Math.floor(i / width)][i % width]), 255], 4 * i);
    return image;
  }), [values]);
  const flat = values.flat(2), mean = flat.reduce((sum, value) => sum + value, 0) / flat.length,
    deviation = Math.sqrt(flat.reduce((sum, value) => sum + (value - mean) ** 2, 0) / flat.length);
  return html`<h3>${title}</h3><p class="quiet">The noise from which the model makes this item: ${flat.length} numbers, from −3 (${values.length === 3 ? "dark"
    : "black"}) to 3 (${values.length === 3 ? "bright" : "white"}). Mean ${brief(mean, 2)}, standard deviation ${brief(deviation, 2)}; noise has 0 and 1.</p>
    <div class="shown-line">${pictures.map((image, i) => html`<${Raster} key=${i} image=${image} size="168"
      label=${`${title}${pictures.length > 1 ? `, channel ${i + 1}` : ""}`} />`)}</div>`;
}
