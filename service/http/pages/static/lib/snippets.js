// Requests as code that runs as printed: curl, Python with the client of this project, JavaScript, and gRPC.
import { toJson } from "./numbers.js";

const FILES = { iVBORw0KGgo: "png", "/9j/": "jpg", UklGR: "webp" };  // how base64 of PNG, JPEG and WebP begins
const RENAMED = { class: "class_", from: "start", to: "stop" };  // arguments of the Python client
const ENDINGS = { png: "png", webp: "webp", "x-npy": "npy", "x-ndjson": "ndjson" };

/**
 * Return a request of an endpoint (`path`, such as "sample") as code: [[title, text]]. Base64 of pictures in `fields` is read from files in the code:
 * `file` is the name of the first, such as "digit.png". `accept` is the media type of the response, JSON by default. `field` is the field
 * of a response that contains pictures, which the gRPC code writes to files.
 */
export function snippets(path, fields, { accept = "application/json", file, field, page = pageOf() } = {}) {
  const given = { ...fields }, files = new Map();
  const name = text => {
    const ending = endingOf(text);
    if (!ending) return null;
    if (!files.has(text)) {
      const first = file ?? `input.${ending}`, place = files.size + 1;
      files.set(text, place === 1 ? first : first.replace(/(\.\w+)?$/, `-${place}$1`));
    }
    return files.get(text);
  };
  const request = { path, fields: given, name, accept, field, ...page, out: `${path}.${ENDINGS[accept.split("/")[1]] ?? "json"}`, binary: accept !== "application/json" };
  return [["curl", curl(request)], ["Python", python(request)], ["JavaScript", script(request)], ["gRPC", grpc(request)]];
}

/** Return the address of the service as the browser knows it, and whether an API key is in use. */
function pageOf() {
  const at = globalThis.location ? new URL(".", globalThis.location.href) : new URL("http://127.0.0.1:8000/");
  return { url: `${at.origin}${at.pathname}`.replace(/\/$/, ""), keyed: Boolean(globalThis.sessionStorage?.getItem("key")) };
}

const endingOf = text => (typeof text !== "string" || text.length < 60 ? null : Object.entries(FILES).find(([start]) => text.startsWith(start))?.[1] ?? null);

/** Return a value as JSON on one line, with spaces, in which `write` replaces texts. */
function spaced(value, write = JSON.stringify) {
  if (typeof value === "string") return write(value);
  if (Array.isArray(value)) return `[${value.map(each => spaced(each, write)).join(", ")}]`;
  if (value && typeof value === "object") return `{${present(value).map(([name, each]) => `${JSON.stringify(name)}: ${spaced(each, write)}`).join(", ")}}`;
  return toJson(value);
}

const present = fields => Object.entries(fields).filter(([, value]) => value !== undefined && value !== null);

