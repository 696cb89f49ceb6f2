// The marks of the classes in a latent space: each class has a colour and a shape, and a legend that hides and shows it.
import { html, useEffect, useMemo, useState } from "../lib/preact.js";

const COLOURS = 10;  // --class-0 to --class-9 in styles/latent.css
// shapes in a box from -1 to 1; as many as colours, so that a class among the first ten is known by either
const SHAPES = [
  "M1,0A1,1 0 1 1 -1,0A1,1 0 1 1 1,0Z", "M-.88,-.88H.88V.88H-.88Z", "M0,-1.1L1.05,.8H-1.05Z", "M0,-1.25L1.1,0L0,1.25L-1.1,0Z",
  "M-.4,-1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1V-.4H-.4Z",
  "M0,1.1L1.05,-.8H-1.05Z", "M0,-1.3L.4,-.4L1.3,-.35L.6,.25L.8,1.15L0,.65L-.8,1.15L-.6,.25L-1.3,-.35L-.4,-.4Z",
  "M-.6,-1.05L0,-.5L.6,-1.05L1.05,-.6L.5,0L1.05,.6L.6,1.05L0,.5L-.6,1.05L-1.05,.6L-.5,0L-1.05,-.6Z",
  "M.55,-1H-.55L-1.1,0L-.55,1H.55L1.1,0Z", "M-1.2,-.5H1.2V.5H-1.2Z",
];
const shapeOf = label => SHAPES[Math.max(0, label) % SHAPES.length];
const paths = SHAPES.map(shape => new Path2D(shape));

/** The place of a class's colour; items without a class have that of the first one. */
const colourOf = label => Math.max(0, label) % COLOURS;

/** Draw the mark of a class at (x, y) with an edge in the colour `back`. */
export function drawMark(context, label, x, y, radius, colours, back) {
  context.save();
  context.translate(x, y);
  context.scale(radius, radius);
  Object.assign(context, { fillStyle: colours[colourOf(label)], strokeStyle: back, lineWidth: 1.6 / radius, lineJoin: "round" });
  const path = paths[Math.max(0, label) % SHAPES.length];
  context.stroke(path);
  context.fill(path);
  context.restore();
}

/** Draw the name of a class centred at (x, y), on a box that keeps it legible. */
export function drawName(context, name, [x, y], back, text) {
  Object.assign(context, { font: "700 14px system-ui, sans-serif", textAlign: "center", textBaseline: "middle" });
  const width = context.measureText(name).width + 8;
  context.globalAlpha = 0.85;
  context.fillStyle = back;
  context.beginPath();
  context.roundRect(x - width / 2, y - 10, width, 20, 5);
  context.fill();
  context.globalAlpha = 1;
  context.fillStyle = text;
  context.fillText(name, x, y + 0.5);
}

/** Return {colours, back, text}: the colours of the classes, of the background and of text as the page has them, light or dark. */
export function useColours() {
  const [dark, set] = useState(() => matchMedia("(prefers-color-scheme: dark)").matches);
  useEffect(() => {
    const media = matchMedia("(prefers-color-scheme: dark)"), hear = () => set(media.matches);
    media.addEventListener("change", hear);
    return () => media.removeEventListener("change", hear);
  }, []);
  return useMemo(() => {
    const probe = document.body.appendChild(document.createElement("i"));
    const read = name => { probe.style.color = `var(${name})`; return getComputedStyle(probe).color; };
    const found = { colours: [...Array(COLOURS).keys()].map(each => read(`--class-${each}`)), back: read("--panel"), text: read("--text") };
    probe.remove();
    return found;
  }, [dark]);
}

/** The classes of the test items as buttons: a click hides or shows one, a double click shows it alone. */
export function Legend({ labels, nameOf, hidden, set }) {
  const classes = useMemo(() => [...new Set(labels)].filter(each => each >= 0).sort((a, b) => a - b), [labels]);
  if (classes.length < 2) return null;
  const toggle = each => { const next = new Set(hidden); if (!next.delete(each)) next.add(each); set(next); };
  return html`<div class="latent-legend" role="group" aria-label="Classes of the test items">
    ${classes.map(each => html`<button type="button" key=${each} aria-pressed=${!hidden.has(each)} title="Click: hide or show. Double click: show this class alone."
        onClick=${() => toggle(each)} onDblClick=${() => set(new Set(classes.filter(other => other !== each)))}>
      <svg viewBox="-1.5 -1.5 3 3" width="14" height="14" aria-hidden="true" style=${{ color: `var(--class-${colourOf(each)})` }}><path
        d=${shapeOf(each)} fill="currentColor" /></svg> ${nameOf(each)}
    </button>`)}
    ${hidden.size > 0 && html`<button type="button" class="plain" onClick=${() => set(new Set())}>Show all</button>`}
  </div>`;
}
