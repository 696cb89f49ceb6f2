// Requests to the service. Every failure is a ServiceError with a sentence and a next step.
import { fromJson, toJson } from "./numbers.js";
import { readArray } from "./npy.js";

export const JSON_TYPE = "application/json", NPY = "application/x-npy", NDJSON = "application/x-ndjson";

// what to do next, by status; the messages of the service contain the remedy for the request itself
const NEXT = {
  400: "Change the input and try again.",
  401: "Enter an API key at the top of the page.",
  403: "Enter an API key that allows this at the top of the page.",
  404: "Choose another model, or reload the page.",
  409: "Choose another view or another model.",
  413: "Send less at once: fewer items or a smaller file.",
  415: "Use a file of one of the valid types.",
  422: "Change the value and try again.",
  429: "The service is busy. Try again in a moment.",
  500: "Try again. If it happens again, send the request id to the operator of the service.",
  501: "Choose another view or another model.",
  502: "Try again in a moment: a proxy in front of the service does not reach it.",
  503: "Try again in a moment, or choose a model whose state is ready.",
  504: "Request fewer items or fewer steps, or try again.",
};

/** A failed request. `message` says what is wrong, `advice` what to do next. `status` is 0 if there was no response. */
export class ServiceError extends Error {
  constructor({ status = 0, type = "gone", message, field, valid, advice, requestId }) {
    super(message);
    Object.assign(this, { status, type, field, valid, requestId, advice: advice ?? NEXT[status] ?? "Try again." });
  }
}

/** Return the error for a service that does not answer. */
export const gone = () => new ServiceError({
  type: "gone", message: "The service does not answer.",
  advice: "It may have stopped, or the connection is lost. Start it with the command “make serve”, then try again.",
});

let key = sessionStorage.getItem("key") ?? "";  // kept for this tab until it is closed
const refused = new Set(), failed = new Set();

export const hasKey = () => key !== "";

/** Use an API key for all further requests of this tab. */
export function useKey(text) {
  key = text.trim();
  sessionStorage.setItem("key", key);
}

/** Call `hear(error)` whenever the service refuses the key, or asks for one. Return a function that ends this. */
export function onRefused(hear) {
  refused.add(hear);
  return () => refused.delete(hear);
}

/** Call `hear(error)` with every error response of the service. */
export const onFailed = hear => { failed.add(hear); };

/**
 * Send a request and return the Response. `fields` becomes a JSON body; `body` is sent unchanged with the media type `type`.
 * Throws ServiceError, or an AbortError if `signal` is aborted.
 */
export async function send(path, { method, fields, body, type, accept = JSON_TYPE, signal, headers = {} } = {}) {
  const given = fields !== undefined ? toJson(fields) : body;
  const contentType = fields !== undefined ? JSON_TYPE : type;
  const all = { Accept: accept, ...(contentType && { "Content-Type": contentType }), ...(key && { Authorization: `Bearer ${key}` }), ...headers };
  let response;
  try {
    response = await fetch(path, { method: method ?? (given === undefined ? "GET" : "POST"), headers: all, body: given, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw gone();
  }
  if (response.ok) return response;
  const error = await failure(response);
  failed.forEach(hear => hear(error));
  if (error.status === 401 || error.status === 403) refused.forEach(hear => hear(error));
  throw error;
}

/** Return the ServiceError of a response that is not a success. */
async function failure(response) {
  const text = await response.text().catch(() => "");
  let content = null;
  try { content = fromJson(text).error; } catch { /* a proxy writes its own errors, which are not JSON */ }
  if (!content?.message) {
    return new ServiceError({ status: response.status, type: "http", message: `The service answered with status ${response.status} and no explanation.` });
  }
  const wait = response.headers.get("Retry-After");
  const advice = response.status === 429 && wait ? `Try again in ${wait} s.` : undefined;
  return new ServiceError({ status: response.status, type: content.type, message: content.message, field: content.field, valid: content.valid, requestId: content.request_id, advice });
}

/** Read the rest of a response; a connection that breaks meanwhile is the error `gone`. */
async function whole(reading) {
  try { return await reading; } catch (error) {
    if (error.name === "AbortError" || error instanceof ServiceError) throw error;
    throw gone();
  }
}

/** Return the JSON of a GET request. */
export const getJson = async (path, options = {}) => fromJson(await whole((await send(path, options)).text()));

/** Return the JSON response of a POST request with these fields. */
export const postJson = async (path, fields, options = {}) => fromJson(await whole((await send(path, { ...options, fields })).text()));

/** Return the response of a POST request as a file (Blob) of a media type, such as a picture. */
export const postFile = async (path, fields, accept, options = {}) => whole((await send(path, { ...options, fields, accept })).blob());

/** Return the response of a POST request as an array {shape, data} with data as a typed array. */
export const postArray = async (path, fields, options = {}) => readArray(await whole((await send(path, { ...options, fields, accept: NPY })).arrayBuffer()));

/** Call `hear(line)` with each line of the NDJSON response of a POST request, as soon as it arrives. A last line with an error is thrown. */
export async function postLines(path, fields, hear, options = {}) {
  await eachLine(await send(path, { ...options, fields, accept: NDJSON }), hear);
}

/** Call `hear(line)` with each line of an NDJSON response, as soon as it arrives. */
export async function eachLine(response, hear) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await whole(reader.read());
    const lines = (rest + (value ?? "")).split("\n");
    rest = done ? "" : lines.pop();
    for (const line of lines) {
      if (!line) continue;
      const content = fromJson(line);
      if (content.error) throw new ServiceError({ status: content.error.status ?? 500, ...content.error, requestId: content.error.request_id });
      hear(content);
    }
    if (done) return;
  }
}
