// Plots: lines over a common axis, and bars. They fit their box, work in light and dark, and their numbers can be read as text.
import { html, useId, useLayoutEffect, useRef, useState } from "./preact.js";
import { brief } from "./numbers.js";

const DASHES = ["", "6 3", "2 3", "9 3 2 3"];
const colour = i => `var(--series-${i % 6 + 1})`;

/** Return [ref, width in pixels] of an element, which follows its size. */
export function useWidth() {
  const ref = useRef(null), [width, set] = useState(0);
  useLayoutEffect(() => {
    const watch = new ResizeObserver(([entry]) => set(Math.round(entry.contentRect.width)));
    watch.observe(ref.current);
    return () => watch.disconnect();
  }, []);
  return [ref, width];
}

/** Return about `n` round numbers from `low` to `high`; powers of ten and their halves if `log`. */
export function ticks(low, high, n = 5, log = false) {
  if (log) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) for (const digit of [1, 2, 5]) found.push(digit * 10 ** power);
    const within = found.filter(value => value >= low * 0.999 && value <= high * 1.001);
    return within.length > 1 ? within.filter((_, i) => i % Math.ceil(within.length / (2 * n)) === 0) : ticks(low, high, n);
  }
  const rough = (high - low || 1) / n, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(each => each * power).find(each => each >= rough), found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) found.push(Number((i * step).toPrecision(12)));
  return found;
}

/**
 * Lines. `series` are {name, x, y} (missing values are null), `log` makes the vertical axis logarithmic (values that are not positive are left out),
 * `at` draws a vertical line at this x. A list below names the lines with their last values, and a table has all numbers.
 */
export function Lines({ series, title, xTitle, yTitle, log = false, height = 260, at, low: floor, high: ceiling }) {
  const [box, width] = useWidth(), id = useId();
  const usable = y => y !== null && y !== undefined && Number.isFinite(y) && (!log || y > 0);
  const values = series.flatMap(line => line.y.filter(usable)), xs = series.flatMap(line => line.x);
  if (!values.length) return html`<div ref=${box}><p class="note">${log ? "No line has positive values, which a logarithmic axis needs."
    : "Choose at least one line."}</p></div>`;
  let low = floor ?? Math.min(...values), high = ceiling ?? Math.max(...values);
  if (low === high) { low -= Math.abs(low) * 0.1 || 1; high += Math.abs(high) * 0.1 || 1; if (log) low = Math.max(low, high / 100); }
  const [from, to] = [Math.min(...xs), Math.max(...xs)], left = 56, right = 10, top = 8, bottom = 40;
  const scale = value => (log ? Math.log(value) : value);
  const px = x => left + (to === from ? 0.5 : (x - from) / (to - from)) * Math.max(1, width - left - right);
  const py = y => top + (1 - (scale(y) - scale(low)) / (scale(high) - scale(low))) * (height - top - bottom);
  const path = line => {
    let open = false;
    return line.y.map((y, i) => {
      if (!usable(y)) { open = false; return ""; }
      const part = `${open ? "L" : "M"}${px(line.x[i]).toFixed(1)} ${py(y).toFixed(1)}`;
      open = true;
      return part;
    }).join("");
  };
  const last = line => [...line.y].reverse().find(usable);
  return html`<figure class="plot" ref=${box}>
    ${width > 0 && html`<svg width=${width} height=${height} role="img" aria-labelledby=${id}>
      <title id=${id}>${`${title}. ${series.map(line => `${line.name}: ${brief(line.y.find(usable), 3)} at first, ${brief(last(line),
        3)} at the end`).join("; ")}`}</title>
      ${ticks(low, high, 5, log).map(y => html`<g><line class="grid" x1=${left} x2=${width - right} y1=${py(y)} y2=${py(y)} />
        <text x=${left - 6} y=${py(y) + 4} text-anchor="end">${brief(y, 3)}</text></g>`)}
      ${ticks(from, to, width < 500 ? 3 : 6).map(x => html`<g><line class="grid" x1=${px(x)} x2=${px(x)} y1=${top} y2=${height - bottom} />
        <text x=${px(x)} y=${height - bottom + 16} text-anchor="middle">${brief(x)}</text></g>`)}
      <text x=${(left + width - right) / 2} y=${height - 6} text-anchor="middle">${xTitle}</text>
      <text transform=${`translate(12 ${(top + height - bottom) / 2}) rotate(-90)`} text-anchor="middle">${yTitle}</text>
      ${at !== undefined && html`<line class="at" x1=${px(at)} x2=${px(at)} y1=${top} y2=${height - bottom} />`}
      ${series.map((line, i) => html`<path d=${path(line)} fill="none" stroke=${colour(line.place ?? i)} stroke-width="2"
        stroke-dasharray=${DASHES[Math.floor((line.place ?? i) / 6) % 4] || DASHES[(line.place ?? i) % 4]}><title>${line.name}</title></path>`)}
      ${series.map((line, i) => line.y.filter(usable).length === 1 && line.y.map((y, j) => usable(y)
        && html`<circle cx=${px(line.x[j])} cy=${py(y)} r="4" fill=${colour(line.place ?? i)} />`))}
    </svg>`}
    <figcaption><ul class="legend">${series.map((line, i) => html`<li><${Stroke} place=${line.place ?? i} /> ${line.name} <small>${brief(last(line),
      4)} at the end</small></li>`)}</ul></figcaption>
  </figure>`;
}

/** A sample of a line, as it is drawn. */
export const Stroke = ({ place }) => html`<svg width="26" height="8" aria-hidden="true"><line x1="0" x2="26" y1="4" y2="4" stroke=${colour(place)} stroke-width="3"
  stroke-dasharray=${DASHES[Math.floor(place / 6) % 4] || DASHES[place % 4]} /></svg>`;

/** The numbers of lines as a table, which is opened on demand. `xTitle` names the first column. */
export function Numbers({ series, xTitle, caption }) {
  const [open, set] = useState(false);
  const xs = [...new Set(series.flatMap(line => line.x))].sort((a, b) => a - b);
  return html`<details onToggle=${event => set(event.target.open)}><summary>Numbers</summary>
    ${open && html`<div class="scroll short" tabindex="0" role="region" aria-label=${caption}><table><caption class="hidden">${caption}</caption>
      <thead><tr><th scope="col">${xTitle}</th>${series.map(line => html`<th scope="col" class="number">${line.name}</th>`)}</tr></thead>
      <tbody>${xs.map(x => html`<tr><th scope=row>${brief(x)}</th>${series.map(line => html`<td class="number">${brief(line.y[line.x.indexOf(x)],
        5)}</td>`)}</tr>`)}</tbody></table></div>`}
  </details>`;
}

/** Horizontal bars of {name, value, text, mark}: a marked bar has another colour, and its text says why. */
export function Bars({ items, label, high }) {
  const most = high ?? Math.max(...items.map(item => item.value), 1e-9);
  return html`<table class="bars"><caption class="hidden">${label}</caption><tbody>${items.map(item => html`<tr key=${item.name}>
    <th scope=row>${item.name}</th><td><span class=${item.mark ? "bar mark" : "bar"} style=${{ width: `${Math.max(0.5, 100 * item.value / most)}%` }}></span></td>
      <td class="number">${item.text ?? brief(item.value, 3)}</td></tr>`)}</tbody></table>`;
}
