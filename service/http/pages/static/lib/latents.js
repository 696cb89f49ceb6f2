// Latents: what the latent of a model is, its encoded test items, projections to a plane, paths, and requests that decode latents.
import { useEffect, useRef, useState } from "./preact.js";
import { change, useAddress } from "./address.js";
import { getJson, postArray, postJson } from "./api.js";
import { describe, fileOf, makesPictures, useModels } from "./models.js";
import { inBytes } from "./pictures.js";

const pointsOf = new Map();

/**
 * Return the latent of a model, from its manifest: {form, size, shape, method, normal, name, names}. `form` is "vector", "codes" (a grid of whole
 * numbers below `levels`), "array" (a latent with the shape of an item, such as noise), or "none". A model with several latents has their `names`.
 */
export function spaceOf(manifest, chosen) {
  const { latent, codes } = manifest;
  if (codes && manifest.tasks.includes("decode_codes")) return { form: "codes", shape: codes.shape, levels: codes.levels, size: product(codes.shape), names: [] };
  if (!latent) return { form: "none", names: [] };
  const several = latent.size === undefined && latent.shape === undefined, names = several ? Object.keys(latent) : [];
  const name = several ? (names.includes(chosen) ? chosen : names[0]) : null, spec = several ? latent[name] : latent;
  const shape = spec.shape ?? [spec.size];
  return { form: shape.length === 1 ? "vector" : "array", shape, size: product(shape),
    method: spec.interpolation ?? "slerp", normal: "normal" in (spec.priors ?? {}), name, names };
}

const product = shape => shape.reduce((all, each) => all * each, 1);

/** Return {space, manifest, points, problem} of a model. `points` are its encoded test items, null if it has none or if they cannot be read: `problem` says why. */
export async function loadSpace(model, chosen) {
  const manifest = await describe(model), space = spaceOf(manifest, chosen), path = fileOf(model, "points");
  if (!path || space.form !== "vector" || space.names.length) return { space, manifest, points: null };
  if (!pointsOf.has(path)) {
    const asked = getJson(path);
    asked.catch(() => pointsOf.delete(path));
    pointsOf.set(path, asked);
  }
  try {
    const points = await pointsOf.get(path);
    return { space, manifest, points: points.means[0]?.length === space.size ? points : null };
  } catch (problem) {
    if (!problem.status || problem.status === 401 || problem.status === 403) throw problem;
    return { space, manifest, points: null, problem };  // the model works without them
  }
}

/** Return the names of the classes of a model's test items: its own, or those of another model of the same data set. */
export function useClassNames(model) {
  const { models } = useModels();
  const known = model.classes ?? models?.find(each => each.dataset && each.dataset === model.dataset && each.classes)?.classes;
  return index => known?.[index] ?? String(index);
}

/** Return the numbers of a text such as "0.5,-1"; null if they are not `size` numbers. */
export function readVector(text, size) {
  const values = String(text ?? "").split(",").map(each => (each.trim() === "" ? NaN : Number(each)));
  return values.length === size && values.every(each => Number.isFinite(each) && Math.abs(each) < 1e6) ? values : null;
}

/** Return a latent as a text for the address. */
export const writeVector = z => z?.map(value => Number(value.toFixed(3)) || 0).join(",") ?? null;

/**
 * Return [value, set, wrong] of a latent that is a parameter of the address. The value changes at once, the address a moment later, because a
 * browser refuses many changes of the address in a short time. set(latent, {push, also}) can make a step for the back button,
 * with other changes. `wrong` is a text in the address that is not a latent of this size.
 */
export function useVector(name, size) {
  const text = useAddress()[name] ?? "", timer = useRef(0), written = useRef(text);
  const [value, show] = useState(() => readVector(text, size));
  useEffect(() => {
    if (text === written.current) return;
    clearTimeout(timer.current);
    written.current = text;
    show(readVector(text, size));
  }, [text]);
  useEffect(() => () => clearTimeout(timer.current), []);
  const set = (next, { push = false, also = {} } = {}) => {
    show(next);
    clearTimeout(timer.current);
    const write = () => {
      written.current = next ? writeVector(next) : "";
      change({ ...also, [name]: written.current }, { replace: !push });
    };
    if (push) write(); else timer.current = setTimeout(write, 250);
  };
  return [value, set, text !== "" && value === null && text === written.current ? text : null];
}

