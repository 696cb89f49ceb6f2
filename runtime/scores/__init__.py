"""Anomaly scores: calibration, p-values, decisions, explanations, and files of rows."""
