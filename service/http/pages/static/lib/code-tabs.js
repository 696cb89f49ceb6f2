// CopyCode: a request as code in four languages, to copy.
import { html, useState } from "./preact.js";
import { snippets } from "./snippets.js";
import { Choice, Code } from "./ui.js";

/** A request as code. The arguments are those of `snippets`. The language that is chosen last is kept for the tab. */
export function CopyCode({ path, fields, accept, file, field, title = "Copy as code" }) {
  const [language, set] = useState(sessionStorage.getItem("language") ?? "curl");
  const [open, setOpen] = useState(false);
  const choose = name => { sessionStorage.setItem("language", name); set(name); };
  const found = open ? snippets(path, fields, { accept, file, field }) : [];
  const [name, text] = found.find(([each]) => each === language) ?? found[0] ?? [];
  return html`<details class="copy-code" onToggle=${event => setOpen(event.target.open)}><summary>${title}</summary>
    ${open && html`<${Choice} label="Language" value=${name} set=${choose} options=${found.map(([each]) => [each, each])} /><${Code} text=${text}
      label=${`The request in ${name}`} />`}
  </details>`;
}
