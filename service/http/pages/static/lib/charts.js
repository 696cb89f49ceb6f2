// A histogram with a threshold, which can be moved with the pointer.
import { html, useId, useRef } from "./preact.js";
import { ticks, useWidth } from "./plots.js";

const LEFT = 48, RIGHT = 12, TOP = 20, BOTTOM = 38;

/**
 * A histogram with a logarithmic axis of counts. `bins` are {from, to, parts: [{band, count}], usual}: parts are stacked, and `usual` is the count to
 * compare with. `marks` are {at, text}, the labels of the horizontal axis; `line` is the threshold, and `set(x)` moves it. `kinds` names the parts by band.
 */
export function Histogram({ bins, marks, line, set, title, xTitle, yTitle, kinds, usual, height = 220 }) {
  const [box, width] = useWidth(), id = useId(), dragged = useRef(false);
  const low = bins[0].from, high = bins.at(-1).to, inner = Math.max(1, width - LEFT - RIGHT), bottom = height - BOTTOM;
  const total = bin => bin.parts.reduce((sum, part) => sum + part.count, 0);
  const most = Math.max(10, ...bins.map(total), ...bins.map(bin => bin.usual ?? 0));
  const px = x => LEFT + (x - low) / (high - low) * inner, py = count => TOP + (1 - Math.log1p(count) / Math.log1p(most)) * (bottom - TOP);
  const at = event => low + Math.min(1, Math.max(0, (event.clientX - event.currentTarget.getBoundingClientRect().left - LEFT) / inner)) * (high - low);
  const drag = set && {
    onPointerDown: event => { dragged.current = true; event.currentTarget.setPointerCapture(event.pointerId); set(at(event)); },
    onPointerMove: event => dragged.current && set(at(event)), onPointerUp: () => { dragged.current = false; }, onPointerCancel: () => { dragged.current = false; },
  };
  const stack = bin => {
    let below = 0;
    return bin.parts.filter(part => part.count).map(part => {
      const top = py(below + part.count), base = py(below);
      below += part.count;
      return html`<rect class=${`band-${part.band}`} x=${px(bin.from) + 0.5} width=${Math.max(1, px(bin.to) - px(bin.from) - 1)} y=${top}
        height=${Math.max(0, base - top)} />`;
    });
  };
  const counts = Object.fromEntries(Object.keys(kinds).map(kind => [kind, bins.reduce((sum, bin) => sum + bin.parts.reduce((all, part) => all + (part.band === kind
    ? part.count : 0), 0), 0)]));
  const known = bins.filter(bin => bin.usual !== undefined);
  return html`<figure class="plot histogram" ref=${box}>
    ${width > 0 && html`<svg width=${width} height=${height} role="img" aria-labelledby=${id} class=${set ? "movable" : ""} ...${drag}>
      <title id=${id}>${`${title}. ${Object.entries(kinds).map(([kind, name]) => `${name}: ${counts[kind]}`).join(", ")}`}</title>
      ${[0, ...ticks(1, most, 2, true)].map(y => html`<g key=${y}><line class="grid" x1=${LEFT} x2=${width - RIGHT} y1=${py(y)} y2=${py(y)} /><text x=${LEFT - 6}
        y=${py(y) + 4} text-anchor="end">${y}</text></g>`)}
      ${bins.map(stack)}
      ${known.length > 0 && html`<path class="usual" fill="none"
        d=${known.map((bin, i) => `${i ? "L" : "M"}${px(bin.from)} ${py(bin.usual)}L${px(bin.to)} ${py(bin.usual)}`).join("")} />`}
      ${marks.map(mark => html`<text x=${px(mark.at)} y=${bottom + 16} text-anchor="middle">${mark.text}</text>`)}
      <text x=${LEFT + inner / 2} y=${height - 4} text-anchor="middle">${xTitle}</text><text x="4" y="12">${yTitle}</text>
      ${line !== null && line >= low && line <= high && html`<line class="at" x1=${px(line)} x2=${px(line)} y1=${TOP - 4} y2=${bottom} />
        <text class="at-text" x=${px(line)} y=${TOP - 8} text-anchor=${px(line) > width - 80 ? "end" : "middle"}>threshold</text>`}
    </svg>`}
    <figcaption><ul class="legend">${Object.entries(kinds).map(([kind, name]) => html`<li><svg width="14" height="14" aria-hidden="true"><rect
      class=${`band-${kind}`} width="14" height="14" rx="2" /></svg> ${name} <small>${counts[kind].toLocaleString("en")}</small></li>`)}
      ${usual && html`<li><svg width="26" height="8" aria-hidden="true"><line class="usual" x1="0" x2="26" y1="4" y2="4" /></svg> ${usual}</li>`}</ul></figcaption>
  </figure>`;
}
