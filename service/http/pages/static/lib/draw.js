// Drawing by mouse, touch or keyboard: a picture (DrawArea), or the part of a picture that is to be filled in (MaskArea).
import { html, useEffect, useId, useRef, useState } from "./preact.js";
import { Choice, Slider } from "./ui.js";

const UNDO = 40;  // steps that can be undone

/**
 * Return {props, cursor, down} of a surface of width x height pixels on which one paints. `start(p)`, `move(p, before)` and `end(p)` get places
 * [x, y] in pixels. The keyboard does the same: arrow keys move a cursor (10 pixels with Shift), and the space bar starts and ends a line.
 */
function usePainter({ width, height, start, move, end, undo }) {
  const [cursor, setCursor] = useState(null), [down, setDown] = useState(false);
  const state = useRef({ at: null, keys: false }).current;
  Object.assign(state, { start, move, end });
  const finish = () => { const { at } = state; state.at = null; if (at) state.end(at); };
  const lift = () => { if (state.keys) { state.keys = false; setDown(false); finish(); } };
  const go = to => { const before = state.at; state.at = to; state.move(to, before); };
  const place = (event, box) => [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
  const press = event => {
    if (event.button) return;
    event.preventDefault();
    lift();
    setCursor(null);
    event.currentTarget.focus({ preventScroll: true });
    event.currentTarget.setPointerCapture(event.pointerId);
    state.at = place(event, event.currentTarget.getBoundingClientRect());
    state.start(state.at);
  };
  const drag = event => {
    if (!state.at || state.keys) return;
    const box = event.currentTarget.getBoundingClientRect(), several = event.getCoalescedEvents?.() ?? [];
    (several.length ? several : [event]).forEach(each => go(place(each, box)));
  };
  const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const type = event => {
    const step = STEPS[event.key], [x, y] = cursor ?? [Math.floor(width / 2), Math.floor(height / 2)];
    if (step) {
      const far = event.shiftKey ? 10 : 1;
      const next = [Math.min(width - 1, Math.max(0, x + far * step[0])), Math.min(height - 1, Math.max(0, y + far * step[1]))];
      setCursor(next);
      if (state.keys) go([next[0] + 0.5, next[1] + 0.5]);
    } else if (event.key === " ") {
      setCursor([x, y]);
      if (state.keys) lift(); else { state.keys = true; setDown(true); state.at = [x + 0.5, y + 0.5]; state.start(state.at); }
    } else if (event.key === "Escape" && state.keys) lift();
    else if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) undo();
    else return;
    event.preventDefault();
  };
  const props = { tabIndex: 0, role: "application", onPointerDown: press, onPointerMove: drag, onPointerUp: finish, onPointerCancel: finish, onKeyDown: type,
    onBlur: lift };
  return { props, cursor, down };
}

/** The cursor of the keyboard on a surface, and what it does as text. */
function Cursor({ cursor, down, width, height, verb }) {
  const at = cursor && { left: `${(100 * cursor[0]) / width}%`, top: `${(100 * cursor[1]) / height}%`, width: `${100 / width}%`, height: `${100 / height}%` };
  return html`${cursor && html`<span class=${down ? "draw-cursor down" : "draw-cursor"} style=${at}></span>`}
    <span class="hidden" role="status">${cursor ? `${down ? `${verb} at` : "At"} column ${cursor[0] + 1}, line ${cursor[1] + 1}` : ""}</span>`;
}

/** Return the paper and the ink of a model's pictures as CSS colours. */
export function paperOf({ background, channels }) {
  const value = background ?? (channels >= 3 ? 1 : 0.5), css = level => `rgb(${level} ${level} ${level})`;
  return { paper: css(Math.round(255 * value)), ink: css(value < 0.5 ? 255 : 0) };
}

/**
 * A canvas of the size of a model's pictures. `value` is a data URL from which it starts (blank if empty); onDraw(url, isNew) is called while one
 * draws: `isNew` is true for the first change since `value` was set from outside.
 */
