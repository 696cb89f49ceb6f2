"""The batch evaluator. It measures how good generated images are, and how precise each figure is.

Images are read as iterables of uint8 batches. An extractor (an artifact with the task `features`, run by the same engine as in the service)
turns them into features, and the features into streaming float64 statistics. The metrics are pure functions of these statistics. Every figure has
its protocol.
"""
