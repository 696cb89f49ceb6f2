"""The training of model families, from data to a published artifact.

train       trains a run                       loop/       steps, checkpoints, test losses, alarms
export      publishes a run as an artifact     exporting/  the steps of an export, and their tools
`judging`   evaluates a model's anomaly score

families/   one file per model family          recipes, phases, batches: the building blocks of a family
datasets/   one file per data set              data/: splits, files, folders and tables; no data set is named there
networks/, likelihoods, bounds, scores/: code that several families share
runs        run folders                        inception   the extractor of published FIDs
"""
