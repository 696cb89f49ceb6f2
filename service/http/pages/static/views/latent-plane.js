// The plane of a latent space: encoded test items by class, what the latents decode to, a pointer, and a path between two points.
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../lib/preact.js";
import { areaOf, decodePictures, loadSpace, planeOf, useClassNames } from "../lib/latents.js";
import { useLive } from "../lib/live.js";
import { makesPictures } from "../lib/models.js";
import { drawGrid } from "../lib/pictures.js";
import { Progress } from "../lib/ui.js";
import { Legend, drawMark, drawName, useColours } from "./latent-marks.js";
import { useLoaded } from "../lib/tasks.js";

const CELLS = 24, NEAR = 12, SMALLEST = 1e-3;  // images along a side; reach of a pointer in pixels; half side of the smallest area

/**
 * The plane of a model by itself, which loads what it needs. `onMove(z, place)` is called when the pointer moves, with the latent there. `showPlane`
 * draws decoded images in the background. All other properties of Chart can be given too.
 */
export function Plane({ model, ...rest }) {
  const [space, task] = useLoaded(() => loadSpace(model), [model.name, model.version]);
  if (!space) return html`<${Progress} task=${task} text="Loading the test items…" />`;
  const plane = planeOf(space.space, space.points);
  if (!plane) return html`<p class="note">This model has no encoded test items, so its latent space cannot be shown as a plane.</p>`;
  return html`<${Chart} model=${model} ...${space} plane=${plane} ...${rest} />`;
}

/**
 * The plane with its legend. `z` is the latent of the pointer; `ends` are [A, B] (latents or null), which setEnds([A, B]) changes when they are dragged,
 * and `path` the latents between them. `marks` are [{z, text}]. `onClick(place, item)` gets the place and the nearest test item, `onKey(key)` keys of the
 * plane without a meaning here. `hidden` is a Set of classes, `picked` the index of a test item, `area` the visible square {x, y, half}.
 */
