// PNG files: the texts that they contain (chunks tEXt, zTXt and iTXt of the PNG specification).

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10], MOST = 1 << 26;  // bytes of a text after decompression

/** A file that is not a PNG, or a damaged one: `damaged` says which. */
export class PngError extends Error {
  constructor(message, damaged) {
    super(message);
    this.damaged = damaged;
  }
}

/** Return whether bytes (Uint8Array) begin like a PNG file. */
export const isPng = bytes => SIGNATURE.every((value, i) => bytes[i] === value);

/** Return the text of a PNG file (Uint8Array) under a keyword; null if it has none. Throws PngError for other and for damaged files. */
export async function readText(bytes, keyword) {
  if (!isPng(bytes)) throw new PngError("this is not a PNG file", false);
  for (const { type, content, sum } of chunks(bytes)) {
    if (!["tEXt", "zTXt", "iTXt"].includes(type) || until(content, 0) !== keyword) continue;
    if (sum !== crc(type, content)) throw new PngError("a checksum of the file is wrong", true);
    const rest = content.subarray(keyword.length + 1);
    if (type === "tEXt") return latin1(rest);
    if (type === "zTXt") return latin1(await inflate(rest.subarray(1)));
    return international(rest);
  }
  return null;
}

/** Yield {type, content, sum} of each chunk. */
function* chunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 8; ;) {
    if (at + 12 > bytes.length) throw new PngError("the file ends too early", true);
    const length = view.getUint32(at), end = at + 12 + length, type = latin1(bytes.subarray(at + 4, at + 8));
    if (end > bytes.length) throw new PngError("the file ends too early", true);
    yield { type, content: bytes.subarray(at + 8, end - 4), sum: view.getUint32(end - 4) };
    if (type === "IEND") return;
    at = end;
  }
}

/** Return the text of a chunk iTXt, after its keyword: two flags, two texts that end with 0, and the text in UTF-8. */
async function international(bytes) {
  const language = bytes.indexOf(0, 2), translated = bytes.indexOf(0, language + 1);
  if (language < 0 || translated < 0) throw new PngError("a text of the file has no end", true);
  const content = bytes.subarray(translated + 1);
  return new TextDecoder().decode(bytes[0] ? await inflate(content) : content);
}

/** Return the text from `start` to the next 0. */
const until = (bytes, start) => latin1(bytes.subarray(start, Math.max(start, bytes.indexOf(0, start))));

const latin1 = bytes => new TextDecoder("latin1").decode(bytes);

async function inflate(bytes) {
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate")).getReader(), parts = [];
  let size = 0;
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      parts.push(value);
      size += value.length;
      if (size > MOST) throw new RangeError("too long");
    }
  } catch (error) {
    throw new PngError(error instanceof RangeError ? "a text of the file is too long" : "a compressed text of the file is damaged", true);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** Return the CRC-32 of a chunk, over its type and its content. */
function crc(type, content) {
  let sum = ~0;
  const add = byte => {
    sum ^= byte;
    for (let i = 0; i < 8; i++) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
  };
  for (const letter of type) add(letter.charCodeAt(0));
  content.forEach(add);
  return ~sum >>> 0;
}
