"""Training of model families, from data to a published artifact.

train       trains a run           loop/       steps, checkpoints, test losses, alarms
export      publishes a run        exporting/  the steps of an export, and the tools that they use
judging     judges what was made

families/   one file per family    recipes, phases, batches: what a family is made of
datasets/   one file per data set  data/: parts, files, splits and tables, without any set
networks/, likelihoods, bounds, scores/: what families share
runs        run folders            inception   the extractor of published FIDs
"""
