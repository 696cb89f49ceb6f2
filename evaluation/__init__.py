"""The batch evaluator: how good are generated images, and how sure is that number.

Images come in as iterables of uint8 batches, go through an extractor (an artifact with the task `features`, run by the same engine that
serves), and become streaming float64 statistics; the metrics are pure functions of those. Every number carries its protocol.
"""
