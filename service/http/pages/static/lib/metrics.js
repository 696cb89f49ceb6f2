// The figures of models: their names in words, the direction in which they are better, how they were measured, and which of them can be compared.
import { brief } from "./numbers.js";

const ORDERS = "Spearman's, of the scores of all evaluated items; 1 if both detectors order the items in the same way, 0 if their orders are unrelated";
const WORDS = {
  fd_classifier: ["Fréchet distance", "distance between the features of generated and of real items, by a classifier of the data"],
  fid: ["FID", "Fréchet distance between the features of generated and of real items, by Inception v3"],
  kid: ["KID", "kernel distance between the features of generated and of real items; its expectation does not depend on their number"],
  precision: ["Precision", "share of generated items that lie among the real ones"],
  recall: ["Recall", "share of real items that lie among the generated ones"],
  confident: ["Confident", "share of generated items that the classifier is more than 90% sure of"],
  is_marginal: ["Inception Score", "from 1 to the number of classes; higher if each item is clearly of one class, and all classes occur"],
  is_prior: ["Inception Score, against the data's classes", "the same, but with the class distribution of the data"],
  class_divergence: ["Class divergence", "between the classes of generated and of real items; 0 if no class is dropped or favoured"],
  class_accuracy: ["Class accuracy", "share of generated items that the classifier assigns to the requested class"],
  least_class_share: ["Share of the rarest class", "share of generated items, by the classifier; 0% if the model never makes a class"],
  duplicates: ["Duplicates", "share of generated items that equal an earlier one exactly"],
  nearest_train_distance: ["Distance to the nearest training item",
    "median over generated items, in pixels from 0 to 1; should not be far below that of real items"],
  bits_per_dim: ["Bits per value", "bits that the model needs to store one pixel value of a test item"],
  reconstruction_mse: ["Reconstruction error", "mean squared error of test items after encoding and decoding, of values from 0 to 1"],
  psnr_mean: ["Peak signal-to-noise ratio", "mean over the reconstructions of test items"],
  psnr_noisy: ["Peak signal-to-noise ratio of the noisy items", "mean over test items to which the noise of the training was added"],
  psnr_denoised: ["Peak signal-to-noise ratio after denoising", "the same, of the reconstructions of the noisy items"],
  code_usage: ["Used codes", "share of the codebook that is used"],
  code_perplexity: ["Code perplexity", "effective number of codes: exp of the entropy of their frequencies"],
  continuity: ["Continuity", "mean change of the features for a unit of distance in latent space, along paths between test items"],
  continuity_95: ["Continuity, 95% quantile", "the same, exceeded by one step in twenty"],
  largest_step: ["Largest step", "largest of 16 steps of a path, as a share of the whole path; 6.25% if all are equal"],
  reconstruction: ["Reconstruction term", "expected negative log-likelihood of a test item given its latent or codes"],
  kl: ["KL term", "upper bound of the information about an item that its latent contains"],
  active_units: ["Active units", "numbers of the latent whose encoded mean varies over the test items (variance above 0.01)"],
  auroc: ["AUROC", "chance that an anomaly has a higher score than a normal item; 0.5 is guessing"],
  average_precision: ["Average precision", "area under the curve of precision and recall; it depends on the share of anomalies"],
  rank_correlation_isolation_forest: ["Rank correlation with an isolation forest", ORDERS],
  rank_correlation_nearest_neighbours: ["Rank correlation with nearest neighbours", ORDERS],
  rank_correlation_mahalanobis_distance: ["Rank correlation with the Mahalanobis distance", ORDERS],
  accuracy: ["Accuracy", "share of test items that are classified correctly"],
  cross_entropy: ["Cross-entropy", "mean negative log-probability of the true class"],
  calibration_error: ["Calibration error", "mean difference between confidence and accuracy, over 15 bins of the confidence"],
  velocity_mse: ["Error of the velocity", "mean squared error of the direction that the network predicts, of pixels from -1 to 1"],
  noise_mse: ["Error of the noise", "mean squared error of the noise that the network predicts, of pixels from -1 to 1"],
  discriminator_accuracy: ["Accuracy of the discriminator", "share of test and generated items that it classifies correctly; 50% if it cannot tell them apart"],
  code_distance: ["Distance of the codes from the prior",
    "largest distance between the distribution functions of the codes and of the prior, over the dimensions (Kolmogorov-Smirnov)"],
  mig: ["MIG", "mutual information gap: whether one number of the latent describes each factor of the data"],
  dci_disentanglement: ["Disentanglement (DCI)", "whether each number of the latent describes one factor only"],
  dci_completeness: ["Completeness (DCI)", "whether each factor is described by one number of the latent only"],
  dci_informativeness: ["Informativeness (DCI)", "mean accuracy of predicting the factors from the latent"],
};
const LOWER = new Set(["kid", "class_divergence", "duplicates", "bits_per_dim", "reconstruction_mse", "continuity", "continuity_95", "largest_step",
  "cross_entropy", "code_distance", "calibration_error", "velocity_mse", "noise_mse", "reconstruction"]);
