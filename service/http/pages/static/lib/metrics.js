// The figures of models: their names in words, the direction in which they are better, and which of them can be compared.
import { brief } from "./numbers.js";

const WORDS = {
  fd_classifier: ["Fréchet distance", "distance between features of generated and real items"],
  fid: ["FID", "Fréchet distance between features of Inception v3"],
  kid: ["KID", "kernel distance between features of generated and real items; it does not depend on their number"],
  precision: ["Precision", "share of generated items that lie among the real ones"],
  recall: ["Recall", "share of real items that lie among the generated ones"],
  confident: ["Confident", "share of generated items that the classifier is more than 90% sure of"],
  is_marginal: ["Inception Score", "higher if each item is clearly of one class, and all classes occur"],
  is_prior: ["Inception Score, against the data's classes", "the same, against the class distribution of the data"],
  class_divergence: ["Class divergence", "0 if no class is dropped or favoured"],
  class_accuracy: ["Class accuracy", "share of generated items that the classifier assigns to the requested class"],
  least_class_share: ["Share of the rarest class", "0 if the model never makes a class"],
  duplicates: ["Duplicates", "number of generated items that equal an earlier one"],
  nearest_train_distance: ["Distance to the nearest training item", "should not be far below that of real items"],
  bits_per_dim: ["Bits per value", "bits that the model needs to store one pixel value"],
  reconstruction_mse: ["Reconstruction error", "mean squared error after encoding and decoding"],
  psnr_mean: ["Peak signal-to-noise ratio", "of reconstructions"],
  code_usage: ["Used codes", "share of the codebook that is used"],
  code_perplexity: ["Code perplexity", "effective number of codes"],
  continuity: ["Continuity", "change of the item for a unit of change in latent space"],
  continuity_95: ["Continuity, 95% quantile", "the same, in the worst twentieth of the steps"],
  largest_step: ["Largest step", "largest of 16 steps of a path, as a share of the whole path"],
  reconstruction: ["Reconstruction term", "expected negative log-likelihood of an item given its latent"],
  kl: ["KL term", "upper bound of the information about an item that its latent contains"],
  active_units: ["Active units", "numbers of the latent that depend on the item"],
  auroc: ["AUROC", "chance that an anomaly has a higher score than a normal item"],
  average_precision: ["Average precision", "area under the curve of precision and recall"],
  accuracy: ["Accuracy", "share of test items that are classified correctly"],
  cross_entropy: ["Cross-entropy", "mean negative log-probability of the true class"],
  calibration_error: ["Calibration error", "difference between confidence and accuracy"],
  velocity_mse: ["Error of the velocity", "mean squared error of the network's prediction"],
  noise_mse: ["Error of the noise", "mean squared error of the network's prediction"],
  discriminator_accuracy: ["Accuracy of the discriminator", "0.5 if it cannot tell real from generated items"],
};
const LOWER = new Set(["kid", "class_divergence", "duplicates", "bits_per_dim", "reconstruction_mse", "continuity", "continuity_95", "largest_step",
  "cross_entropy", "calibration_error",
  "velocity_mse", "noise_mse", "reconstruction"]);
const HIGHER = new Set(["precision", "recall", "confident", "is_marginal", "is_prior", "class_accuracy", "least_class_share", "psnr_mean", "code_usage", "code_perplexity",
  "mig",
  "dci_disentanglement", "dci_completeness", "dci_informativeness", "auroc", "average_precision", "accuracy"]);
const PERCENT = /^(.*)_at_(?:([\d.]+)%|(0?\.\d+))$/;
// two texts for the same data: a model of two levels sees binarised pixels
const SAME = { "pixels at 256 levels": "levels", "pixels at 2 levels, the nearest": "grey values binarised at 1/2" };
const REAL = { kid: "train_vs_test_kid", is_marginal: "test_is_marginal", is_prior: "test_is_prior", class_accuracy: "test_class_accuracy",
  confident: "test_confident", nearest_train_distance: "test_nearest_train_distance", fid: "train_vs_test", fd_classifier: "train_vs_test" };

/** Return [title, explanation] of a figure. */
export function wordsOf(name) {
  if (WORDS[name]) return WORDS[name];
  if (name.endsWith("_infinity") && WORDS[name.slice(0, -9)]) return [`${WORDS[name.slice(0, -9)][0]} at infinity`, "extrapolated to infinitely many items"];
  const likelihood = name.match(/^(nll|elbo|iwae_(\d+))_(.*)$/);
  if (likelihood) {
    const [, start, draws, form] = likelihood, what = start === "nll" ? "Negative log-likelihood" : start === "elbo" ? "ELBO"
      : `Importance-weighted bound, ${draws} draws`;
    return [`${what} (${form.replaceAll("_", " ")})`, start === "nll" ? "of test items" : "a lower bound on the log-likelihood of test items"];
  }
  const rate = name.match(PERCENT);
  if (rate) {
    const share = rate[2] ? Number(rate[2]) / 100 : Number(rate[3]), at = `${brief(100 * share)}%`;
    const title = { false_positive_rate: "Measured false alarms", found: "Anomalies found", flagged: "Items flagged",
      flagged_unlabelled: "Items flagged" }[rate[1]] ?? rate[1].replaceAll("_", " ");
    return [`${title} at a rate of ${at}`, rate[1] === "false_positive_rate" ? "should be near the rate" : ""];
  }
  return [name.replaceAll("_", " ").replace(/^./, first => first.toUpperCase()), ""];
}

