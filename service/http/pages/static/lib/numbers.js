// Numbers: JSON whose integers stay exact above 2^53, seeds as BigInt, and numbers as text for people.

export const MAX_SEED = 2n ** 63n - 1n;

/** Return the seed (BigInt, 0 to 2^63 - 1) that a text contains; null if it is not one. */
export function readSeed(text) {
  const digits = String(text ?? "").trim();
  if (!/^\d{1,19}$/.test(digits)) return null;
  const seed = BigInt(digits);
  return seed <= MAX_SEED ? seed : null;
}

/** Return a new seed (BigInt below 2^31, which is easy to read and to write down). */
export const randomSeed = () => BigInt(crypto.getRandomValues(new Uint32Array(1))[0] >>> 1);

/** Return a new id of eight characters. `crypto.randomUUID` exists on HTTPS and loopback only. */
export const newId = () => [...crypto.getRandomValues(new Uint8Array(4))].map(byte => byte.toString(16).padStart(2, "0")).join("");

const MARK = "\u0001int:";

/** Return a value as JSON. BigInts become integers, and undefined fields are left out. */
export function toJson(value, indent) {
  const marked = JSON.stringify(value, (_, each) => (typeof each === "bigint" ? MARK + each : each), indent);
  return marked.replace(/"\\u0001int:(-?\d+)"/g, "$1");
}

// an integer of 16 digits or more that is the whole value of a field or of an element: matched outside of texts
const TOKENS = /"(?:[^"\\]|\\.)*"|-?\d{16,}(?![\d.eE])/g;

/** Return the value of a JSON text. Integers that a number would round become BigInts. */
export function fromJson(text) {
  if (!/\d{16}/.test(text)) return JSON.parse(text);
  const marked = text.replace(TOKENS, (token, place) => (token[0] === '"' || /[\d.eE+-]/.test(text[place - 1] ?? "") ? token : `"\\u0001int:${token}"`));
  return JSON.parse(marked, (_, each) => {
    if (typeof each !== "string" || !each.startsWith(MARK)) return each;
    const whole = BigInt(each.slice(MARK.length));
    return Number.isSafeInteger(Number(whole)) ? Number(whole) : whole;
  });
}

/** Return a number as a short text with `digits` significant digits. Other values are returned as text. */
export function brief(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return String(value);
  const text = Number(value.toPrecision(digits));
  return Math.abs(text) >= 1e-4 && Math.abs(text) < 1e9 ? String(text) : text.toExponential(Math.max(0, digits - 2));
}

/** Return a size in bytes as text, such as "12.3 kB". */
export const bytes = n => (n < 1000 ? `${n} B` : n < 1e6 ? `${(n / 1000).toFixed(1)} kB` : `${(n / 1e6).toFixed(1)} MB`);