/**
 * Return the plane on which latents are shown: to(z) is [x, y], from([x, y]) the latent at this place. Two numbers are their own plane; others are
 * projected on the first two principal components of the test items. null if there are no test items.
 */
export function planeOf(space, points) {
  if (space.form !== "vector") return null;
  if (space.size === 2) return { flat: true, to: z => [z[0], z[1]], from: ([x, y]) => [x, y] };
  if (!points) return null;
  const { mean, components } = points.projection;
  const along = (component, z) => (component ? component.reduce((sum, weight, j) => sum + weight * (z[j] - mean[j]), 0) : 0);
  return {
    flat: false,
    to: z => [along(components[0], z), along(components[1], z)],
    from: place => mean.map((value, j) => components.reduce((sum, component, k) => sum + place[k] * component[j], value)),
  };
}

/** Return the square area {x, y, half} that contains the places between the quantiles `low` and `high` of each axis, with a margin. */
export function areaOf(places, low = 0.01, high = 0.99) {
  if (!places.length) return { x: 0, y: 0, half: 3 };
  const sorted = [0, 1].map(axis => places.map(place => place[axis]).sort((a, b) => a - b));
  const at = (values, share) => values[Math.round(share * (values.length - 1))];
  const [x, y] = sorted.map(values => [at(values, low), at(values, high)]);
  return { x: (x[0] + x[1]) / 2, y: (y[0] + y[1]) / 2, half: Math.max(x[1] - x[0], y[1] - y[0], 1e-3) * 0.53 };
}

/** Return the latent at the share `t` of the way from `a` to `b`, as the service computes it: on a line (lerp), or on an arc (slerp). */
export function between(a, b, t, method) {
  const line = () => a.map((value, j) => (1 - t) * value + t * b[j]);
  if (method !== "slerp" || t === 0 || t === 1) return t === 1 ? [...b] : line();
  const lengths = Math.hypot(...a) * Math.hypot(...b);
  const angle = lengths > 0 ? Math.acos(Math.min(1, Math.max(-1, a.reduce((sum, value, j) => sum + value * b[j], 0) / lengths))) : 0;
  if (Math.min(angle, Math.PI - angle) < 1e-4) return line();
  return a.map((value, j) => (Math.sin((1 - t) * angle) * value + Math.sin(t * angle) * b[j]) / Math.sin(angle));
}

/** Return the mean and the standard deviation of each number of a latent over the test items; 0 and 1 if there are none. */
export function scaleOf(space, points) {
  if (!points) return { mean: Array(space.size).fill(0), spread: Array(space.size).fill(1), active: [...Array(space.size).keys()] };
  return { mean: points.projection.mean, spread: points.spread, active: points.active };
}

/** Return the fields of a request that decodes latents. A seed makes what a model draws in addition the same each time. */
function fieldsOf(model, space, latents, fields) {
  const given = space.form === "codes" ? { codes: latents } : space.name ? { named_latents: { [space.name]: latents } } : { latents };
  return { model: model.name, version: model.version, seed: 0, ...given, ...fields };
}

/** Return pictures {shape: [n, C, H, W], data} of the first output, for latents of a model that makes pictures. */
export const decodePictures = async (model, space, latents, fields, options) => inBytes(await postArray("sample", fieldsOf(model, space, latents, fields), options));

/** Return what a latent decodes to: {pictures}, or {outputs: [{name, media or records}]} for several outputs and for items that are not pictures. */
export async function decodeOne(model, space, latent, fields, options) {
  if (makesPictures(model) && !model.items) return { pictures: await decodePictures(model, space, [latent], fields, options) };
  const made = await postJson("sample", fieldsOf(model, space, [latent], fields), options);
  const each = model.items ? Object.entries(made.items).map(([name, items]) => [name, items, model.items[name]]) : [["", made, model.data]];
  return { outputs: each.map(([name, items, data]) => ({ name, data, value: (items[data.field] ?? items.data)[0] })) };
}

/** Return a random latent of a model, which a seed determines. Codes are returned as a list of lists. */
export async function drawLatent(model, space, seed, fields, options) {
  const made = await postJson("sample", { model: model.name, version: model.version, seed, return_latents: true, ...fields }, options);
  return space.form === "codes" ? made.codes[0] : space.name ? made.named_latents[space.name][0] : made.latents[0];
}
