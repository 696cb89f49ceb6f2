// Animations of small pictures as files: GIF (with gifenc) and WebP (frames that the browser writes, put together here).
import { GIFEncoder, applyPalette, quantize } from "../vendor/gifenc.js";
import { ServiceError } from "./api.js";

/** Return the indices of the frames that go from the first to the last and back, without repeating the ends. */
export const thereAndBack = n => [...Array(n).keys(), ...[...Array(Math.max(0, n - 2)).keys()].map(i => n - 2 - i)];

/** Return frames (ImageData) as a GIF that repeats. Each pixel becomes `scale` x `scale` pixels; `delay` is in ms. The page stays usable, and `signal` ends the work. */
export async function writeGif(frames, { scale, delay, signal }) {
  const { width, height } = frames[0], file = GIFEncoder();
  const greys = frames.every(({ data }) => data.every((value, i) => i % 4 === 3 || value === data[i - (i % 4)]));
  const palette = greys ? Array.from({ length: 256 }, (_, value) => [value, value, value]) : null;
  for (const { data } of frames) {
    await pause(signal);
    const colours = palette ?? quantize(data, 256, { format: "rgb565" });
    const indices = palette ? Uint8Array.from({ length: width * height }, (_, i) => data[4 * i]) : applyPalette(data, colours, "rgb565");
    file.writeFrame(enlarge(indices, width, height, scale), width * scale, height * scale, { palette: colours, delay });
  }
  file.finish();
  return new Blob([file.bytes()], { type: "image/gif" });
}

/** Let the page answer to the user between two frames. Throws the reason of `signal` if the work was cancelled. */
async function pause(signal) {
  await new Promise(done => { setTimeout(done); });
  signal?.throwIfAborted();
}

function enlarge(indices, width, height, scale) {
  const to = new Uint8Array(indices.length * scale * scale), across = width * scale;
  for (let y = 0; y < height * scale; y++) for (let x = 0; x < across; x++) to[y * across + x] = indices[Math.floor(y / scale) * width + Math.floor(x / scale)];
  return to;
}

/** Return frames (ImageData) as an animated WebP without losses that repeats. `type` is the media type of WebP; `signal` ends the work. */
export async function writeWebp(frames, { scale, delay, type, signal }) {
  const width = frames[0].width * scale, height = frames[0].height * scale, parts = [];
  let alpha = false;
  for (const frame of frames) {
    await pause(signal);
    const content = new Uint8Array(await (await still(frame, scale, type)).arrayBuffer());
    const chunks = pixelChunks(content);
    alpha ||= chunks.some(chunk => chunk.name === "ALPH" || (chunk.name === "VP8L" && (chunk.bytes[12] & 0x10) !== 0));
    const head = new Uint8Array(16);
    [[6, width - 1], [9, height - 1], [12, delay]].forEach(([at, value]) => put(head, at, value, 3));
    head[15] = 0b10;  // the frame replaces the one before
    parts.push(chunk("ANMF", [head, ...chunks.map(each => each.bytes)]));
  }
  const size = new Uint8Array(10);
  size[0] = 0x02 | (alpha ? 0x10 : 0);  // animation
  put(size, 4, width - 1, 3);
  put(size, 7, height - 1, 3);
  const body = [text("WEBP"), chunk("VP8X", [size]), chunk("ANIM", [new Uint8Array([255, 255, 255, 255, 0, 0])]), ...parts];
  return new Blob([chunk("RIFF", body)], { type });
}

/** Return one enlarged frame as a WebP file. */
async function still(frame, scale, type) {
  const small = Object.assign(document.createElement("canvas"), { width: frame.width, height: frame.height });
  small.getContext("2d").putImageData(frame, 0, 0);
  const canvas = Object.assign(document.createElement("canvas"), { width: frame.width * scale, height: frame.height * scale }), context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  const file = await new Promise(done => { canvas.toBlob(done, type, 1); });
  if (file?.type !== type) throw new ServiceError({ type: "format", message: "This browser cannot write WebP files.",
    advice: "Save a GIF instead, or use Chromium or Firefox." });
  return file;
}

/** Return the chunks of a WebP file that contain pixels: {name, bytes with head and padding}. */
function pixelChunks(file) {
  const found = [], view = new DataView(file.buffer);
  for (let at = 12; at + 8 <= file.length;) {
    const name = String.fromCharCode(...file.subarray(at, at + 4)), size = view.getUint32(at + 4, true), end = at + 8 + size + (size % 2);
    if (["VP8 ", "VP8L", "ALPH"].includes(name)) found.push({ name, bytes: file.slice(at, end) });
    at = end;
  }
  return found;
}

const text = name => Uint8Array.from(name, letter => letter.charCodeAt(0));

function put(bytes, at, value, n) {
  for (let i = 0; i < n; i++) bytes[at + i] = (value >>> (8 * i)) & 255;
}

/** Return a chunk of a RIFF file: its name, the size of its content, and its content with an even size. */
function chunk(name, contents) {
  const size = contents.reduce((sum, each) => sum + each.length, 0), to = new Uint8Array(8 + size + (size % 2));
  to.set(text(name));
  put(to, 4, size, 4);
  let at = 8;
  for (const each of contents) { to.set(each, at); at += each.length; }
  return to;
}