export function Chart({
  model, space, points, plane, size = 520, showPlane = true, showPoints = true, fields, z, onMove, onClick, onKey, ends = [null, null], setEnds, path, marks = [],
  hidden: given, setHidden: give, picked, onHover, onLeave, area: shown, setArea: show, legend = true,
}) {
  const box = useRef(null), [width, setWidth] = useState(0), nameOf = useClassNames(model);
  const [ownArea, setOwnArea] = useState(null), [ownHidden, setOwnHidden] = useState(new Set()), [own, setOwn] = useState(null), [near, setNear] = useState(null);
  const hidden = given ?? ownHidden, setHidden = give ?? setOwnHidden, setArea = show ?? setOwnArea;
  const places = useMemo(() => points?.means.map(plane.to) ?? [], [points, plane.flat]);
  const usual = useMemo(() => areaOf(places), [places]), area = shown ?? ownArea ?? usual, at = z ? plane.to(z) : own ?? [area.x, area.y];
  const drag = useRef(null);

  useLayoutEffect(() => {
    const watch = new ResizeObserver(([entry]) => setWidth(Math.round(entry.contentRect.width)));
    watch.observe(box.current);
    return () => watch.disconnect();
  }, []);

  const toPixel = ([x, y]) => [((x - area.x) / area.half + 1) * width / 2, (1 - (y - area.y) / area.half) * width / 2];
  const toPlace = ([x, y]) => [area.x + (2 * x / width - 1) * area.half, area.y + (1 - 2 * y / width) * area.half];
  const pixelOf = event => { const { left, top } = box.current.getBoundingClientRect(); return [event.clientX - left, event.clientY - top]; };
  const far = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
  const nearest = (pixel, reach) => {
    if (!showPoints) return null;
    let best = null, least = reach;
    places.forEach((place, i) => {
      const distance = hidden.has(points.labels[i]) ? Infinity : far(toPixel(place), pixel);
      if (distance < least) { least = distance; best = i; }
    });
    return best;
  };
  const hover = index => { if (index !== near) { setNear(index); onHover?.(index); } };
  const move = place => { setOwn(place); onMove?.(plane.from(place), place); };
  const zoom = (factor, [x, y] = [area.x, area.y]) => {
    const half = Math.max(SMALLEST, area.half * factor), scale = half / area.half;
    setArea({ x: x + (area.x - x) * scale, y: y + (area.y - y) * scale, half });
  };

  const down = event => {
    if (event.button) return;
    const pixel = pixelOf(event), end = ends.findIndex(each => each && far(toPixel(plane.to(each)), pixel) < NEAR);
    drag.current = { pixel, area, end, mouse: event.pointerType === "mouse", moved: false };
    try { box.current.setPointerCapture(event.pointerId); } catch { /* the pointer has ended already */ }
    if (end < 0) { move(toPlace(pixel)); hover(nearest(pixel, NEAR)); }
  };
  const moved = event => {
    const pixel = pixelOf(event), from = drag.current;
    if (from && far(from.pixel, pixel) > 4) from.moved = true;
    if (from && from.end >= 0) {
      if (from.moved) setEnds(ends.map((each, i) => (i === from.end ? plane.from(toPlace(pixel)) : each)));
    } else if (from?.mouse && from.moved) {
      const step = 2 * from.area.half / width;
      setArea({ half: from.area.half, x: from.area.x - (pixel[0] - from.pixel[0]) * step, y: from.area.y + (pixel[1] - from.pixel[1]) * step });
    } else {
      move(toPlace(pixel));
      hover(nearest(pixel, NEAR));
    }
  };
  const up = event => {
    const from = drag.current;
    drag.current = null;
    if (from && !from.moved && from.end < 0) onClick?.(toPlace(pixelOf(event)), nearest(pixelOf(event), 2 * NEAR));
  };
  const wheel = event => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoom(event.deltaY > 0 ? 1.2 : 1 / 1.2, toPlace(pixelOf(event)));
  };
  const key = event => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key], step = area.half / (event.shiftKey ? 8 : 40);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (way) {
      const next = at.map((value, axis) => Math.min([area.x, area.y][axis] + area.half, Math.max([area.x, area.y][axis] - area.half, value + way[axis] * step)));
      move(next);
      hover(nearest(toPixel(next), NEAR));
    } else if (event.key === "Enter" || event.key === " ") onClick?.(at, nearest(toPixel(at), 2 * NEAR));
    else if (event.key === "+" || event.key === "=") zoom(1 / 1.5, at);
    else if (event.key === "-") zoom(1.5, at);
    else if (event.key === "0") setArea(areaOf(places, 0, 1));
    else if (!onKey?.(event.key)) return;
    event.preventDefault();
  };

  const line = latents => latents.map(each => toPixel(plane.to(each)).map(value => value.toFixed(1)).join()).join(" ");
  const spots = [...ends.map((end, i) => end && { z: end, text: "AB"[i], role: "end" }), ...marks.map(mark => ({ ...mark, role: mark.role ?? "mark" }))].filter(Boolean);
  const [x, y] = toPixel(at), ring = near ?? picked;
  const text = near === null ? "" : `Test item ${near + 1}${points.labels[near] >= 0 ? `: class ${nameOf(points.labels[near])}` : ""}`;
  const pixels = makesPictures(model);
  return html`<div class="latent-chart" style=${{ maxWidth: `${size}px` }}>
    <div ref=${box} class="latent-plane" tabindex="0" role="application" aria-label=${`Latent space of ${model.name}`} aria-roledescription="plane"
        title=${near === null ? undefined : text} data-at=${at.map(value => value.toFixed(3)).join()}
        onPointerDown=${down} onPointerMove=${moved} onPointerUp=${up} onPointerCancel=${() => { drag.current = null; }} onPointerLeave=${() => { hover(null);
          onLeave?.(); }} onWheel=${wheel} onKeyDown=${key}>
      ${pixels && showPlane && width > 0 && html`<${Decoded} model=${model} space=${space} plane=${plane} area=${area} fields=${fields} />`}
      ${points && showPoints && width > 0 && html`<${Dots} places=${places} labels=${points.labels} hidden=${hidden} toPixel=${toPixel} width=${width}
        area=${area} nameOf=${nameOf} />`}
      ${width > 0 && html`<svg width=${width} height=${width} aria-hidden="true">
        ${path?.length > 1 && html`<polyline class="under" points=${line(path)} /><polyline class="path" points=${line(path)} />`}
        ${ring != null && places[ring] && html`<circle class="ring" cx=${toPixel(places[ring])[0]} cy=${toPixel(places[ring])[1]} r="7" />`}
        <path class="under" d=${cross(x, y)} /><path class="pointer" d=${cross(x, y)} />
        ${spots.map(spot => { const [left, top] = toPixel(plane.to(spot.z)); return html`<g class=${spot.role} transform=${`translate(${left},${top})`}><circle
          r=${spot.role === "dot" ? 5 : 10} /><text dy="4.5" text-anchor="middle">${spot.text}</text></g>`; })}
      </svg>`}
    </div>
    <div class="latent-tools">
      <button type="button" aria-label="Zoom in" title="Zoom in at the centre. Ctrl and the mouse wheel zoom at the pointer." onClick=${() => zoom(1 / 1.5)}>+</button>
      <button type="button" aria-label="Zoom out" onClick=${() => zoom(1.5)}>−</button>
      <button type="button" title=${points ? "Show all test items" : "Show the middle"} onClick=${() => setArea(areaOf(places, 0, 1))}>Whole plane</button>
      <span class="quiet">${text}</span>
    </div>
    ${legend && points && showPoints && html`<${Legend} labels=${points.labels} nameOf=${nameOf} hidden=${hidden} set=${setHidden} />`}
  </div>`;
}

