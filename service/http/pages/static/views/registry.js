// The views of a model and the general views. `endpoints` are the use cases of the service that a view offers: a test checks that each has one.
import { makesPictures, supports } from "../lib/models.js";

const latent = model => supports(model, "encode") || model.tasks.includes("decode");

/** The views of one model: the name in the address, the title, whether a model has it, and its module, which exports a component View({model}). */
export const VIEWS = [
  { name: "sample", title: "Sample", endpoints: ["sample"], has: model => supports(model, "sample"), load: () => import("./sample.js") },
  { name: "latent", title: "Latent space", endpoints: ["encode"], has: latent, load: () => import("./latent.js") },
  { name: "interpolate", title: "Interpolate", endpoints: ["interpolate"], has: model => supports(model, "interpolate"), load: () => import("./interpolate.js") },
  {
    name: "edit", title: "Reconstruct and edit", endpoints: ["reconstruct", "impute", "classify"],
    has: model => ["reconstruct", "impute", "classify"].some(endpoint => supports(model, endpoint)), load: () => import("./edit.js"),
  },
  { name: "anomaly", title: "Anomalies", endpoints: ["anomaly-score"], has: model => supports(model, "anomaly-score"), load: () => import("./anomaly.js") },
  { name: "facts", title: "Facts", endpoints: [], has: () => true, load: () => import("./facts.js") },
];

/** The views without one model. */
export const GENERAL = [
  { name: "compare", title: "Compare", endpoints: ["sample"], load: () => import("./compare.js") },
  { name: "learn", title: "Learn", endpoints: [], load: () => import("./learn.js") },
];

/** Return the views that a model has. The first one is shown if the address names none. */
export const viewsOf = model => VIEWS.filter(view => view.has(model)).sort((a, b) => first(model, b) - first(model, a));

/** Scoring is the main use of rows, and sampling of pictures. */
const first = (model, view) => Number(!makesPictures(model) && view.name === "anomaly");