export function DrawArea({ data, value, onDraw, label }) {
  const { width, height, channels } = data, { paper, ink } = paperOf(data), canvas = useRef(null), help = useId();
  const [size, setSize] = useState(Math.max(1, Math.round(width / 6) / 2)), [colour, setColour] = useState(null), [erase, setErase] = useState(false);
  const state = useRef({ undo: [], own: null, frame: 0 }).current;
  const context = () => canvas.current.getContext("2d", { willReadFrequently: true });
  const blank = () => { const to = context(); to.fillStyle = paper; to.fillRect(0, 0, width, height); };
  useEffect(() => {
    if (value && value === state.own) return undefined;
    state.own = null;
    state.undo = [];
    blank();
    if (!value) return undefined;
    const picture = new Image();
    picture.onload = () => canvas.current && context().drawImage(picture, 0, 0, width, height);
    picture.src = value;
    return () => { picture.onload = null; };
  }, [value, width, height]);
  useEffect(() => () => cancelAnimationFrame(state.frame), []);

  const tell = () => {
    const isNew = state.own === null;
    state.own = canvas.current.toDataURL();
    onDraw(state.own, isNew);
  };
  const soon = () => { cancelAnimationFrame(state.frame); state.frame = requestAnimationFrame(tell); };
  const keep = () => { state.undo = [...state.undo.slice(1 - UNDO), context().getImageData(0, 0, width, height)]; };
  const line = (from, to) => {
    const on = context();
    Object.assign(on, { lineCap: "round", lineJoin: "round", lineWidth: size, strokeStyle: erase ? paper : colour ?? ink });
    on.beginPath();
    on.moveTo(...from);
    on.lineTo(to[0] + 0.01, to[1]);
    on.stroke();
    soon();
  };
  const undo = () => { const last = state.undo.pop(); if (last) { context().putImageData(last, 0, 0); tell(); } };
  const clear = () => { keep(); blank(); tell(); };
  const painter = usePainter({ width, height, start: at => { keep(); line(at, at); }, move: (at, before) => line(before, at), end: soon, undo });
  return html`<div class="draw">
    <div class="draw-surface" style=${{ aspectRatio: `${width} / ${height}` }}>
      <canvas ref=${canvas} class="pixels" width=${width} height=${height} aria-label=${label} aria-describedby=${help} ...${painter.props}></canvas>
      <${Cursor} ...${painter} width=${width} height=${height} verb=${erase ? "Erasing" : "Drawing"} />
    </div>
    <div class="draw-tools">
      <${Choice} label="Tool" value=${erase} set=${setErase} options=${[[false, "Draw"], [true, "Erase"]]} />
      ${channels >= 3 && html`<label class="check">Colour <input type="color" value=${colour ?? "#000000"}
        onInput=${event => { setColour(event.target.value); setErase(false); }} /></label>`}
      <button type="button" onClick=${undo}>Undo</button><button type="button" onClick=${clear}>Clear</button>
      <${Slider} label="Brush" min="1" max=${Math.max(3, Math.round(width / 4))} step="0.5" value=${size} set=${setSize} format=${each => `${each} px`} />
      ${channels < 3 && (data.background ?? null) === null && html`<${Slider} label="Shade" min="0" max="255" step="1" value=${Number(colour?.match(/\d+/)?.[0] ?? 0)}
        set=${level => setColour(`rgb(${level} ${level} ${level})`)} />`}
      <small id=${help} class="quiet">Draw with a mouse or a finger. With the keyboard: arrow keys move, the space bar sets the pen down or lifts it.</small>
    </div>
  </div>`;
}

/** Return the mask that a preset makes for a width and a height: a Uint8Array, 1 where pixels are to be filled in. */
export function presetMask(name, width, height) {
  const inside = {
    lower: (x, y) => y >= height / 2, upper: (x, y) => y < height / 2, left: x => x < width / 2, right: x => x >= width / 2,
    middle: (x, y) => Math.abs(x + 0.5 - width / 2) < width / 4 && Math.abs(y + 0.5 - height / 2) < height / 4,
    second: (x, y) => (x + y) % 2 === 1, all: () => true, none: () => false,
  }[name];
  return Uint8Array.from({ length: width * height }, (_, i) => Number(inside(i % width, Math.floor(i / width))));
}

/** The names of the presets, with their titles. */
export const PRESETS = [["lower", "Lower half"], ["left", "Left half"], ["middle", "Middle"], ["second", "Every second pixel"], ["all", "Everything"],
  ["none", "Nothing"]];