const cross = (x, y) => `M${x - 16},${y}h11m10,0h11M${x},${y - 16}v11m0,10v11`;

/** What the latents of the plane decode to: a grid of images, decoded again when the visible area changes. */
function Decoded({ model, space, plane, area, fields }) {
  const canvas = useRef(null), [drawn, set] = useState(null);
  const n = Math.max(4, Math.min(CELLS, Math.floor(1024 / model.data.height)));
  const work = ({ x, y, half }, signal) => {
    const latents = [];
    for (let i = 0; i < n * n; i++) latents.push(plane.from([x + ((2 * (i % n) + 1) / n - 1) * half, y + (1 - (2 * Math.floor(i / n) + 1) / n) * half]));
    return decodePictures(model, space, latents, fields, { signal });
  };
  const live = useLive(work, (pictures, of) => { drawGrid(canvas.current, pictures, n); set(of); });
  useEffect(() => live.ask(area), [area.x, area.y, area.half, JSON.stringify(fields), model.name]);
  const part = value => `${(100 * value).toFixed(3)}%`;
  const place = drawn && { width: part(drawn.half / area.half),
    left: part(((drawn.x - drawn.half) - (area.x - area.half)) / (2 * area.half)),
    top: part(((area.y + area.half) - (drawn.y + drawn.half)) / (2 * area.half)) };
  return html`<canvas ref=${canvas} class="back" hidden=${!drawn} style=${place} data-cells=${n} aria-hidden="true"></canvas>
    ${live.error && html`<p class="latent-error" role="alert">The images of the plane cannot be decoded: ${live.error.message}.
      ${live.error.advice} <button type="button" onClick=${live.retry}>Try again</button></p>`}`;
}

/** The test items, with the name of each class at the middle of its items. */
function Dots({ places, labels, hidden, toPixel, width, area, nameOf }) {
  const canvas = useRef(null), { colours, back, text } = useColours();
  const middles = useMemo(() => middlesOf(places, labels), [places, labels]);
  useEffect(() => {
    const scale = devicePixelRatio || 1, context = canvas.current.getContext("2d");
    canvas.current.width = canvas.current.height = width * scale;
    context.scale(scale, scale);
    const radius = Math.max(2.6, Math.min(3.6, width / 140));
    places.forEach((place, i) => {
      const [x, y] = toPixel(place);
      if (!hidden.has(labels[i]) && x > -9 && y > -9 && x < width + 9 && y < width + 9) drawMark(context, labels[i], x, y, radius, colours, back);
    });
    for (const [label, middle] of middles) if (!hidden.has(label)) drawName(context, nameOf(label), toPixel(middle), back, text);
  }, [places, labels, hidden, width, area.x, area.y, area.half, colours, back, middles, nameOf(0)]);
  return html`<canvas ref=${canvas} class="dots" aria-hidden="true"></canvas>`;
}

/** Return the median place of each class, if there are several. */
function middlesOf(places, labels) {
  const classes = [...new Set(labels)].filter(each => each >= 0);
  const median = values => values.sort((a, b) => a - b)[values.length >> 1];
  return classes.length < 2 ? [] : classes.map(label => { const own = places.filter((_, i) => labels[i] === label);
    return [label, [0, 1].map(axis => median(own.map(place => place[axis])))]; });
}
