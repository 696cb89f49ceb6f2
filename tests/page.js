// Runs the script of the service's page against a running service. The document is a stand-in that only records its contents.
// node page.js URL MODEL: chooses the model, then prints the page's requests and contents as JSON.
"use strict";
const [url, model] = process.argv.slice(2);
const asked = [], known = new Map();

class Node {
  constructor(tag) { Object.assign(this, { tag, children: [], dataset: {}, value: "", textContent: "", attributes: {} }); }
  append(...children) { this.children.push(...children); }
  replaceChildren(...children) { this.children = children; if (children[0] && children[0].tag === "option") this.value = children[0].textContent; }
  setAttribute(name, value) { this.attributes[name] = value; }
  remove() { this.removed = true; }
  scrollIntoView() {}
  plain() {
    const { tag, textContent, className, src, children } = this;
    return { tag, text: textContent, className, src: src && src.slice(0, 30), children: children.map(child => child.plain()) };
  }
}

const of = id => { if (!known.has(id)) known.set(id, new Node(id)); return known.get(id); };
Object.assign(of("seed"), { value: "7" }); Object.assign(of("n"), { value: "2" }); Object.assign(of("temperature"), { value: "1" });
globalThis.document = { getElementById: of, createElement: tag => new Node(tag), querySelectorAll: () => of("models").children };
globalThis.sessionStorage = { getItem: () => null, setItem: () => {} };
globalThis.location = { origin: url };
const fetched = globalThis.fetch;
const waiting = [];
globalThis.fetch = (path, options = {}) => {
  const answer = fetched(url + path, options).then(response => { asked.push({ path, accept: (options.headers || {}).Accept, status: response.status }); return response; });
  waiting.push(answer);
  return answer;
};

async function settle() {
  for (let seen = -1; seen !== waiting.length;) { seen = waiting.length; await Promise.all(waiting); await new Promise(done => setTimeout(done, 50)); }
}

(async () => {
  const page = await (await fetched(`${url}/`)).text();
  (0, eval)(page.match(/<script>(.*)<\/script>/s)[1]);
  await settle();
  const card = of("models").children.find(child => child.dataset.name === model);
  asked.length = 0;
  card.onclick();
  await settle();
  console.log(JSON.stringify({ asked, card: card.plain(), out: of("out").plain(), curl: of("curl").textContent }));
})();
