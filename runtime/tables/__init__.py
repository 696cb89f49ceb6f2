"""Rows of tables: files, columns, and their encoding as arrays."""
