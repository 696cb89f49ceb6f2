"""Terms of the anomaly score of rows that need no network: they are fitted to the training rows in seconds, and are part of the score graph.

Every module takes encoded columns (B, D): numbers in scaled units, and a one-hot block for each category. None of them is best on all data
(benchmarks/adbench.py), so a detector combines several.
"""