function curl({ path, fields, name, accept, url, keyed, out, binary }) {
  const read = [];
  const json = spaced(fields, text => (name(text) ? `\u0001${read.push(name(text)) - 1}\u0001` : JSON.stringify(text)));
  const lines = [`curl -s ${url}/${path}`, "-H 'Content-Type: application/json'", `-H 'Accept: ${accept}'`, ...(keyed ? ['-H "Authorization: Bearer $MANIFOLD_KEY"'] : []), ...(binary ? [`-o ${out}`] : [])];
  if (!read.length) return [...lines, `-d '${json.replace(/'/g, "'\\''")}'`].join(" \\\n  ");
  const body = json.replace(/[\\$`]/g, "\\$&").replace(/\u0001(\d+)\u0001/g, (_, place) => `"$(base64 < '${read[place].replace(/'/g, "'\\''")}' | tr -d '\\n')"`);
  return `${[...lines, "-d @- <<END"].join(" \\\n  ")}\n${body}\nEND`;
}

/** Return a value as a literal of Python. Texts are JSON texts, which Python reads too. */
function literal(value, name) {
  if (value === true || value === false) return value ? "True" : "False";
  if (value === null) return "None";
  if (typeof value === "string") return JSON.stringify(name(value) ?? value);
  if (Array.isArray(value)) return `[${value.map(each => literal(each, name)).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).filter(([, each]) => each !== undefined).map(([key, each]) => `${JSON.stringify(key)}: ${literal(each, name)}`).join(", ")}}`;
  return String(value);
}

function python({ path, fields, name, url, keyed, out, binary }) {
  const given = present(fields).map(([key, value]) => `${RENAMED[key] ?? key}=${literal(value, name)}`), call = `client.${path.replace(/-/g, "_")}(`;
  const line = `    result = ${call}${given.join(", ")})`;
  const asked = line.length < 120 ? line : `    result = ${call}\n${given.map(each => `        ${each},`).join("\n")}\n    )`;
  const use = binary ? `result.grid().save(${JSON.stringify(out.replace(/npy$|ndjson$/, "png"))})` : "print(result)";
  return `# In the folder of the project: pip install ./client${keyed ? "\n# The client reads the API key from the environment variable MANIFOLD_KEY." : ""}
from manifold_client import Client

with Client(${JSON.stringify(url)}) as client:
${asked}
${use}`;
}

function script({ path, fields, name, accept, url, keyed, out, binary }) {
  const read = new Map();
  const json = spaced(fields, text => {
    if (!name(text)) return JSON.stringify(text);
    if (!read.has(text)) read.set(text, `file${read.size ? read.size + 1 : ""}`);
    return `\u0001${read.get(text)}\u0001`;
  });
  const exact = /\d{16}/.test(json);  // JavaScript would round such integers, so the JSON is written as a text
  const quoted = json.replace(/[\\`]|\$\{/g, "\\$&").replace(/\u0001(\w+)\u0001/g, '"${$1}"');
  const body = exact ? `\`${quoted}\`` : `JSON.stringify(${json.replace(/"([A-Za-z_]\w*)":/g, "$1:").replace(/\u0001(\w+)\u0001/g, "$1")})`;
  const used = [...(read.size ? ["readFile"] : []), ...(binary ? ["writeFile"] : [])];
  return `// Save as request.mjs and run it with Node: node request.mjs
${used.length ? `import { ${used.join(", ")} } from "node:fs/promises";\n\n` : ""}${[...read].map(([text, variable]) => `const ${variable} = (await readFile(${JSON.stringify(name(text))})).toString("base64");\n`).join("")}const response = await fetch(${JSON.stringify(`${url}/${path}`)}, {
  method: "POST",
  headers: { "Content-Type": "application/json", Accept: ${JSON.stringify(accept)}${keyed ? ", Authorization: `Bearer ${process.env.MANIFOLD_KEY}`" : ""} },
  body: ${body},
});
if (!response.ok) throw new Error(await response.text());
${binary ? `await writeFile(${JSON.stringify(out)}, Buffer.from(await response.arrayBuffer()));` : `console.log(await response.${exact ? "text" : "json"}());`}`;
}

const ARRAYS = ["latents", "codes", "condition", "target_condition", "latent"], NAMED = ["named_latents", "named_latent"];

/** Return a field of a request as code that makes its message. `used` collects the helpers that the code needs. */
function message(key, value, name, used) {
  const many = (values, write) => `[${values.map(write).join(", ")}]`, text = JSON.stringify;
  const byName = write => `{${Object.entries(value).map(([each, part]) => `${text(each)}: ${write(part)}`).join(", ")}}`;
  const array = each => { used.add("array"); return `array(${literal(each, name)}${key === "codes" ? ", pb.Array.INT64" : ""})`; };
  const numbers = each => `pb.Numbers(values=${literal([each].flat(), name)})`;
  if (key === "class" || key === "target_class") return classChoice(value);
  if (ARRAYS.includes(key) || key === "values") return array(value);
  if (NAMED.includes(key)) return byName(array);
  if (key === "inputs") return byName(numbers);
  if (key === "guidance") return numbers(value);
  if (key === "conditions" || key === "target_conditions") return byName(part => build("Condition", part, name, used));
  if (key === "from" || key === "to") return build("End", value, name, used);
  if (key === "costs") return build("Costs", value, name, used);
  const one = each => {
    if (name(each)) { used.add("Path"); return `Path(${text(name(each))}).read_bytes()`; }
    if (each && typeof each === "object" && !Array.isArray(each)) { used.add("record"); return `record(${literal(each, name)})`; }
    return literal(each, name);
  };
  return Array.isArray(value) ? many(value, one) : one(value);
}

function classChoice(value) {
  if (Array.isArray(value)) return `pb.ClassChoice(names=pb.ClassChoice.Names(names=${JSON.stringify(value.map(String))}))`;
  if (typeof value === "object") return `pb.ClassChoice(weights=pb.ClassChoice.Weights(weights=${spaced(value)}))`;
  return `pb.ClassChoice(name=${JSON.stringify(String(value))})`;
}

/** Return code that makes a message from fields. The names that Python reserves are given as a dictionary. */
function build(type, fields, name, used) {
  const parts = present(fields).map(([key, value]) => [key, message(key, value, name, used)]), reserved = parts.filter(([key]) => key === "class" || key === "from");
  const all = [...parts.filter(part => !reserved.includes(part)).map(([key, code]) => `${key}=${code}`),
    ...(reserved.length ? [`**{${reserved.map(([key, code]) => `"${key}": ${code}`).join(", ")}}`] : [])];
  const line = `pb.${type}(${all.join(", ")})`;
  return line.length < 90 || !type.endsWith("Request") ? line : `pb.${type}(\n${all.map(each => `    ${each},`).join("\n")}\n)`;
}

const HELPERS = {
  array: `def array(values, kind=pb.Array.FLOAT32):
    values = numpy.asarray(values, numpy.int64 if kind == pb.Array.INT64 else numpy.float32)
    return pb.Array(type=kind, shape=values.shape, content=values.tobytes())`,
  record: `def record(values):
    value = lambda each: pb.Value() if each is None else pb.Value(text=each) if isinstance(each, str) else pb.Value(number=each)
    return pb.Row(columns={name: value(each) for name, each in values.items()})`,
};

function grpc({ path, fields, name, url, keyed, field, out, binary }) {
  const used = new Set(), call = path.replace(/(^|-)(\w)/g, (_, dash, letter) => letter.toUpperCase()), at = new URL(url);
  const request = build(`${path === "anomaly-score" ? "Score" : call}Request`, fields, name, used), writes = binary && field;
  if (writes) used.add("Path");
  const address = JSON.stringify(`${at.hostname}:${Number(at.port || (at.protocol === "https:" ? 443 : 80)) + 1}`), safe = at.protocol === "https:";
  const imports = [...(keyed ? ["import os"] : []), ...(used.has("Path") ? ["from pathlib import Path"] : []),
    ...(keyed || used.has("Path") ? [""] : []), "import grpc", "import manifold_pb2 as pb", "import manifold_pb2_grpc", ...(used.has("array") ? ["import numpy"] : [])];
  const helpers = Object.entries(HELPERS).filter(([each]) => used.has(each)).map(([, code]) => `\n\n${code}\n`).join("");
  const use = writes ? `for index, content in enumerate(answer.${field}):\n    Path(f"${out.replace(/\.\w+$/, "")}-{index}.png").write_bytes(content)` : "print(answer)";
  return `# In the folder of the project: pip install grpcio-tools${used.has("array") ? " numpy" : ""}
# python -m grpc_tools.protoc -I proto --python_out=. --grpc_python_out=. manifold.proto
# The port of gRPC is MANIFOLD_GRPC_PORT: by default that of HTTP plus 1.
${imports.join("\n")}
${helpers}
request = ${request}
with grpc.${safe ? "secure" : "insecure"}_channel(${address}${safe ? ", grpc.ssl_channel_credentials()" : ""}) as channel:
    answer = manifold_pb2_grpc.ManifoldStub(channel).${call}(request${keyed ? ', metadata=[("authorization", f"Bearer {os.environ[\'MANIFOLD_KEY\']}")]' : ""})
${use}`;
}