/** Return "lower" or "higher", the direction in which a figure is better; null if there is none. */
export function betterOf(name) {
  if (LOWER.has(name) || /^(fid|fd_classifier)(_infinity)?$|^nll_/.test(name)) return "lower";
  return HIGHER.has(name) || /^(elbo|iwae_\d+)_|^found_at_/.test(name) ? "higher" : null;
}

/** Return the statement of a protocol about its figure: that of an evaluation is below `detail`. */
export const statement = protocol => protocol?.detail ?? protocol ?? {};

/** Return the label of an evaluation among several of one model: its prior, and the numbers that it had as inputs. */
export function variantOf(metric) {
  const { prior, common } = metric.protocol ?? {};
  const numbers = Object.entries(common?.numbers ?? {}).map(([name, value]) => `${name} ${brief(value)}`);
  return [...(prior ? [`prior ${prior}`] : []), ...numbers].join(", ");
}

/** Return the figures without standard errors, each with its error as `error` ("± 0.01"): errors are stored as figures of their own, NAME_se and NAME_sd. */
export function figuresOf(metrics) {
  const key = metric => `${metric.name}|${metric.protocol?.by}|${variantOf(metric)}`;
  const all = new Map(metrics.map(metric => [key(metric), metric]));
  const isError = metric => /_(se|sd)$/.test(metric.name) && all.has(key({ ...metric, name: metric.name.slice(0, -3) }));
  return metrics.filter(metric => !isError(metric)).map(metric => ({
    ...metric, error: metric.se ?? all.get(key({ ...metric, name: `${metric.name}_se` }))?.value ?? all.get(key({ ...metric, name: `${metric.name}_sd` }))?.value,
  }));
}

/** Return a figure as text, with its error and unit; "≤" if it is an upper bound. */
export function valueOf(figure) {
  const bound = String(statement(figure.protocol).bound ?? "").startsWith("upper bound") ? "≤ " : "";
  return `${bound}${brief(figure.value)}${figure.error !== undefined && figure.error !== null ? ` ± ${brief(figure.error, 2)}` : ""}${figure.unit ? ` ${figure.unit}`
    : ""}`;
}

/** Return a text that is equal for figures that were measured in the same way, and can be compared. `data` is the name of the data set. */
export function measuredBy(metric, data) {
  const protocol = metric.protocol ?? {}, stated = statement(protocol), seen = SAME[stated.observed] ?? stated.observed;
  if (protocol.common) {
    const { extractor_sha256: extractor, reference, n, resize } = protocol.common;
    return JSON.stringify([extractor, reference, n, resize, seen, stated.part, stated.n]);
  }
  return JSON.stringify([protocol.by, data, protocol.test, protocol.against, protocol.anomalies, protocol.n, seen, protocol.likelihood, protocol.objective,
    protocol.classes]);
}

/** Return {value, text} of real data for a figure, from the anchors of its evaluation; null if there is none. */
export function anchorOf(name, anchors) {
  if (!anchors) return null;
  const base = name.replace(/_infinity$/, ""), value = name.endsWith("_infinity") ? undefined : anchors[REAL[base]];
  if (typeof value === "number") return { value, text: REAL[base].startsWith("train_vs") ? "training against test items" : "test items" };
  const best = ["jxl_sheets", "webp_sheets", "png_sheets"].find(codec => typeof anchors[codec]?.[name] === "number");
  return best ? { value: anchors[best][name], text: `${anchors[best].codec}` } : null;
}

/** Return the anchors of all evaluations in a list of figures, by what they were measured with. */
export const anchorsOf = metrics => Object.assign({}, ...metrics.map(metric => metric.protocol?.anchors ?? {}));

/** Return the facts of an evaluation in words. */
export function protocolText(protocol) {
  const { common } = protocol;
  if (!common) return "";
  const { extractor, reference, n, resize, seed } = common;
  const against = reference && typeof reference === "object" ? `${brief(reference.n)} items of the ${reference.split} split of ${reference.data}`
    : String(reference ?? "real items");
  return `${brief(n)} generated items, seed ${seed ?? "unknown"}, against ${against}. Features of ${extractor ?? "an unknown extractor"}${resize && resize !== "none"
    ? `, resized by ${resize}` : ""}.`;
}