/** A picture on which one marks the part that is to be filled in. `mask` is a Uint8Array (1: to be filled in); onMask(mask) gets the changed one. */
export function MaskArea({ src, width, height, mask, onMask, label }) {
  const canvas = useRef(null), help = useId();
  const [tool, setTool] = useState("brush"), [size, setSize] = useState(Math.max(2, Math.round(width / 7))), [corner, setCorner] = useState(null);
  const state = useRef({ undo: [] }).current;
  state.mask = mask;
  useEffect(() => drawHatch(canvas.current, mask, width, height), [mask, width, height]);
  const change = edit => { const next = state.mask.slice(); edit(next); state.mask = next; onMask(next); };
  const keep = () => { state.undo = [...state.undo.slice(1 - UNDO), state.mask]; };
  const undo = () => { const last = state.undo.pop(); if (last) onMask(last); };
  const brush = (from, to) => change(next => {
    const radius = size / 2, n = Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1]) * 2) + 1;
    for (let k = 0; k <= n; k++) {
      const x = from[0] + ((to[0] - from[0]) * k) / n, y = from[1] + ((to[1] - from[1]) * k) / n;
      for (let i = Math.max(0, Math.floor(y - radius)); i < Math.min(height, y + radius); i++) {
        for (let j = Math.max(0, Math.floor(x - radius)); j < Math.min(width, x + radius); j++) {
          const hit = (Math.floor(x) === j && Math.floor(y) === i) || Math.hypot(j + 0.5 - x, i + 0.5 - y) <= radius;
          if (hit) next[i * width + j] = tool === "erase" ? 0 : 1;
        }
      }
    }
  });
  const bounds = (a, b) => [0, 1].map(k => [Math.max(0, Math.floor(Math.min(a[k], b[k]))), Math.min([width, height][k], Math.floor(Math.max(a[k], b[k])) + 1)]);
  const rectangle = (a, b) => change(next => { const [[x0, x1], [y0, y1]] = bounds(a, b); for (let y = y0; y < y1; y++) next.fill(1, y * width + x0, y * width + x1); });
  const painter = usePainter({
    width, height, undo,
    start: at => { keep(); if (tool === "rectangle") setCorner([at, at]); else brush(at, at); },
    move: (at, before) => (tool === "rectangle" ? setCorner(both => both && [both[0], at]) : brush(before, at)),
    end: at => { if (tool === "rectangle") setCorner(both => { if (both) rectangle(both[0], at); return null; }); },
  });
  const [across, down] = corner ? bounds(...corner) : [];
  const share = ([low, high], all) => [`${(100 * low) / all}%`, `${(100 * (high - low)) / all}%`];
  const box = corner && { left: share(across, width)[0], width: share(across, width)[1], top: share(down, height)[0], height: share(down, height)[1] };
  return html`<div class="draw">
    <div class="draw-surface" style=${{ aspectRatio: `${width} / ${height}` }}>
      <img class="pixels" src=${src} alt="" draggable=${false} />
      <canvas ref=${canvas} width=${8 * width} height=${8 * height} aria-label=${label} aria-describedby=${help} ...${painter.props}></canvas>
      ${corner && html`<span class="draw-box" style=${box}></span>`}
      <${Cursor} ...${painter} width=${width} height=${height} verb="Marking" />
    </div>
    <div class="draw-tools">
      <${Choice} label="Tool" value=${tool} set=${setTool} options=${[["brush", "Brush"], ["rectangle", "Rectangle"], ["erase", "Unmark"]]} />
      <button type="button" onClick=${undo}>Undo</button>
      <${Slider} label="Brush" min="1" max=${Math.round(width / 2)} step="1" value=${size} set=${setSize} format=${each => `${each} px`} />
      <small id=${help} class="quiet">Striped pixels will be filled in. With the keyboard: arrow keys move, the space bar starts and ends a line or a rectangle.</small>
    </div>
  </div>`;
}

/** Draw stripes over the pixels that are to be filled in. */
function drawHatch(canvas, mask, width) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  const cell = new OffscreenCanvas(8, 8), pattern = cell.getContext("2d");
  pattern.fillStyle = "#2b5fc7cc";
  pattern.fillRect(0, 0, 8, 8);
  pattern.strokeStyle = "#ffffffcc";
  for (const shift of [-8, 0, 8]) { pattern.beginPath(); pattern.moveTo(shift, 8); pattern.lineTo(shift + 8, 0); pattern.stroke(); }
  context.fillStyle = context.createPattern(cell, "repeat");
  for (let i = 0; i < mask.length; i++) if (mask[i]) context.fillRect((i % width) * 8, Math.floor(i / width) * 8, 8, 8);
}