const HIGHER = new Set(["precision", "recall", "confident", "is_marginal", "is_prior", "class_accuracy", "least_class_share", "psnr_mean", "psnr_denoised", "code_usage",
  "code_perplexity", "mig", "dci_disentanglement", "dci_completeness", "dci_informativeness", "auroc", "average_precision", "accuracy"]);
// shares, which are shown in percent
const SHARES = new Set(["precision", "recall", "confident", "class_accuracy", "least_class_share", "duplicates", "code_usage", "largest_step", "accuracy",
  "calibration_error", "discriminator_accuracy"]);
const RATED = /^(.*)_at_(?:([\d.]+)%|(0?\.\d+))$/;
// figures of an anomaly score at a rate of false alarms, evaluation/anomaly.py: title, and meaning of the share
const RATES = {
  false_positive_rate: [rate => `False alarms, threshold for ${rate}`, rate => `share of normal test items that the calibrated threshold flags; should be near ${rate}`],
  found: [rate => `Anomalies found at ${rate} false alarms`, rate => `recall: share of anomalies whose score is above those of all but ${rate} of the test items`],
  flagged: [rate => `Anomalies found, threshold for ${rate}`, rate => `recall: share of anomalies that the threshold flags that was calibrated for ${rate} false alarms`],
  flagged_unlabelled: [rate => `Flagged, threshold for ${rate}`, () => "share of test items that the calibrated threshold flags; it is not known which are anomalies"],
};
const FORMS = { static: "binarised pixels", dynamic: "pixels binarised at random", threshold: "pixels binarised at 1/2", levels: "pixel levels",
  density: "density of real values", columns: "columns of a row" };
// texts of protocols as a reader expects them
const OBSERVED = { levels: "pixel levels", "pixels at 2 levels, rounded by chance, one draw an item": "pixels at 2 levels, rounded at random",
  "pixels at 2 levels, the nearest": "pixels rounded to 2 levels", "grey values binarised at random, one draw an item": "grey values binarised at random" };
const ENDINGS = { _uniform_prior: "all codes equally likely", _single_order: "mean of single orders" };
const CLASSES = { "no class": "without a class", "marginalised by the class prior": "averaged over the classes" };
const UNITS = { fraction: "", "squared, of values in [-1, 1]": "", "bits/dim": "bits" };
// two texts for the same data: a model of two levels sees binarised pixels
const SAME = { "pixels at 256 levels": "levels", "pixels at 2 levels, the nearest": "grey values binarised at 1/2" };
const REAL = { kid: "train_vs_test_kid", is_marginal: "test_is_marginal", is_prior: "test_is_prior", class_accuracy: "test_class_accuracy",
  confident: "test_confident", nearest_train_distance: "test_nearest_train_distance", fid: "train_vs_test", fd_classifier: "train_vs_test" };

/** Return [title, explanation] of a figure. */
export function wordsOf(name) {
  if (WORDS[name]) return WORDS[name];
  if (name.endsWith("_infinity") && WORDS[name.slice(0, -9)]) return [`${WORDS[name.slice(0, -9)][0]} at infinity`, "extrapolated to infinitely many items"];
  const level = name.match(/^(kl|active_units)_level_(\d+)$/);
  if (level) return [`${WORDS[level[1]][0]}, level ${level[2]}`, `${WORDS[level[1]][1]}, of one level of the latents; level 1 is next to the data`];
  const likelihood = name.match(/^(nll|elbo|iwae_(\d+))_([a-z]+?)(?:_given_(class|condition))?(_uniform_prior|_single_order)?$/);
  if (likelihood && FORMS[likelihood[3]]) {
    const [, start, draws, form, given, ending] = likelihood, what = start === "nll" ? "Negative log-likelihood" : start === "elbo" ? "ELBO"
      : `Importance-weighted bound, ${draws} draws`;
    return [`${what} (${[FORMS[form], given && `given the ${given}`, ENDINGS[ending]].filter(Boolean).join(", ")})`,
      start === "nll" ? "of test items" : "a lower bound on the log-likelihood of test items"];
  }
  const rated = name.match(RATED);
  if (rated && RATES[rated[1]]) {
    const rate = `${brief(rated[2] ? Number(rated[2]) : 100 * Number(rated[3]))}%`;
    return RATES[rated[1]].map(text => text(rate));
  }
  return [name.replaceAll("_", " ").replace(/^./, first => first.toUpperCase()), ""];
}

/** Return the title of one figure: bits of a model can come from two bounds, which are named. */
export function titleOf(figure) {
  const title = wordsOf(figure.name)[0];
  if (figure.name !== "bits_per_dim") return title;
  return isDequantised(figure) ? `${title}, from the density` : /ELBO/.test(statement(figure.protocol).bound) ? `${title}, from the ELBO` : title;
}

/** Return "lower" or "higher", the direction in which a figure is better; null if there is none. */
export function betterOf(name) {
  if (LOWER.has(name) || /^(fid|fd_classifier)(_infinity)?$|^nll_/.test(name)) return "lower";
  return HIGHER.has(name) || /^(elbo|iwae_\d+)_|^(found|flagged)_at_/.test(name) ? "higher" : null;
}

/** Return the value of a figure as text: shares in percent. */
export const numberOf = (name, value, digits = 4) => (typeof value === "number" && (SHARES.has(name) || RATES[name.match(RATED)?.[1]])
  ? `${brief(100 * value, digits)}%` : brief(value, digits));

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

/** Return whether bits come from the density of pixels with uniform noise added. It bounds the bits of the pixels themselves from above. */
const isDequantised = figure => figure.name === "bits_per_dim" && /density/.test(`${figure.protocol?.from} ${statement(figure.protocol).observed}`);

/** Return a figure as text, with its error and unit; "≤" if it is an upper bound. */
export function valueOf(figure) {
  const bound = isDequantised(figure) || String(statement(figure.protocol).bound ?? "").startsWith("upper bound") ? "≤ " : "";
  const error = figure.error !== undefined && figure.error !== null ? ` ± ${numberOf(figure.name, figure.error, 2)}` : "", unit = UNITS[figure.unit] ?? figure.unit;
  return `${bound}${numberOf(figure.name, figure.value)}${error}${unit ? ` ${unit}` : ""}`;
}

/** Return the bound that a figure is, in words; undefined if it is exact. */
function boundOf(figure) {
  const { bound } = statement(figure.protocol), equation = String(bound).match(/^of the differential equation by (\d+) midpoint steps/);
  const way = equation && `computed along the model's differential equation in ${equation[1]} steps, with the divergence estimated from one random vector for each item`;
  if (isDequantised(figure)) return ["upper bound: from the density of pixels with uniform noise added", way].filter(Boolean).join(", ");
  if (way) return way;
  // these repeat the meaning of the figure
  const known = /^(exact$|-E |-log p|KL\(|(importance-weighted )?lower bound on log p\([^)]*\)(,|$))/.test(bound);
  return bound && !known ? bound.replace(/: -ELBO$/, ": from the ELBO") : undefined;
}

/** Return how a figure was measured, as texts: its bound, its data, and the number of items if this differs from `n`, that of the figures beside it. */
export function howOf(figure, n) {
  const { observed, chain, classes, part, n: own, expected, images } = { ...figure.protocol, ...statement(figure.protocol) };
  const count = own !== undefined && own !== n && (figure.protocol?.by === "evaluation" || part || figure.protocol?.by === undefined);
  return [
    boundOf(figure), observed && !isDequantised(figure) && `of ${OBSERVED[observed] ?? observed}`, chain && `diffusion chain of ${chain.replace(" for each image", " for each item")}`,
    classes && (CLASSES[classes] ?? classes), count && `${brief(own)} ${part === "train" ? "training" : part === "selection" ? "selection" : "test"} items`,
    images && `${brief(images)} generated items`, Array.isArray(expected) && `expected: ${expected.map(each => numberOf(figure.name, each)).join(" to ")}`,
  ].filter(Boolean);
}

/**
 * Return a text that is equal for figures that were measured in the same way, and can be compared. `data` is the name of the data set, and `train`
 * describes its training items.
 */
export function measuredBy(metric, data, train) {
  const protocol = metric.protocol ?? {}, stated = statement(protocol), seen = SAME[stated.observed] ?? stated.observed;
  if (protocol.common) {
    const { extractor_sha256: extractor, reference, n, resize } = protocol.common;
    const nearest = metric.name === "nearest_train_distance" && String(train).replace(" part", " split");
    return JSON.stringify([extractor, reference, n, resize, seen, stated.part, stated.n, stated.interpolation, nearest]);
  }
  return JSON.stringify([protocol.by, data, protocol.test, protocol.against, protocol.anomalies, protocol.n, seen, protocol.likelihood, protocol.objective,
    protocol.classes]);
}

/** Return {value, text} of real items for a figure, from the anchors of its evaluation; null if there is none. */
export function anchorOf(name, anchors) {
  if (!anchors) return null;
  const base = name.replace(/_infinity$/, ""), value = name.endsWith("_infinity") ? undefined : anchors[REAL[base]];
  if (typeof value === "number") return { value, text: REAL[base].startsWith("train_vs") ? "real: training against test items" : "real: test items" };
  const best = ["jxl_sheets", "webp_sheets", "png_sheets"].find(codec => typeof anchors[codec]?.[name] === "number");
  return best ? { value: anchors[best][name], text: `${brief(anchors[best].n)} test items stored as ${anchors[best].codec}` } : null;
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
